"""Metrics of a ranking: they read the order of the scores and need neither probabilities nor thresholds."""

from __future__ import annotations

from typing import Any, Protocol, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featcache.errors import ProbeError
from featcache.metrics.curves import Curve, curves_of, pooled_curve
from featcache.metrics.entries import EntrySums
from featcache.metrics.inputs import Average, Floats, check_arrays, check_average
from featcache.metrics.weighted import Scorer, Weights, averaged, result, worth_compiling

__all__ = ["auroc", "average_precision", "sensitivity_at_specificity"]

_AVERAGES = ("macro", "micro", "weighted")


@overload
def auroc(y_true: ArrayLike, y_score: ArrayLike, weights: None = None, *, average: Average = "macro") -> float: ...
@overload
def auroc(y_true: ArrayLike, y_score: ArrayLike, weights: ArrayLike, *, average: Average = "macro") -> Floats: ...
def auroc(
    y_true: ArrayLike, y_score: ArrayLike, weights: ArrayLike | None = None, *, average: Average = "macro"
) -> float | Floats:
    """Area under the ROC curve; equal scores count one half (mid-ranks), so ties are exact.

    Two classes: the area of the second column, whatever the average. More: of one class against the rest.
    Multi-label: of each label on its known rows. A class or label without a positive or without a negative is
    undefined and left out of the mean (see :func:`undefined_classes`), never counted as 0.

    Parameters
    ----------
    y_true, y_score, weights
        As in :func:`accuracy`.
    average
        ``macro``: the mean over classes or labels. ``weighted``: that mean, weighted by the positives.
        ``micro``: the area of all known entries pooled; their scores must be comparable between columns.

    Returns
    -------
    float or (B,) float64
        NaN where every class is undefined.

    Raises
    ------
    ProbeError
        As in :func:`accuracy`, or for single-label scores of only one class.

    Notes
    -----
    The Mann-Whitney form: with the weights w, the sum over positives i and negatives j of
    w_i w_j ([s_i > s_j] + [s_i = s_j] / 2), divided by the product of both totals.

    References
    ----------
    Hanley and McNeil, "The meaning and use of the area under a ROC curve", Radiology 143, 1982.

    Examples
    --------
    >>> auroc([0, 0, 1, 1], [[0.9, 0.1], [0.6, 0.4], [0.6, 0.4], [0.2, 0.8]])
    0.875
    """
    scorer = auroc_scorer(y_true, y_score, average=average)
    values: float | Floats = result(scorer(Weights.of(weights, len(np.asarray(y_true)))), weights)
    return values


@overload
def average_precision(
    y_true: ArrayLike, y_score: ArrayLike, weights: None = None, *, average: Average = "macro"
) -> float: ...
@overload
def average_precision(
    y_true: ArrayLike, y_score: ArrayLike, weights: ArrayLike, *, average: Average = "macro"
) -> Floats: ...
def average_precision(
    y_true: ArrayLike, y_score: ArrayLike, weights: ArrayLike | None = None, *, average: Average = "macro"
) -> float | Floats:
    """Average precision: the precision at each distinct score, weighted by the recall gained there.

    No interpolation; rows of equal score enter together. Its chance level is the prevalence. Columns and
    undefined classes as in :func:`auroc`.

    Parameters
    ----------
    y_true, y_score, weights, average
        As in :func:`auroc`.

    Returns
    -------
    float or (B,) float64
        NaN where every class is undefined.

    Raises
    ------
    ProbeError
        As in :func:`auroc`.

    References
    ----------
    Davis and Goadrich, "The relationship between precision-recall and ROC curves", ICML 2006; the step-wise sum
    of Boyd et al., "Area under the precision-recall curve", ECML 2013, section 2.

    Examples
    --------
    >>> average_precision([[1], [0], [1]], [[0.9], [0.8], [0.7]])
    0.8333333333333333
    """
    scorer = average_precision_scorer(y_true, y_score, average=average)
    values: float | Floats = result(scorer(Weights.of(weights, len(np.asarray(y_true)))), weights)
    return values


