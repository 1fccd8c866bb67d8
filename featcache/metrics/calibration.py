"""Metrics of probabilities: they refuse scores that are none."""

from __future__ import annotations

from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featcache.errors import ProbeError
from featcache.metrics.entries import EntrySums
from featcache.metrics.inputs import Average, Floats, check_arrays, check_average, check_probabilities
from featcache.metrics.weighted import Scorer, Weights, averaged, ratio, result

__all__ = ["brier", "ece"]


@overload
def brier(y_true: ArrayLike, y_score: ArrayLike, weights: None = None, *, average: Average = "macro") -> float: ...
@overload
def brier(y_true: ArrayLike, y_score: ArrayLike, weights: ArrayLike, *, average: Average = "macro") -> Floats: ...
def brier(
    y_true: ArrayLike, y_score: ArrayLike, weights: ArrayLike | None = None, *, average: Average = "macro"
) -> float | Floats:
    """Brier score: mean squared difference of probability and truth; smaller is better.

    Two classes: of the second column, 0 to 1. More: summed over the classes, 0 to 2. Multi-label: of each label on
    its known rows, 0 to 1. It needs probabilities.

    Parameters
    ----------
    y_true, y_score, weights
        As in :func:`accuracy`; the scores lie in [0, 1], and those of exclusive classes sum to 1.
    average
        Of a multi-label task: ``macro``, the mean over labels, or ``micro``, the mean over all known entries.

    Returns
    -------
    float or (B,) float64
        NaN where no entry is known.

    Raises
    ------
    ProbeError
        As in :func:`accuracy`, or if the scores are no probabilities.

    References
    ----------
    Brier, "Verification of forecasts expressed in terms of probability", Monthly Weather Review 78, 1950. For two
    classes half of its equation 2, as in scikit-learn.

    Examples
    --------
    >>> brier([[1], [0]], [[0.9], [0.5]])
    0.13
    """
    values: float | Floats = result(
        brier_scorer(y_true, y_score, average=average)(Weights.of(weights, len(np.asarray(y_true)))), weights
    )
    return values


@overload
def ece(
    y_true: ArrayLike, y_score: ArrayLike, weights: None = None, *, bins: int = 15, average: Average = "macro"
) -> float: ...
@overload
def ece(
    y_true: ArrayLike, y_score: ArrayLike, weights: ArrayLike, *, bins: int = 15, average: Average = "macro"
) -> Floats: ...
def ece(
    y_true: ArrayLike,
    y_score: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    bins: int = 15,
    average: Average = "macro",
) -> float | Floats:
    """Expected calibration error: mean over bins of |mean probability - observed share|, weighted by their rows.

    The bins have equal width on [0, 1] and are closed on the right (the first also on the left). Class indices:
    the highest probability of a row against whether that class is true. Multi-label, and each class by
    ``per_class``: the probability of the label against its truth. It needs probabilities.

    Parameters
    ----------
    y_true, y_score, weights
        As in :func:`brier`.
    bins
        Number of bins. The value depends on it: report it.
    average
        Of a multi-label task: ``macro``, or ``micro`` for the error of all known entries in common bins.

    Returns
    -------
    float or (B,) float64
        NaN where no entry is known.

    Raises
    ------
    ProbeError
        As in :func:`brier`, or if there is no bin.

    Notes
    -----
    Biased upwards in small samples, and so is its bootstrap distribution.

    References
    ----------
    Guo et al., "On calibration of modern neural networks", ICML 2017, equation 3; of each class: Kull et al.,
    "Beyond temperature scaling", NeurIPS 2019, classwise-ECE.

    Examples
    --------
    >>> ece([[1], [0], [1], [1]], [[0.75], [0.75], [0.75], [0.75]])
    0.0
    """
    values: float | Floats = result(
        ece_scorer(y_true, y_score, bins=bins, average=average)(Weights.of(weights, len(np.asarray(y_true)))), weights
    )
    return values


def brier_scorer(y_true: ArrayLike, y_score: ArrayLike, *, average: str = "macro") -> Scorer:
    """:func:`brier` of fixed arrays; ``average="none"`` gives each class against the rest, or each label."""
    check_average(average, ("macro", "micro"), "brier")
    truth, score = check_arrays(y_true, y_score)
    check_probabilities(truth, score, "brier")
    entries = _entries(truth, score)
    if truth.ndim == 1 and average != "none":
        error = ((score - (truth[:, None] == np.arange(score.shape[1]))) ** 2).sum(axis=1)
        error = error if score.shape[1] > 2 else (score[:, -1] - (truth == score.shape[1] - 1)) ** 2
        errors = EntrySums(np.arange(len(truth)), np.zeros(len(truth), dtype=np.int64), 1, _with_ones(error))
    else:
        columns = np.zeros_like(entries.columns) if average == "micro" else entries.columns
        error = (entries.probability - entries.truth) ** 2
        errors = EntrySums(entries.rows, columns, 1 if average == "micro" else score.shape[1], _with_ones(error))

    def mean(w: Weights) -> Floats:
        total, weight = errors(w).transpose(1, 0, 2)
        return averaged(ratio(total, weight), average, lambda: weight)

    return mean


def ece_scorer(y_true: ArrayLike, y_score: ArrayLike, *, bins: int = 15, average: str = "macro") -> Scorer:
    """:func:`ece` of fixed arrays; ``average="none"`` gives each class against the rest, or each label."""
    check_average(average, ("macro", "micro"), "ece")
    if bins < 1:
        raise ProbeError(f"the calibration error needs at least one bin, got {bins}", remedy="Use bins = 15.")
    truth, score = check_arrays(y_true, y_score)
    check_probabilities(truth, score, "ece")
    entries, count = _entries(truth, score), score.shape[1]
    if truth.ndim == 1 and average != "none":
        top = score.argmax(axis=1)
        every = np.arange(len(truth))
        entries = _Entries(every, np.zeros_like(every), score.max(axis=1), (top == truth).astype(np.float64))
        count = 1
    elif average == "micro":
        entries, count = entries._replace(columns=np.zeros_like(entries.columns)), 1
    inner_edges = np.arange(1, bins) / bins
    number = entries.columns * bins + np.searchsorted(inner_edges, entries.probability, side="left")
    gaps = EntrySums(entries.rows, number, count * bins, _with_ones(entries.probability - entries.truth))

    def error(w: Weights) -> Floats:
        gap, weight = np.abs(gaps(w)).reshape(count, bins, 2, w.count).sum(axis=1).transpose(1, 0, 2)
        return averaged(ratio(gap, weight), average, lambda: weight)

    return error


class _Entries(NamedTuple):
    """The known pairs of probability and truth."""

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    probability: Floats
    truth: Floats


def _entries(truth: NDArray[Any], score: Floats) -> _Entries:
    """Of each class against the rest, or of each label on its known rows."""
    member = truth if truth.ndim == 2 else (truth[:, None] == np.arange(score.shape[1])).astype(np.float64)
    rows, columns = np.nonzero(~np.isnan(member))
    return _Entries(rows, columns, score[rows, columns], member[rows, columns])


def _with_ones(values: Floats) -> Floats:
    """(m, 2) the values, and a one for the weight of each."""
    return np.stack([values, np.ones(len(values))], axis=1)
