"""The compiled loops: one pass over sorted entries for 64 resamples at a time.

Each loop runs on one thread in a fixed order. Sums of whole numbers are exact in float64 (below 2**53), so
that AUROC does not depend on the order at all.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["bin_sums", "pair_sums", "precision_sums", "sensitivity_sums"]

_TILE = 64  # the constant length lets LLVM unroll the inner loops; equal to weighted.TILE
_log = logging.getLogger(__name__)


def _compile(function: Callable[..., None]) -> Callable[..., None]:
    """Compile when first called and keep the machine code: beside this file, or in the user's cache folder.

    numba looks for a folder that it may write to when it decorates, and raises if there is none, as in a
    container without a home; then every process compiles anew.
    """
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError as error:
        _log.info("compiled code is not kept between runs: %s; NUMBA_CACHE_DIR can name a folder", error)
        return numba.njit(nogil=True)(function)


@_compile
def pair_sums(w: NDArray[Any], rows: NDArray[Any], codes: NDArray[Any], out: NDArray[Any]) -> None:
    """Mann-Whitney sums of (n, B) weights into ``out`` (3, B): twice the pairs won, twice the positives, negatives.

    In the order of ascending scores, code 0 is a negative; code 2 a positive; a positive that ties with negatives
    comes as code 1 before and once more after them.
    """
    for start in range(0, w.shape[1], _TILE):
        below, won, positives = np.zeros(_TILE), np.zeros(_TILE), np.zeros(_TILE)
        for i in range(len(rows)):
            x = w[rows[i], start : start + _TILE]
            code = codes[i]
            if code == 0:
                for b in range(_TILE):
                    below[b] += x[b]
            else:
                for b in range(_TILE):
                    value = np.float64(x[b]) * code
                    won[b] += value * below[b]
                    positives[b] += value
        out[0, start : start + _TILE] = won
        out[1, start : start + _TILE] = positives
        out[2, start : start + _TILE] = below


@_compile
def precision_sums(w: NDArray[Any], rows: NDArray[Any], codes: NDArray[Any], out: NDArray[Any]) -> None:
    """Sums of precision over positives into ``out`` (3, B), and the positives and negatives.

    In the order of descending scores and, among equal ones, negatives first: code 0 is a negative, 1 a positive,
    2 the last positive of its score.
    """
    for start in range(0, w.shape[1], _TILE):
        true, false, level, total = np.zeros(_TILE), np.zeros(_TILE), np.zeros(_TILE), np.zeros(_TILE)
        for i in range(len(rows)):
            x = w[rows[i], start : start + _TILE]
            code = codes[i]
            if code == 0:
                for b in range(_TILE):
                    false[b] += x[b]
            else:
                for b in range(_TILE):
                    true[b] += x[b]
                    level[b] += x[b]
                if code == 2:
                    for b in range(_TILE):
                        # Where the level is empty so may be the divisor: the sum gains nothing.
                        divisor = true[b] + false[b] if level[b] > 0 else 1.0
                        total[b] += level[b] * (true[b] / divisor)
                        level[b] = 0.0
        out[0, start : start + _TILE] = total
        out[1, start : start + _TILE] = true
        out[2, start : start + _TILE] = false


@_compile
def sensitivity_sums(w: NDArray[Any], rows: NDArray[Any], codes: NDArray[Any], share: float, out: NDArray[Any]) -> None:
    """Most positives above a cut with at most this share of the negatives above it, into ``out`` (3, B).

    The other two rows are the positives and the negatives; entries as in :func:`precision_sums`.
    """
    for start in range(0, w.shape[1], _TILE):
        true, false, best, limit = np.zeros(_TILE), np.zeros(_TILE), np.zeros(_TILE), np.zeros(_TILE)
        for i in range(len(rows)):
            if codes[i] == 0:
                x = w[rows[i], start : start + _TILE]
                for b in range(_TILE):
                    limit[b] += x[b]
        limit *= share
        for i in range(len(rows)):
            x = w[rows[i], start : start + _TILE]
            code = codes[i]
            if code == 0:
                for b in range(_TILE):
                    false[b] += x[b]
            else:
                for b in range(_TILE):
                    true[b] += x[b]
                if code == 2:
                    for b in range(_TILE):
                        best[b] = true[b] if false[b] <= limit[b] else best[b]
        out[0, start : start + _TILE] = best
        out[1, start : start + _TILE] = true
        out[2, start : start + _TILE] = false


@_compile
def bin_sums(w: NDArray[Any], rows: NDArray[Any], bins: NDArray[Any], values: NDArray[Any], out: NDArray[Any]) -> None:
    """Weighted sums of the (m, K) values of the entries in each bin, added to ``out`` (bins, K, B)."""
    for start in range(0, w.shape[1], _TILE):
        for i in range(len(rows)):
            x = w[rows[i], start : start + _TILE]
            for k in range(values.shape[1]):
                value = values[i, k]
                total = out[bins[i], k, start : start + _TILE]
                for b in range(_TILE):
                    total[b] += value * x[b]
