"""Distances between the surfaces of two masks: HD95 and surface Dice, in millimetres.

The surface of a mask are its elements with a neighbour across a face (in two dimensions an edge) that is outside, or
that lie at the border of the array. SciPy's k-d tree finds the nearest of the other surface, exactly; its work grows
with the surfaces and not with the volume, as that of a distance transform does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featcache.errors import ProbeError
from featcache.metrics.inputs import Floats

__all__ = ["SurfaceDistances", "check_spacing", "hd95", "label_distances", "surface_dice", "surface_distances"]


@dataclass(frozen=True, slots=True)
class SurfaceDistances:
    """Of each surface element of one mask to the nearest of the other's; in the unit of the spacing."""

    from_truth: Floats
    """(m,) one for each surface element of the truth; infinite if the prediction is empty."""
    from_prediction: Floats
    """(k,) one for each surface element of the prediction; infinite if the truth is empty."""
    diagonal: float
    """From the first to the last element of the array: no distance in it is longer."""

    def hd95(self) -> float:
        """The larger of the two 95th percentiles; the diagonal if one mask is empty, NaN if both are."""
        if not len(self.from_truth) and not len(self.from_prediction):
            return float("nan")
        if not len(self.from_truth) or not len(self.from_prediction):
            return self.diagonal
        return float(max(np.percentile(self.from_truth, 95), np.percentile(self.from_prediction, 95)))

    def surface_dice(self, tolerance: float) -> float:
        """Share of both surfaces within ``tolerance`` of the other; 0 if one mask is empty, NaN if both are."""
        total = len(self.from_truth) + len(self.from_prediction)
        near = np.count_nonzero(self.from_truth <= tolerance) + np.count_nonzero(self.from_prediction <= tolerance)
        return float(near / total) if total else float("nan")


def surface_distances(
    truth: ArrayLike, prediction: ArrayLike, spacing: Sequence[float] | None = None
) -> SurfaceDistances:
    """Distances from each surface to the other.

    Parameters
    ----------
    truth, prediction
        Masks of equal shape, two or three dimensions; anything but 0 is inside.
    spacing
        Distance of neighbouring elements along each axis in mm; None counts in elements.

    Raises
    ------
    ProbeError
        If the shapes differ, or the spacing does not fit them.

    Examples
    --------
    >>> truth, prediction = np.zeros((2, 8, 8), bool)
    >>> truth[2, 2] = prediction[2, 6] = True
    >>> surface_distances(truth, prediction, spacing=(1.0, 0.5)).from_truth
    array([2.])
    """
    from scipy.spatial import KDTree

    first, second = np.asarray(truth) != 0, np.asarray(prediction) != 0
    sizes = check_spacing(first.shape, second.shape, spacing)
    window = _box(first | second)
    places = [np.argwhere(_surface(mask[window])) * np.array(sizes) for mask in (first, second)]
    distances: list[Floats] = []
    for own, other in (places, places[::-1]):
        if not len(own) or not len(other):
            distances.append(np.full(len(own), np.inf))
        else:
            distances.append(KDTree(other, balanced_tree=False).query(own)[0])
    return SurfaceDistances(distances[0], distances[1], _diagonal(first.shape, sizes))


def label_distances(
    truth: NDArray[Any], prediction: NDArray[Any], spacing: Sequence[float] | None = None
) -> dict[int, SurfaceDistances]:
    """:func:`surface_distances` of every class of two label maps, each in the box around it.

    Parameters
    ----------
    truth, prediction
        Class numbers of equal shape, two or three dimensions.
    spacing
        As in :func:`surface_distances`.

    Returns
    -------
    dict of int to SurfaceDistances
        Of the classes above 0 that occur in one of them.

    Raises
    ------
    ProbeError
        As in :func:`surface_distances`.

    Examples
    --------
    >>> found = label_distances(np.array([[0, 2, 2]]), np.array([[3, 2, 0]]))
    >>> sorted(found), found[2].from_truth.tolist()
    ([2, 3], [0.0, 1.0])
    """
    from scipy.ndimage import find_objects

    sizes = check_spacing(truth.shape, prediction.shape, spacing)
    numbers = [labels.astype(np.uint8) if labels.dtype == np.bool_ else labels for labels in (truth, prediction)]
    boxes = [find_objects(labels) for labels in numbers]
    found: dict[int, SurfaceDistances] = {}
    for label in range(1, max(map(len, boxes)) + 1):
        own = [some[label - 1] for some in boxes if label <= len(some) and some[label - 1] is not None]
        if not own:
            continue
        window = tuple(
            slice(min(one[axis].start for one in own), max(one[axis].stop for one in own)) for axis in range(truth.ndim)
        )
        distances = surface_distances(truth[window] == label, prediction[window] == label, sizes)
        found[label] = replace(distances, diagonal=_diagonal(truth.shape, sizes))
    return found


