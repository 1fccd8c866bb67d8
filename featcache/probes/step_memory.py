"""What L-BFGS remembers of each problem: its last steps and how the gradient bent along them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["StepMemory", "column_resized"]

Floats: TypeAlias = NDArray[np.float32]
Doubles: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.int64]

_PAIRS = 8
"""Pairs of steps and gradient differences that each problem remembers."""


class StepMemory:
    """Pairs of problems that are solved side by side, each of ``group`` neighbouring columns.

    Nocedal and Wright, "Numerical Optimization", 2006, algorithm 7.4; every problem has its own numbers, all share the
    array operations.

    Parameters
    ----------
    height
        q, weights of a column.
    group
        Columns of a problem.

    Attributes
    ----------
    gamma : (P,) float32
        By how much the initial inverse Hessian is off along the last step.
    """

    def __init__(self, height: int, group: int) -> None:
        self.group = group
        self.gamma = np.ones(0, np.float32)
        self._steps, self._bends = ([np.zeros((height, 0), np.float32) for _ in range(_PAIRS)] for _ in range(2))
        self._rho = [np.zeros(0, np.float32) for _ in range(_PAIRS)]

    def resize(self, kept: Indices, columns: Indices, new: int) -> None:
        """Keep some problems, which have these columns, and append ``new`` that remember nothing."""
        for pair in range(_PAIRS):  # one by one: both together are twice the memory
            self._steps[pair] = column_resized(self._steps[pair], columns, new * self.group)
            self._bends[pair] = column_resized(self._bends[pair], columns, new * self.group)
            self._rho[pair] = column_resized(self._rho[pair], kept, new)
        self.gamma = column_resized(self.gamma, kept, new)
        self.gamma[len(kept) :] = 1

    def direction(self, gradient: Floats, precondition: Callable[[Floats], Floats]) -> Floats:
        """-H g of every column, by the two loops."""
        d = -gradient
        shares = []
        for step, bend, rho in zip(self._steps[::-1], self._bends[::-1], self._rho[::-1], strict=True):
            share = self.wide(rho * self.dot(step, d))
            d -= share * bend
            shares.append(share)
        d = precondition(d) * self.wide(self.gamma)
        for step, bend, rho, share in zip(self._steps, self._bends, self._rho, shares[::-1], strict=True):
            d += (share - self.wide(rho * self.dot(bend, d))) * step
        return d

    def remember(
        self,
        step: Floats,
        bend: NDArray[np.floating],
        fresh: NDArray[np.bool_],
        precondition: Callable[[Floats], Floats],
    ) -> None:
        """Add a pair to each problem that is not fresh, where the loss bent along the step."""
        along = self.dot(step, bend)
        across = self.dot(bend, precondition(bend.astype(np.float32)))
        good = ~fresh & (along > 1e-10 * across)
        wide = self.wide(good)
        self._steps = [*self._steps[1:], step * wide]
        self._bends = [*self._bends[1:], (bend * wide).astype(np.float32)]
        self._rho = [*self._rho[1:], np.where(good, 1 / np.where(good, along, 1), 0).astype(np.float32)]
        self.gamma = np.where(good, along / np.where(good, across, 1), self.gamma).astype(np.float32)

    def forget(self, problems: Indices | NDArray[np.bool_]) -> None:
        """Start again from the initial inverse Hessian."""
        for rho in self._rho:
            rho[problems] = 0

    def sum(self, values: NDArray[np.floating]) -> Doubles:
        """(P,) of one value a column."""
        return np.asarray(values.reshape(-1, self.group).sum(axis=1, dtype=np.float64))

    def dot(self, one: NDArray[np.floating], two: NDArray[np.floating]) -> Doubles:
        """(P,) inner products of (q, m) columns."""
        return self.sum(np.einsum("qm,qm->m", one, two))

    def wide(self, values: NDArray[np.generic]) -> Floats:
        """(m,) float32 of one value a problem."""
        return np.repeat(values.astype(np.float32), self.group)


def column_resized(values: Floats, places: Indices, more: int) -> Floats:
    """Some columns of an array, then ``more`` of zeros.

    Examples
    --------
    >>> column_resized(np.array([1, 2, 3], dtype=np.float32), np.array([2]), 1).tolist()
    [3.0, 0.0]
    """
    return np.concatenate([values[..., places], np.zeros((*values.shape[:-1], more), values.dtype)], axis=-1)
