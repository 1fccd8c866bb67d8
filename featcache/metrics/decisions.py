"""Confusion counts of decisions over weighted resamples, and the metrics made of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from featcache.errors import ProbeError
from featcache.metrics.entries import EntrySums
from featcache.metrics.inputs import Floats, check_arrays, check_average, check_thresholds
from featcache.metrics.weighted import Scorer, Weights, averaged, ratio

__all__ = [
    "accuracy_scorer",
    "balanced_accuracy_scorer",
    "f1_scorer",
    "mcc_scorer",
    "sensitivity_scorer",
    "specificity_scorer",
]


class _Counts(NamedTuple):
    """(C, B) weights by column."""

    positives: Floats
    negatives: Floats
    true_positives: Floats
    false_positives: Floats

    def pooled(self) -> _Counts:
        """Of all columns together, as one."""
        return _Counts(*(part.sum(axis=0, keepdims=True) for part in self))


class _Decisions:
    """What is true and what is predicted, of each class against the rest or of each label."""

    def __init__(self, y_true: ArrayLike, y_score: ArrayLike, thresholds: ArrayLike | None) -> None:
        truth, score = check_arrays(y_true, y_score)
        self.multilabel, self._count = truth.ndim == 2, score.shape[1]
        limits = check_thresholds(truth, self._count, thresholds)
        if self.multilabel:
            rows, columns = np.nonzero(~np.isnan(truth) & ~np.isnan(limits))
            # Cells of a label: found, missed, false alarm, rightly not predicted.
            cell = 2 * (truth[rows, columns] == 0) + (score > limits)[rows, columns]
            self._sums = EntrySums(rows, columns * 4 + np.array([1, 0, 3, 2])[cell], 4 * self._count)
        else:
            predicted, every = score.argmax(axis=1), np.arange(len(truth))
            wrong = np.flatnonzero(predicted != truth)
            rows = np.concatenate([every, wrong])
            # A row is found or missed in its class; if missed, it is a false alarm of another.
            cells = np.concatenate([4 * truth + (predicted != truth), 4 * predicted[wrong] + 2])
            self._sums = EntrySums(rows, cells, 4 * self._count)

    def counts(self, w: Weights) -> _Counts:
        """The confusion counts of every column."""
        found, missed, alarms, rest = self._sums(w).reshape(self._count, 4, w.count).transpose(1, 0, 2)
        positives = found + missed
        negatives = alarms + rest if self.multilabel else positives.sum(axis=0) - positives
        return _Counts(positives, negatives, found, alarms)


def accuracy_scorer(
    y_true: ArrayLike, y_score: ArrayLike, *, thresholds: ArrayLike | None = None, average: str = "macro"
) -> Scorer:
    """:func:`accuracy` of fixed arrays; ``average="none"`` gives every label."""
    check_average(average, ("macro", "micro"), "accuracy")
    decisions = _Decisions(y_true, y_score, thresholds)
    if average == "none" and not decisions.multilabel:
        raise ProbeError(
            "accuracy of class indices has no value for each class",
            remedy="Take sensitivity, the share of each class that is found, or f1.",
        )

    def score(w: Weights) -> Floats:
        counts = decisions.counts(w)
        if not decisions.multilabel:
            return ratio(counts.true_positives.sum(axis=0), counts.positives.sum(axis=0))
        if average == "micro":
            counts = counts.pooled()
        right = counts.true_positives + counts.negatives - counts.false_positives
        return averaged(ratio(right, counts.positives + counts.negatives), average, lambda: counts.positives)

    return score


def balanced_accuracy_scorer(
    y_true: ArrayLike, y_score: ArrayLike, *, thresholds: ArrayLike | None = None, average: str = "macro"
) -> Scorer:
    """:func:`balanced_accuracy` of fixed arrays; ``"none"``: each class's recall, each label's balanced accuracy."""
    check_average(average, ("macro",), "balanced_accuracy")
    decisions = _Decisions(y_true, y_score, thresholds)

    def score(w: Weights) -> Floats:
        counts = decisions.counts(w)
        values = _sensitivity(counts)
        if decisions.multilabel:
            values = (values + _specificity(counts)) / 2
        return averaged(values, average, lambda: counts.positives)

    return score


def f1_scorer(
    y_true: ArrayLike, y_score: ArrayLike, *, thresholds: ArrayLike | None = None, average: str = "macro"
) -> Scorer:
    """:func:`f1` of fixed arrays; ``average="none"`` gives every class."""
    check_average(average, ("macro", "micro", "weighted"), "f1")
    return _by_column(_Decisions(y_true, y_score, thresholds), average, _f1)


def sensitivity_scorer(
    y_true: ArrayLike, y_score: ArrayLike, *, thresholds: ArrayLike | None = None, average: str = "macro"
) -> Scorer:
    """:func:`sensitivity` of fixed arrays; ``average="none"`` gives every class."""
    check_average(average, ("macro", "micro", "weighted"), "sensitivity")
    return _by_column(_Decisions(y_true, y_score, thresholds), average, _sensitivity)


def specificity_scorer(
    y_true: ArrayLike, y_score: ArrayLike, *, thresholds: ArrayLike | None = None, average: str = "macro"
) -> Scorer:
    """:func:`specificity` of fixed arrays; ``average="none"`` gives every class."""
    check_average(average, ("macro", "micro"), "specificity")
    return _by_column(_Decisions(y_true, y_score, thresholds), average, _specificity)


def mcc_scorer(
    y_true: ArrayLike, y_score: ArrayLike, *, thresholds: ArrayLike | None = None, average: str = "macro"
) -> Scorer:
    """:func:`mcc` of fixed arrays; ``average="none"`` gives each class against the rest."""
    check_average(average, ("macro", "micro"), "mcc")
    decisions = _Decisions(y_true, y_score, thresholds)
    if decisions.multilabel or average == "none":
        return _by_column(decisions, average, _mcc)

    def several_classes(w: Weights) -> Floats:
        counts = decisions.counts(w)
        predicted = counts.true_positives + counts.false_positives
        total, right = counts.positives.sum(axis=0), counts.true_positives.sum(axis=0)
        spread = total**2 - (counts.positives**2).sum(axis=0)
        spread_predicted = total**2 - (predicted**2).sum(axis=0)
        return _correlation(total * right - (counts.positives * predicted).sum(axis=0), spread, spread_predicted)

    return several_classes


def _by_column(decisions: _Decisions, average: str, value: Callable[[_Counts], Floats]) -> Scorer:
    def score(w: Weights) -> Floats:
        counts = decisions.counts(w)
        if average == "micro":
            counts = counts.pooled()
        return averaged(value(counts), average, lambda: counts.positives)

    return score


def _sensitivity(counts: _Counts) -> Floats:
    return ratio(counts.true_positives, counts.positives)


def _specificity(counts: _Counts) -> Floats:
    return ratio(counts.negatives - counts.false_positives, counts.negatives)


def _f1(counts: _Counts) -> Floats:
    predicted = counts.true_positives + counts.false_positives
    return np.where(counts.positives > 0, ratio(2 * counts.true_positives, counts.positives + predicted), np.nan)


def _mcc(counts: _Counts) -> Floats:
    hits, alarms = counts.true_positives, counts.false_positives
    covariance = hits * (counts.negatives - alarms) - alarms * (counts.positives - hits)
    predicted, total = hits + alarms, counts.positives + counts.negatives
    return _correlation(covariance, counts.positives * counts.negatives, predicted * (total - predicted))


def _correlation(covariance: Floats, spread: Floats, spread_predicted: Floats) -> Floats:
    """Elementwise; NaN where the truth does not vary, 0 where only the prediction does not."""
    scale = np.sqrt(np.maximum(spread, 0)) * np.sqrt(np.maximum(spread_predicted, 0))
    return np.where(spread > 0, np.nan_to_num(ratio(covariance, scale)), np.nan)
