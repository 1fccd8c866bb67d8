"""``prepare``: from a decoded file to what the encoder sees, all of a specification applied."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featcache.errors import ImageError
from featcache.imaging.intensity import bounded, mean_and_deviation
from featcache.imaging.planes import select, slice_count
from featcache.imaging.preprocess import Preprocess, centre_crop, finished, resized_floats, to_tensor
from featcache.records import Image, Selector

if TYPE_CHECKING:
    import torch

__all__ = ["prepare"]


def prepare(image: Image, selector: Selector, spec: Preprocess) -> torch.Tensor:
    """Cut out, clip, compose, resize, crop, normalise.

    Parameters
    ----------
    image
        The decoded file.
    selector
        The part of it.
    spec
        The recipe.

    Returns
    -------
    Tensor
        (3, crop, crop) float32.

    Raises
    ------
    ImageError
        If the part does not exist, has no pixels, or the recipe asks for what the image does not have: Hounsfield
        units, neighbouring slices.
    """
    plane = select(image, selector)
    if plane.size == 0:
        raise ImageError("the image has no pixels", remedy="Copy the file again from its source.")
    if spec.clip == "none" and spec.rgb == "grey" and spec.intensity != "zscore":
        return to_tensor(plane, image.value_range, spec)
    if plane.ndim == 3:
        raise ImageError(
            "the image is in colour: clipping and composing channels are for grey images",
            remedy="Use --preprocess model, dinov2 or radiology without changes.",
        )
    import torch

    planes = _channels(image, selector, spec, plane)
    channels = [_channel(one, image, spec, number) for number, one in enumerate(planes)]
    pixels = torch.cat(channels)
    if spec.intensity == "zscore":
        return centre_crop(pixels, spec.crop).expand(3, -1, -1).contiguous()
    return finished(pixels, spec)


def _channels(image: Image, selector: Selector, spec: Preprocess, plane: NDArray[Any]) -> list[NDArray[Any]]:
    if spec.rgb == "windows":
        return [plane] * 3
    if spec.rgb == "grey":
        return [plane]
    if image.kind != "volume" or selector.axis is None or selector.index is None:
        raise ImageError(
            "the image has no neighbouring slices", remedy="Leave rgb=neighbours out: it is for slices of volumes."
        )
    last = slice_count(image.array.shape, selector.axis) - 1
    places = [max(0, selector.index - 1), selector.index, min(last, selector.index + 1)]
    return [select(image, replace(selector, index=place)) for place in places]


def _channel(plane: NDArray[Any], image: Image, spec: Preprocess, number: int) -> torch.Tensor:
    """(1, h, w) float32: 0..255 between the bounds, or standardised."""
    values, low, high = bounded(plane, image, spec, number)
    scale = 255.0 / (high - low) if high > low else 0.0
    resized = resized_floats(((values - low) * scale).astype(np.float32), spec)
    if spec.intensity != "zscore":
        return resized
    mean, deviation = mean_and_deviation(values, image, spec, (low, high))
    if deviation == 0 or scale == 0:
        return resized * 0.0
    return (resized / scale + (low - mean)) / deviation
