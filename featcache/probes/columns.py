"""A grid of L2-penalised linear models as columns of one matrix: one GEMM a pass for all of them.

The objective of a column is scikit-learn's, C sum(loss) + |w|^2 / 2, divided by C and the rows' total weight. Each
column runs its own L-BFGS (Nocedal and Wright, "Numerical Optimization", 2006, algorithm 7.4), but they share every
pass over the rows. What makes passes few:

- the rows are given in the eigenbasis of their Gram matrix, where the diagonal ``curvature * variance + penalty`` is
  nearly the Hessian, and serves as the initial matrix of the recursion;
- logits are kept and only moved: a step is tried at length 1 while its gradient is computed, and a line search, where
  it was too long, costs no product;
- strengths between two that are solved start from their interpolation, in the coordinates in which the solutions of a
  quadratic loss do not depend on the strength;
- a column that has converged leaves, another takes its place.
"""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from featcache.probes.curvature import inverse_hessian
from featcache.probes.line_search import secant_lengths
from featcache.probes.losses import Loss
from featcache.probes.row_passes import RowPasses
from featcache.probes.schedule import solved_between
from featcache.probes.step_memory import StepMemory, column_resized
from featcache.probes.workers import row_workers

__all__ = ["Solution", "solve_grid"]

Floats: TypeAlias = NDArray[np.float32]
Doubles: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.int64]

_WIDTH = 80
"""Columns fitted at a time, or a twelfth of the features: their logits, twice, are the memory a fit needs."""
_SHARPEN_FROM, _SHARPEN_EVERY = 24, 12
"""Passes after which a column gets its own Hessian, where there are so many rows that passes cost more."""


@dataclass(frozen=True, slots=True)
class Solution:
    """The models of a grid."""

    weights: Floats
    """(n_C, L, group, q) weights for the rows given, the last is the intercept."""
    n_iter: Indices
    """(n_C, L) passes that each problem took part in."""
    converged: NDArray[np.bool_]
    """(n_C, L)."""


def solve_grid(
    rows: Floats,
    variance: Doubles,
    loss: Loss,
    C: Doubles,
    *,
    tol: float,
    max_iter: int,
    start: Doubles | None = None,
) -> Solution:
    """Fit every output of a loss at every strength.

    Parameters
    ----------
    rows
        (n, q) float32 in the eigenbasis, the last column ones, see :class:`Eigenbasis`.
    variance
        (q,) mean squares of its columns.
    loss
        What the logits are scored by.
    C
        (n_C,) ascending, distinct inverse strengths.
    tol
        A column has converged when a quasi-Newton step would move its logits by less than this share of their standard
        deviation, by the recursion and by the diagonal alike (and the intercept by less than ``tol``). It is relative
        to the column's own logits: a rare label, whose gradients are small, is held to the same standard.
    max_iter
        Passes over the rows for each problem at most.
    start
        (L, group, q) where the strengths without solved neighbours start; None is the constant model.

    Returns
    -------
    Solution
    """
    with row_workers() as workers:
        pool = _Pool(rows, variance, loss, C, tol=tol, max_iter=max_iter, start=start, workers=workers)
        while pool.admit():
            pool.step()
            pool.dismiss()
            pool.sharpen()
    shape = len(C), len(loss.total)
    return Solution(
        pool.solved.reshape(*shape, loss.group, rows.shape[1]),
        pool.n_iter.reshape(shape),
        pool.converged.reshape(shape),
    )


