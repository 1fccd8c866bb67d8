"""Float64 dot products of chosen pairs of float32 rows, compiled. Importing this loads numba."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["dot_pairs"]

_log = logging.getLogger(__name__)


def _compiled(function: Callable[..., None]) -> Callable[..., None]:
    """Compile; the sum may be split into lanes, in the same way for each pair.

    numba looks for a folder that it may write to when it decorates, and raises if there is none.
    """
    lanes = {"reassoc", "contract"}
    try:
        return numba.njit(cache=True, nogil=True, fastmath=lanes)(function)
    except RuntimeError as error:
        _log.info("compiled code is not kept between runs: %s; NUMBA_CACHE_DIR can name a folder", error)
        return numba.njit(nogil=True, fastmath=lanes)(function)


@_compiled
def dot_pairs(
    rows: NDArray[np.float32],
    queries: NDArray[np.float32],
    query: NDArray[np.int64],
    row: NDArray[np.int64],
    found: NDArray[np.float64],
) -> None:
    """Write ``queries[query[i]] . rows[row[i]]`` to ``found[i]``.

    Nothing is gathered: each row is read where it lies, and pairs of one query should be side by side.

    Parameters
    ----------
    rows, queries
        (n, D) and (m, D) float32.
    query, row
        (p,) the pairs.
    found
        (p,) float64.
    """
    width = rows.shape[1]
    wide = np.empty(width)
    held = -1
    for pair in range(len(query)):
        if query[pair] != held:
            held = query[pair]
            for column in range(width):
                wide[column] = queries[held, column]
        other = rows[row[pair]]
        total = 0.0
        for column in range(width):
            total += wide[column] * np.float64(other[column])
        found[pair] = total
