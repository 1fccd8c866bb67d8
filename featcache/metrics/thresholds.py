"""Thresholds of a multi-label task, chosen on validation rows and passed to metrics of other rows."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featcache.errors import ProbeError
from featcache.metrics.inputs import Floats, check_arrays

__all__ = ["choose_thresholds"]


def choose_thresholds(
    y_val: ArrayLike,
    score_val: ArrayLike,
    criterion: Literal["f1", "youden", "specificity"] = "f1",
    *,
    specificity: float = 0.9,
) -> Floats:
    """For each label the threshold that is best on validation rows; a score *above* it predicts the label.

    Every cut between two distinct scores is tried, and the middle between them is the threshold; among equally
    good cuts the highest. Never pass the rows that are scored afterwards: the metric would be too good.

    Parameters
    ----------
    y_val
        (n, L) multi-label matrix of 0, 1 and NaN for missing.
    score_val
        (n, L) finite scores of any scale.
    criterion
        ``f1``: the largest F1 score. ``youden``: the largest sensitivity + specificity - 1. ``specificity``: the
        largest sensitivity with at least the ``specificity`` given.
    specificity
        Between 0 and 1, for that criterion.

    Returns
    -------
    (L,) float64
        NaN for a label without a positive or without a negative: metrics leave such a label out, and
        :func:`undefined_classes` names it.

    Raises
    ------
    ProbeError
        If ``y_val`` is no matrix, the arrays do not fit, or the criterion is unknown.

    References
    ----------
    Youden, "Index for rating diagnostic tests", Cancer 3, 1950.

    Examples
    --------
    >>> choose_thresholds([[0], [0], [1], [1]], [[0.1], [0.4], [0.2], [0.8]])
    array([0.15])
    >>> choose_thresholds([[0], [0], [1], [1]], [[0.1], [0.4], [0.2], [0.8]], "youden")
    array([0.6])
    """
    truth, score = check_arrays(y_val, score_val)
    if truth.ndim == 1:
        raise ProbeError(
            "thresholds belong to a multi-label task: of class indices the highest score decides",
            remedy="Give y_val as an (n, L) matrix of 0, 1 and NaN.",
        )
    if criterion not in ("f1", "youden", "specificity"):
        raise ProbeError(f"unknown criterion {criterion!r}", remedy="Choose f1, youden or specificity.")
    if not 0 <= specificity <= 1:
        raise ProbeError(f"specificity must lie between 0 and 1, got {specificity}", remedy="For example 0.9.")
    thresholds = np.full(truth.shape[1], np.nan)
    for label in range(truth.shape[1]):
        known = ~np.isnan(truth[:, label])
        positive, values = truth[known, label] == 1, score[known, label]
        if positive.any() and not positive.all():
            thresholds[label] = _best_cut(positive, values, criterion, specificity)
    return thresholds


def _best_cut(positive: NDArray[np.bool_], score: Floats, criterion: str, specificity: float) -> float:
    levels, inverse = np.unique(-score, return_inverse=True)
    levels = -levels  # descending; cut k predicts the first k of them
    true = np.concatenate([[0.0], np.cumsum(np.bincount(inverse, weights=positive))])
    false = np.concatenate([[0.0], np.cumsum(np.bincount(inverse, weights=~positive))])
    if criterion == "f1":
        goodness = 2 * true / (true[-1] + true + false)
    elif criterion == "youden":
        # Cross-multiplied, in whole numbers: equally good cuts are equal.
        goodness = true * false[-1] - false * true[-1]
    else:
        goodness = np.where(false <= false[-1] * (1 - specificity + 1e-9), true, -1.0)
    cut = int(goodness.argmax())
    if cut == 0:
        return float(levels[0])
    if cut == len(levels):
        return float(np.nextafter(levels[-1], -np.inf))
    middle = levels[cut] + (levels[cut - 1] - levels[cut]) / 2
    return float(middle if middle < levels[cut - 1] else levels[cut])
