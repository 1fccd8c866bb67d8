"""Between the encoder's input square and a plane's own pixels: predictions out, targets in.

Both directions undo or repeat what the store's preprocessing did with the plane's coordinates (resize, bars, centre
crop), as the ``preprocess`` of the store's specification says. Pixels are squares: element ``i`` of ``n`` covers
``i / n`` to ``(i + 1) / n`` of its axis (torch's ``align_corners=False``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from featcache.errors import ProbeError

__all__ = ["InputBox", "input_box", "to_input", "to_native"]

Border = Literal["refuse", "background"]


@dataclass(frozen=True, slots=True)
class InputBox:
    """Which part of a plane the encoder saw, in fractions of its height and width."""

    top: float
    """Below 0 where there is a bar above the plane."""
    left: float
    """Below 0 where there is a bar on its left."""
    height: float
    """Above 1 with bars, below 1 where the crop cut something off."""
    width: float
    """As ``height``."""

    @property
    def whole(self) -> bool:
        """Whether the encoder saw all of the plane."""
        ends = (-self.top, -self.left, self.top + self.height - 1, self.left + self.width - 1)
        return min(ends) > -1e-9


def input_box(size: tuple[int, int], preprocess: Mapping[str, Any]) -> InputBox:
    """Where the encoder's input lies in a plane.

    Parameters
    ----------
    size
        (H, W) of the plane.
    preprocess
        The store's specification: ``resize``, ``resize_to`` and ``crop`` are used.

    Raises
    ------
    ProbeError
        If the plane is empty or the way of resizing is not known here.

    Examples
    --------
    >>> input_box((100, 200), {"resize": "letterbox", "resize_to": 448, "crop": 448})
    InputBox(top=-0.5, left=0.0, height=2.0, width=1.0)
    >>> input_box((100, 200), {"resize": "squash", "resize_to": 256, "crop": 224}).whole
    False
    """
    height, width = size
    if min(size) < 1:
        raise ProbeError(f"a plane of {height} x {width} pixels has no native grid")
    kind, side, crop = preprocess["resize"], int(preprocess["resize_to"]), int(preprocess["crop"])
    bars = (0, 0)
    if kind == "squash":
        resized = (side, side)
    elif kind == "letterbox":
        scale = side / max(height, width)
        resized = max(1, round(height * scale)), max(1, round(width * scale))
        bars = (side - resized[0]) // 2, (side - resized[1]) // 2
    elif kind == "shortest":
        long = max(crop, int(side * max(size) / min(size)))
        resized = (side, long) if height <= width else (long, side)
    else:
        raise ProbeError(f"preprocessing resizes by {kind!r}, known: squash, letterbox, shortest")
    boxed = (side, side) if kind == "letterbox" else resized
    top, left = (round((whole - crop) / 2) - bar for whole, bar in zip(boxed, bars, strict=True))
    return InputBox(top / resized[0], left / resized[1], crop / resized[0], crop / resized[1])


def to_native(
    logits: Any, size: tuple[int, int], preprocess: Mapping[str, Any], *, border: Border = "refuse"
) -> NDArray[np.uint8]:
    """Class of each pixel of a plane, from logits on the encoder's input: bilinear, then the largest.

    Parameters
    ----------
    logits
        (C, h, w) array or torch tensor that covers the input square, on any grid: h = w = S, or the grid of tokens.
        A tensor is computed with on its device.
    size
        (H, W) of the plane.
    preprocess
        The store's specification, ``store.attributes["spec"]["preprocess"]``.
    border
        What a crop cut off the plane: ``refuse`` it, or call it ``background``, whatever lies there.

    Returns
    -------
    (H, W) uint8
        Of equal logits the first class counts.

    Raises
    ------
    ProbeError
        If the encoder saw a part of the plane only, or the logits have another shape.

    Examples
    --------
    >>> logits = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])  # left background, right class 1
    >>> to_native(logits, (2, 4), {"resize": "squash", "resize_to": 448, "crop": 448})
    array([[0, 0, 1, 1],
           [0, 0, 1, 1]], dtype=uint8)
    """
    if getattr(logits, "ndim", 0) != 3 or not 2 <= len(logits) <= 256 or 0 in tuple(logits.shape):
        raise ProbeError(f"logits have shape {tuple(np.shape(logits))}, expected (classes, rows, columns)")
    box = input_box(size, preprocess)
    if not box.whole and border == "refuse":
        raise _cropped(size, preprocess)
    rows = _weights(size[0], int(logits.shape[1]), box.top, box.height)
    columns = _weights(size[1], int(logits.shape[2]), box.left, box.width)
    on_cpu = not isinstance(logits, np.ndarray) and logits.device.type == "cpu"
    values = logits.detach().float().numpy() if on_cpu else logits
    labels = _labels(values, rows, columns) if isinstance(values, np.ndarray) else _on_device(values, rows, columns)
    unseen_rows, unseen_columns = _unseen(size[0], box.top, box.height), _unseen(size[1], box.left, box.width)
    labels[unseen_rows] = 0
    labels[:, unseen_columns] = 0
    return labels


def to_input(
    labels: NDArray[np.uint8], size: int, preprocess: Mapping[str, Any], *, outside: int = 0
) -> NDArray[np.uint8]:
    """A mask as the encoder's input would show it: nearest-exact, as the study does at S x S.

    Parameters
    ----------
    labels
        (H, W) class numbers.
    size
        Rows and columns of the result: the input size S, or the side of the grid of tokens.
    preprocess
        The store's specification.
    outside
        Value of the bars of a letterbox.

    Returns
    -------
    (size, size) uint8

    Examples
    --------
    >>> to_input(np.array([[0, 1, 2, 3]], np.uint8), 2, {"resize": "squash", "resize_to": 448, "crop": 448})
    array([[1, 3],
           [1, 3]], dtype=uint8)
    """
    height, width = labels.shape
    box = input_box((height, width), preprocess)
    places = []
    for count, start, extent in ((height, box.top, box.height), (width, box.left, box.width)):
        place = np.floor((start + (np.arange(size) + 0.5) / size * extent) * count + 1e-9).astype(np.int64)
        places.append(np.where((place >= 0) & (place < count), place, -1))
    rows, columns = places
    found: NDArray[np.uint8] = labels[np.ix_(rows.clip(0), columns.clip(0))]
    found[rows < 0] = outside
    found[:, columns < 0] = outside
    return found


_Mix = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]


def _weights(count: int, cells: int, start: float, extent: float) -> _Mix:
    """Of each native element the two cells that it lies between, and the share of the second."""
    place = ((np.arange(count) + 0.5) / count - start) / extent * cells - 0.5
    place = place.clip(0, cells - 1)
    first = np.minimum(np.floor(place).astype(np.int64), max(cells - 2, 0))
    return first, np.minimum(first + 1, cells - 1), (place - first).astype(np.float32)


def _unseen(count: int, start: float, extent: float) -> NDArray[np.bool_]:
    """Native elements whose centre is outside the input."""
    place = ((np.arange(count) + 0.5) / count - start) / extent
    return (place < 0) | (place >= 1)


def _labels(logits: NDArray[Any], rows: _Mix, columns: _Mix) -> NDArray[np.uint8]:
    """(H, W) class of the largest value: class by class, so that no (C, H, W) array is made."""
    best: NDArray[np.float32] | None = None
    labels = np.zeros((len(columns[0]), len(rows[0])), np.uint8)
    for number, plane in enumerate(logits):
        # Both ways along the first axis, where elements lie together: the result is transposed.
        values = _mixed_rows(np.ascontiguousarray(_mixed_rows(plane.astype(np.float32, copy=False), rows).T), columns)
        if best is None:
            best = values
        else:
            labels[values > best] = number
            np.maximum(best, values, out=best)
    return np.ascontiguousarray(labels.T)


def _mixed_rows(plane: NDArray[np.float32], mix: _Mix) -> NDArray[np.float32]:
    first, second, share = mix
    mixed: NDArray[np.float32] = np.take(plane, first, axis=0) * (1 - share)[:, None]
    mixed += np.take(plane, second, axis=0) * share[:, None]
    return mixed


def _on_device(logits: Any, rows: _Mix, columns: _Mix) -> NDArray[np.uint8]:
    """The same on the tensor's own device."""
    import torch

    values = logits.detach().to(torch.float32)
    above, below, share = (torch.as_tensor(part, device=values.device) for part in rows)
    values = values[:, above] * (1 - share)[:, None] + values[:, below] * share[:, None]
    before, after, share = (torch.as_tensor(part, device=values.device) for part in columns)
    values = values[:, :, before] * (1 - share) + values[:, :, after] * share
    labels: NDArray[np.uint8] = values.argmax(dim=0).to(torch.uint8).cpu().numpy()
    return labels


def _cropped(size: tuple[int, int], preprocess: Mapping[str, Any]) -> ProbeError:
    facts = ", ".join(f"{name} {preprocess[name]}" for name in ("resize", "resize_to", "crop"))
    return ProbeError(
        f"the encoder saw a part of this plane of {size[0]} x {size[1]} pixels only ({facts}): its border has no "
        "prediction",
        remedy="Extract with a recipe that crops nothing: --preprocess radiology-seg, or model,resize=letterbox; or "
        "count the border as background: --border background (border='background').",
    )