def hd95(truth: ArrayLike, prediction: ArrayLike, spacing: Sequence[float] | None = None) -> float:
    """95th percentile Hausdorff distance: the larger of the two directed 95th percentiles.

    Parameters
    ----------
    truth, prediction, spacing
        As in :func:`surface_distances`.

    Returns
    -------
    float
        In mm, or in elements without spacing. NaN if both masks are empty. If only one is, the diagonal of the
        array: a missed or invented structure is as far off as anything can be.

    References
    ----------
    Huttenlocher, Klanderman and Rucklidge, IEEE PAMI 15(9), 1993 (ranked distances); Maier-Hein, Reinke et al.,
    "Metrics reloaded", Nature Methods 21, 2024 (the maximum of both percentiles; the worst value where one is empty).
    Percentiles are interpolated linearly between ranks.

    Examples
    --------
    >>> hd95([[1, 0, 0, 0]], [[0, 0, 0, 1]], spacing=(1.0, 2.0))
    6.0
    """
    return surface_distances(truth, prediction, spacing).hd95()


def surface_dice(
    truth: ArrayLike, prediction: ArrayLike, spacing: Sequence[float] | None = None, *, tolerance: float
) -> float:
    """Normalised surface Dice: the share of both surfaces that lies within a tolerance of the other.

    Parameters
    ----------
    truth, prediction, spacing
        As in :func:`surface_distances`.
    tolerance
        In mm, or in elements without spacing.

    Returns
    -------
    float
        0 to 1. NaN if both masks are empty, 0 if only one is.

    References
    ----------
    Nikolov et al., J Med Internet Res 23(7):e26151, 2021. They weight elements by the area of a triangulated surface;
    here each surface element counts once, as in Metrics Reloaded.

    Examples
    --------
    >>> surface_dice([[1, 0, 0]], [[0, 1, 0]], tolerance=1.0)
    1.0
    """
    return surface_distances(truth, prediction, spacing).surface_dice(tolerance)


def check_spacing(
    truth: tuple[int, ...], prediction: tuple[int, ...], spacing: Sequence[float] | None
) -> tuple[float, ...]:
    """The spacing along each axis, 1 where none is given.

    Raises
    ------
    ProbeError
        If the shapes differ, have no two or three dimensions, or the spacing does not fit them.
    """
    if truth != prediction or len(truth) not in (2, 3):
        raise ProbeError(
            f"the truth has shape {truth} and the prediction {prediction}, expected one shape of 2 or 3 dimensions",
            remedy="Resample the prediction to the grid of the truth first: "
            "featcache.evaluation.segmentation.native.to_native.",
        )
    sizes = (1.0,) * len(truth) if spacing is None else tuple(float(size) for size in spacing)
    if len(sizes) != len(truth) or not all(0 < size < np.inf for size in sizes):
        raise ProbeError(
            f"a spacing of {sizes} does not fit the shape {truth}", remedy="Give one length in mm an axis."
        )
    return sizes


def _diagonal(shape: tuple[int, ...], sizes: Sequence[float]) -> float:
    return float(np.linalg.norm((np.array(shape) - 1) * np.array(sizes)))


def _surface(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    from scipy.ndimage import binary_erosion

    surface: NDArray[np.bool_] = mask & ~binary_erosion(mask)
    return surface


def _box(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    """The smallest box around what is inside; empty slices if nothing is."""
    box: list[slice] = []
    for axis in range(mask.ndim):
        others: Any = tuple(other for other in range(mask.ndim) if other != axis)
        places = np.flatnonzero(mask.any(axis=others))
        box.append(slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, 0))
    return tuple(box)
