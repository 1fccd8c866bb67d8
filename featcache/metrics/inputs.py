"""What a metric accepts: targets and scores that fit each other, probabilities, thresholds."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featcache.errors import ProbeError

__all__ = [
    "Average",
    "Floats",
    "check_arrays",
    "check_average",
    "check_probabilities",
    "check_thresholds",
    "undefined_classes",
]

Floats: TypeAlias = NDArray[np.float64]
Average: TypeAlias = Literal["macro", "micro", "weighted"]
"""How the values of classes or labels become one: their mean, one value of all entries pooled, or their mean
weighted by the number of positives; undefined ones are left out."""

# Probabilities that were stored as float16 or float32 sum to one only about.
_SUM_TOLERANCE = 1e-3
# Sums of vote shares exceed one by rounding.
_RANGE_TOLERANCE = 1e-6


def check_arrays(y_true: ArrayLike, y_score: ArrayLike) -> tuple[NDArray[Any], Floats]:
    """The truth as (n,) int64 or (n, L) float64 and the scores as (n, C) float64.

    Parameters
    ----------
    y_true
        (n,) class indices, or (n, L) multi-label matrix of 0, 1 and NaN for missing.
    y_score
        (n, C) or (n, L) finite scores.

    Raises
    ------
    ProbeError
        If the shapes do not match, there is no row, a class index has no score column or a score is not finite.
    """
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


def check_average(average: str, allowed: tuple[str, ...], metric: str) -> None:
    """Refuse an average that the metric has no definition of; ``"none"`` is internal and always allowed."""
    if average not in (*allowed, "none"):
        raise ProbeError(
            f"{metric} has no average {average!r}",
            remedy=f"Choose from: {', '.join(allowed)}; per_class({metric}, …) gives one value for each class.",
        )


def check_probabilities(truth: NDArray[Any], score: Floats, metric: str) -> None:
    """Refuse scores that are no probabilities: outside [0, 1], or of exclusive classes and not of sum 1.

    Sums may be off by 0.001, which covers float16, and the range by a millionth, which covers rounding.
    """
    if score.min() < -_RANGE_TOLERANCE or score.max() > 1 + _RANGE_TOLERANCE:
        raise ProbeError(
            f"{metric} needs probabilities, y_score reaches from {score.min():g} to {score.max():g}",
            remedy="Score with probabilities, not with margins or distances, or leave this metric out.",
        )
    if truth.ndim == 1:
        off = np.abs(score.sum(axis=1) - 1)
        if off.max() > _SUM_TOLERANCE:
            row = int(off.argmax())
            raise ProbeError(
                f"{metric} needs probabilities, but the scores of {int((off > _SUM_TOLERANCE).sum())} rows do not "
                f"sum to 1: row {row} sums to {score[row].sum():g}",
                remedy="Normalise the scores over the classes, or leave this metric out.",
            )


def check_thresholds(truth: NDArray[Any], count: int, thresholds: ArrayLike | None) -> Floats:
    """(L,) thresholds of a multi-label task, 0.5 by default; NaN marks a label that has none.

    Raises
    ------
    ProbeError
        If they are given for class indices, or there is not one for each label.
    """
    if thresholds is None:
        return np.full(count, 0.5)
    given = np.asarray(thresholds, dtype=np.float64)
    if truth.ndim == 1:
        raise ProbeError(
            "thresholds belong to a multi-label task: of class indices the highest score decides",
            remedy="Leave thresholds out, or give y_true as an (n, L) matrix of 0 and 1.",
        )
    if given.shape not in ((), (count,)):
        raise ProbeError(
            f"there are {count} labels, got thresholds of shape {given.shape}",
            remedy="Give one threshold for each label: choose_thresholds(y_val, score_val).",
        )
    return np.broadcast_to(given, (count,)).copy()


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
    truth, _ = check_arrays(y_true, np.zeros((len(np.asarray(y_true)), n_classes)))
    if truth.ndim == 1:
        counts = np.bincount(truth.astype(np.int64), minlength=n_classes)
        undefined = (counts == 0) | (counts == len(truth))
    else:
        undefined = ~((truth == 1).any(axis=0) & (truth == 0).any(axis=0))
    return [int(index) for index in np.flatnonzero(undefined)]
