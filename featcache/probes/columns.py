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
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from featcache.probes.curvature import inverse_hessian
from featcache.probes.losses import Loss
from featcache.probes.schedule import solved_between
from featcache.probes.workers import row_workers

__all__ = ["Solution", "solve_grid"]

Floats: TypeAlias = NDArray[np.float32]
Doubles: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.int64]

_MEMORY = 8
"""Pairs of steps and gradient differences that each column remembers."""
_WIDTH = 80
"""Columns fitted at a time, or a twelfth of the features: their logits, twice, are the memory a fit needs."""
_BLOCK = 256
"""Rows worked on at a time; what is in between is small then."""
_FEWEST_STRIPES, _MOST_STRIPES, _STRIPE = 8, 32, 2048
"""Neighbouring blocks are one thread's work and one sum: so many stripes of about so many rows."""
_SHARPEN_FROM, _SHARPEN_EVERY = 24, 12
"""Passes after which a column gets its own Hessian, where there are so many rows that passes cost more."""
_SEARCHES = 20
"""Evaluations of a line search at most."""


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
        self.workers = workers
        self.row_blocks = [slice(begin, min(begin + _BLOCK, len(rows))) for begin in range(0, len(rows), _BLOCK)]
        count = min(max(_FEWEST_STRIPES, len(rows) // _STRIPE), _MOST_STRIPES, len(self.row_blocks))
        bounds = np.linspace(0, len(self.row_blocks), count + 1).round().astype(int).tolist()
        self.stripes = [self.row_blocks[first:last] for first, last in pairwise(bounds)]
        self.rows, self.variance, self.loss, self.tol, self.max_iter = rows, variance, loss, tol, max_iter
        n, q = rows.shape
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
        self.logits, self.moved = np.empty((n, width), np.float32), np.empty((n, width), np.float32)
        self.active = np.zeros(0, dtype=np.int64)
        self.fresh = np.zeros(0, dtype=bool)
        self.bend = np.zeros(0)
        self.gamma, self.stalled = np.ones(0, np.float32), np.zeros(0, dtype=np.int64)
        self.w, self.g = np.zeros((q, 0), np.float32), np.zeros((q, 0), np.float32)
        self.steps, self.bends = ([np.zeros((q, 0), np.float32) for _ in range(_MEMORY)] for _ in range(2))
        self.rho = [np.zeros(0, np.float32) for _ in range(_MEMORY)]
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
        if len(kept) < len(self.active):
            for rows in self.row_blocks:
                block = self.logits[rows]
                block[:, : len(columns)] = block[:, columns]
        end = len(columns) + extra
        self.logits[:, len(columns) : end] = 0

        def resize(values: NDArray[np.generic], places: Indices, more: int) -> NDArray[np.generic]:
            return np.concatenate([values[..., places], np.zeros((*values.shape[:-1], more), values.dtype)], axis=-1)

        self.w, self.g = (resize(values, columns, extra) for values in (self.w, self.g))  # type: ignore[assignment]
        for pair in range(_MEMORY):  # one by one: both together are twice the memory
            self.steps[pair] = resize(self.steps[pair], columns, extra)  # type: ignore[assignment]
            self.bends[pair] = resize(self.bends[pair], columns, extra)  # type: ignore[assignment]
        self.rho = [resize(values, kept, new) for values in self.rho]  # type: ignore[misc]
        self.bend = resize(self.bend, columns, extra)  # type: ignore[assignment]
        self.gamma = resize(self.gamma, kept, new)  # type: ignore[assignment]
        self.gamma[len(kept) :] = 1
        self.stalled = resize(self.stalled, kept, new)  # type: ignore[assignment]

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
        gradient, new_slope, bend = self._pass(np.arange(len(self.active)), direction)
        total = self.loss.total[output]
        line = self._dot(penalty * self.w, direction), self._dot(penalty * direction, direction)
        new_slope = new_slope / total + line[0] + line[1]
        length = np.ones(len(self.active))
        # By the curvature condition of Wolfe; of a convex function, slopes tell all about a line.
        wrong = np.flatnonzero(~self.fresh & ((new_slope > 0.5 * np.abs(slope)) | (new_slope < 0.9 * slope)))
        if len(wrong):
            length[wrong] = self._search(wrong, slope[wrong], new_slope[wrong], [part[wrong] for part in line])
            columns = self._columns(wrong)
            direction[:, columns] *= self._wide(length[wrong])
            self.moved[:, columns] *= self._wide(length[wrong])
            gradient[:, columns], _, bend[columns] = self._pass(wrong, None)
        count = len(self.active) * self.loss.group
        self.logits[:, :count] += self.moved[:, :count]
        self.w += direction
        gradient = gradient / self._wide(total) + penalty * self.w
        self.bend = np.maximum(bend / self._wide(total), 1e-3 * self.loss.curvature[output].ravel())
        self._remember(direction, gradient - self.g)
        self.g = gradient.astype(np.float32)
        self.last = direction
        self.n_iter[self.active] += 1

    def _direction(self) -> Floats:
        """-H g of every column, by the two loops of L-BFGS."""
        d = -self.g
        shares = []
        for step, bend, rho in zip(self.steps[::-1], self.bends[::-1], self.rho[::-1], strict=True):
            share = self._wide(rho * self._dot(step, d))
            d -= share * bend
            shares.append(share)
        d = self._precondition(d) * self._wide(self.gamma)
        for step, bend, rho, share in zip(self.steps, self.bends, self.rho, shares[::-1], strict=True):
            d += (share - self._wide(rho * self._dot(bend, d))) * step
        uphill = self._dot(self.g, d) >= 0
        if uphill.any():  # rounding: start again from the diagonal
            self.stalled[uphill & ~self.fresh] += 1
            columns = self._columns(np.flatnonzero(uphill))
            for column in columns:
                self.sharp.pop(self._name(column), None)
            d[:, columns] = -self.inverse[:, columns] * self.g[:, columns]
            for rho in self.rho:
                rho[uphill] = 0
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
            logits = self.logits[:, columns].copy()
            bend = self.loss.bend(self.output[problem], logits)
            for number, column in enumerate(columns):
                penalty = self.free * self.penalty[problem]
                inverse = inverse_hessian(
                    self.rows, bend[:, number], penalty, total=self.loss.total[self.output[problem]], seed=0
                )
                if inverse is not None:
                    self.sharp[self._name(column)] = inverse
            self.gamma[place] = 1
            for rho in self.rho:
                rho[place] = 0

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

    def _pass(self, problems: Indices, direction: Floats | None) -> tuple[Floats, Doubles, Doubles]:
        """Gradient (q, m) of the summed loss, its slope (P,) and curvature (m,), where the logits are moved.

        ``direction`` (q, m) sets how they are moved, for all problems; None keeps it.
        """
        columns = self._columns(problems)
        every = len(problems) == len(self.active)
        which: slice | Indices = slice(0, len(columns)) if every else columns
        output = self.output[self.active[problems]]

        def part(stripe: list[slice]) -> tuple[Floats, Doubles, Doubles]:
            pull = np.zeros((self.rows.shape[1], len(columns)), np.float32)
            along, bent = np.zeros(len(columns)), np.zeros(len(columns))
            for block in stripe:
                rows = self.rows[block]
                if direction is not None:
                    self.moved[block, : len(columns)] = rows @ direction
                moved = self.moved[block, which]
                logits = self.logits[block, which] + moved
                bent += self.loss.residual(block, output, logits)
                pull += rows.T @ logits
                along += np.einsum("nm,nm->m", logits, moved)
            return pull, along, bent

        gradient = np.zeros((self.rows.shape[1], len(columns)), np.float32)
        slope, bend = np.zeros(len(columns)), np.zeros(len(columns))
        for pull, along, bent in self.workers.map(part, self.stripes):  # in the order of the rows
            gradient += pull
            slope += along
            bend += bent
        return gradient, slope.reshape(len(problems), -1).sum(axis=1), bend

    def _search(self, problems: Indices, slope: Doubles, at_one: Doubles, line: list[Doubles]) -> Doubles:
        """(P,) step lengths at which the slope is small: bracketed secants on the slopes of kept logits."""
        columns = self._columns(problems)
        low, low_slope = np.zeros(len(problems)), slope.astype(np.float64)
        high, high_slope = np.full(len(problems), np.inf), np.zeros(len(problems))
        length, found = np.ones(len(problems)), at_one.astype(np.float64)
        output = self.output[self.active[problems]]
        total = self.loss.total[output]
        for _ in range(_SEARCHES):
            below, open_ = found < 0, np.abs(found) > 0.3 * np.abs(slope)
            low, low_slope = np.where(below, length, low), np.where(below, found, low_slope)
            high, high_slope = np.where(below, high, length), np.where(below, high_slope, found)
            if not open_.any():
                break
            bounded = np.isfinite(high)
            gap = np.where(bounded, high, 2 * length) - low
            share = np.clip(low_slope / np.where(bounded, low_slope - high_slope, low_slope), 0.1, 0.9)
            length = np.where(open_, np.where(bounded, low + share * gap, 2 * length), length)
            wide = self._wide(length)

            def part(stripe: list[slice], wide: Floats = wide) -> Doubles:
                along = np.zeros(len(columns))
                for block in stripe:
                    moved = self.moved[block, columns]
                    logits = self.logits[block, columns] + moved * wide
                    self.loss.residual(block, output, logits)
                    along += np.einsum("nm,nm->m", logits, moved)
                return along

            summed = np.zeros(len(columns))
            for along in self.workers.map(part, self.stripes):
                summed += along
            new = summed.reshape(len(problems), -1).sum(axis=1) / total + line[0] + length * line[1]
            found = np.where(open_, new, found)
        return length

    def _remember(self, step: Floats, bend: Floats) -> None:
        """Add a pair to each column's memory, where the loss bent along the step."""
        along = self._dot(step, bend)
        across = self._dot(bend, self._precondition(bend))
        good = ~self.fresh & (along > 1e-10 * across)
        wide = self._wide(good)
        self.steps = [*self.steps[1:], step * wide]
        self.bends = [*self.bends[1:], (bend * wide).astype(np.float32)]
        self.rho = [*self.rho[1:], np.where(good, 1 / np.where(good, along, 1), 0).astype(np.float32)]
        self.gamma = np.where(good, along / np.where(good, across, 1), self.gamma).astype(np.float32)

    def _remaining(self) -> NDArray[np.bool_]:
        """Whether the last step and the next, by the diagonal, are both small against the logits."""
        scale = self.variance[:-1, None]

        def spread(weights: Floats) -> Doubles:
            return np.sqrt(self._sum((scale * np.square(weights[:-1])).sum(axis=0)))

        size = spread(self.w)
        diagonal = self._wide(self.gamma) * self._precondition(self.g)
        shift = np.abs(diagonal[-1]).reshape(len(self.active), -1).max(axis=1)
        small = (spread(self.last) <= self.tol * size) & (spread(diagonal) <= self.tol * size) & ~self.fresh
        # A start that is this good needs no second opinion.
        small |= spread(diagonal) <= 0.1 * self.tol * size
        return np.asarray(small & (shift <= self.tol), dtype=bool)

    # -- sums over the columns of a problem ----------------------------------------------------------------------

    def _sum(self, values: NDArray[np.floating]) -> Doubles:
        return np.asarray(values.reshape(-1, self.loss.group).sum(axis=1, dtype=np.float64))

    def _dot(self, one: NDArray[np.floating], two: NDArray[np.floating]) -> Doubles:
        return self._sum(np.einsum("qm,qm->m", one, two))

    def _wide(self, values: NDArray[np.generic]) -> Floats:
        """(m,) float32 of one value a problem."""
        return np.repeat(values.astype(np.float32), self.loss.group)
