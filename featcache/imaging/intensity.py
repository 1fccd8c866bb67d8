"""From a file's values to bounds: CT windows, ranges, percentiles, mean and deviation, of a plane or of its volume."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featcache.errors import ImageError
from featcache.imaging.preprocess import Preprocess
from featcache.records import Image

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["WINDOWS", "bounded", "mean_and_deviation"]

WINDOWS: dict[str, tuple[float, float]] = {
    "lung": (-600.0, 1500.0),
    "mediastinum": (50.0, 350.0),
    "soft-tissue": (50.0, 400.0),
    "bone": (400.0, 1800.0),
    "brain": (40.0, 80.0),
    "liver": (30.0, 150.0),
}
"""(centre, width) in Hounsfield units, as radiology textbooks and Radiopaedia ("Windowing (CT)") give them."""


def bounded(
    plane: NDArray[Any], image: Image, spec: Preprocess, channel: int
) -> tuple[NDArray[np.float64], float, float]:
    """The values of a plane clipped as a specification says, and what becomes black and white.

    Parameters
    ----------
    plane
        (H, W) grey.
    image
        Where it comes from: its range, and its volume for statistics.
    spec
        Its ``clip``, ``clip_at`` and ``scope``.
    channel
        0, 1 or 2: which of three windows.

    Raises
    ------
    ImageError
        If a window is asked of an image that holds no Hounsfield units.
    """
    values = plane.astype(np.float64)
    if spec.clip == "none":
        return values, *image.value_range
    if spec.clip == "window":
        if plane.dtype == np.uint8 or image.unit not in (None, "HU"):
            held = "8 bits" if plane.dtype == np.uint8 else f"the unit {image.unit}"
            raise ImageError(
                f"a CT window needs Hounsfield units, and the image has {held}",
                remedy="Leave window= out for such images, or extract from the original DICOM or NIfTI files.",
            )
        first = 2 * channel if spec.rgb == "windows" else 0
        centre, width = spec.clip_at[first : first + 2]
        low, high = centre - width / 2, centre + width / 2
    elif spec.clip == "range":
        low, high = spec.clip_at
    else:
        low, high = _percentiles(plane, image, spec)
        if spec.clip == "percentile-zero":
            values = np.where(values <= low, 0.0, np.minimum(values, high))
            return values, float(values.min()), float(values.max())
    return np.clip(values, low, high), low, high


def mean_and_deviation(
    values: NDArray[np.float64], image: Image, spec: Preprocess, bounds: tuple[float, float]
) -> tuple[float, float]:
    """Mean and standard deviation (divisor n) of the clipped plane, or of the clipped volume."""
    if spec.scope == "plane" or image.kind != "volume":
        return float(values.mean()), float(values.std())

    def of_volume(array: NDArray[Any]) -> tuple[float, float]:
        clipped = np.clip(array.astype(np.float32), *bounds)
        return float(clipped.mean(dtype=np.float64)), float(clipped.std(dtype=np.float64))

    return _remembered(image.array, ("zscore", *bounds), of_volume)


def _percentiles(plane: NDArray[Any], image: Image, spec: Preprocess) -> tuple[float, float]:
    def of(array: NDArray[Any]) -> tuple[float, float]:
        low, high = np.percentile(array, spec.clip_at)
        return float(low), float(high)

    if spec.scope == "plane" or image.kind != "volume":
        return of(plane)
    return _remembered(image.array, ("percentile", *spec.clip_at), of)


_KEPT = 64
_memory: OrderedDict[Any, tuple[weakref.ref[Any], tuple[float, float]]] = OrderedDict()
_lock = threading.Lock()


def _remembered(
    array: NDArray[Any], what: tuple[Any, ...], compute: Callable[[NDArray[Any]], tuple[float, float]]
) -> tuple[float, float]:
    """A statistic of a volume, once for all of its slices; the volume itself is not kept alive."""
    key = (id(array), *what)
    with _lock:
        if key in _memory and _memory[key][0]() is array:
            return _memory[key][1]
    found = compute(array)
    with _lock:
        _memory[key] = (weakref.ref(array), found)
        while len(_memory) > _KEPT:
            _memory.popitem(last=False)
    return found
