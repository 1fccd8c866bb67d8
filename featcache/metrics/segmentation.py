"""Scores of label maps: Dice, IoU, HD95 and surface Dice of a volume, their means over volumes, pooled Dice.

Where a class is empty (after Maier-Hein, Reinke et al., "Metrics reloaded", Nature Methods 21, 2024):

===========================  ======  ======  ========================  ============
truth, prediction            dice    iou     hd95                      surface_dice
===========================  ======  ======  ========================  ============
both empty                   NaN     NaN     NaN                       NaN
one of them empty            0       0       diagonal of the volume    0
===========================  ======  ======  ========================  ============

NaN is left out of means: that a class was rightly not found in a volume that lacks it is no overlap to be measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featcache.errors import ProbeError
from featcache.metrics.bootstrap import bootstrap, bootstrap_many
from featcache.metrics.comparison import Comparison, compare_many
from featcache.metrics.inputs import Floats
from featcache.metrics.intervals import IntervalMethod
from featcache.metrics.surfaces import check_spacing, label_distances
from featcache.metrics.weighted import defined_mean, ratio
from featcache.records import Estimate

__all__ = [
    "DEFAULT_TOLERANCE",
    "SEGMENTATION_METRICS",
    "compare_volumes",
    "dice",
    "iou",
    "mean_over_volumes",
    "overlap_counts",
    "pooled_dice",
    "pooled_estimate",
    "score_volume",
]

SEGMENTATION_METRICS: Mapping[str, str] = MappingProxyType(
    {"dice": "higher", "iou": "higher", "hd95": "lower", "surface_dice": "higher"}
)
"""The scores of :func:`score_volume` and which way is better."""

DEFAULT_TOLERANCE = 2.0
"""Of surface Dice, in mm (in pixels where no spacing is known)."""

_PIECE = 1 << 22
"""Elements that are counted at a time."""


def overlap_counts(truth: ArrayLike, prediction: ArrayLike, n_classes: int) -> NDArray[np.int64]:
    """Count the elements of each class: in both, in the truth, in the prediction.

    Parameters
    ----------
    truth, prediction
        Class numbers, of any and equal shape.
    n_classes
        Number of classes C, with the background.

    Returns
    -------
    (C, 3) int64
        Counts add up: those of a split are the sum of those of its images.

    Raises
    ------
    ProbeError
        If shapes differ or a number is outside the classes.

    Examples
    --------
    >>> overlap_counts([0, 1, 1, 1], [0, 1, 0, 1], 2)
    array([[1, 1, 2],
           [2, 3, 2]])
    """
    first, second = _labels(truth, n_classes, "truth"), _labels(prediction, n_classes, "prediction")
    if first.shape != second.shape:
        raise ProbeError(
            f"the truth has shape {first.shape} and the prediction {second.shape}",
            remedy="Resample the prediction to the grid of the truth first: "
            "featcache.evaluation.segmentation.native.to_native.",
        )
    flat, other = first.reshape(-1), second.reshape(-1)
    pairs = np.zeros(n_classes**2, np.int64)
    for start in range(0, len(flat), _PIECE):
        piece = slice(start, start + _PIECE)
        pairs += np.bincount(flat[piece].astype(np.intp) * n_classes + other[piece], minlength=n_classes**2)
    table = pairs.reshape(n_classes, n_classes)
    return np.stack([np.diagonal(table), table.sum(axis=1), table.sum(axis=0)], axis=1)


def dice(counts: ArrayLike) -> Floats:
    """Dice coefficient 2 |A and B| / (|A| + |B|) of each class.

    Parameters
    ----------
    counts
        (..., 3) from :func:`overlap_counts`.

    Returns
    -------
    (...) float64
        NaN where both are empty, 0 where one is.

    References
    ----------
    Dice, "Measures of the amount of ecologic association between species", Ecology 26(3), 1945.

    Examples
    --------
    >>> dice([[2, 3, 2], [0, 0, 0], [0, 4, 0]])
    array([0.8, nan, 0. ])
    """
    table = np.asarray(counts, dtype=np.float64)
    return ratio(2 * table[..., 0], table[..., 1] + table[..., 2])


def iou(counts: ArrayLike) -> Floats:
    """Intersection over union (Jaccard index) of each class.

    Parameters
    ----------
    counts
        (..., 3) from :func:`overlap_counts`.

    Returns
    -------
    (...) float64
        NaN where both are empty, 0 where one is.

    Examples
    --------
    >>> iou([[2, 3, 3], [0, 0, 0]])
    array([0.5, nan])
    """
    table = np.asarray(counts, dtype=np.float64)
    return ratio(table[..., 0], table[..., 1] + table[..., 2] - table[..., 0])


def score_volume(
    truth: ArrayLike,
    prediction: ArrayLike,
    n_classes: int,
    *,
    spacing: Sequence[float] | None = None,
    tolerance: float | Sequence[float] = DEFAULT_TOLERANCE,
    surfaces: bool = True,
) -> dict[str, Floats]:
    """All scores of one volume, or of one picture, in its native geometry.

    Parameters
    ----------
    truth, prediction
        (X, Y, Z) or (H, W) class numbers.
    n_classes
        Number of classes C, with the background as 0.
    spacing
        Of each axis in mm; None counts in elements.
    tolerance
        Of surface Dice, in the unit of the spacing: one, or one for each of the C - 1 foreground classes.
    surfaces
        Whether distances are computed too; without, ``hd95`` and ``surface_dice`` are NaN. A volume of which only
        some slices are there has no surface in three dimensions.

    Returns
    -------
    dict of str to (C - 1,) float64
        By the names of :data:`SEGMENTATION_METRICS`, of the foreground classes. For empty classes see the table at
        the head of this module.

    Raises
    ------
    ProbeError
        If shapes differ, a number is outside the classes, or spacing or tolerances do not fit.

    Examples
    --------
    >>> truth = np.zeros((4, 4), int)
    >>> truth[1:3, 1:3] = 1
    >>> scores = score_volume(truth, np.roll(truth, 1, axis=1), 2, spacing=(1.0, 0.5), tolerance=0.4)
    >>> {name: values.tolist() for name, values in scores.items()}
    {'dice': [0.5], 'iou': [0.3333333333333333], 'hd95': [0.5], 'surface_dice': [0.5]}
    """
    first, second = np.asarray(truth), np.asarray(prediction)
    sizes = check_spacing(first.shape, second.shape, spacing)
    limits = np.broadcast_to(np.asarray(tolerance, dtype=np.float64), (n_classes - 1,))
    if not (limits >= 0).all():
        raise ProbeError(f"tolerances of {limits.tolist()} are not all 0 or more", remedy="Give them in mm.")
    counts = overlap_counts(first, second, n_classes)[1:]
    found = {"dice": dice(counts), "iou": iou(counts)}
    nothing = np.full(n_classes - 1, np.nan)
    found |= {"hd95": nothing, "surface_dice": nothing.copy()}
    for label, distances in label_distances(first, second, sizes).items() if surfaces else ():
        found["hd95"][label - 1] = distances.hd95()
        found["surface_dice"][label - 1] = distances.surface_dice(float(limits[label - 1]))
    return found


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


def _labels(labels: ArrayLike, n_classes: int, what: str) -> NDArray[Any]:
    values = np.asarray(labels)
    if not 2 <= n_classes <= 256:
        raise ProbeError(f"there are {n_classes} classes, expected 2 to 256 with the background")
    if values.dtype.kind not in "iub" or not values.size:
        raise ProbeError(f"the {what} is {values.dtype} of shape {values.shape}, expected class numbers")
    if int(values.min()) < 0 or int(values.max()) >= n_classes:
        raise ProbeError(
            f"the {what} has values from {values.min()} to {values.max()}, there are {n_classes} classes",
            remedy="Class numbers start at 0, the background.",
        )
    return values
