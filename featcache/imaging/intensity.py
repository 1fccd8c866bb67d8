"""From a file's values to bounds: CT windows, ranges, percentiles, mean and deviation, of a plane or of its volume."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from featcache.errors import ImageError
from featcache.imaging.preprocess import Preprocess
from featcache.records import Image, Selector

__all__ = ["WINDOWS", "Clipping", "clipping", "is_volumetric", "mean_and_deviation"]

WINDOWS: dict[str, tuple[float, float]] = {
    "lung": (-600.0, 1500.0),
    "mediastinum": (50.0, 350.0),
    "soft-tissue": (50.0, 400.0),
    "bone": (400.0, 1800.0),
    "brain": (40.0, 80.0),
    "liver": (30.0, 150.0),
}
"""(centre, width) in Hounsfield units, from Radiopaedia, "Windowing (CT)", radiopaedia.org/articles/windowing-ct:
chest lungs and mediastinum, abdomen soft tissues and liver, spine bone, head brain."""


@dataclass(frozen=True, slots=True)
class Clipping:
    """A function of values with the bounds that become black and white."""

    kind: Literal["none", "clip", "zero", "sigmoid"]
    """``clip``: to ``first`` and ``second``. ``zero``: at most ``second``, and 0 where not above ``first``.
    ``sigmoid``: about the centre ``first`` with the width ``second``."""
    black: float
    """What becomes 0."""
    white: float
    """What becomes 1."""
    first: float = 0.0
    """See ``kind``."""
    second: float = 0.0
    """See ``kind``."""

    def __call__(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Clipped values of any shape, in float64."""
        exact = values.astype(np.float64)
        if self.kind == "clip":
            return np.clip(exact, self.first, self.second, out=exact)
        if self.kind == "zero":
            return np.where(exact <= self.first, 0.0, np.minimum(exact, self.second))
        if self.kind == "sigmoid":
            with np.errstate(over="ignore"):  # exp of what is far below the window: 1 / inf is the 0 that is meant
                return np.asarray(1.0 / (1.0 + np.exp(-4.0 * (exact - self.first) / self.second)))
        return exact


def clipping(plane: NDArray[Any], image: Image, selector: Selector, spec: Preprocess, channel: int = 0) -> Clipping:
    """What a specification's ``clip``, ``clip_at`` and ``scope`` mean for one plane.

    Parameters
    ----------
    plane
        (H, W) grey.
    image
        Where it comes from: its range, unit and recommended windows, and its volume for statistics.
    selector
        Which part of the image the plane is.
    spec
        The recipe.
    channel
        0, 1 or 2: which of three windows.

    Raises
    ------
    ImageError
        If a CT window is asked of an image that holds no Hounsfield units, or the file's own window of a file that
        has none.
    """
    if spec.clip == "none":
        return Clipping("none", *image.value_range)
    if spec.clip == "window":
        _require_hounsfield(image)
        centre, width = spec.clip_at[2 * channel : 2 * channel + 2] if spec.rgb == "windows" else spec.clip_at
        return _between(centre - width / 2, centre + width / 2)
    if spec.clip == "dicom-window":
        return _own_window(image)
    if spec.clip == "range":
        return _between(*spec.clip_at)

    def percentiles(array: NDArray[Any]) -> tuple[float, float]:
        low, high = np.percentile(array, spec.clip_at)
        return float(low), float(high)

    low, high = _statistic(plane, image, selector, spec, what=("percentiles", *spec.clip_at), compute=percentiles)
    if spec.clip == "percentile-zero":
        return Clipping("zero", min(0.0, low), max(0.0, high), low, high)
    return _between(low, high)