@overload
def sensitivity_at_specificity(
    y_true: ArrayLike,
    y_score: ArrayLike,
    weights: None = None,
    *,
    specificity: float = 0.9,
    average: Average = "macro",
) -> float: ...
@overload
def sensitivity_at_specificity(
    y_true: ArrayLike,
    y_score: ArrayLike,
    weights: ArrayLike,
    *,
    specificity: float = 0.9,
    average: Average = "macro",
) -> Floats: ...
def sensitivity_at_specificity(
    y_true: ArrayLike,
    y_score: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    specificity: float = 0.9,
    average: Average = "macro",
) -> float | Floats:
    """Highest sensitivity of a cut through the scores whose specificity is at least the one given.

    A point of the ROC curve of these very rows, without interpolation: it describes the ranking, and no threshold
    is carried over from other rows. For the sensitivity of a threshold fixed beforehand, choose it on val
    with ``choose_thresholds(…, criterion="specificity")`` and score with :func:`sensitivity`. Columns and
    undefined classes as in :func:`auroc`.

    Parameters
    ----------
    y_true, y_score, weights, average
        As in :func:`auroc`.
    specificity
        Between 0 and 1.

    Returns
    -------
    float or (B,) float64
        NaN where every class is undefined.

    Raises
    ------
    ProbeError
        As in :func:`auroc`, or if ``specificity`` is out of range.

    Examples
    --------
    >>> sensitivity_at_specificity([[1], [0], [1], [0]], [[0.9], [0.8], [0.7], [0.1]], specificity=0.5)
    1.0
    >>> sensitivity_at_specificity([[1], [0], [1], [0]], [[0.9], [0.8], [0.7], [0.1]], specificity=0.9)
    0.5
    """
    scorer = sensitivity_at_specificity_scorer(y_true, y_score, specificity=specificity, average=average)
    values: float | Floats = result(scorer(Weights.of(weights, len(np.asarray(y_true)))), weights)
    return values


def auroc_scorer(y_true: ArrayLike, y_score: ArrayLike, *, average: str = "macro") -> Scorer:
    """:func:`auroc` of fixed arrays; ``average="none"`` gives every class."""
    return _scorer(y_true, y_score, average, Curve.area, "auroc")


def average_precision_scorer(y_true: ArrayLike, y_score: ArrayLike, *, average: str = "macro") -> Scorer:
    """:func:`average_precision` of fixed arrays; ``average="none"`` gives every class."""
    return _scorer(y_true, y_score, average, Curve.precision, "average_precision")


def sensitivity_at_specificity_scorer(
    y_true: ArrayLike, y_score: ArrayLike, *, specificity: float = 0.9, average: str = "macro"
) -> Scorer:
    """:func:`sensitivity_at_specificity` of fixed arrays; ``average="none"`` gives every class."""
    if not 0 <= specificity <= 1:
        raise ProbeError(f"specificity must lie between 0 and 1, got {specificity}", remedy="For example 0.9.")
    return _scorer(
        y_true,
        y_score,
        average,
        lambda curve, w, *, fast: curve.sensitivity(w, specificity, fast=fast),
        "sensitivity_at_specificity",
    )


class _Reading(Protocol):
    """One number of a curve for each resample."""

    def __call__(self, curve: Curve, /, w: Weights, *, fast: bool) -> Floats: ...


def _scorer(y_true: ArrayLike, y_score: ArrayLike, average: str, of: _Reading, metric: str) -> Scorer:
    check_average(average, _AVERAGES, metric)
    truth, score = check_arrays(y_true, y_score)
    if truth.ndim == 1 and score.shape[1] == 1:
        raise ProbeError(
            f"{metric} of class indices needs a score column for each of at least two classes; y_score has one",
            remedy="Give (n, 2) scores, or a multi-label y_true of shape (n, 1).",
        )
    two = truth.ndim == 1 and score.shape[1] == 2 and average != "none"
    pooled = average == "micro" and not two
    curves = [pooled_curve(truth, score)] if pooled else curves_of(truth, score, [1] if two else None)
    support = _support(truth, score.shape[1])
    entries = sum(curve.entries for curve in curves)

    def read(w: Weights) -> Floats:
        fast = worth_compiling(entries * w.count)
        values = np.stack([of(curve, w, fast=fast) for curve in curves])
        # Of two classes the mean has one value, whatever its weight.
        return averaged(values, "macro" if two else average, lambda: support(w)[:, 0])

    return read


def _support(truth: NDArray[Any], count: int) -> EntrySums:
    """The weight of each class's members, or of each label's positives."""
    if truth.ndim == 1:
        return EntrySums(np.arange(len(truth)), truth, count)
    rows, columns = np.nonzero(truth == 1)
    return EntrySums(rows, columns, count)
