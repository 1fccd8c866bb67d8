"""The five PNG row filters undone, compiled. Importing this loads numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["unfilter"]


def _compiled(function: Callable[..., Any]) -> Any:
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no folder to keep the compiled code in: compile once a process
        return numba.njit(nogil=True)(function)


@_compiled
def _paeth(raw: NDArray[np.uint8], above: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
    """Undo one row of the Paeth filter: the neighbour nearest to left + above - upper left predicts."""
    a = np.int32(0)
    c = np.int32(0)
    for x in range(out.size):
        b = np.int32(above[x])
        pa = abs(b - c)
        pb = abs(a - c)
        pc = abs(a + b - c - c)
        nearest = b if pb <= pc else c
        if pa <= pb and pa <= pc:
            nearest = a
        a = (np.int32(raw[x]) + nearest) & 255
        out[x] = np.uint8(a)
        c = b


@_compiled
def unfilter(raw: NDArray[np.uint8], out: NDArray[np.uint8]) -> int:
    """Undo the filters of 8-bit grey rows (PNG specification, third edition, 9.2).

    Parameters
    ----------
    raw
        (height, width + 1): the filter type, then the filtered bytes.
    out
        (height, width), written.

    Returns
    -------
    int
        0, or 1 if a filter type is unknown.
    """
    height, width = out.shape
    for row in range(height):
        kind = raw[row, 0]
        if kind == 0 or (kind == 2 and row == 0):
            for x in range(width):
                out[row, x] = raw[row, x + 1]
        elif kind == 1 or (kind == 4 and row == 0):
            left = np.uint8(0)
            for x in range(width):
                left = np.uint8(raw[row, x + 1] + left)
                out[row, x] = left
        elif kind == 2:
            for x in range(width):
                out[row, x] = np.uint8(raw[row, x + 1] + out[row - 1, x])
        elif kind == 3:
            left = np.uint8(0)
            for x in range(width):
                up = np.int32(out[row - 1, x]) if row > 0 else np.int32(0)
                left = np.uint8(raw[row, x + 1] + np.uint8((np.int32(left) + up) >> 1))
                out[row, x] = left
        elif kind == 4:
            _paeth(raw[row, 1:], out[row - 1], out[row])
        else:
            return 1
    return 0
