"""Segmentation scores over volumes and patients: means with intervals, two results compared, pooled Dice."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featcache.errors import ProbeError
from featcache.metrics.bootstrap import bootstrap, bootstrap_many
from featcache.metrics.comparison import Comparison, compare_many
from featcache.metrics.inputs import Floats
from featcache.metrics.intervals import IntervalMethod
from featcache.metrics.segmentation import dice
from featcache.metrics.weighted import defined_mean, ratio
from featcache.records import Estimate

__all__ = ["compare_volumes", "mean_over_volumes", "pooled_dice", "pooled_estimate"]


def mean_over_volumes(
    values: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    n: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    method: IntervalMethod = "percentile",
) -> tuple[Estimate, tuple[Estimate, ...]]:
    """Mean of one score over volumes, of each class and of all, with intervals over patients.

    Parameters
    ----------
    values
        (n_volumes, C) one score of each class; NaN where it is undefined.
    groups
        (n_volumes,) patient of each; None makes each volume a group of its own.
    n, seed, level, method
        As in :func:`featcache.metrics.bootstrap`.

    Returns
    -------
    mean
        Of the means of the classes: every class counts alike, however few volumes have it.
    classes
        Mean over the volumes in which the class is defined; all NaN if there is none.

    Raises
    ------
    ProbeError
        As in :func:`featcache.metrics.bootstrap`.

    Examples
    --------
    >>> mean, classes = mean_over_volumes([[0.8, np.nan], [0.6, 0.5]], n=50)
    >>> round(mean.value, 3), [round(one.value, 3) for one in classes]
    (0.6, [0.7, 0.5])
    """
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or not table.size:
        raise ProbeError(f"scores must have shape (volumes, classes), got {table.shape}")
    metrics = {str(place): partial(_class_mean, place=place) for place in range(table.shape[1])}
    found = bootstrap_many(
        {"mean": _mean_of_means, **metrics}, table, table, groups, n=n, seed=seed, level=level, method=method
    )
    return found["mean"], tuple(found[name] for name in metrics)


def compare_volumes(
    first: ArrayLike,
    second: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    metric: str = "dice",
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[Comparison, tuple[Comparison, ...]]:
    """Test the difference of two models' mean scores on the same volumes by the paired bootstrap over patients.

    Parameters
    ----------
    first, second
        (n_volumes, C) scores of each class, NaN where undefined, of the same volumes in the same order.
    groups
        (n_volumes,) patient of each; None makes each volume a group of its own.
    metric
        What the score is called.
    n, seed, level
        As in :func:`featcache.metrics.compare`.

    Returns
    -------
    mean
        Of the means of the classes, as :func:`mean_over_volumes` gives them.
    classes
        Of each class.

    Raises
    ------
    ProbeError
        If the tables differ in shape, or as in :func:`featcache.metrics.compare`.

    Examples
    --------
    >>> mean, classes = compare_volumes([[0.8], [0.6]], [[0.8], [0.6]], n=50)
    >>> mean.difference.value, mean.shown
    (0.0, False)
    """
    one, two = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if one.ndim != 2 or not one.size or one.shape != two.shape:
        raise ProbeError(f"scores must have one shape (volumes, classes), got {one.shape} and {two.shape}")
    metrics = {str(place): partial(_scored_class, place=place) for place in range(one.shape[1])}
    found = compare_many({"mean": _scored_mean, **metrics}, one, one, two, groups, n=n, seed=seed, level=level)
    named = {name: replace(comparison, metric=metric) for name, comparison in found.items()}
    return named["mean"], tuple(named[name] for name in metrics)


def pooled_dice(counts: ArrayLike) -> float:
    """The study's Dice: elements pooled over all images and foreground classes.

    Parameters
    ----------
    counts
        (n, C, 3) from :func:`overlap_counts`, background first; the study counts at the input size S x S.

    Returns
    -------
    float
        2 sum |A and B| / (sum |A| + sum |B|) over classes above 0; NaN if there is no foreground at all.

    References
    ----------
    Baharoon et al., arXiv 2312.02366: micro-averaged over a split, background left out. Large organs and large
    patients decide it.

    Examples
    --------
    >>> pooled_dice([[[9, 9, 9], [2, 3, 2]], [[5, 5, 5], [0, 1, 0]]])
    0.6666666666666666
    """
    return float(dice(_counts(counts)[:, 1:].sum(axis=(0, 1))))


def pooled_estimate(
    counts: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    n: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    method: IntervalMethod = "percentile",
) -> Estimate:
    """:func:`pooled_dice` with its interval over patients.

    Parameters
    ----------
    counts
        (n_images, C, 3), background first.
    groups, n, seed, level, method
        As in :func:`featcache.metrics.bootstrap`.

    Raises
    ------
    ProbeError
        As in :func:`featcache.metrics.bootstrap`.

    Examples
    --------
    >>> pooled_estimate([[[9, 9, 9], [2, 3, 2]], [[5, 5, 5], [2, 3, 2]]], n=50)
    Estimate(value=0.8, low=0.8, high=0.8)
    """
    parts = _counts(counts)[:, 1:].sum(axis=1).astype(np.float64)
    return bootstrap(_pooled, parts, parts, groups, n=n, seed=seed, level=level, method=method)


def _class_mean(values: Floats, _: Any, weights: Floats, place: int) -> Floats:
    only: Floats = _class_means(values[:, [place]], weights)[0]
    return only


def _mean_of_means(values: Floats, _: Any, weights: Floats) -> Floats:
    return defined_mean(_class_means(values, weights))


def _scored_class(_: Any, values: Floats, weights: Floats, place: int) -> Floats:
    return _class_mean(values, None, weights, place)


def _scored_mean(_: Any, values: Floats, weights: Floats) -> Floats:
    return _mean_of_means(values, None, weights)


def _class_means(values: Floats, weights: Floats) -> Floats:
    """(C, B) weighted means over the rows that are not NaN."""
    defined = ~np.isnan(values)
    return ratio((weights @ np.where(defined, values, 0.0)).T, (weights @ defined.astype(np.float64)).T)


def _pooled(parts: Floats, _: Any, weights: Floats) -> Floats:
    return dice(weights @ parts)


def _counts(counts: ArrayLike) -> NDArray[Any]:
    table = np.asarray(counts)
    if table.ndim != 3 or table.shape[2] != 3 or table.shape[1] < 2:
        raise ProbeError(f"counts must have shape (images, classes, 3) with the background, got {table.shape}")
    return table
