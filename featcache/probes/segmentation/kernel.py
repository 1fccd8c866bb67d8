"""Softmax, loss and gradient of label maps in two passes over the maps: compiled loops. Imports numba.

PyTorch's operators need about ten passes, each through memory; between the products of the linear heads that was most
of a step's time. Each loop runs on one thread without the interpreter's lock, so that images go to several threads.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["slope_of_shares", "softmax_sums"]

_BLOCK = 1024
"""Pixels whose maxima and sums stay in the first cache."""
_LOG2E = np.float32(1.4426950408889634)
_FAST = {"contract", "reassoc", "nsz"}
_log = logging.getLogger(__name__)


def _compile(function: Callable[..., None]) -> Callable[..., None]:
    """Compile when first called, and keep the machine code where a folder for it can be written."""
    try:
        compiled: Callable[..., None] = numba.njit(cache=True, nogil=True, fastmath=_FAST)(function)
    except RuntimeError as error:
        _log.info("compiled code is not kept between runs: %s; NUMBA_CACHE_DIR can name a folder", error)
        compiled = numba.njit(nogil=True, fastmath=_FAST)(function)
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
def softmax_sums(maps: NDArray[np.float32], labels: NDArray[np.uint8], sums: NDArray[np.float64]) -> None:
    """Replace the logits of an image by their softmax p.

    Parameters
    ----------
    maps
        (C, P) logits of P pixels, contiguous; is changed.
    labels
        (P,) class numbers.
    sums
        (2, C) zeros; the sums of p over all pixels, and over those of the class, are added.
    """
    n_classes, pixels = maps.shape
    largest, total = np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.float32)
    for start in range(0, pixels, _BLOCK):
        stop = min(start + _BLOCK, pixels)
        truth = labels[start:stop]
        count = stop - start
        first = maps[0, start:stop]
        for i in range(count):
            largest[i] = first[i]
            total[i] = np.float32(0.0)
        for c in range(1, n_classes):
            some = maps[c, start:stop]
            for i in range(count):
                value = some[i]
                largest[i] = value if value > largest[i] else largest[i]
        for c in range(n_classes):
            some = maps[c, start:stop]
            for i in range(count):
                power = _power(some[i] - largest[i])
                some[i] = power
                total[i] += power
        for i in range(count):
            total[i] = np.float32(1.0) / total[i]
        for c in range(n_classes):
            some = maps[c, start:stop]
            number = np.uint8(c)
            size, both = np.float32(0.0), np.float32(0.0)
            for i in range(count):
                share = some[i] * total[i]
                some[i] = share
                size += share
                both += share if truth[i] == number else np.float32(0.0)
            sums[0, c] += size
            sums[1, c] += both


@_compile
def slope_of_shares(
    maps: NDArray[np.float32],
    labels: NDArray[np.uint8],
    constant: NDArray[np.float32],
    of_truth: NDArray[np.float32],
    entropy: float,
) -> None:
    """Replace the shares p of an image by p (g - sum_c p g) + entropy (p - t), with g = constant + of_truth t.

    Parameters
    ----------
    maps
        (C, P) shares, contiguous; is changed.
    labels
        (P,) class numbers; t is 1 in the plane of the class.
    constant, of_truth
        (C,) coefficients of g.
    entropy
        Weight of the gradient of cross-entropy.
    """
    n_classes, pixels = maps.shape
    weight = np.float32(entropy)
    mean = np.empty(_BLOCK, np.float32)
    for start in range(0, pixels, _BLOCK):
        stop = min(start + _BLOCK, pixels)
        truth = labels[start:stop]
        for i in range(stop - start):
            mean[i] = np.float32(0.0)
        for c in range(n_classes):
            some = maps[c, start:stop]
            number = np.uint8(c)
            base, more = constant[c], of_truth[c]
            for i in range(stop - start):
                mean[i] += some[i] * (base + (more if truth[i] == number else np.float32(0.0)))
        for c in range(n_classes):
            some = maps[c, start:stop]
            number = np.uint8(c)
            base, more = constant[c] + weight, of_truth[c]
            for i in range(stop - start):
                there = truth[i] == number
                slope = some[i] * (base + (more if there else np.float32(0.0)) - mean[i])
                some[i] = slope - (weight if there else np.float32(0.0))
