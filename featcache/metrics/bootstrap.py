"""Confidence intervals by the percentile bootstrap over groups (patients), written once for every metric."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featcache.errors import ProbeError
from featcache.records import Estimate

__all__ = ["Metric", "bootstrap", "bootstrap_many", "resample_weights"]

Metric: TypeAlias = Callable[..., Any]
"""``f(y_true, y_score) -> float``, or ``f(y_true, y_score, weights)`` as in this package."""

# Multiplicities held at a time (float64): 32 MB.
_BLOCK_ENTRIES = 2**22


def bootstrap(
    metric: Metric,
    y_true: ArrayLike,
    y_score: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    n: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    """A metric and its percentile bootstrap interval; whole groups are resampled, with replacement.

    Parameters
    ----------
    metric
        A function of (y_true, y_score). One with a parameter ``weights`` scores many resamples in one
        call; any other is called once for each resample with the repeated rows.
    y_true
        (n_rows,) or (n_rows, L) targets, as the metric takes them.
    y_score
        (n_rows, C) scores.
    groups
        (n_rows,) group of each row, such as its patient; None makes each row a group of its own.
    n
        Number of resamples.
    seed
        Of the resamples: the same seed and groups give the same resamples for every metric and model.
    level
        Coverage of the interval, between 0 and 1.

    Returns
    -------
    Estimate
        Resamples in which the metric is NaN are left out. The bounds are NaN if more than half of them
        are, or if there is only one group, which says nothing about the variation between groups.

    Raises
    ------
    ProbeError
        If lengths differ, a group is missing, or ``n`` or ``level`` is out of range.

    References
    ----------
    Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, section 13.3; for clusters: Davison and
    Hinkley, "Bootstrap Methods and their Application", 1997, section 3.8, strategy 1.

    Examples
    --------
    >>> from featcache.metrics import accuracy
    >>> scores = [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]]
    >>> bootstrap(accuracy, [0, 1, 1, 1], scores, groups=["a", "a", "b", "c"], n=200)
    Estimate(value=0.75, low=0.0, high=1.0)
    """
    only = bootstrap_many({"metric": metric}, y_true, y_score, groups, n=n, seed=seed, level=level)
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
) -> dict[str, Estimate]:
    """As :func:`bootstrap`, for several metrics on the same resamples, drawn once.

    Parameters
    ----------
    metrics
        Metrics by name.
    y_true, y_score, groups, n, seed, level
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
    >>> from featcache.metrics import METRICS
    >>> scores = [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]]
    >>> list(bootstrap_many(METRICS, [0, 1, 0, 1], scores, n=50))
    ['accuracy', 'auroc', 'balanced_accuracy']
    """
    truth, score = np.asarray(y_true), np.asarray(y_score)
    if truth.ndim == 0 or score.ndim == 0 or len(truth) != len(score):
        raise ProbeError(f"y_true of shape {truth.shape} does not fit y_score of shape {score.shape}")
    if not 0 < level < 1:
        raise ProbeError(f"level must lie between 0 and 1, got {level}", remedy="Use 0.95 for a 95 % interval.")
    groups = np.arange(len(truth)) if groups is None else groups
    if len(np.asarray(groups)) != len(truth):
        raise ProbeError(f"there are {len(np.asarray(groups))} groups for {len(truth)} rows")
    values: dict[str, list[NDArray[np.float64]]] = {name: [] for name in metrics}
    for weights in resample_weights(groups, n, seed):
        for name, metric in metrics.items():
            values[name].append(_score_resamples(metric, truth, score, weights))
    bounded = len(set(_codes(groups).tolist())) > 1
    return {
        name: _estimate(float(metric(truth, score)), np.concatenate(values[name]), level, bounded=bounded)
        for name, metric in metrics.items()
    }


def resample_weights(groups: ArrayLike, n: int = 1000, seed: int = 0) -> Iterator[NDArray[np.float64]]:
    """Draw as many groups as there are, with replacement, ``n`` times; yield the multiplicities of the rows.

    Parameters
    ----------
    groups
        (n_rows,) group of each row: numbers or strings.
    n
        Number of resamples.
    seed
        Of the generator. The draws do not depend on the size of the blocks.

    Yields
    ------
    (B, n_rows) float64
        Whole numbers; the blocks have ``n`` rows in all and about 32 MB each.

    Raises
    ------
    ProbeError
        If ``n`` is below 1, there is no row, or a group is missing.

    Examples
    --------
    >>> (weights,) = resample_weights(["a", "a", "b"], n=4, seed=1)
    >>> weights.shape, bool((weights[:, 0] == weights[:, 1]).all())
    ((4, 3), True)
    """
    codes = _codes(groups)
    if n < 1:
        raise ProbeError(f"the bootstrap needs at least one resample, got n = {n}", remedy="Use n = 1000.")
    count = int(codes.max()) + 1
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK_ENTRIES // len(codes))
    for start in range(0, n, block):
        size = min(block, n - start)
        drawn = rng.integers(0, count, size=(size, count)) + count * np.arange(size)[:, None]
        multiplicity = np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count)
        # Stored by rows of the data, which is how the metrics read it.
        yield np.ascontiguousarray(multiplicity.T, dtype=np.float64)[codes].T


def _codes(groups: ArrayLike) -> NDArray[np.int64]:
    """(n_rows,) number of each row's group, 0 to G - 1, in sorted order of the groups."""
    values = np.asarray(groups)
    if values.ndim != 1 or len(values) == 0:
        raise ProbeError(f"groups must be one value for each of at least one row, got shape {values.shape}")
    missing = np.flatnonzero([value is None or str(value) == "nan" for value in values.tolist()])
    if len(missing):
        raise ProbeError(
            f"the group (patient) is missing in {len(missing)} rows, first: {missing[:5].tolist()}",
            remedy="Fill in the patients, or pass groups=None to resample rows.",
        )
    _, codes = np.unique(values.astype(str) if values.dtype.kind == "O" else values, return_inverse=True)
    return codes.astype(np.int64)


def _score_resamples(
    metric: Metric, truth: NDArray[Any], score: NDArray[Any], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(B,) values of the metric."""
    if "weights" in inspect.signature(metric).parameters:
        return np.asarray(metric(truth, score, weights=weights), dtype=np.float64)
    rows = [np.repeat(np.arange(len(truth)), multiplicity.astype(np.int64)) for multiplicity in weights]
    return np.array([metric(truth[index], score[index]) for index in rows], dtype=np.float64)


def _estimate(value: float, resampled: NDArray[np.float64], level: float, *, bounded: bool) -> Estimate:
    defined = resampled[~np.isnan(resampled)]
    if not bounded or 2 * len(defined) < len(resampled):
        return Estimate(value, float("nan"), float("nan"))
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(low), float(high))
