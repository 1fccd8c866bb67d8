"""DICOM files: one frame is a plane, an enhanced file whose frames lie in a row is a volume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from featcache.errors import ImageError
from featcache.imaging.dicom_codecs import decoder_for
from featcache.imaging.dicom_header import damaged, number, numbers, read_header, transfer_syntax
from featcache.imaging.dicom_values import Values, to_values
from featcache.imaging.geometry import NoVolumeError, Stack, canonical
from featcache.imaging.multiframe import frame_count, frame_header
from featcache.imaging.raster import MAX_PIXELS
from featcache.records import Image, Selector

__all__ = ["decode", "load", "load_frame", "stack_values"]

_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


def load(path: Path, selector: Selector = Selector()) -> Image:  # noqa: B008 - frozen
    """Decode a DICOM file to values in modality units.

    Parameters
    ----------
    path
        The file, with or without preamble, in any transfer syntax of ``docs/inputs.md``.
    selector
        ``frame`` chooses one frame of a multi-frame file, which is then a plane. Without it, such a file must be a
        volume: frames of one orientation at different positions along their normal.

    Returns
    -------
    Image
        A plane, or a volume in canonical RAS orientation.

    Raises
    ------
    ImageError
        If the file holds no pixels, is damaged, has no such frame, or is no volume and no frame is chosen.
    """
    header = read_header(path)
    count = frame_count(header)
    if selector.frame is not None and not 0 <= selector.frame < count:
        raise ImageError(f"frame {selector.frame} is outside 0..{count - 1}", remedy="Check the frame numbers.")
    if count == 1 or selector.frame is not None:
        return load_frame(header, selector.frame or 0)
    frames = [frame_header(header, index) for index in range(count)]
    try:
        stack = Stack.of(frames)
    except NoVolumeError as error:
        raise ImageError(
            f"the file has {count} frames that are no volume ({error}), and the sample names no frame",
            remedy=f"Give the sample a frame from 0 to {count - 1}.",
        ) from None
    stored = decode(header)
    values = [to_values(stored[index], frames[index]) for index in stack.order]
    return stack_values(values, stack, frames[0])


def load_frame(header: Dataset, index: int) -> Image:
    """One frame of a header with pixels as a plane."""
    facts = frame_header(header, index)
    values = to_values(decode(header, index), facts)
    spacing = numbers(facts, "PixelSpacing") or numbers(facts, "ImagerPixelSpacing")
    array = np.ascontiguousarray(values.array)
    return Image(
        array=array,
        kind="plane",
        value_range=values.full_scale or _range(array),
        spacing=spacing if len(spacing) == 2 and min(spacing) > 0 else None,
        modality=modality(header),
        unit=values.unit,
        photometric=values.photometric,
        windows=values.windows,
        window_function=values.window_function,
        voi_lut=values.voi_lut,
    )


def stack_values(values: list[Values], stack: Stack, header: Dataset) -> Image:
    """Frames in the order of a stack as a canonical volume.

    Parameters
    ----------
    values
        (H, W) frames; integer types may differ between frames and are joined.
    stack
        Their geometry.
    header
        Of the first frame.

    Raises
    ------
    ImageError
        If the frames are in colour or differ in size.
    """
    shapes = {item.array.shape for item in values}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2:
        raise ImageError(
            f"the slices have shapes {sorted(shapes)}, expected one grey size", remedy="Read the files one by one."
        )
    # (slice, row, column) -> (column, row, slice), the index order of the affine.
    frames = np.stack([item.array for item in values]).transpose(2, 1, 0)
    array, affine, spacing = canonical(frames, stack.affine)
    first = values[len(values) // 2]
    scales = [item.full_scale for item in values if item.full_scale is not None]
    return Image(
        array=array,
        kind="volume",
        value_range=scales[0] if len(scales) == len(values) else _range(array),
        spacing=spacing,
        affine=affine,
        modality=modality(header),
        unit=first.unit,
        photometric=first.photometric,
        windows=first.windows,
        window_function=first.window_function,
        voi_lut=first.voi_lut,
        notes=stack.notes,
    )


def decode(header: Dataset, frame: int | None = None) -> NDArray[Any]:
    """The stored samples, before any lookup table: what pydicom's ``pixel_array`` gives, native byte order.

    Parameters
    ----------
    header
        From :func:`featcache.imaging.dicom_header.read_header`, with pixels.
    frame
        From 0; None for all.

    Returns
    -------
    ndarray
        (H, W), (H, W, 3), or with a leading axis of frames; colour as RGB.

    Raises
    ------
    ImageError
        If there are no pixels, or they are damaged, truncated, too many, or in an unknown transfer syntax.
    """
    if not any(keyword in header for keyword in _PIXELS):
        raise ImageError(
            f"the DICOM file has no pixels (modality {modality(header) or 'unknown'})",
            remedy="Leave it out of the table: reports, contours and presentation states are no images.",
        )
    area = int((number(header, "Rows") or 0) * (number(header, "Columns") or 0))
    if area > MAX_PIXELS:
        raise ImageError(
            f"{area:,} pixels a frame are more than the limit of {MAX_PIXELS:,}", remedy="Resize the picture first."
        )
    syntax = transfer_syntax(header)
    try:
        decoder = decoder_for(syntax)
    except NotImplementedError:
        raise ImageError(
            f"no decoder for the transfer syntax {syntax}", remedy="docs/inputs.md lists those that can be read."
        ) from None
    try:
        array = decoder.as_array(header, index=frame)[0]
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - codecs raise their own kinds, pydicom whatever the header leads to
        raise damaged("its pixels cannot be decoded", error) from None
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def modality(header: Dataset) -> str | None:
    """The modality if it is a code string as the standard defines it."""
    value = str(header.get("Modality") or "").strip()
    return value if value.isalnum() and value.isupper() and len(value) <= 16 else None


def _range(array: NDArray[Any]) -> tuple[float, float]:
    return (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
