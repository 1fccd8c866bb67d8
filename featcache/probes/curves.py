"""Learning curves: the mean over repeated draws of the training data, with its interval, by their size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from featcache.errors import ProbeError
from featcache.records import Estimate

__all__ = ["CurvePoint", "learning_curve", "mean_interval"]


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One row of a learning curve's table."""

    shots: int
    """Images (``study``: patients) a class."""
    value: float
    """Mean over the episodes in which the metric is defined; NaN where there is none."""
    low: float
    """Lower bound of the interval of the mean."""
    high: float
    """Upper bound."""
    deviation: float
    """Standard deviation between episodes (divisor episodes - 1); NaN for one episode."""
    episodes: int
    """Episodes in which the metric is defined."""


def mean_interval(
    values: ArrayLike, *, level: float = 0.95, within: tuple[float, float] = (-np.inf, np.inf)
) -> Estimate:
    """The mean and its t interval: ``mean +- t * s / sqrt(n)`` with n - 1 degrees of freedom.

    Parameters
    ----------
    values
        (n,) one number an episode; NaN (an undefined metric) is left out.
    level
        Coverage, between 0 and 1.
    within
        Smallest and largest possible value: the interval ends there, which costs no coverage.

    Returns
    -------
    Estimate
        The bounds are NaN for fewer than two values: one episode says nothing about the next.

    Raises
    ------
    ProbeError
        If ``values`` is not a vector or ``level`` is out of range.

    Notes
    -----
    It is an interval of the mean over draws of the support from these training rows, scored on this test set. How
    much another test set would change the number is another question, which the bootstrap over patients answers.

    References
    ----------
    Student, "The probable error of a mean", Biometrika 6, 1908; the usual report of few-shot papers.

    Examples
    --------
    >>> estimate = mean_interval([0.5, 0.6, 0.7])
    >>> round(estimate.value, 3), round(estimate.low, 3), round(estimate.high, 3)
    (0.6, 0.352, 0.848)
    """
    from scipy.special import stdtrit

    given = np.asarray(values, dtype=np.float64)
    if given.ndim != 1:
        raise ProbeError(f"expected one value an episode, got an array of shape {given.shape}")
    if not 0 < level < 1:
        raise ProbeError(f"level must lie between 0 and 1, got {level}", remedy="Use 0.95 for a 95 % interval.")
    defined = given[~np.isnan(given)]
    mean = float(defined.mean()) if len(defined) else float("nan")
    if len(defined) < 2:
        return Estimate(mean, float("nan"), float("nan"))
    quantile = float(stdtrit(len(defined) - 1, 0.5 + level / 2))
    half = quantile * float(defined.std(ddof=1)) / len(defined) ** 0.5
    return Estimate(mean, max(mean - half, within[0]), min(mean + half, within[1]))


def learning_curve(
    shots: Sequence[int],
    values: ArrayLike,
    *,
    level: float = 0.95,
    within: tuple[float, float] = (-np.inf, np.inf),
) -> list[CurvePoint]:
    """A table row for each number of shots.

    Parameters
    ----------
    shots
        S numbers of shots.
    values
        (S, E) metric of every episode, as :meth:`featcache.probes.FewShot.evaluate` returns it.
    level, within
        Coverage and ends of the intervals, see :func:`mean_interval`.

    Returns
    -------
    list of CurvePoint

    Raises
    ------
    ProbeError
        If the shapes do not fit.

    Examples
    --------
    >>> [(point.shots, round(point.value, 2)) for point in learning_curve((1, 2), [[0.5, 0.6], [0.7, 0.7]])]
    [(1, 0.55), (2, 0.7)]
    """
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or len(table) != len(shots):
        raise ProbeError(f"values of shape {table.shape} do not fit {len(shots)} numbers of shots")
    points = []
    for shot, row in zip(shots, table, strict=True):
        estimate, defined = mean_interval(row, level=level, within=within), row[~np.isnan(row)]
        deviation = float(defined.std(ddof=1)) if len(defined) > 1 else float("nan")
        points.append(CurvePoint(int(shot), estimate.value, estimate.low, estimate.high, deviation, len(defined)))
    return points
