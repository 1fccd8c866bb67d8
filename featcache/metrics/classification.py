"""Metrics of decisions: the class of the highest score, or each label's score against a threshold."""

from __future__ import annotations

from typing import overload

import numpy as np
from numpy.typing import ArrayLike

from featcache.metrics.decisions import (
    accuracy_scorer,
    balanced_accuracy_scorer,
    f1_scorer,
    mcc_scorer,
    sensitivity_scorer,
    specificity_scorer,
)
from featcache.metrics.inputs import Average, Floats
from featcache.metrics.weighted import Weights, result

__all__ = ["accuracy", "balanced_accuracy", "f1", "mcc", "sensitivity", "specificity"]


@overload
def accuracy(
    y_true: ArrayLike,
    y_score: ArrayLike,
    weights: None = None,
    *,
    thresholds: ArrayLike | None = None,
    average: Average = "macro",
) -> float: ...


@overload
def accuracy(
    y_true: ArrayLike,
    y_score: ArrayLike,
    weights: ArrayLike,
    *,
    thresholds: ArrayLike | None = None,
    average: Average = "macro",
) -> Floats: ...
def accuracy(
    y_true: ArrayLike,
    y_score: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    thresholds: ArrayLike | None = None,
    average: Average = "macro",
) -> float | Floats:
    """Share of rows whose class with the highest score is the true one; among equal scores, the first class.

    Multi-label: a label is predicted where its score is above its threshold; the result is the mean over the
    labels of the share of known entries that are right.

    Parameters
    ----------
    y_true
        (n,) class indices, or (n, L) multi-label matrix of 0, 1 and NaN for missing.
    y_score
        (n, C) or (n, L) finite scores.
    weights
        None, or (B, n) non-negative multiplicities: entry b of the result is the metric of the sample in which
        row i occurs ``weights[b, i]`` times.
    thresholds
        Of a multi-label task: (L,) from :func:`choose_thresholds` on val, never on the rows scored here. None
        is 0.5, for probabilities and vote shares. A label whose threshold is NaN is undefined.
    average
        Of a multi-label task: ``macro``, or ``micro`` for the share of all known entries.

    Returns
    -------
    float or (B,) float64
        NaN where no entry is known.

    Raises
    ------
    ProbeError
        If the shapes do not match, a class index has no score column or a score is not finite.

    Examples
    --------
    >>> accuracy([0, 1, 1], [[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])
    0.6666666666666666
    """
    scorer = accuracy_scorer(y_true, y_score, thresholds=thresholds, average=average)
    values: float | Floats = result(scorer(Weights.of(weights, len(np.asarray(y_true)))), weights)
    return values


@overload
def balanced_accuracy(
    y_true: ArrayLike, y_score: ArrayLike, weights: None = None, *, thresholds: ArrayLike | None = None
) -> float: ...


@overload
def balanced_accuracy(
    y_true: ArrayLike, y_score: ArrayLike, weights: ArrayLike, *, thresholds: ArrayLike | None = None
) -> Floats: ...
def balanced_accuracy(
    y_true: ArrayLike, y_score: ArrayLike, weights: ArrayLike | None = None, *, thresholds: ArrayLike | None = None
) -> float | Floats:
    """Mean recall over the classes that are present; chance level is 1 / number of classes.

    Multi-label: the mean over the labels of (sensitivity + specificity) / 2; a label without a positive or without
    a negative is left out.

    Parameters
    ----------
    y_true, y_score, weights, thresholds
        As in :func:`accuracy`.

    Returns
    -------
    float or (B,) float64
        NaN where no class, or no label, is defined.

    Raises
    ------
    ProbeError
        As in :func:`accuracy`.

    References
    ----------
    Brodersen et al., "The balanced accuracy and its posterior distribution", ICPR 2010.

    Examples
    --------
    >>> balanced_accuracy([0, 0, 0, 1], [[0.9, 0.1], [0.9, 0.1], [0.2, 0.8], [0.3, 0.7]])
    0.8333333333333333
    """
    scorer = balanced_accuracy_scorer(y_true, y_score, thresholds=thresholds)
    values: float | Floats = result(scorer(Weights.of(weights, len(np.asarray(y_true)))), weights)
    return values


@overload
def f1(
    y_true: ArrayLike,
    y_score: ArrayLike,
    weights: None = None,
    *,
    thresholds: ArrayLike | None = None,
    average: Average = "macro",
) -> float: ...


@overload
def f1(
    y_true: ArrayLike,
    y_score: ArrayLike,
    weights: ArrayLike,
    *,
    thresholds: ArrayLike | None = None,
    average: Average = "macro",
) -> Floats: ...
def f1(
    y_true: ArrayLike,
    y_score: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    thresholds: ArrayLike | None = None,
    average: Average = "macro",
) -> float | Floats:
    """F1 score, 2 TP / (2 TP + FP + FN), of each class against the rest or of each label.

    A class or label without a positive row is undefined and left out of the mean; one that has positives of which
    none is found scores 0. For two classes too the macro form is the mean over both.

    Parameters
    ----------
    y_true, y_score, weights, thresholds
        As in :func:`accuracy`.
    average
        ``macro``, ``weighted`` by the positives, or ``micro`` for the counts of all columns pooled (of class
        indices that is the accuracy).

    Returns
    -------
    float or (B,) float64
        NaN where every class is undefined.

    Raises
    ------
    ProbeError
        As in :func:`accuracy`.

    Notes
    -----
    scikit-learn counts a class without positives as 0, or as 1 by ``zero_division``.

    Examples
    --------
    >>> f1([[1], [0], [1], [0]], [[0.9], [0.8], [0.4], [0.1]])
    0.5
    """
    scorer = f1_scorer(y_true, y_score, thresholds=thresholds, average=average)
    values: float | Floats = result(scorer(Weights.of(weights, len(np.asarray(y_true)))), weights)
    return values


