"""From a bootstrap distribution to an interval."""

from __future__ import annotations

from statistics import NormalDist
from typing import Literal, TypeAlias

import numpy as np

from featcache.errors import ProbeError
from featcache.metrics.inputs import Floats
from featcache.records import Estimate

__all__ = ["IntervalMethod", "check_interval", "estimate"]

IntervalMethod: TypeAlias = Literal["percentile", "bca"]

_NORMAL = NormalDist()


def check_interval(level: float, method: str) -> None:
    """Refuse a level outside (0, 1) and an unknown method."""
    if not 0 < level < 1:
        raise ProbeError(f"level must lie between 0 and 1, got {level}", remedy="Use 0.95 for a 95 % interval.")
    if method not in ("percentile", "bca"):
        raise ProbeError(f"unknown interval method {method!r}", remedy="Choose percentile or bca.")


def estimate(value: float, resampled: Floats, level: float, jackknife: Floats | None = None) -> Estimate:
    """The value with its percentile interval, or with its BCa interval if a jackknife is given.

    Parameters
    ----------
    value
        The metric of the sample.
    resampled
        (n,) values of the resamples; NaN is left out.
    level
        Coverage, between 0 and 1.
    jackknife
        None, or (m,) values without one group each; NaN is left out.

    Returns
    -------
    Estimate
        NaN bounds if more than half of the resamples are undefined; of BCa also if no resample, or every one,
        lies below the value, or fewer than two jackknife values are defined.

    References
    ----------
    Efron and Tibshirani, "An Introduction to the Bootstrap", 1993: percentiles, section 13.3; BCa, equations 14.10,
    14.14 and 14.15. Resamples equal to the value count one half as below it.
    """
    undefined = Estimate(value, float("nan"), float("nan"))
    defined = resampled[~np.isnan(resampled)]
    if len(defined) == 0 or 2 * len(defined) < len(resampled):
        return undefined
    tails = (1 - level) / 2, (1 + level) / 2
    if jackknife is not None:
        left_out = jackknife[~np.isnan(jackknife)]
        below = float((np.sum(defined < value) + np.sum(defined == value) / 2) / len(defined))
        if len(left_out) < 2 or not 0 < below < 1:
            return undefined
        deviation = left_out.mean() - left_out
        spread = float((deviation**2).sum())
        acceleration = float((deviation**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0
        tails = _corrected(tails[0], below, acceleration), _corrected(tails[1], below, acceleration)
    low, high = np.quantile(defined, tails)
    return Estimate(value, float(low), float(high))


def _corrected(tail: float, below: float, acceleration: float) -> float:
    """The probability at which BCa reads the distribution."""
    bias = _NORMAL.inv_cdf(below)
    shifted = bias + _NORMAL.inv_cdf(tail)
    return _NORMAL.cdf(bias + shifted / (1 - acceleration * shifted))
