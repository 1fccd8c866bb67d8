"""One ranking of positives and negatives, sorted once, scored for many weighted resamples with exact ties."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featcache.metrics.inputs import Floats
from featcache.metrics.weighted import Weights, ratio

__all__ = ["Curve", "curves_of", "pooled_curve"]

# Slack of a specificity: 0.9 of 10 negatives is 9, whatever the last bit of 0.9 says.
_SLACK = 1e-9


class _Program(NamedTuple):
    """Entries in the order in which a compiled loop reads them."""

    rows: NDArray[np.int64]
    codes: NDArray[np.int8]


class Curve:
    """The entries of one ranking. ``fast`` is the way to its sums: by the compiled loops, or by numpy.

    Parameters
    ----------
    positive
        (m,) whether an entry is a positive; else it is a negative.
    score
        (m,) float64.
    rows
        (m,) the row of the weights that an entry belongs to.
    """

    def __init__(self, positive: NDArray[np.bool_], score: Floats, rows: NDArray[np.int64]) -> None:
        order = np.argsort(score, kind="stable")
        self._rows, self._positive, ordered = rows[order], positive[order], score[order]
        self._first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(ordered)])
        self.entries = len(order)
        self.defined = bool(positive.any() and not positive.all())

    def area(self, w: Weights, *, fast: bool) -> Floats:
        """(B,) area under the ROC curve; NaN without a positive or without a negative."""
        if not self.defined:
            return np.full(w.count, np.nan)
        if fast:
            from featcache.metrics import compiled

            won, positives, negatives = _run(compiled.pair_sums, w, *self._ascending)
            return ratio(won, positives * negatives)
        positives, negatives = self._levels(w)
        upto = np.cumsum(negatives, axis=0)
        won = (positives * (2 * upto - negatives)).sum(axis=0)
        return ratio(won, 2 * positives.sum(axis=0) * upto[-1])

    def precision(self, w: Weights, *, fast: bool) -> Floats:
        """(B,) average precision; NaN without a positive or without a negative."""
        if not self.defined:
            return np.full(w.count, np.nan)
        if fast:
            from featcache.metrics import compiled

            total, positives, negatives = _run(compiled.precision_sums, w, *self._descending)
        else:
            level, true, false = self._cuts(w)
            # A running sum adds in the order of the compiled loop.
            total = np.cumsum(level * np.nan_to_num(ratio(true, true + false)), axis=0)[-1]
            positives, negatives = true[-1], false[-1]
        return np.where(negatives > 0, ratio(total, positives), np.nan)

    def sensitivity(self, w: Weights, specificity: float, *, fast: bool) -> Floats:
        """(B,) highest sensitivity of a cut with at least this specificity; NaN where either is undefined."""
        if not self.defined:
            return np.full(w.count, np.nan)
        share = 1 - specificity + _SLACK
        if fast:
            from featcache.metrics import compiled

            best, positives, negatives = _run(compiled.sensitivity_sums, w, *self._descending, share)
        else:
            _, true, false = self._cuts(w)
            positives, negatives = true[-1], false[-1]
            best = np.where(false <= share * negatives, true, 0.0).max(axis=0)
        return np.where(negatives > 0, ratio(best, positives), np.nan)

    def _levels(self, w: Weights) -> tuple[Floats, Floats]:
        """(levels, B) weights of the positives and of the negatives at each distinct score, ascending."""
        entries = w.floats[self._rows]
        positive = entries * self._positive[:, None]
        return np.add.reduceat(positive, self._first), np.add.reduceat(entries - positive, self._first)

    def _cuts(self, w: Weights) -> tuple[Floats, Floats, Floats]:
        """(levels, B), descending: the positives at each distinct score, and both kinds at it or above."""
        positives, negatives = (part[::-1] for part in self._levels(w))
        return positives, np.cumsum(positives, axis=0), np.cumsum(negatives, axis=0)

    @cached_property
    def _level_of(self) -> NDArray[np.int64]:
        """(m,) number of each sorted entry's distinct score."""
        return np.repeat(np.arange(len(self._first)), np.diff(np.append(self._first, len(self._rows))))

    @cached_property
    def _ascending(self) -> _Program:
        """As ``compiled.pair_sums`` reads them."""
        level = self._level_of
        positives, negatives = np.flatnonzero(self._positive), np.flatnonzero(~self._positive)
        tied = np.isin(level[positives], level[negatives])
        entry = np.concatenate([positives, negatives, positives[tied]])
        # Within a level: positives, negatives, and the tied positives again.
        phase = np.repeat([0, 1, 2], [len(positives), len(negatives), int(tied.sum())])
        code = np.concatenate([np.where(tied, 1, 2), np.zeros(len(negatives)), np.ones(int(tied.sum()))])
        order = np.lexsort((phase, level[entry]))
        return _Program(self._rows[entry[order]], code[order].astype(np.int8))

    @cached_property
    def _descending(self) -> _Program:
        """As ``compiled.precision_sums`` reads them."""
        order = np.lexsort((self._positive, -self._level_of))
        level, positive = self._level_of[order], self._positive[order]
        last = positive & np.append(level[1:] != level[:-1], True)
        return _Program(self._rows[order], (positive.astype(np.int8) + last).astype(np.int8))


def curves_of(truth: NDArray[Any], score: Floats, columns: list[int] | None = None) -> list[Curve]:
    """A ranking for each class against the rest, or for each label on its known rows; of all columns or some."""
    every = np.arange(len(truth))
    curves = []
    for column in range(score.shape[1]) if columns is None else columns:
        if truth.ndim == 1:
            curves.append(Curve(truth == column, score[:, column], every))
        else:
            known = np.flatnonzero(~np.isnan(truth[:, column]))
            curves.append(Curve(truth[known, column] == 1, score[known, column], known))
    return curves


def pooled_curve(truth: NDArray[Any], score: Floats) -> Curve:
    """One ranking of the known entries of all classes or labels together."""
    member = truth if truth.ndim == 2 else (truth[:, None] == np.arange(score.shape[1])).astype(np.float64)
    rows, columns = np.nonzero(~np.isnan(member))
    return Curve(member[rows, columns] == 1, score[rows, columns], rows)


def _run(loop: Callable[..., None], w: Weights, *arguments: Any) -> Floats:
    """(3, B) results of a compiled loop."""
    out = np.zeros((3, w.tiles.shape[1]))
    loop(w.tiles, *arguments, out)
    return out[:, : w.count]
