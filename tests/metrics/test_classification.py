"""The metrics against scikit-learn, on samples and on weighted resamples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    matthews_corrcoef,
    recall_score,
    roc_auc_score,
)

from featcache.errors import ProbeError
from featcache.metrics import (
    METRICS,
    PROBABILITY_METRICS,
    accuracy,
    auroc,
    balanced_accuracy,
    f1,
    mcc,
    per_class,
    sensitivity,
    specificity,
    undefined_classes,
)
from tests.metrics.samples import multi_label, probabilities, single_label


def reference_auroc(y: NDArray[Any], score: NDArray[Any]) -> float:
    if y.ndim == 2:
        columns = [(y[~np.isnan(y[:, j]), j], score[~np.isnan(y[:, j]), j]) for j in range(y.shape[1])]
    elif score.shape[1] == 2:
        columns = [(y == 1, score[:, 1])]
    else:
        columns = [(y == c, score[:, c]) for c in range(score.shape[1])]
    areas = [roc_auc_score(truth, s) for truth, s in columns if len(np.unique(truth)) == 2]
    return float(np.mean(areas)) if areas else float("nan")


@pytest.mark.parametrize("classes", [2, 4])
def test_single_label_metrics_equal_scikit_learn_with_ties(classes: int) -> None:
    y, score = single_label(classes=classes)
    predicted = score.argmax(axis=1)
    assert accuracy(y, score) == pytest.approx(accuracy_score(y, predicted), abs=1e-14)
    assert balanced_accuracy(y, score) == pytest.approx(balanced_accuracy_score(y, predicted), abs=1e-14)
    assert auroc(y, score) == pytest.approx(reference_auroc(y, score), abs=1e-14)


def test_multi_label_metrics_equal_scikit_learn_on_the_known_rows() -> None:
    y, score = multi_label()
    known = [~np.isnan(column) for column in y.T]
    right = [accuracy_score(y[k, j], score[k, j] > 0.5) for j, k in enumerate(known)]
    balanced = [balanced_accuracy_score(y[k, j], score[k, j] > 0.5) for j, k in enumerate(known)]
    assert accuracy(y, score) == pytest.approx(np.mean(right), abs=1e-14)
    assert balanced_accuracy(y, score) == pytest.approx(np.mean(balanced), abs=1e-14)
    assert auroc(y, score) == pytest.approx(reference_auroc(y, score), abs=1e-14)


@pytest.mark.parametrize("name", sorted(METRICS))
@pytest.mark.parametrize("data", [single_label(60), single_label(60, 2), multi_label(60, 3)])
def test_weights_give_what_repeated_rows_give(name: str, data: tuple[NDArray[Any], NDArray[Any]]) -> None:
    y, score = data
    if name in PROBABILITY_METRICS and y.ndim == 1:
        score = probabilities(score)
    weights = np.random.default_rng(1).poisson(1.0, (20, len(y)))
    weights[0] = 0
    weights[0, :3] = 1  # classes are missing in this one
    batch = METRICS[name](y, score, weights)
    assert batch.shape == (20,)
    for value, multiplicity in zip(batch, weights, strict=True):
        rows = np.repeat(np.arange(len(y)), multiplicity)
        assert value == pytest.approx(METRICS[name](y[rows], score[rows]), abs=1e-14, nan_ok=True)


def test_auroc_of_weights_equals_scikit_learn_sample_weight() -> None:
    y, score = single_label(classes=2)
    weights = np.random.default_rng(2).random((3, len(y)))
    expected = [roc_auc_score(y, score[:, 1], sample_weight=w) for w in weights]
    np.testing.assert_allclose(auroc(y, score, weights), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("order", "area"), [([0.1, 0.2, 0.8, 0.9], 1.0), ([0.9, 0.8, 0.2, 0.1], 0.0), ([1] * 4, 0.5)])
def test_auroc_of_perfect_reversed_and_constant_scores(order: list[float], area: float) -> None:
    assert auroc([[0], [0], [1], [1]], np.array(order)[:, None]) == area


def test_equal_scores_predict_the_first_class_and_one_half_is_negative() -> None:
    assert accuracy([0], [[0.5, 0.5]]) == 1.0
    assert accuracy([[0.0]], [[0.5]]) == 1.0


def test_undefined_classes_are_left_out_of_the_mean_and_named() -> None:
    y, score = np.array([0, 0, 1, 1]), np.array([[3, 1, 9], [2, 1, 9], [1, 2, 9], [0, 2, 9]])
    assert undefined_classes(y, 3) == [2]
    assert auroc(y, score) == 1.0
    labels = np.array([[1, 0, np.nan], [0, 0, 1], [1, np.nan, np.nan]])
    assert undefined_classes(labels, 3) == [1, 2]
    assert auroc(labels, [[0.9, 0.1, 0.2], [0.1, 0.1, 0.3], [0.8, 0.3, 0.3]]) == 1.0


def test_metrics_are_nan_where_nothing_is_defined() -> None:
    assert np.isnan(auroc([0, 0], [[0.9, 0.1], [0.8, 0.2]]))
    unknown = np.full((2, 1), np.nan)
    assert all(np.isnan(metric(unknown, [[0.1], [0.2]])) for metric in METRICS.values())


@pytest.mark.parametrize(
    ("y", "score", "message"),
    [
        ([0, 1], [[0.1, 0.9]], "does not fit"),
        ([[0, 1]], [[0.1, 0.9, 0.3]], "does not fit"),
        ([], np.zeros((0, 2)), "no rows"),
        ([0, 2], [[0.1, 0.9], [0.5, 0.5]], "0 to 2"),
        ([0, -1], [[0.1, 0.9], [0.5, 0.5]], "-1 to 0"),
        ([0.5, 1], [[0.1, 0.9], [0.5, 0.5]], "no class index"),
        ([np.nan, 1], [[0.1, 0.9], [0.5, 0.5]], "no class index"),
        ([[2.0]], [[0.1]], "not 0, 1 or NaN"),
        (["a", "b"], [[0.1, 0.9], [0.5, 0.5]], "must hold numbers"),
        ([0, 1], [[0.1, 0.9], [np.nan, 0.5]], r"not finite in 1 rows, first: \[1\]"),
    ],
)
@pytest.mark.parametrize("name", sorted(METRICS))
def test_bad_input_is_refused(name: str, y: Any, score: Any, message: str) -> None:
    with pytest.raises(ProbeError, match=message):
        METRICS[name](y, score)


@pytest.mark.parametrize("weights", [[1.0, 1.0], [[1.0]], [[-1.0, 1.0]], [[np.nan, 1.0]], [[np.inf, 1.0]]])
def test_bad_weights_are_refused(weights: Any) -> None:
    with pytest.raises(ProbeError, match="weights must"):
        accuracy([0, 1], [[0.1, 0.9], [0.5, 0.5]], weights)


def test_auroc_of_one_column_needs_a_label_matrix() -> None:
    with pytest.raises(ProbeError, match="two classes"):
        auroc([0, 0], [[0.1], [0.2]])


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("average", ["macro", "micro", "weighted"])
def test_f1_and_recall_of_classes_equal_scikit_learn(classes: int, average: Any) -> None:
    y, score = single_label(classes=classes)
    predicted = score.argmax(axis=1)
    assert f1(y, score, average=average) == pytest.approx(f1_score(y, predicted, average=average), abs=1e-14)
    expected = recall_score(y, predicted, average=average)
    assert sensitivity(y, score, average=average) == pytest.approx(expected, abs=1e-14)
    np.testing.assert_allclose(per_class(f1, y, score), f1_score(y, predicted, average=None), atol=1e-14)
    np.testing.assert_allclose(per_class(sensitivity, y, score), recall_score(y, predicted, average=None), atol=1e-14)
    np.testing.assert_allclose(
        per_class(balanced_accuracy, y, score), recall_score(y, predicted, average=None), atol=1e-14
    )


@pytest.mark.parametrize("classes", [2, 4])
def test_mcc_of_classes_equals_scikit_learn(classes: int) -> None:
    y, score = single_label(classes=classes)
    predicted = score.argmax(axis=1)
    assert mcc(y, score) == pytest.approx(matthews_corrcoef(y, predicted), abs=1e-14)
    expected = [matthews_corrcoef(y == c, predicted == c) for c in range(classes)]
    np.testing.assert_allclose(per_class(mcc, y, score), expected, atol=1e-14)


def test_multi_label_decisions_with_thresholds_equal_scikit_learn() -> None:
    y, score = multi_label()
    thresholds = np.array([0.2, 0.35, 0.4, 0.6, 0.7])
    known = [~np.isnan(column) for column in y.T]
    parts = [(y[k, j], score[k, j] > thresholds[j]) for j, k in enumerate(known)]
    pooled = tuple(np.concatenate(part) for part in zip(*parts, strict=True))
    references = {
        f1: f1_score,
        mcc: matthews_corrcoef,
        sensitivity: recall_score,
        specificity: lambda truth, predicted: recall_score(1 - truth, ~predicted),
        accuracy: accuracy_score,
        balanced_accuracy: balanced_accuracy_score,
    }
    for metric, reference in references.items():
        expected = [reference(*part) for part in parts]
        np.testing.assert_allclose(per_class(metric, y, score, thresholds=thresholds), expected, atol=1e-14)
        assert metric(y, score, thresholds=thresholds) == pytest.approx(np.mean(expected), abs=1e-14)
        if metric is not balanced_accuracy:
            micro = metric(y, score, thresholds=thresholds, average="micro")
            assert micro == pytest.approx(reference(*pooled), abs=1e-14)
    weights = [truth.sum() for truth, _ in parts]
    expected_weighted = np.average([f1_score(*part) for part in parts], weights=weights)
    assert f1(y, score, thresholds=thresholds, average="weighted") == pytest.approx(expected_weighted, abs=1e-14)


def test_labels_that_cannot_be_scored_are_undefined_not_zero() -> None:
    y = np.array([[1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.0]])
    score = np.array([[0.9, 0.9, 0.9, 0.9], [0.1, 0.1, 0.1, 0.1]])
    thresholds = [0.5, 0.5, 0.5, np.nan]  # no positive; no negative; no threshold
    nan = np.nan
    np.testing.assert_array_equal(per_class(f1, y, score, thresholds=thresholds), [1, nan, 2 / 3, nan])
    np.testing.assert_array_equal(per_class(mcc, y, score, thresholds=thresholds), [1, nan, nan, nan])
    np.testing.assert_array_equal(per_class(sensitivity, y, score, thresholds=thresholds), [1, nan, 0.5, nan])
    np.testing.assert_array_equal(per_class(specificity, y, score, thresholds=thresholds), [1, 0.5, nan, nan])
    np.testing.assert_array_equal(per_class(accuracy, y, score, thresholds=thresholds), [1, 0.5, 0.5, nan])
    assert f1(y, score, thresholds=thresholds) == pytest.approx((1 + 2 / 3) / 2)


def test_positives_of_which_none_is_found_score_zero() -> None:
    y, score = [[1.0], [0.0]], [[0.1], [0.2]]
    assert f1(y, score) == 0.0
    assert mcc(y, score) == 0.0


def test_thresholds_of_the_wrong_kind_are_refused() -> None:
    with pytest.raises(ProbeError, match="multi-label"):
        f1([0, 1], [[0.1, 0.9], [0.5, 0.5]], thresholds=[0.5, 0.5])
    with pytest.raises(ProbeError, match="2 labels"):
        f1([[0, 1]], [[0.1, 0.9]], thresholds=[0.5, 0.5, 0.5])


def test_an_average_without_a_meaning_is_refused() -> None:
    with pytest.raises(ProbeError, match="no average 'weighted'"):
        mcc([0, 1], [[0.1, 0.9], [0.5, 0.5]], average="weighted")
    with pytest.raises(ProbeError, match="no value for each class"):
        per_class(accuracy, [0, 1], [[0.1, 0.9], [0.5, 0.5]])
