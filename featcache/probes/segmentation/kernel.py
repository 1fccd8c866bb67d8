"""Sums and gradients of the losses of label maps, an image row at a time: compiled loops. Imports numba.

A row of S pixels of all classes is interpolated between two rows of the grid, goes through the softmax and is summed
(or pulled back to the grid) while it is in the first cache: no map of S x S logits is ever in memory. PyTorch's
operators need about ten passes over such maps, which took most of a step's time. Where Dice needs the sums of a batch
before its gradient, the rows are computed twice, which is faster than to write them and read them again. Each loop runs
on one thread without the interpreter's lock, so that the heads and images of a batch go to several threads.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["share_sums", "wide_slope"]

_LOG2E = np.float32(1.4426950408889634)
_FAST = {"contract", "reassoc", "nsz"}
_log = logging.getLogger(__name__)


def _compile(function: Callable[..., None]) -> Callable[..., None]:
    """Compile when first called, and keep the machine code where a folder for it can be written."""
    try:
        compiled: Callable[..., None] = numba.njit(cache=True, nogil=True, fastmath=_FAST, error_model="numpy")(
            function
        )
    except RuntimeError as error:
        _log.info("compiled code is not kept between runs: %s; NUMBA_CACHE_DIR can name a folder", error)
        compiled = numba.njit(nogil=True, fastmath=_FAST, error_model="numpy")(function)
    return compiled


@numba.njit(inline="always")
def _power(x: Any) -> Any:
    """e to the x for x <= 0, to 3e-7 relative: 2**n times a polynomial on [-1/2, 1/2], which vectorises."""
    y = x * np.float32(_LOG2E)
    y = y if y > np.float32(-126.0) else np.float32(-126.0)
    whole = np.floor(y + np.float32(0.5))
    r = y - whole
    p = np.float32(1.5403530393381610e-4)  # Taylor's coefficients of 2**r, ln(2)**k / k!
    p = p * r + np.float32(1.3333558146428443e-3)
    p = p * r + np.float32(9.6181291076284772e-3)
    p = p * r + np.float32(5.5504108664821580e-2)
    p = p * r + np.float32(2.4022650695910071e-1)
    p = p * r + np.float32(6.9314718055994531e-1)
    p = p * r + np.float32(1.0)
    return p * np.int32((np.int32(whole) + np.int32(127)) << np.int32(23)).view(np.float32)


@_compile
def _shares_of_row(wide: Any, place: Any, powers: Any, scale: Any) -> None:
    """The softmax of the row at a place between the rows of the grid, as ``powers * scale``."""
    n_classes, rows, size = wide.shape
    row = int(place)
    after = min(row + 1, rows - 1)
    share = place - np.float32(row)
    less = np.float32(1.0) - share
    for c in range(n_classes):
        low, high, logits = wide[c, row], wide[c, after], powers[c]
        if c == 0:
            for i in range(size):
                value = less * low[i] + share * high[i]
                logits[i] = value
                scale[i] = value
        else:
            for i in range(size):
                value = less * low[i] + share * high[i]
                logits[i] = value
                scale[i] = value if value > scale[i] else scale[i]
    total = powers[n_classes]
    for i in range(size):
        total[i] = np.float32(0.0)
    for c in range(n_classes):
        logits = powers[c]
        for i in range(size):
            power = _power(logits[i] - scale[i])
            logits[i] = power
            total[i] += power
    for i in range(size):
        scale[i] = np.float32(1.0) / total[i]


@_compile
def share_sums(
    wide: NDArray[np.float32],
    places: NDArray[np.float32],
    labels: NDArray[np.uint8],
    sums: NDArray[np.float64],
) -> None:
    """Sums of the softmax p of an image's logits.

    Parameters
    ----------
    wide
        (C, h, S) logits, their columns interpolated already.
    places
        (S,) where each row of pixels is between the rows of the grid: 0 at the first, h - 1 at the last.
    labels
        (S, S) class numbers.
    sums
        (2, C); the sums of p over all pixels, and over those of the class, are added.
    """
    n_classes, _, size = wide.shape
    powers, scale = np.empty((n_classes + 1, size), np.float32), np.empty(size, np.float32)
    for y in range(size):
        _shares_of_row(wide, places[y], powers, scale)
        truth = labels[y]
        for c in range(n_classes):
            some = powers[c]
            number = np.uint8(c)
            whole, both = np.float32(0.0), np.float32(0.0)
            for i in range(size):
                p = some[i] * scale[i]
                whole += p
                both += p if truth[i] == number else np.float32(0.0)
            sums[0, c] += whole
            sums[1, c] += both


@_compile
def wide_slope(
    wide: NDArray[np.float32],
    places: NDArray[np.float32],
    labels: NDArray[np.uint8],
    loss: NDArray[np.float32],
    slope: NDArray[np.float32],
) -> None:
    """The gradient with respect to an image's wide logits.

    With p the softmax and t the truth, the gradient of a pixel's logits is p (g - sum_c p g) + e (p - t), where
    g = u + v t.

    Parameters
    ----------
    wide, places, labels
        As in :func:`share_sums`.
    loss
        (3, C): u, v, and e, the weight of cross-entropy, which is the same for all classes.
    slope
        (C, h, S); the gradient is added.
    """
    n_classes, rows, size = wide.shape
    constant, of_truth, weight = loss[0], loss[1], loss[2, 0]
    powers, scale = np.empty((n_classes + 1, size), np.float32), np.empty(size, np.float32)
    mean = powers[n_classes]
    for y in range(size):
        _shares_of_row(wide, places[y], powers, scale)
        truth = labels[y]
        for i in range(size):
            mean[i] = np.float32(0.0)
        for c in range(n_classes):
            some = powers[c]
            number = np.uint8(c)
            base, more = constant[c], of_truth[c]
            for i in range(size):
                p = some[i] * scale[i]
                some[i] = p
                mean[i] += p * (base + (more if truth[i] == number else np.float32(0.0)))
        row = int(places[y])
        after = min(row + 1, rows - 1)
        share = places[y] - np.float32(row)
        less = np.float32(1.0) - share
        for c in range(n_classes):
            some = powers[c]
            number = np.uint8(c)
            base, more = constant[c] + weight, of_truth[c]
            low, high = slope[c, row], slope[c, after]
            for i in range(size):
                there = truth[i] == number
                found = some[i] * (base + (more if there else np.float32(0.0)) - mean[i])
                found -= weight if there else np.float32(0.0)
                some[i] = found
            for i in range(size):
                low[i] += less * some[i]
            for i in range(size):
                high[i] += share * some[i]
