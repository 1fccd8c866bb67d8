"""Confidence intervals by the bootstrap over groups (patients), written once for every metric."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featcache.errors import ProbeError
from featcache.metrics.catalog import Metric, scorer
from featcache.metrics.inputs import Floats
from featcache.metrics.intervals import IntervalMethod, check_interval, estimate
from featcache.metrics.resampling import group_codes, jackknife_blocks, resample_blocks
from featcache.metrics.weighted import Scorer, Weights
from featcache.records import Estimate

__all__ = ["bootstrap", "bootstrap_classes", "bootstrap_many", "fitting", "jackknifed", "resampled"]

# More groups than this are left out by shares: the acceleration of BCa is the same, with a little more noise.
_JACKKNIFE = 2000


def bootstrap(
    metric: Metric,
    y_true: ArrayLike,
    y_score: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    n: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    method: IntervalMethod = "percentile",
) -> Estimate:
    """A metric and its bootstrap interval; whole groups are resampled, with replacement.

    Parameters
    ----------
    metric
        A function of (y_true, y_score). One of this package, also inside ``functools.partial``, is prepared once
        and scores many resamples in one pass; another one with a parameter ``weights`` scores a block of them in
        one call; any other is called once for each resample with the repeated rows.
    y_true
        (n_rows,) or (n_rows, L) targets, as the metric takes them.
    y_score
        (n_rows, C) scores.
    groups
        (n_rows,) group of each row, such as its patient; None makes each row a group of its own.
    n
        Number of resamples.
    seed
        Of the resamples: the same seed and groups give the same resamples for every metric and model, whatever the
        number of threads.
    level
        Coverage of the interval, between 0 and 1.
    method
        ``percentile``, or ``bca``: bias-corrected and accelerated, by a jackknife over the groups (over 2000 random
        shares of them if there are more).

    Returns
    -------
    Estimate
        Resamples in which the metric is NaN are left out. The bounds are NaN if more than half of them
        are, or if there is only one group, which says nothing about the variation between groups.

    Raises
    ------
    ProbeError
        If lengths differ, a group is missing, or ``n``, ``level`` or ``method`` is out of range.

    References
    ----------
    Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, sections 13.3 and 14.3; for clusters: Davison
    and Hinkley, "Bootstrap Methods and their Application", 1997, section 3.8, strategy 1.

    Examples
    --------
    >>> from featcache.metrics import accuracy
    >>> scores = [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]]
    >>> bootstrap(accuracy, [0, 1, 1, 1], scores, groups=["a", "a", "b", "c"], n=200)
    Estimate(value=0.75, low=0.0, high=1.0)
    """
    only = bootstrap_many({"metric": metric}, y_true, y_score, groups, n=n, seed=seed, level=level, method=method)
    return only["metric"]


def bootstrap_many(
    metrics: Mapping[str, Metric],
    y_true: ArrayLike,
    y_score: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    n: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    method: IntervalMethod = "percentile",
) -> dict[str, Estimate]:
    """As :func:`bootstrap`, for several metrics on the same resamples, drawn once.

    Parameters
    ----------
    metrics
        Metrics by name, such as ``select_metrics(["auroc", "f1"])``.
    y_true, y_score, groups, n, seed, level, method
        As in :func:`bootstrap`.

    Returns
    -------
    dict of str to Estimate
        In the order of ``metrics``.

    Raises
    ------
    ProbeError
        As in :func:`bootstrap`.

    Examples
    --------
    >>> from featcache.metrics import select_metrics
    >>> scores = [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]]
    >>> list(bootstrap_many(select_metrics(["auroc", "f1"]), [0, 1, 0, 1], scores, n=50))
    ['auroc', 'f1']
    """
    check_interval(level, method)
    truth, score, codes = fitting(y_true, y_score, groups)
    names = list(metrics)
    scorers = [scorer(metrics[name], truth, score) for name in names]
    every = Weights(np.ones((len(truth), 1)))
    values = [float(scored(every)[0]) for scored in scorers]
    if codes.max() == 0:
        return {name: Estimate(value, np.nan, np.nan) for name, value in zip(names, values, strict=True)}
    drawn = resampled(scorers, codes, n, seed)
    left_out = jackknifed(scorers, codes, seed) if method == "bca" else [None] * len(names)
    return {
        name: estimate(value, spread, level, without)
        for name, value, spread, without in zip(names, values, drawn, left_out, strict=True)
    }


def bootstrap_classes(
    metric: Metric,
    y_true: ArrayLike,
    y_score: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    n: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    method: IntervalMethod = "percentile",
) -> tuple[Estimate, ...]:
    """As :func:`bootstrap`, for each class against the rest or each label, all on the same resamples.

    Parameters
    ----------
    metric
        A metric of this package, as in ``per_class``.
    y_true, y_score, groups, n, seed, level, method
        As in :func:`bootstrap`.

    Returns
    -------
    tuple of Estimate
        One for each column of ``y_score``; all NaN where the class is undefined. The level is that of each
        interval by itself.

    Raises
    ------
    ProbeError
        As in :func:`bootstrap`, or if the metric has no value for each class.

    Examples
    --------
    >>> from featcache.metrics import auroc
    >>> labels = [[0, 1], [1, 1], [1, 0], [0, 0]]
    >>> found = bootstrap_classes(auroc, labels, [[0.1, 0.3], [0.2, 0.2], [0.1, 0.1], [0.1, 0.2]], n=50)
    >>> [estimate.value for estimate in found]
    [0.75, 0.875]
    """
    check_interval(level, method)
    truth, score, codes = fitting(y_true, y_score, groups)
    scored = scorer(metric, truth, score, classes=True)
    values = scored(Weights(np.ones((len(truth), 1))))[:, 0]
    if codes.max() == 0:
        return tuple(Estimate(float(value), np.nan, np.nan) for value in values)
    (drawn,) = resampled([scored], codes, n, seed)
    left_out = jackknifed([scored], codes, seed)[0] if method == "bca" else [None] * len(values)
    return tuple(
        estimate(float(value), spread, level, without)
        for value, spread, without in zip(values, drawn, left_out, strict=True)
    )


def fitting(
    y_true: ArrayLike, y_score: ArrayLike, groups: ArrayLike | None
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.int64]]:
    """Truth, scores and group numbers of the same rows.

    Raises
    ------
    ProbeError
        If their lengths differ or a group is missing.
    """
    truth, score = np.asarray(y_true), np.asarray(y_score)
    if truth.ndim == 0 or score.ndim == 0 or len(truth) != len(score):
        raise ProbeError(f"y_true of shape {truth.shape} does not fit y_score of shape {score.shape}")
    groups = np.arange(len(truth)) if groups is None else groups
    if len(np.asarray(groups)) != len(truth):
        raise ProbeError(f"there are {len(np.asarray(groups))} groups for {len(truth)} rows")
    return truth, score, group_codes(groups)


def resampled(scorers: Sequence[Scorer], codes: NDArray[np.int64], n: int, seed: int) -> list[Floats]:
    """Of each scorer the (n,) or (C, n) values of the resamples."""
    return _scored(scorers, resample_blocks(codes, n, seed))


def jackknifed(scorers: Sequence[Scorer], codes: NDArray[np.int64], seed: int) -> list[Floats]:
    """Of each scorer the (m,) or (C, m) values without one group, or without one share of many groups."""
    return _scored(scorers, jackknife_blocks(codes, _JACKKNIFE, seed))


def _scored(scorers: Sequence[Scorer], blocks: Iterable[NDArray[Any]]) -> list[Floats]:
    parts = []
    for block in blocks:
        w = Weights(block)
        parts.append([scored(w) for scored in scorers])
    return [np.concatenate(column, axis=-1) for column in zip(*parts, strict=True)]
