"""Two sets of scores on the same rows: the paired bootstrap of their difference, and Holm over many."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featcache.errors import ProbeError
from featcache.metrics.bootstrap import fitting, jackknifed, resampled
from featcache.metrics.catalog import Metric, scorer
from featcache.metrics.inputs import Floats
from featcache.metrics.intervals import IntervalMethod, check_interval, estimate
from featcache.metrics.weighted import Scorer, Weights
from featcache.records import Estimate

__all__ = ["Comparison", "adjust", "compare", "compare_classes", "compare_many", "holm"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A metric of two sets of scores on the same rows."""

    metric: str
    """The metric's name."""
    first: float
    """Value of the first scores; NaN where it is undefined."""
    second: float
    """Value of the second scores."""
    difference: Estimate
    """First minus second, with the interval of the difference."""
    p_value: float
    """Two-sided, of the hypothesis that there is no difference; NaN where it cannot be tested."""
    test: Literal["bootstrap", "delong", "obuchowski"]
    """The test."""
    n_rows: int
    """Rows scored by both."""
    n_groups: int
    """Groups (patients) that the test takes as independent."""
    level: float
    """Coverage of the interval; a difference is shown where the p-value is below 1 - level."""
    p_adjusted: float | None = None
    """After :func:`adjust`; None for one comparison by itself."""

    @property
    def shown(self) -> bool:
        """Whether a difference is shown: by the adjusted p-value where there is one."""
        return bool(self._decisive < 1 - self.level)

    def sentence(self, first: str = "A", second: str = "B") -> str:
        """The finding in words; a difference that is not shown is not called equality.

        Examples
        --------
        >>> from featcache.metrics import auroc
        >>> y, a, b = [[0], [0], [1], [1]], [[0.1], [0.4], [0.3], [0.8]], [[0.2], [0.3], [0.1], [0.9]]
        >>> compare(auroc, y, a, b, n=100).sentence("cls", "pixels")  # doctest: +ELLIPSIS
        'No difference in auroc shown: cls 0.7500, pixels 0.5000, difference 0.2500 (95 % CI ...'
        """
        values = f"{first} {self.first:.4f}, {second} {self.second:.4f}, difference {self.difference.value:.4f}"
        if math.isnan(self._decisive):
            return f"The difference in {self.metric} cannot be tested: {values}."
        adjusted = " (Holm)" if self.p_adjusted is not None else ""
        found = (
            f"{values} ({100 * self.level:g} % CI {self.difference.low:.4f} to {self.difference.high:.4f}), "
            f"p = {self._decisive:.2g}{adjusted}."
        )
        if not self.shown:
            return f"No difference in {self.metric} shown: {found}"
        higher, lower = (first, second) if self.difference.value > 0 else (second, first)
        return f"{higher} has a higher {self.metric} than {lower}: {found}"

    @property
    def _decisive(self) -> float:
        return self.p_value if self.p_adjusted is None else self.p_adjusted


def compare(
    metric: Metric,
    y_true: ArrayLike,
    score_first: ArrayLike,
    score_second: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    method: IntervalMethod = "percentile",
) -> Comparison:
    """Test the difference of a metric between two sets of scores by the paired bootstrap over groups (patients).

    Each resample scores both with the same rows, so that what the two have in common cancels.

    Parameters
    ----------
    metric
        As in :func:`bootstrap`.
    y_true
        (n_rows,) or (n_rows, L) targets.
    score_first, score_second
        (n_rows, C) scores of the same rows in the same order.
    groups
        (n_rows,) group of each row, such as its patient; None makes each row a group of its own.
    n
        Number of resamples. The p-value is at least 2 / (n + 1): correct over many comparisons with more.
    seed
        Of the resamples.
    level
        Coverage of the interval, between 0 and 1.
    method
        ``percentile`` or ``bca``, of the interval of the difference.

    Returns
    -------
    Comparison
        With NaN bounds and p-value if there is one group only, or the difference is undefined or half of the
        resamples are.

    Raises
    ------
    ProbeError
        As in :func:`bootstrap`, or if the two scores differ in shape.

    Notes
    -----
    The p-value inverts the percentile interval: twice the smaller share of resamples whose difference is at most,
    or at least, zero; both counts plus one.

    References
    ----------
    Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13; the added one: Davison and Hinkley,
    "Bootstrap Methods and their Application", 1997, chapter 4.

    Examples
    --------
    >>> from featcache.metrics import accuracy
    >>> scores = [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]]
    >>> same = compare(accuracy, [0, 1, 1, 1], scores, scores, n=100)
    >>> same.p_value, same.shown
    (1.0, False)
    """
    scores = score_first, score_second
    return _compare(
        {_name(metric): metric}, y_true, scores, groups, n=n, seed=seed, level=level, method=method, classes=False
    )[0][0]


def compare_many(
    metrics: Mapping[str, Metric],
    y_true: ArrayLike,
    score_first: ArrayLike,
    score_second: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    method: IntervalMethod = "percentile",
) -> dict[str, Comparison]:
    """As :func:`compare`, for several metrics on the same resamples; the p-values are not adjusted.

    Parameters
    ----------
    metrics
        Metrics by name, such as ``select_metrics(["auroc", "f1"])``. Thresholds that were chosen for each of the two
        apart cannot be bound to a metric: compare with 0.5, or subtract the thresholds from the scores.
    y_true, score_first, score_second, groups, n, seed, level, method
        As in :func:`compare`.

    Returns
    -------
    dict of str to Comparison
        In the order of ``metrics``.

    Raises
    ------
    ProbeError
        As in :func:`compare`.
    """
    scores = score_first, score_second
    found = _compare(metrics, y_true, scores, groups, n=n, seed=seed, level=level, method=method, classes=False)
    return {name: only for name, (only,) in zip(metrics, found, strict=True)}


