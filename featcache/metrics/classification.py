"""Metrics of classification, each for one sample of rows or for many weighted resamples at once.

``weights`` is a (B, n) array of row multiplicities: entry b is the metric of the sample in which row i occurs
``weights[b, i]`` times. The bootstrap uses it to score a block of resamples without building one.
"""

from __future__ import annotations

from typing import Any, TypeAlias, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featcache.errors import ProbeError

__all__ = ["accuracy", "auroc", "balanced_accuracy", "undefined_classes"]

Floats: TypeAlias = NDArray[np.float64]


@overload
def accuracy(y_true: ArrayLike, y_score: ArrayLike, weights: None = None) -> float: ...
@overload
def accuracy(y_true: ArrayLike, y_score: ArrayLike, weights: ArrayLike) -> Floats: ...
def accuracy(y_true: ArrayLike, y_score: ArrayLike, weights: ArrayLike | None = None) -> float | Floats:
    """Share of rows whose class with the highest score is the true one; among equal scores, the first class.

    Multi-label: a label is predicted where its score is above 0.5 (scores are probabilities or vote shares);
    the result is the mean over the labels of the share of known entries that are right.

    Parameters
    ----------
    y_true
        (n,) class indices, or (n, L) multi-label matrix of 0, 1 and NaN for missing.
    y_score
        (n, C) or (n, L) finite scores.
    weights
        None, or (B, n) non-negative multiplicities.

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
    truth, score = _check(y_true, y_score)
    w = _columns(weights, len(truth))
    if truth.ndim == 1:
        correct = (score.argmax(axis=1) == truth).astype(np.float64)
        return _result(_ratio(correct @ w, w.sum(axis=0)), weights)
    known = ~np.isnan(truth)
    correct = ((score > 0.5) == (truth == 1)) & known
    return _result(_defined_mean(_ratio(_sums(correct, w), _sums(known, w))), weights)


@overload
def balanced_accuracy(y_true: ArrayLike, y_score: ArrayLike, weights: None = None) -> float: ...
@overload
def balanced_accuracy(y_true: ArrayLike, y_score: ArrayLike, weights: ArrayLike) -> Floats: ...
def balanced_accuracy(y_true: ArrayLike, y_score: ArrayLike, weights: ArrayLike | None = None) -> float | Floats:
    """Mean recall over the classes that are present; chance level is 1 / number of classes.

    Multi-label: the mean over the labels of (sensitivity + specificity) / 2 at a score above 0.5; a label
    without a positive or without a negative is left out.

    Parameters
    ----------
    y_true, y_score, weights
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
    truth, score = _check(y_true, y_score)
    w = _columns(weights, len(truth))
    if truth.ndim == 1:
        member = truth[:, None] == np.arange(score.shape[1])
        correct = member & (score.argmax(axis=1) == truth)[:, None]
        return _result(_defined_mean(_ratio(_sums(correct, w), _sums(member, w))), weights)
    positive, negative, above = truth == 1, truth == 0, score > 0.5
    sensitivity = _ratio(_sums(positive & above, w), _sums(positive, w))
    specificity = _ratio(_sums(negative & ~above, w), _sums(negative, w))
    return _result(_defined_mean((sensitivity + specificity) / 2), weights)


