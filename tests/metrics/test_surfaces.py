"""Surface distances equal those of SimpleITK and of brute force, with anisotropic spacing."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from featcache.errors import ProbeError
from featcache.metrics import hd95, surface_dice, surface_distances

SHAPES = [((19, 14, 9), (0.7, 0.9, 3.2)), ((9, 21, 11), (2.5, 0.6, 1.1)), ((30, 23), (0.4, 1.7))]


def blobs(shape: tuple[int, ...], seed: int, share: float = 0.25) -> np.ndarray:
    """Smooth random structures that touch the border of the array."""
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.3)
    return noise > np.quantile(noise, 1 - share)


def surface_by_hand(mask: np.ndarray) -> np.ndarray:
    """(m, ndim) places of the elements that have a face neighbour outside or beyond the border."""
    found = []
    for place in np.argwhere(mask):
        neighbours = [
            place + step * np.eye(mask.ndim, dtype=int)[axis] for axis in range(mask.ndim) for step in (-1, 1)
        ]
        inside = [((one >= 0) & (one < mask.shape)).all() and mask[tuple(one)] for one in neighbours]
        if not all(inside):
            found.append(place)
    return np.array(found)


def by_brute_force(truth: np.ndarray, prediction: np.ndarray, spacing: tuple[float, ...]) -> tuple[Any, Any]:
    table = cdist(surface_by_hand(truth) * spacing, surface_by_hand(prediction) * spacing)
    return table.min(axis=1), table.min(axis=0)


def by_simpleitk(truth: np.ndarray, prediction: np.ndarray, spacing: tuple[float, ...]) -> tuple[Any, Any]:
    """Contours and signed Maurer distance maps, on arrays padded so that their borders are surfaces."""
    sitk = pytest.importorskip("SimpleITK")
    images = []
    for mask in (truth, prediction):
        image = sitk.GetImageFromArray(np.pad(mask, 1).astype(np.uint8))
        image.SetSpacing(spacing[::-1])  # (x, y, z) of an array (z, y, x)
        images.append(image)
    contours = [sitk.GetArrayFromImage(sitk.LabelContour(image, fullyConnected=False)) > 0 for image in images]
    maps = []
    for image, contour in zip(images, contours, strict=True):
        surface = sitk.GetImageFromArray(contour.astype(np.uint8))
        surface.CopyInformation(image)
        distance = sitk.SignedMaurerDistanceMap(surface, squaredDistance=False, useImageSpacing=True)
        maps.append(np.abs(sitk.GetArrayFromImage(distance)))
    return maps[1][contours[0]], maps[0][contours[1]]


@pytest.mark.parametrize(("shape", "spacing"), SHAPES)
@pytest.mark.parametrize("reference", [by_brute_force, by_simpleitk])
@pytest.mark.parametrize("seed", range(3))
def test_distances_are_those_of_an_independent_computation(
    shape: tuple[int, ...], spacing: tuple[float, ...], reference: Any, seed: int
) -> None:
    truth, prediction = blobs(shape, seed), blobs(shape, seed + 100, share=0.35)
    found = surface_distances(truth, prediction, spacing)
    from_truth, from_prediction = reference(truth, prediction, spacing)
    np.testing.assert_allclose(found.from_truth, from_truth, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.from_prediction, from_prediction, rtol=1e-5, atol=1e-5)
    expected = max(np.percentile(from_truth, 95), np.percentile(from_prediction, 95))
    assert hd95(truth, prediction, spacing) == pytest.approx(expected, rel=1e-5)
    tolerance = 1.01  # between the distances that occur, so that rounding decides nothing
    near = (from_truth <= tolerance).sum() + (from_prediction <= tolerance).sum()
    expected = near / (len(from_truth) + len(from_prediction))
    assert surface_dice(truth, prediction, spacing, tolerance=tolerance) == pytest.approx(expected)


def test_far_away_structures_are_cropped_to_without_loss() -> None:
    truth, prediction = np.zeros((2, 60, 50), bool)
    truth[3:6, 40:44] = True
    prediction[5:9, 42:47] = True
    from_truth, from_prediction = by_brute_force(truth, prediction, (2.0, 0.5))
    found = surface_distances(truth, prediction, (2.0, 0.5))
    np.testing.assert_allclose(found.from_truth, from_truth)
    np.testing.assert_allclose(found.from_prediction, from_prediction)


@pytest.mark.parametrize(("first", "second"), list(product([False, True], repeat=2)))
def test_empty_masks_follow_the_documented_convention(first: bool, second: bool) -> None:
    truth, prediction = np.zeros((2, 5, 4, 3), bool)
    truth[1, 1, 1], prediction[1, 1, 1] = first, second
    spacing = (2.0, 1.0, 3.0)
    distance, share = hd95(truth, prediction, spacing), surface_dice(truth, prediction, spacing, tolerance=1.0)
    if first and second:
        assert (distance, share) == (0.0, 1.0)
    elif first or second:
        assert distance == pytest.approx(np.sqrt(8.0**2 + 3.0**2 + 6.0**2))
        assert share == 0.0
    else:
        assert np.isnan(distance)
        assert np.isnan(share)


def test_without_spacing_distances_are_in_elements() -> None:
    truth, prediction = np.zeros((2, 9, 9), int)
    truth[4, 1], prediction[4, 5] = 1, 3
    assert hd95(truth, prediction) == 4.0


@pytest.mark.parametrize(
    ("prediction", "spacing", "message"),
    [
        (np.zeros((4, 4)), None, "expected one shape"),
        (np.zeros((4, 5)), (1.0, 1.0, 1.0), "does not fit"),
        (np.zeros((4, 5)), (1.0, 0.0), "does not fit"),
        (np.zeros((4, 5)), (1.0, float("nan")), "does not fit"),
    ],
)
def test_what_does_not_fit_is_refused(prediction: np.ndarray, spacing: Any, message: str) -> None:
    with pytest.raises(ProbeError, match=message):
        surface_distances(np.zeros((4, 5)), prediction, spacing)