def compare_classes(
    metric: Metric,
    y_true: ArrayLike,
    score_first: ArrayLike,
    score_second: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    method: IntervalMethod = "percentile",
) -> tuple[Comparison, ...]:
    """As :func:`compare`, for each class against the rest or each label; pass the result to :func:`adjust`.

    Parameters
    ----------
    metric
        A metric of this package.
    y_true, score_first, score_second, groups, n, seed, level, method
        As in :func:`compare`.

    Returns
    -------
    tuple of Comparison
        One for each column of the scores.

    Raises
    ------
    ProbeError
        As in :func:`compare`, or if the metric has no value for each class.
    """
    scores = score_first, score_second
    (found,) = _compare(
        {_name(metric): metric}, y_true, scores, groups, n=n, seed=seed, level=level, method=method, classes=True
    )
    return tuple(found)


def holm(p_values: ArrayLike) -> Floats:
    """Holm's step-down adjustment: below alpha, the family-wise error is at most alpha under any dependence.

    Parameters
    ----------
    p_values
        (m,) p-values; NaN is not counted as a test and stays NaN.

    Returns
    -------
    (m,) float64
        At most 1.

    Raises
    ------
    ProbeError
        If a value lies outside [0, 1].

    References
    ----------
    Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6, 1979.

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03])
    array([0.03, 0.06, 0.06])
    """
    given = np.asarray(p_values, dtype=np.float64)
    tested = np.flatnonzero(~np.isnan(given))
    if given.ndim != 1 or ((given[tested] < 0) | (given[tested] > 1)).any():
        raise ProbeError(f"p-values must be an array of numbers in [0, 1], got {given.tolist()}")
    order = tested[np.argsort(given[tested], kind="stable")]
    adjusted = np.full(len(given), np.nan)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(given[order] * np.arange(len(order), 0, -1)))
    return adjusted


def adjust(comparisons: Iterable[Comparison]) -> tuple[Comparison, ...]:
    """The comparisons with p-values adjusted by :func:`holm` over all of them."""
    given = tuple(comparisons)
    adjusted = holm([comparison.p_value for comparison in given])
    return tuple(replace(one, p_adjusted=float(value)) for one, value in zip(given, adjusted, strict=True))


def _compare(
    metrics: Mapping[str, Metric],
    y_true: ArrayLike,
    scores: tuple[ArrayLike, ArrayLike],
    groups: ArrayLike | None,
    *,
    n: int,
    seed: int,
    level: float,
    method: IntervalMethod,
    classes: bool,
) -> list[list[Comparison]]:
    """For each metric one comparison, or one for each class."""
    check_interval(level, method)
    first, second = np.asarray(scores[0]), np.asarray(scores[1])
    if first.shape != second.shape:
        raise ProbeError(
            f"the scores differ in shape: {first.shape} and {second.shape}",
            remedy="Compare scores of the same rows and classes, in the same order.",
        )
    truth, first, codes = fitting(y_true, first, groups)
    pairs = [_pair(metric, truth, first, second, classes) for metric in metrics.values()]
    several = codes.max() > 0
    drawn = resampled(pairs, codes, n, seed) if several else None
    left_out = jackknifed(pairs, codes, seed) if several and method == "bca" else None
    found: list[list[Comparison]] = []
    for place, (name, pair) in enumerate(zip(metrics, pairs, strict=True)):
        values = pair(Weights(np.ones((len(truth), 1))))[:, :, 0]
        found.append([])
        for column, (one, two) in enumerate(values.T):
            difference, p_value = Estimate(float(one - two), np.nan, np.nan), np.nan
            if drawn is not None and not np.isnan(one - two):
                spread = drawn[place][0, column] - drawn[place][1, column]
                without = None if left_out is None else left_out[place][0, column] - left_out[place][1, column]
                difference, p_value = estimate(float(one - two), spread, level, without), _p_value(spread)
            count = int(codes.max()) + 1
            found[-1].append(
                Comparison(name, float(one), float(two), difference, p_value, "bootstrap", len(truth), count, level)
            )
    return found


def _pair(metric: Metric, truth: NDArray[Any], first: NDArray[Any], second: NDArray[Any], classes: bool) -> Scorer:
    """(2, C, B) values of both scores; C is 1 unless ``classes``."""
    both = [scorer(metric, truth, score, classes=classes) for score in (first, second)]
    return lambda w: np.stack([np.atleast_2d(one(w)) for one in both])


def _p_value(difference: Floats) -> float:
    """Of the (n,) differences of the resamples; NaN if more than half of them are undefined."""
    defined = difference[~np.isnan(difference)]
    if len(defined) == 0 or 2 * len(defined) < len(difference):
        return float("nan")
    smaller = min(np.sum(defined <= 0), np.sum(defined >= 0))
    return float(min(1.0, 2 * (smaller + 1) / (len(defined) + 1)))


def _name(metric: Metric) -> str:
    bare = metric.func if isinstance(metric, partial) else metric
    return getattr(bare, "__name__", "metric")
