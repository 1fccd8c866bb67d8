"""Step lengths of many convex lines at once, from their slopes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["secant_lengths"]

Doubles: TypeAlias = NDArray[np.float64]

_EVALUATIONS = 20
"""Of the slopes at most."""


def secant_lengths(slope: Doubles, at_one: Doubles, slope_at: Callable[[Doubles], Doubles]) -> Doubles:
    """(P,) lengths at which the slope is at most 0.3 of that at zero: bracketed secants.

    Parameters
    ----------
    slope, at_one
        (P,) slopes at the lengths zero, where they are negative, and one.
    slope_at
        The (P,) slopes at (P,) lengths.

    Examples
    --------
    >>> secant_lengths(np.array([-4.0]), np.array([-2.0]), lambda length: 2 * length - 4).tolist()
    [2.0]
    """
    low, low_slope = np.zeros(len(slope)), slope.astype(np.float64)
    high, high_slope = np.full(len(slope), np.inf), np.zeros(len(slope))
    length, found = np.ones(len(slope)), at_one.astype(np.float64)
    for _ in range(_EVALUATIONS):
        below, open_ = found < 0, np.abs(found) > 0.3 * np.abs(slope)
        low, low_slope = np.where(below, length, low), np.where(below, found, low_slope)
        high, high_slope = np.where(below, high, length), np.where(below, high_slope, found)
        if not open_.any():
            break
        bounded = np.isfinite(high)
        gap = np.where(bounded, high, 2 * length) - low
        share = np.clip(low_slope / np.where(bounded, low_slope - high_slope, low_slope), 0.1, 0.9)
        length = np.where(open_, np.where(bounded, low + share * gap, 2 * length), length)
        found = np.where(open_, slope_at(length), found)
    return length