class _Pool:
    """The columns that are being fitted, up to a fixed number; the others wait or are solved.

    A problem is one output at one strength, ``strength * L + output``; it has ``group`` neighbouring columns.
    """

    def __init__(
        self,
        rows: Floats,
        variance: Doubles,
        loss: Loss,
        C: Doubles,
        *,
        tol: float,
        max_iter: int,
        start: Doubles | None,
        workers: Executor,
    ) -> None:
        self.rows, self.variance, self.loss, self.tol, self.max_iter = rows, variance, loss, tol, max_iter
        q = rows.shape[1]
        outputs, group = len(loss.total), loss.group
        count = len(C) * outputs
        self.output = np.arange(count) % outputs
        self.strength = np.arange(count) // outputs
        self.log_C = np.log(C)
        self.penalty = 1 / (C[self.strength] * loss.total[self.output])
        self.start = start
        self.parents = solved_between(len(C))
        # The seeds, those of weak penalties first, for they take longest; then the wide gaps before the narrow ones.
        gap = np.array([pair[1] - pair[0] if pair else len(C) for pair in self.parents])[self.strength]
        self.waiting = np.lexsort((-self.strength, -gap))
        self.solved = np.zeros((count, group, q), np.float32)
        self.is_solved, self.converged = np.zeros(count, dtype=bool), np.zeros(count, dtype=bool)
        self.n_iter = np.zeros(count, dtype=np.int64)
        self.free = np.ones(q, dtype=np.float32)
        self.free[-1] = 0  # the intercept is not penalised
        self.limit = max(1, max(_WIDTH, q // 12) // group)
        width = min(self.limit, count) * group
        self.passes = RowPasses(rows, loss, width, workers)
        self.active = np.zeros(0, dtype=np.int64)
        self.fresh = np.zeros(0, dtype=bool)
        self.bend = np.zeros(0)
        self.memory, self.stalled = StepMemory(q, group), np.zeros(0, dtype=np.int64)
        self.w, self.g = np.zeros((q, 0), np.float32), np.zeros((q, 0), np.float32)
        self.sharp: dict[tuple[int, int], Floats] = {}

    # -- who takes part ------------------------------------------------------------------------------------------

    def admit(self) -> bool:
        """Fill free places; whether any problem is left."""
        ready = [
            problem
            for problem in self.waiting
            if all(self.is_solved[parent * len(self.loss.total) + self.output[problem]] for parent in
                   self.parents[self.strength[problem]])
        ][: self.limit - len(self.active)]  # fmt: skip
        if ready:
            new = np.array(ready)
            self.waiting = self.waiting[~np.isin(self.waiting, new)]
            self._resize(np.arange(len(self.active)), len(new))
            self.active = np.concatenate([self.active, new])
            self.bend[-len(new) * self.loss.group :] = self.loss.curvature[self.output[new]].ravel()
        self.fresh = np.arange(len(self.active)) >= len(self.active) - len(ready)
        return len(self.active) > 0

    def dismiss(self) -> None:
        """Keep what has converged, or has had its passes, and free its place."""
        small = self._remaining()
        late = self.n_iter[self.active] >= self.max_iter
        gone = small | late | (self.stalled >= 3)
        if not gone.any():
            return
        leaving = self.active[gone]
        columns = self._columns(np.flatnonzero(gone))
        self.solved[leaving] = self.w[:, columns].T.reshape(len(leaving), self.loss.group, -1)
        self.is_solved[leaving] = True
        self.converged[leaving] = small[gone]
        kept = np.flatnonzero(~gone)
        self._resize(kept, 0)
        self.active = self.active[kept]

    def _columns(self, problems: Indices) -> Indices:
        return (problems[:, None] * self.loss.group + np.arange(self.loss.group)).ravel()

    def _resize(self, kept: Indices, new: int) -> None:
        """Drop all columns but those of ``kept``, then append empty ones for ``new`` problems."""
        columns, extra = self._columns(kept), new * self.loss.group
        self.passes.keep(columns, len(self.active) * self.loss.group, extra)
        self.memory.resize(kept, columns, new)
        self.w, self.g = (column_resized(values, columns, extra) for values in (self.w, self.g))
        self.bend = np.concatenate([self.bend[columns], np.zeros(extra)])
        self.stalled = np.concatenate([self.stalled[kept], np.zeros(new, np.int64)])

    # -- one step of all -----------------------------------------------------------------------------------------

    def step(self) -> None:
        """Move every column along its quasi-Newton direction, or a new one to its start: one pass over the rows."""
        output = self.output[self.active]
        penalty = np.outer(self.free, self._wide(self.penalty[self.active])).astype(np.float32)
        self.inverse = (1 / (self.variance[:, None] * self.bend + penalty + 1e-30)).astype(np.float32)
        direction = self._direction()
        for place in np.flatnonzero(self.fresh):
            direction[:, self._columns(np.array([place]))] = self._first(self.active[place])
        slope = self._dot(self.g, direction)
        count = direction.shape[1]
        gradient, slopes, bend = self.passes.gradient(output, slice(0, count), count, direction)
        total = self.loss.total[output]
        line = self._dot(penalty * self.w, direction), self._dot(penalty * direction, direction)
        new_slope = self.memory.sum(slopes) / total + line[0] + line[1]
        # By the curvature condition of Wolfe; of a convex function, slopes tell all about a line.
        wrong = np.flatnonzero(~self.fresh & ((new_slope > 0.5 * np.abs(slope)) | (new_slope < 0.9 * slope)))
        if len(wrong):
            length = self._search(wrong, slope[wrong], new_slope[wrong], [part[wrong] for part in line])
            columns = self._columns(wrong)
            direction[:, columns] *= self._wide(length)
            self.passes.moved[:, columns] *= self._wide(length)
            gradient[:, columns], _, bend[columns] = self.passes.gradient(output[wrong], columns, len(columns), None)
        self.passes.accept(count)
        self.w += direction
        gradient = gradient / self._wide(total) + penalty * self.w
        self.bend = np.maximum(bend / self._wide(total), 1e-3 * self.loss.curvature[output].ravel())
        self.memory.remember(direction, gradient - self.g, self.fresh, self._precondition)
        self.g = gradient.astype(np.float32)
        self.last = direction
        self.n_iter[self.active] += 1

    def _direction(self) -> Floats:
        """-H g of every column; along the diagonal alone where that is uphill."""
        d = self.memory.direction(self.g, self._precondition)
        uphill = self._dot(self.g, d) >= 0
        if uphill.any():  # rounding: start again from the diagonal
            self.stalled[uphill & ~self.fresh] += 1
            columns = self._columns(np.flatnonzero(uphill))
            for column in columns:
                self.sharp.pop(self._name(column), None)
            d[:, columns] = -self.inverse[:, columns] * self.g[:, columns]
            self.memory.forget(uphill)
        return d

    def _name(self, column: int) -> tuple[int, int]:
        """Output and class of a column."""
        problem = self.active[column // self.loss.group]
        return int(problem), int(column % self.loss.group)

    def _precondition(self, values: Floats) -> Floats:
        """The inverse Hessians, or what stands for them, times (q, m) columns."""
        found = self.inverse * values
        for column in range(values.shape[1]):
            sharp = self.sharp.get(self._name(column))
            if sharp is not None:
                found[:, column] = sharp @ values[:, column]
        return found

    def sharpen(self) -> None:
        """Give columns that take long the Hessian where they are."""
        n, q = self.rows.shape
        if n * _SHARPEN_FROM < q * q:
            return
        passes = self.n_iter[self.active] - _SHARPEN_FROM
        for place in np.flatnonzero((passes >= 0) & (passes % _SHARPEN_EVERY == 0)):
            problem = self.active[place]
            columns = self._columns(np.array([place]))
            logits = self.passes.logits[:, columns].copy()
            bend = self.loss.bend(self.output[problem], logits)
            for number, column in enumerate(columns):
                penalty = self.free * self.penalty[problem]
                inverse = inverse_hessian(
                    self.rows, bend[:, number], penalty, total=self.loss.total[self.output[problem]], seed=0
                )
                if inverse is not None:
                    self.sharp[self._name(column)] = inverse
            self.memory.gamma[place] = 1
            self.memory.forget(np.array([place]))

    def _first(self, problem: int) -> Doubles:
        """(q, group) start of a problem: between its solved neighbours, else the constant model."""
        output, place = self.output[problem], self.strength[problem]
        curvature = self.loss.curvature[output]
        pair = self.parents[place]
        if not pair:
            if self.start is not None:
                return np.asarray(self.start[output].T)
            constant = np.zeros((len(self.variance), self.loss.group))
            constant[-1] = self.loss.intercept[output]
            return constant
        known = [strength * len(self.loss.total) + output for strength in pair]
        share = (self.log_C[place] - self.log_C[pair[0]]) / (self.log_C[pair[1]] - self.log_C[pair[0]])

        def hessian(which: int) -> Doubles:
            bent: Doubles = np.outer(self.variance, curvature) + (self.free * self.penalty[which])[:, None]
            return bent

        pulls = [self.solved[which].T * hessian(which) for which in known]
        between = (1 - share) * pulls[0] + share * pulls[1]
        between /= hessian(problem) + 1e-30
        return np.asarray(between)

    def _search(self, problems: Indices, slope: Doubles, at_one: Doubles, line: list[Doubles]) -> Doubles:
        """(P,) step lengths of some problems, from the slopes of kept logits."""
        columns = self._columns(problems)
        output = self.output[self.active[problems]]
        total = self.loss.total[output]

        def slope_at(length: Doubles) -> Doubles:
            summed = self.memory.sum(self.passes.slope(output, columns, self._wide(length)))
            found: Doubles = summed / total + line[0] + length * line[1]
            return found

        return secant_lengths(slope, at_one, slope_at)

    def _remaining(self) -> NDArray[np.bool_]:
        """Whether the last step and the next, by the diagonal, are both small against the logits."""
        scale = self.variance[:-1, None]

        def spread(weights: Floats) -> Doubles:
            return np.sqrt(self.memory.sum((scale * np.square(weights[:-1])).sum(axis=0)))

        size = spread(self.w)
        diagonal = self._wide(self.memory.gamma) * self._precondition(self.g)
        shift = np.abs(diagonal[-1]).reshape(len(self.active), -1).max(axis=1)
        small = (spread(self.last) <= self.tol * size) & (spread(diagonal) <= self.tol * size) & ~self.fresh
        # A start that is this good needs no second opinion.
        small |= spread(diagonal) <= 0.1 * self.tol * size
        return np.asarray(small & (shift <= self.tol), dtype=bool)

    def _dot(self, one: NDArray[np.floating], two: NDArray[np.floating]) -> Doubles:
        return self.memory.dot(one, two)

    def _wide(self, values: NDArray[np.generic]) -> Floats:
        return self.memory.wide(values)
