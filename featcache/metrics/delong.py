"""DeLong's test of two AUROCs on the same rows, and its form for rows that come in groups."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featcache.errors import ProbeError
from featcache.metrics.comparison import Comparison
from featcache.metrics.inputs import Floats
from featcache.metrics.intervals import check_interval
from featcache.metrics.resampling import group_codes
from featcache.records import Estimate

__all__ = ["delong"]


def delong(
    y_true: ArrayLike,
    score_first: ArrayLike,
    score_second: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    level: float = 0.95,
) -> Comparison:
    """Test whether two scores of one label have the same AUROC.

    DeLong's test takes the rows as independent. Several images of one patient are not: the test would be too sure.
    Pass the patients as ``groups``; where one has several rows, Obuchowski's variance for clusters is used and
    the result says so. Without repeated groups the two are the same number. For a macro AUROC, or few patients, use
    :func:`compare`.

    Parameters
    ----------
    y_true
        (n,) 0, 1 and NaN for missing: one label, or whether a row is of one class.
    score_first, score_second
        (n,) finite scores of that label.
    groups
        (n,) group of each row, such as its patient; None declares the rows independent.
    level
        Coverage of the interval, between 0 and 1.

    Returns
    -------
    Comparison
        The interval is value ± z standard errors. NaN bounds and p-value if the AUROC is undefined, one row or group
        has all positives or negatives, or the variance of a difference that is not zero vanishes.

    Raises
    ------
    ProbeError
        If the arrays do not fit, ``y_true`` holds another value, or a score is not finite.

    References
    ----------
    DeLong, DeLong and Clarke-Pearson, "Comparing the areas under two or more correlated receiver operating
    characteristic curves", Biometrics 44, 1988; mid-ranks: Sun and Xu, "Fast implementation of DeLong's
    algorithm …", IEEE Signal Processing Letters 21, 2014; clusters: Obuchowski, "Nonparametric analysis of clustered
    ROC curve data", Biometrics 53, 1997.

    Examples
    --------
    >>> y = [0, 0, 0, 1, 1, 1]
    >>> found = delong(y, [0.1, 0.2, 0.6, 0.5, 0.7, 0.8], [0.3, 0.1, 0.2, 0.2, 0.4, 0.1])
    >>> round(found.first, 4), round(found.second, 4), round(found.p_value, 4), found.shown
    (0.8889, 0.5556, 0.2733, False)
    """
    check_interval(level, "percentile")
    truth, first, second, codes = _check(y_true, score_first, score_second, groups)
    positive = truth == 1
    m, n = int(positive.sum()), int((~positive).sum())
    count = len(np.unique(codes))
    test: Literal["delong", "obuchowski"] = "delong" if count == len(codes) else "obuchowski"
    if m == 0 or n == 0:
        undefined = Estimate(np.nan, np.nan, np.nan)
        return Comparison("auroc", np.nan, np.nan, undefined, np.nan, test, len(truth), count, level)
    placements = [_placements(positive, score) for score in (first, second)]
    areas = [float(values[positive].mean()) for values in placements]
    value = areas[0] - areas[1]
    difference = placements[0] - placements[1]
    error = math.sqrt(max(0.0, _variance(difference, positive, codes, value)))
    if error > 0:
        margin = NormalDist().inv_cdf((1 + level) / 2) * error
        interval, p_value = (
            Estimate(value, value - margin, value + margin),
            math.erfc(abs(value) / error / math.sqrt(2)),
        )
    elif (difference == 0).all():
        interval, p_value = Estimate(0.0, 0.0, 0.0), 1.0
    else:
        interval, p_value = Estimate(value, np.nan, np.nan), float("nan")
    return Comparison("auroc", areas[0], areas[1], interval, p_value, test, len(truth), count, level)


def _placements(positive: NDArray[np.bool_], score: Floats) -> Floats:
    """(n,) for a positive the share of negatives below it, for a negative the share of positives above it."""
    m, n = int(positive.sum()), int((~positive).sum())
    every = _midranks(score)
    values = np.empty(len(score))
    values[positive] = (every[positive] - _midranks(score[positive])) / n
    values[~positive] = 1 - (every[~positive] - _midranks(score[~positive])) / m
    return values


def _midranks(values: Floats) -> Floats:
    """(n,) ranks from 1; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Floats = (last - (counts - 1) / 2)[inverse]
    return ranks


def _variance(placement: Floats, positive: NDArray[np.bool_], codes: NDArray[np.int64], value: float) -> float:
    """Obuchowski's variance of an area, or of a difference; DeLong's where each group is one row."""
    groups = int(codes.max()) + 1
    m, n = int(positive.sum()), int((~positive).sum())
    deviation = placement - value
    above = np.bincount(codes, weights=np.where(positive, deviation, 0.0), minlength=groups)
    below = np.bincount(codes, weights=np.where(positive, 0.0, deviation), minlength=groups)
    having = [len(np.unique(codes[part])) for part in (positive, ~positive)]
    if min(having) < 2:
        return 0.0
    own = [
        count / (count - 1) * float(part @ part) / size**2
        for part, count, size in ((above, having[0], m), (below, having[1], n))
    ]
    return own[0] + own[1] + 2 * groups / (groups - 1) * float(above @ below) / (m * n)


def _check(
    y_true: ArrayLike, score_first: ArrayLike, score_second: ArrayLike, groups: ArrayLike | None
) -> tuple[Floats, Floats, Floats, NDArray[np.int64]]:
    """The rows whose label is known."""
    truth = np.asarray(y_true, dtype=np.float64)
    first, second = np.asarray(score_first, dtype=np.float64), np.asarray(score_second, dtype=np.float64)
    if truth.ndim != 1 or len(truth) == 0 or not truth.shape == first.shape == second.shape:
        raise ProbeError(
            f"y_true of shape {truth.shape} does not fit scores of shapes {first.shape} and {second.shape}",
            remedy="Give one label and its column of both scores, each of shape (n,).",
        )
    known = ~np.isnan(truth)
    if not np.isin(truth[known], (0, 1)).all():
        raise ProbeError("y_true holds a value that is not 0, 1 or NaN", remedy="Test one class against the rest.")
    for name, score in (("score_first", first), ("score_second", second)):
        rows = np.flatnonzero(~np.isfinite(score) & known)
        if len(rows):
            raise ProbeError(
                f"{name} is not finite in {len(rows)} rows, first: {rows[:5].tolist()}", remedy="Leave these rows out."
            )
    codes = np.arange(len(truth)) if groups is None else group_codes(groups)
    if len(codes) != len(truth):
        raise ProbeError(f"there are {len(codes)} groups for {len(truth)} rows")
    if known.any():
        codes = np.unique(codes[known], return_inverse=True)[1].astype(np.int64)
    return truth[known], first[known], second[known], codes if known.any() else codes[:0]