@overload
def auroc(y_true: ArrayLike, y_score: ArrayLike, weights: None = None) -> float: ...
@overload
def auroc(y_true: ArrayLike, y_score: ArrayLike, weights: ArrayLike) -> Floats: ...
def auroc(y_true: ArrayLike, y_score: ArrayLike, weights: ArrayLike | None = None) -> float | Floats:
    """Macro area under the ROC curve; equal scores count one half (mid-ranks), so ties are exact.

    Two classes: the area of the second column. More: the mean of one class against the rest. Multi-label: the
    mean over labels, each on its known rows. A class or label without a positive or without a negative is
    undefined and left out of the mean (see :func:`undefined_classes`), never counted as 0.

    Parameters
    ----------
    y_true, y_score, weights
        As in :func:`accuracy`.

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
    truth, score = _check(y_true, y_score)
    w = _columns(weights, len(truth))
    if truth.ndim == 2:
        areas = [_area(truth[:, j] == 1, truth[:, j] == 0, score[:, j], w) for j in range(score.shape[1])]
    elif score.shape[1] == 2:
        areas = [_area(truth == 1, truth == 0, score[:, 1], w)]
    elif score.shape[1] > 2:
        areas = [_area(truth == c, truth != c, score[:, c], w) for c in range(score.shape[1])]
    else:
        raise ProbeError(
            "AUROC of class indices needs a score column for each of at least two classes; y_score has one",
            remedy="Give (n, 2) scores, or a multi-label y_true of shape (n, 1).",
        )
    return _result(_defined_mean(np.stack(areas)), weights)


def undefined_classes(y_true: ArrayLike, n_classes: int) -> list[int]:
    """Classes or labels for which AUROC is undefined: no positive row, or no negative row.

    Parameters
    ----------
    y_true
        (n,) class indices, or (n, L) multi-label matrix of 0, 1 and NaN.
    n_classes
        Number of classes; for a multi-label matrix L.

    Returns
    -------
    list of int
        Ascending indices.

    Raises
    ------
    ProbeError
        If ``n_classes`` does not fit ``y_true``.

    Examples
    --------
    >>> undefined_classes([0, 2, 2], 3)
    [1]
    """
    truth, _ = _check(y_true, np.zeros((len(np.asarray(y_true)), n_classes)))
    if truth.ndim == 1:
        counts = np.bincount(truth.astype(np.int64), minlength=n_classes)
        undefined = (counts == 0) | (counts == len(truth))
    else:
        undefined = ~((truth == 1).any(axis=0) & (truth == 0).any(axis=0))
    return [int(index) for index in np.flatnonzero(undefined)]


def _area(positive: NDArray[np.bool_], negative: NDArray[np.bool_], score: Floats, w: Floats) -> Floats:
    """(B,) area under one ROC curve for the (n, B) weights; NaN without a positive or a negative."""
    if not positive.any() or not negative.any():
        return np.full(w.shape[1], np.nan)
    pos, neg = np.flatnonzero(positive), np.flatnonzero(negative)
    pos, neg = pos[np.argsort(score[pos], kind="stable")], neg[np.argsort(score[neg], kind="stable")]
    level, first = np.unique(score[pos], return_index=True)
    below = np.searchsorted(score[neg], level, side="left")
    upto = np.searchsorted(score[neg], level, side="right")
    # The negatives' weight is only needed at these cuts of the sorted order: sum between, then accumulate.
    cuts = np.unique(np.concatenate([[0], below, upto]))
    cuts = cuts[cuts < len(neg)]
    before = np.zeros((len(cuts) + 1, w.shape[1]))
    np.cumsum(np.add.reduceat(w[neg], cuts, axis=0), axis=0, out=before[1:])
    at_level = np.add.reduceat(w[pos], first, axis=0)
    pairs = before[np.searchsorted(cuts, below)] + before[np.searchsorted(cuts, upto)]
    return _ratio(np.einsum("lb,lb->b", at_level, pairs) / 2, at_level.sum(axis=0) * before[-1])


def _check(y_true: ArrayLike, y_score: ArrayLike) -> tuple[NDArray[Any], Floats]:
    """The truth as (n,) int64 or (n, L) float64 and the scores as (n, C) float64; else ProbeError."""
    truth, score = np.asarray(y_true), np.asarray(y_score, dtype=np.float64)
    if truth.dtype.kind not in "biuf":
        raise ProbeError(f"y_true must hold numbers, got dtype {truth.dtype}", remedy="Encode the classes 0..C-1.")
    fits = truth.shape == score.shape if truth.ndim == 2 else truth.shape == score.shape[:1]
    if truth.ndim not in (1, 2) or score.ndim != 2 or not fits or score.shape[1] == 0:
        raise ProbeError(
            f"y_true of shape {truth.shape} does not fit y_score of shape {score.shape}",
            remedy="Give y_true (n,) with y_score (n, C), or both (n, L) for a multi-label task.",
        )
    if len(truth) == 0:
        raise ProbeError("there are no rows to score", remedy="Choose a split that has labelled rows.")
    if not np.isfinite(score).all():
        rows = np.flatnonzero(~np.isfinite(score).all(axis=1))
        raise ProbeError(
            f"y_score is not finite in {len(rows)} rows, first: {rows[:5].tolist()}",
            remedy="Leave these rows out of y_true and y_score.",
        )
    if truth.ndim == 2:
        labels = truth.astype(np.float64)
        if not (np.isnan(labels) | (labels == 0) | (labels == 1)).all():
            raise ProbeError("a multi-label y_true holds a value that is not 0, 1 or NaN")
        return labels, score
    if not np.isfinite(truth).all() or (truth != np.floor(truth)).any():
        raise ProbeError("y_true holds a value that is no class index", remedy="Leave unlabelled rows out.")
    if truth.min() < 0 or truth.max() >= score.shape[1]:
        raise ProbeError(
            f"y_true holds {truth.min():.0f} to {truth.max():.0f}, y_score has {score.shape[1]} columns",
            remedy="Give one score column for each class.",
        )
    return truth.astype(np.int64), score


def _columns(weights: ArrayLike | None, n: int) -> Floats:
    """The weights as (n, B) columns: gathering rows of it is a copy of contiguous memory."""
    if weights is None:
        return np.ones((n, 1))
    given = np.asarray(weights, dtype=np.float64)
    if given.ndim != 2 or given.shape[1] != n:
        raise ProbeError(f"weights must have shape (B, {n}), got {given.shape}")
    # Not NaN either: a comparison with NaN is false.
    if given.size and not (given.min() >= 0 and np.isfinite(given.max())):
        raise ProbeError("weights must be finite and not negative")
    return np.ascontiguousarray(given.T)


def _sums(member: NDArray[np.bool_], w: Floats) -> Floats:
    """(C, B) total weight of each column's members."""
    sums: Floats = member.T.astype(np.float64) @ w
    return sums


def _ratio(part: Floats, whole: Floats) -> Floats:
    """Elementwise quotient; NaN where the whole is zero."""
    quotient: Floats = np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole > 0)
    return quotient


def _defined_mean(values: Floats) -> Floats:
    """(B,) mean over the rows of (C, B) that are not NaN; NaN if none is left."""
    defined = ~np.isnan(values)
    return _ratio(np.where(defined, values, 0.0).sum(axis=0), defined.sum(axis=0).astype(np.float64))


def _result(values: Floats, weights: ArrayLike | None) -> float | Floats:
    return float(values[0]) if weights is None else values