@overload
def mcc(
    y_true: ArrayLike,
    y_score: ArrayLike,
    weights: None = None,
    *,
    thresholds: ArrayLike | None = None,
    average: Average = "macro",
) -> float: ...


@overload
def mcc(
    y_true: ArrayLike,
    y_score: ArrayLike,
    weights: ArrayLike,
    *,
    thresholds: ArrayLike | None = None,
    average: Average = "macro",
) -> Floats: ...
def mcc(
    y_true: ArrayLike,
    y_score: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    thresholds: ArrayLike | None = None,
    average: Average = "macro",
) -> float | Floats:
    """Matthews correlation coefficient, -1 to 1; 0 is chance.

    Of class indices the form for several classes at once; of labels the mean over those that have positives and
    negatives. Where all predictions are the same it is 0, its limit, as in scikit-learn; where all truths are the
    same it is undefined.

    Parameters
    ----------
    y_true, y_score, weights, thresholds
        As in :func:`accuracy`.
    average
        Of a multi-label task: ``macro``, or ``micro`` for the counts of all labels pooled.

    Returns
    -------
    float or (B,) float64
        NaN where it is undefined.

    Raises
    ------
    ProbeError
        As in :func:`accuracy`.

    References
    ----------
    Gorodkin, "Comparing two K-category assignments by a K-category correlation coefficient", Computational
    Biology and Chemistry 28, 2004, equation 8; Chicco and Jurman, BMC Genomics 21:6, 2020.

    Examples
    --------
    >>> mcc([0, 0, 1, 1], [[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.3, 0.7]])
    0.5773502691896258
    """
    scorer = mcc_scorer(y_true, y_score, thresholds=thresholds, average=average)
    values: float | Floats = result(scorer(Weights.of(weights, len(np.asarray(y_true)))), weights)
    return values


@overload
def sensitivity(
    y_true: ArrayLike,
    y_score: ArrayLike,
    weights: None = None,
    *,
    thresholds: ArrayLike | None = None,
    average: Average = "macro",
) -> float: ...


@overload
def sensitivity(
    y_true: ArrayLike,
    y_score: ArrayLike,
    weights: ArrayLike,
    *,
    thresholds: ArrayLike | None = None,
    average: Average = "macro",
) -> Floats: ...
def sensitivity(
    y_true: ArrayLike,
    y_score: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    thresholds: ArrayLike | None = None,
    average: Average = "macro",
) -> float | Floats:
    """Share of the positives that are predicted: recall, of each class or label.

    Parameters
    ----------
    y_true, y_score, weights, thresholds
        As in :func:`accuracy`.
    average
        ``macro``, ``weighted`` by the positives, or ``micro``.

    Returns
    -------
    float or (B,) float64
        NaN where every class is undefined: it has no positive.

    Raises
    ------
    ProbeError
        As in :func:`accuracy`.

    Examples
    --------
    >>> sensitivity([[1], [0], [1], [0]], [[0.9], [0.8], [0.4], [0.1]], thresholds=[0.3])
    1.0
    """
    scorer = sensitivity_scorer(y_true, y_score, thresholds=thresholds, average=average)
    values: float | Floats = result(scorer(Weights.of(weights, len(np.asarray(y_true)))), weights)
    return values


@overload
def specificity(
    y_true: ArrayLike,
    y_score: ArrayLike,
    weights: None = None,
    *,
    thresholds: ArrayLike | None = None,
    average: Average = "macro",
) -> float: ...


@overload
def specificity(
    y_true: ArrayLike,
    y_score: ArrayLike,
    weights: ArrayLike,
    *,
    thresholds: ArrayLike | None = None,
    average: Average = "macro",
) -> Floats: ...
def specificity(
    y_true: ArrayLike,
    y_score: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    thresholds: ArrayLike | None = None,
    average: Average = "macro",
) -> float | Floats:
    """Share of the negatives that are not predicted, of each class or label.

    Parameters
    ----------
    y_true, y_score, weights, thresholds
        As in :func:`accuracy`.
    average
        ``macro`` or ``micro``.

    Returns
    -------
    float or (B,) float64
        NaN where every class is undefined: it has no negative.

    Raises
    ------
    ProbeError
        As in :func:`accuracy`.

    Examples
    --------
    >>> specificity([[1], [0], [1], [0]], [[0.9], [0.8], [0.4], [0.1]], thresholds=[0.3])
    0.5
    """
    scorer = specificity_scorer(y_true, y_score, thresholds=thresholds, average=average)
    values: float | Floats = result(scorer(Weights.of(weights, len(np.asarray(y_true)))), weights)
    return values
