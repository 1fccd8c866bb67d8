"""Sums over weighted resamples: what every metric is made of.

Column b of the (n, B) weights is a sample in which row i occurs ``weights[i, b]`` times. A *scorer* is a metric
whose targets and scores are fixed and prepared, for instance sorted; it is called for one block of resamples
after another.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featcache.errors import ProbeError
from featcache.metrics.inputs import Floats

__all__ = ["Scorer", "Weights", "averaged", "defined_mean", "ratio", "result", "worth_compiling"]

TILE = 64
"""Resamples that the compiled loops score at a time."""


# Entries times resamples from which the compiled loops repay loading them, and from which they are faster once
# they are loaded. Below, numpy forms the same sums in the same order: results do not differ by a bit.
_WORTH_LOADING, _WORTH_CALLING = 2**22, 2**12


def worth_compiling(steps: int) -> bool:
    """Whether this many entries times resamples are for the compiled loops."""
    loaded = "featcache.metrics.compiled" in sys.modules
    return steps >= (_WORTH_CALLING if loaded else _WORTH_LOADING)


class Weights:
    """The weights of a block of resamples, in the forms that metrics read.

    Parameters
    ----------
    columns
        (n, B) finite and non-negative.
    """

    def __init__(self, columns: NDArray[Any]) -> None:
        self.columns = columns

    @classmethod
    def of(cls, weights: ArrayLike | None, n: int) -> Weights:
        """From the (B, n) ``weights`` of a metric; None is one sample of every row once."""
        if weights is None:
            return cls(np.ones((n, 1)))
        given = np.asarray(weights, dtype=np.float64)
        if given.ndim != 2 or given.shape[1] != n:
            raise ProbeError(f"weights must have shape (B, {n}), got {given.shape}")
        # Not NaN either: a comparison with NaN is false.
        if given.size and not (given.min() >= 0 and np.isfinite(given.max())):
            raise ProbeError("weights must be finite and not negative")
        return cls(given.T)

    @property
    def count(self) -> int:
        """B."""
        return int(self.columns.shape[1])

    @cached_property
    def floats(self) -> Floats:
        """(n, B) float64, C-contiguous: gathering rows of it is a copy of contiguous memory."""
        return np.ascontiguousarray(self.columns, dtype=np.float64)

    @cached_property
    def tiles(self) -> NDArray[Any]:
        """(n, a multiple of TILE) uint8 or float64, C-contiguous, filled up with zeros."""
        small = self.columns.dtype == np.uint8
        whole = self.columns if small else self.floats
        missing = -self.count % TILE
        if missing == 0:
            return np.ascontiguousarray(whole)
        return np.concatenate([whole, np.zeros((len(whole), missing), dtype=whole.dtype)], axis=1)


Scorer: TypeAlias = Callable[[Weights], Floats]
"""Weights of B resamples to (B,) values, or to the (C, B) values of every class."""


def ratio(part: Floats, whole: Floats) -> Floats:
    """Elementwise quotient; NaN where the whole is zero."""
    quotient: Floats = np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole > 0)
    return quotient


def defined_mean(values: Floats, support: Floats | None = None) -> Floats:
    """(B,) mean over the rows of (C, B) that are not NaN, weighted by ``support``; NaN if none is left."""
    weight = np.where(np.isnan(values), 0.0, 1.0 if support is None else support)
    return ratio((np.where(np.isnan(values), 0.0, values) * weight).sum(axis=0), weight.sum(axis=0))


def averaged(values: Floats, average: str, support: Callable[[], Floats]) -> Floats:
    """The (C, B) values themselves for ``"none"``, else (B,): their ``"macro"`` or ``"weighted"`` mean."""
    if average == "none":
        return values
    return defined_mean(values, support() if average == "weighted" else None)


def result(values: Floats, weights: ArrayLike | None) -> Any:
    """What a metric returns: a float without weights, else the values."""
    return float(values[0]) if weights is None else values