def mean_and_deviation(
    plane: NDArray[Any], image: Image, selector: Selector, spec: Preprocess, clip: Clipping
) -> tuple[float, float]:
    """Mean and standard deviation (divisor n) of the clipped plane, or of the clipped volume."""

    def moments(array: NDArray[Any]) -> tuple[float, float]:
        # In slabs: a whole CT in float64 takes gigabytes. Variances of parts and of their means add up.
        slabs = [slab for slab in np.array_split(array, -(-array.size // _SLAB)) if slab.size]
        sizes, means, variances = np.array([(part.size, part.mean(), part.var()) for part in map(clip, slabs)]).T
        mean = np.average(means, weights=sizes)
        return float(mean), float(np.sqrt(np.average(variances + (means - mean) ** 2, weights=sizes)))

    return _statistic(plane, image, selector, spec, what=("moments", clip), compute=moments)


def is_volumetric(image: Image) -> bool:
    """Whether a plane of the image has a volume around it: of a volume, or of a stack of volumes."""
    return image.kind == "volume" or (image.kind == "stack" and image.array.ndim == 4 and image.array.shape[-1] != 3)


_SLAB = 1 << 22
"""Values whose statistics are taken at once."""


def _between(low: float, high: float) -> Clipping:
    return Clipping("clip", low, high, low, high)


def _require_hounsfield(image: Image) -> None:
    """Refuse what cannot be in Hounsfield units; a file format that says no unit (NIfTI) is taken at its word."""
    if image.unit == "HU":
        return
    if image.unit is not None:
        found = f"its values are in {image.unit}"
    elif image.modality not in (None, "CT"):
        found = f"its modality is {image.modality}"
    elif image.array.dtype.itemsize == 1:
        found = "it has 8 bits"
    elif image.array.dtype.kind == "u":
        found = "its values are unsigned: air, fat and lung, which lie below 0, are not in it or are shifted"
    else:
        return
    raise ImageError(
        f"a CT window needs Hounsfield units, and the image has none: {found}",
        remedy="Leave window= out (percentile=0.5:99.5 needs no unit), or extract from the original DICOM or NIfTI "
        "files.",
    )


def _own_window(image: Image) -> Clipping:
    """The first window of the header, as DICOM PS3.3 C.11.2.1.2 defines its function."""
    if not image.windows:
        table = ", only a table (VOI LUT)" if image.voi_lut is not None else ""
        raise ImageError(
            f"the file recommends no window{table}",
            remedy="window=dicom is for DICOM files with Window Center and Width; name a window: window=soft-tissue, "
            "window=400/40 (width/level), or percentile=0.5:99.5.",
        )
    centre, width = image.windows[0]
    if width <= 0 or (image.window_function == "LINEAR" and width < 1):
        raise ImageError(
            f"the window of the file's header has the width {width:g}", remedy="Name a window: window=400/40."
        )
    if image.window_function == "SIGMOID":
        return Clipping("sigmoid", 0.0, 1.0, centre, width)
    if image.window_function == "LINEAR_EXACT":
        return _between(centre - width / 2, centre + width / 2)
    return _between(centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2)


def _statistic(
    plane: NDArray[Any],
    image: Image,
    selector: Selector,
    spec: Preprocess,
    *,
    what: tuple[Any, ...],
    compute: Callable[[NDArray[Any]], tuple[float, float]],
) -> tuple[float, float]:
    """A statistic of the plane, or of the volume around it."""
    if spec.scope == "plane" or not is_volumetric(image):
        return compute(plane)
    if image.kind == "volume":
        return _remembered(image.array, what, compute)
    return _remembered(image.array, (selector.frame, *what), lambda array: compute(array[selector.frame]))


_KEPT = 64
_memory: OrderedDict[Any, tuple[weakref.ref[Any], Future[tuple[float, float]]]] = OrderedDict()
_lock = threading.Lock()


def _remembered(
    array: NDArray[Any], what: tuple[Any, ...], compute: Callable[[NDArray[Any]], tuple[float, float]]
) -> tuple[float, float]:
    """A statistic of a volume, once for all of its slices and by one thread; the volume is not kept alive."""
    key = (id(array), *what)
    with _lock:
        known = _memory.get(key)
        first = known is None or known[0]() is not array
        if known is None or first:
            known = _memory[key] = (weakref.ref(array), Future())
            while len(_memory) > _KEPT:
                _memory.popitem(last=False)
    if first:
        try:
            known[1].set_result(compute(array))
        except BaseException as error:
            with _lock:
                _memory.pop(key, None)
            known[1].set_exception(error)
            raise
    return known[1].result()
