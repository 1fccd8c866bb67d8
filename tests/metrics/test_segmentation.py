"""Scores of label maps against SimpleITK, scikit-learn and the formulas written out."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score, jaccard_score

from featcache.errors import ProbeError
from featcache.metrics import (
    SEGMENTATION_METRICS,
    dice,
    hd95,
    iou,
    mean_over_volumes,
    overlap_counts,
    pooled_dice,
    pooled_estimate,
    resample_weights,
    score_volume,
    surface_dice,
)

SPACING = (0.8, 0.6, 2.5)


def labels(seed: int, shape: tuple[int, ...] = (13, 11, 7), n_classes: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, n_classes, shape).astype(np.uint8)


def test_dice_and_iou_are_simpleitks() -> None:
    sitk = pytest.importorskip("SimpleITK")
    truth, prediction = labels(1), labels(2)
    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(sitk.GetImageFromArray(truth), sitk.GetImageFromArray(prediction))
    scores = score_volume(truth, prediction, 4, surfaces=False)
    for label in (1, 2, 3):
        assert scores["dice"][label - 1] == pytest.approx(overlap.GetDiceCoefficient(label), rel=1e-12)
        assert scores["iou"][label - 1] == pytest.approx(overlap.GetJaccardCoefficient(label), rel=1e-12)


def test_dice_and_iou_are_scikit_learns_f1_and_jaccard() -> None:
    truth, prediction = labels(3), labels(4)
    counts = overlap_counts(truth, prediction, 4)
    np.testing.assert_allclose(dice(counts), f1_score(truth.ravel(), prediction.ravel(), average=None))
    np.testing.assert_allclose(iou(counts), jaccard_score(truth.ravel(), prediction.ravel(), average=None))


def test_each_class_has_the_surface_scores_of_its_own_mask() -> None:
    truth, prediction = labels(5, n_classes=3), labels(6, n_classes=3)
    scores = score_volume(truth, prediction, 3, spacing=SPACING, tolerance=(0.5, 1.5))
    assert list(scores) == list(SEGMENTATION_METRICS)
    for label, tolerance in ((1, 0.5), (2, 1.5)):
        masks = truth == label, prediction == label
        assert scores["hd95"][label - 1] == hd95(*masks, SPACING)
        assert scores["surface_dice"][label - 1] == surface_dice(*masks, SPACING, tolerance=tolerance)


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint16, np.int64])
def test_class_numbers_of_any_whole_type(dtype: type) -> None:
    truth, prediction = labels(5, n_classes=2), labels(6, n_classes=2)
    expected = score_volume(truth, prediction, 2, spacing=SPACING)
    found = score_volume(truth.astype(dtype), prediction.astype(dtype), 2, spacing=SPACING)
    for name in SEGMENTATION_METRICS:
        np.testing.assert_array_equal(found[name], expected[name])


def test_empty_classes_follow_the_documented_convention() -> None:
    truth, prediction = np.zeros((2, 6, 5, 4), np.uint8)
    truth[1, 1, 1], prediction[2, 2, 2] = 1, 2  # 1 is missed, 2 is invented, 3 is nowhere
    scores = score_volume(truth, prediction, 4, spacing=(1.0, 1.0, 2.0))
    diagonal = np.sqrt(25 + 16 + 36)
    np.testing.assert_array_equal(scores["dice"], [0, 0, np.nan])
    np.testing.assert_array_equal(scores["iou"], [0, 0, np.nan])
    np.testing.assert_allclose(scores["hd95"], [diagonal, diagonal, np.nan])
    np.testing.assert_array_equal(scores["surface_dice"], [0, 0, np.nan])


def test_slices_without_a_volume_have_no_surface_scores() -> None:
    scores = score_volume(labels(1), labels(2), 4, surfaces=False)
    assert np.isnan(scores["hd95"]).all()
    assert np.isnan(scores["surface_dice"]).all()
    assert np.isfinite(scores["dice"]).all()


def test_counts_of_parts_add_up() -> None:
    truth, prediction = labels(7), labels(8)
    parts = [overlap_counts(truth[half], prediction[half], 4) for half in (slice(0, 5), slice(5, None))]
    np.testing.assert_array_equal(sum(parts), overlap_counts(truth, prediction, 4))


def test_256_classes_are_counted() -> None:
    everything = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(overlap_counts(everything, everything, 256), np.ones((256, 3)))


def test_the_studys_dice_pools_pixels_and_leaves_the_background_out() -> None:
    truth, prediction = labels(9, (5, 16, 16)), labels(10, (5, 16, 16))
    counts = np.stack([overlap_counts(*pair, 4) for pair in zip(truth, prediction, strict=True)])
    # Micro-averaged F1 over the foreground labels is 2 TP / (2 TP + FP + FN) of all of them together.
    expected = f1_score(truth.ravel(), prediction.ravel(), labels=[1, 2, 3], average="micro")
    assert pooled_dice(counts) == pytest.approx(expected)
    assert np.isnan(pooled_dice(np.array([[[4, 4, 4], [0, 0, 0]]])))


def test_the_mean_counts_every_class_alike_and_leaves_undefined_volumes_out() -> None:
    values = np.array([[0.9, np.nan, np.nan], [0.7, 0.2, np.nan], [0.5, 0.4, np.nan]])
    mean, classes = mean_over_volumes(values, n=20)
    assert [one.value for one in classes[:2]] == pytest.approx([0.7, 0.3])
    assert np.isnan(classes[2].value)
    assert mean.value == pytest.approx((0.7 + 0.3) / 2)


def test_the_interval_resamples_patients() -> None:
    rng = np.random.default_rng(0)
    values = rng.uniform(0.3, 1, (30, 2))
    values[rng.random((30, 2)) < 0.2] = np.nan
    patients = np.arange(30) // 3
    mean, classes = mean_over_volumes(values, patients, n=200, seed=4)
    drawn = np.concatenate(list(resample_weights(patients, n=200, seed=4)))
    resampled = []
    for weights in drawn:
        rows = np.repeat(np.arange(30), weights.astype(int))
        resampled.append(np.nanmean(values[rows], axis=0))
    assert (mean.low, mean.high) == pytest.approx(tuple(np.quantile(np.mean(resampled, axis=1), [0.025, 0.975])))
    for place, one in enumerate(classes):
        assert (one.low, one.high) == pytest.approx(tuple(np.quantile(np.array(resampled)[:, place], [0.025, 0.975])))


def test_the_interval_of_the_pooled_dice_resamples_patients() -> None:
    counts = np.stack([overlap_counts(labels(seed, (40,)), labels(seed + 50, (40,)), 4) for seed in range(24)])
    patients = [f"p{number // 4}" for number in range(24)]
    found = pooled_estimate(counts, patients, n=100, seed=2)
    drawn = np.concatenate(list(resample_weights(patients, n=100, seed=2)))
    resampled = [pooled_dice(np.repeat(counts, weights.astype(int), axis=0)) for weights in drawn]
    assert found.value == pooled_dice(counts)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(resampled, [0.025, 0.975])))


def test_one_patient_has_no_interval() -> None:
    mean, _ = mean_over_volumes([[0.5], [0.7]], ["a", "a"])
    assert mean.value == pytest.approx(0.6)
    assert np.isnan(mean.low)


@pytest.mark.parametrize(
    ("truth", "prediction", "message"),
    [
        (np.array([[0, 3]]), np.array([[0, 1]]), "values from 0 to 3"),
        (np.array([[0, 1]]), np.array([[0, -1]]), "prediction has values from -1"),
        (np.array([[0, 1]]), np.array([[0.0, 1.0]]), "expected class numbers"),
        (np.array([[0, 1]]), np.array([[0], [1]]), "to_native"),
    ],
)
def test_label_maps_that_do_not_fit_are_refused(truth: np.ndarray, prediction: np.ndarray, message: str) -> None:
    with pytest.raises(ProbeError, match=message):
        overlap_counts(truth, prediction, 3)


def test_a_negative_tolerance_is_refused() -> None:
    with pytest.raises(ProbeError, match="0 or more"):
        score_volume(labels(1), labels(2), 4, tolerance=-1.0)
