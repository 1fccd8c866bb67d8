"""``select``: the two-dimensional part of an image that a sample is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from featcache.errors import ImageError
from featcache.records import Axis, Image, Selector

__all__ = ["select", "slice_count"]

_AXIS_OF: dict[Axis, int] = {"sagittal": 0, "coronal": 1, "axial": 2}


def slice_count(shape: tuple[int, ...], axis: Axis) -> int:
    """How many slices an (X, Y, Z) canonical volume has along an axis."""
    return shape[_AXIS_OF[axis]]


def select(image: Image, selector: Selector) -> NDArray[Any]:
    """Cut out what a selector names.

    Slices are shown as DICOM shows them: axial and coronal with the patient's right on the left side,
    anterior (axial) or superior (coronal, sagittal) at the top.

    Returns
    -------
    ndarray
        (H, W) or (H, W, 3), in the dtype of the image; a view where possible.

    Raises
    ------
    ImageError
        If a volume comes without an axis and index, a stack without a frame, or the selector lies outside.
    """
    cut: dict[str, Callable[[Image, Selector], NDArray[Any]]] = {"volume": _slice, "stack": _item, "plane": _whole}
    plane = cut[image.kind](image, selector)
    if selector.crop is not None:
        row, column, height, width = selector.crop
        inside = row >= 0 and column >= 0 and row + height <= plane.shape[0] and column + width <= plane.shape[1]
        if not inside:
            raise ImageError(
                f"crop {selector.crop} (row, column, height, width) leaves the plane of {plane.shape[:2]} pixels",
                remedy="Check the crop against the image's size.",
            )
        plane = plane[row : row + height, column : column + width]
    return plane[:, ::-1] if selector.mirror else plane


def _whole(image: Image, selector: Selector) -> NDArray[Any]:
    if selector.frame not in (None, 0):
        raise ImageError(f"frame {selector.frame} is outside 0..0", remedy="Check the frame numbers.")
    return image.array


def _item(image: Image, selector: Selector) -> NDArray[Any]:
    """One image of a stack by ``frame`` or ``index``; of a stack of volumes ``frame`` and the slice ``index``."""
    if selector.frame is None and selector.index is not None and image.array[:1].ndim == 3 + _is_colour(image):
        return _at(image.array, selector.index, "row")
    if selector.frame is None:
        raise ImageError(
            f"the file is a stack of {len(image.array)} images and the sample names none",
            remedy=f"Give the sample a frame from 0 to {len(image.array) - 1}.",
        )
    item = _at(image.array, selector.frame, "frame")
    if item.ndim == 2 or item.shape[-1] == 3:
        return item
    if selector.index is None:
        raise ImageError(
            f"each item of the stack is a volume of shape {item.shape} and the sample names no slice",
            remedy=f"Give the sample an index from 0 to {len(item) - 1}.",
        )
    return _at(item, selector.index, "slice")


def _is_colour(image: Image) -> bool:
    return image.array.shape[-1] == 3 and image.array.ndim == 4


def _at(array: NDArray[Any], index: int, what: str) -> NDArray[Any]:
    if not 0 <= index < len(array):
        raise ImageError(f"{what} {index} is outside 0..{len(array) - 1}", remedy="Check the numbers of the samples.")
    item: NDArray[Any] = array[index]
    return item


def _slice(image: Image, selector: Selector) -> NDArray[Any]:
    if selector.axis is None or selector.index is None:
        raise ImageError(
            "the file is a volume and the sample names no slice",
            remedy="Give the sample an axis and an index.",
        )
    axis = _AXIS_OF[selector.axis]
    if not 0 <= selector.index < image.array.shape[axis]:
        raise ImageError(
            f"{selector.axis} slice {selector.index} is outside 0..{image.array.shape[axis] - 1}",
            remedy="Check the slice numbers against the volume's shape.",
        )
    plane: NDArray[Any] = image.array[(slice(None),) * axis + (selector.index,)]
    # (first, second) axis -> rows from the second downwards, columns from the first; x runs right to left.
    return plane.T[::-1, ::-1]
