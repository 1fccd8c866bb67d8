"""``prepare``: from a decoded file to what the encoder sees, all of a specification applied."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featcache.errors import ImageError
from featcache.imaging.intensity import clipping, is_volumetric, mean_and_deviation
from featcache.imaging.planes import select, slice_count
from featcache.imaging.preprocess import Preprocess, centre_crop, finished, resized, resized_floats
from featcache.records import Image, Selector

if TYPE_CHECKING:
    import torch

__all__ = ["cropped", "normalised", "prepare"]


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
    return normalised(cropped(image, selector, spec), spec)


def cropped(image: Image, selector: Selector, spec: Preprocess) -> torch.Tensor:
    """All of :func:`prepare` but the last step, which alone depends on a model's mean and standard deviation.

    Returns
    -------
    Tensor
        (C, crop, crop), C = 1 for grey and 3 for colour: uint8 where an 8-bit image was only resized, otherwise
        float32, 0 to 255 or z-scores.
    """
    plane = select(image, selector)
    if plane.size == 0:
        raise ImageError("the image has no pixels", remedy="Copy the file again from its source.")
    if spec.clip == "none" and spec.rgb == "grey" and spec.intensity != "zscore":
        return centre_crop(resized(plane, image.value_range, spec), spec.crop)
    if plane.ndim == 3:
        raise ImageError(
            "the image is in colour: clipping, composing channels and z-scores are for grey images",
            remedy="Leave window, clip, percentile, rgb and intensity=zscore out of --preprocess.",
        )
    import torch

    planes = _channels(image, selector, spec, plane)
    channels = [_channel(one, image, selector, spec, number) for number, one in enumerate(planes)]
    return centre_crop(torch.cat(channels), spec.crop)


def normalised(pixels: torch.Tensor, spec: Preprocess) -> torch.Tensor:
    """The last step: (C, S, S) of :func:`cropped` to (3, S, S) float32."""
    if spec.intensity == "zscore":
        return pixels.expand(3, -1, -1).contiguous()
    return finished(pixels, spec)


def _channels(image: Image, selector: Selector, spec: Preprocess, plane: NDArray[Any]) -> list[NDArray[Any]]:
    if spec.rgb == "windows":
        return [plane] * 3
    if spec.rgb == "grey":
        return [plane]
    if not is_volumetric(image) or selector.index is None:
        raise ImageError(
            "the image has no neighbouring slices", remedy="Leave rgb=neighbours out: it is for slices of volumes."
        )
    # A stack of volumes is (item, slice, row, column); `select` has found the plane, so item and axis are named.
    count = image.array.shape[1] if selector.axis is None else slice_count(image.array.shape, selector.axis)
    places = [max(0, selector.index - 1), selector.index, min(count - 1, selector.index + 1)]
    return [select(image, replace(selector, index=place)) for place in places]


def _channel(plane: NDArray[Any], image: Image, selector: Selector, spec: Preprocess, number: int) -> torch.Tensor:
    """(1, h, w) float32: 0..255 between the bounds, or standardised."""
    clip = clipping(plane, image, selector, spec, number)
    scale = 255.0 / (clip.white - clip.black) if clip.white > clip.black else 0.0
    resized = resized_floats(((clip(plane) - clip.black) * scale).astype(np.float32), spec)
    if spec.intensity != "zscore":
        return resized
    mean, deviation = mean_and_deviation(plane, image, selector, spec, clip)
    if deviation == 0 or scale == 0:
        return resized * 0.0
    return (resized / scale + (clip.black - mean)) / deviation
