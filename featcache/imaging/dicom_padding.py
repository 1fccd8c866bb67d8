"""Pixel padding: what lies outside the scanner's field takes the smallest measured value and not one of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from featcache.imaging.dicom_header import number
from featcache.imaging.dicom_values import Values, joined

__all__ = ["padded_pixels", "without_padding"]


def padded_pixels(stored: NDArray[Any], header: Dataset) -> NDArray[np.bool_] | None:
    """Where a frame is padding by PixelPaddingValue and PixelPaddingRangeLimit (PS3.3 C.7.5.1.1.2).

    Parameters
    ----------
    stored
        Samples before any lookup table. Colour and float samples have no such value.
    header
        Of the frame.

    Returns
    -------
    ndarray or None
        bool, the shape of ``stored``; None if nothing is padding.
    """
    value = number(header, "PixelPaddingValue")
    if value is None or stored.ndim != 2 or stored.dtype.kind not in "iu":
        return None
    limit = number(header, "PixelPaddingRangeLimit")
    # Writers give the value with the wrong sign: -2000 beside unsigned samples. Its bits are what counts.
    first, last = (int(np.array(int(end)).astype(stored.dtype)) for end in (value, value if limit is None else limit))
    inside: NDArray[np.bool_] = (stored >= min(first, last)) & (stored <= max(first, last))
    return inside if inside.any() else None


def without_padding(values: Sequence[Values], masks: Sequence[NDArray[np.bool_] | None]) -> list[Values]:
    """Give padding the smallest value of all other pixels of all frames, which is dark in every photometry.

    The range of an image or volume, its percentiles and its minimum are then those of what was measured. Where
    everything is padding nothing is changed.

    Parameters
    ----------
    values
        Frames of one file or series.
    masks
        By :func:`padded_pixels` of each.
    """
    if all(mask is None for mask in masks):
        return list(values)
    arrays = joined(values)
    kept = [array if mask is None else array[~mask] for array, mask in zip(arrays, masks, strict=True)]
    if not any(part.size for part in kept):
        return list(values)
    smallest = min(part.min() for part in kept if part.size)
    return [
        item if mask is None else replace(item, array=np.where(mask, smallest, array).astype(array.dtype, copy=False))
        for item, array, mask in zip(values, arrays, masks, strict=True)
    ]
