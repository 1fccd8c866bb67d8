"""Scores of label maps: Dice, IoU, HD95 and surface Dice of a volume.

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
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featcache.errors import ProbeError
from featcache.metrics.inputs import Floats
from featcache.metrics.surfaces import check_spacing, label_distances
from featcache.metrics.weighted import ratio

__all__ = [
    "DEFAULT_TOLERANCE",
    "SEGMENTATION_METRICS",
    "dice",
    "iou",
    "overlap_counts",
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
