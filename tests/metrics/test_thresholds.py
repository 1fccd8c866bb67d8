"""Thresholds against trying every cut."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import balanced_accuracy_score, f1_score, recall_score

from featcache.errors import ProbeError
from featcache.metrics import choose_thresholds, f1, per_class, select_metrics
from tests.metrics.samples import multi_label


def goodness(criterion: str, truth: NDArray[Any], predicted: NDArray[Any]) -> float:
    if criterion == "f1":
        return float(f1_score(truth, predicted, zero_division=0))
    if criterion == "youden":
        return float(2 * balanced_accuracy_score(truth, predicted) - 1)
    met = recall_score(1 - truth, ~predicted) >= 0.9 - 1e-9
    return float(recall_score(truth, predicted)) if met else -1.0


@pytest.mark.parametrize("criterion", ["f1", "youden", "specificity"])
@pytest.mark.parametrize("seed", range(4))
def test_no_other_threshold_is_better(criterion: Any, seed: int) -> None:
    y, score = multi_label(80, 3, seed)
    found = choose_thresholds(y, score, criterion)
    for j, k in enumerate((~np.isnan(y)).T):
        truth, values = y[k, j], score[k, j]
        best = max(goodness(criterion, truth, values > cut) for cut in [-1.0, *np.unique(values)])
        assert goodness(criterion, truth, values > found[j]) == pytest.approx(best, abs=1e-12)


def test_among_equal_cuts_the_highest_and_its_middle() -> None:
    y, score = np.array([[1.0], [0.0], [0.0]]), np.array([[0.9], [0.5], [0.1]])
    assert choose_thresholds(y, score, "youden") == pytest.approx([0.7])
    # Cuts above the first and the third row have the same Youden index.
    y, score = np.array([[1.0], [0.0], [1.0], [0.0]]), np.array([[0.8], [0.6], [0.4], [0.2]])
    assert choose_thresholds(y, score, "youden") == pytest.approx([0.7])


def test_extreme_cuts_predict_everything_or_nothing() -> None:
    y, score = np.array([[0.0], [1.0]]), np.array([[0.9], [0.1]])
    assert (score > choose_thresholds(y, score, "f1")).all()
    assert not (score > choose_thresholds(y, score, "specificity")).any()


def test_scores_that_differ_in_the_last_bit_are_separated() -> None:
    low = 0.1
    score = np.array([[low], [np.nextafter(low, 1)]])
    thresholds = choose_thresholds([[0.0], [1.0]], score)
    np.testing.assert_array_equal((score > thresholds)[:, 0], [False, True])


def test_a_label_without_positives_or_negatives_has_no_threshold_and_stays_undefined() -> None:
    y_val = np.array([[0.0, 1.0, 0.0], [1.0, 1.0, np.nan]])
    thresholds = choose_thresholds(y_val, [[0.2, 0.1, 0.3], [0.6, 0.1, 0.4]])
    np.testing.assert_array_equal(np.isnan(thresholds), [False, True, True])
    y, score = np.array([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]), np.array([[0.9] * 3, [0.1] * 3])
    np.testing.assert_array_equal(per_class(f1, y, score, thresholds=thresholds), [1, np.nan, np.nan])


def test_thresholds_reach_the_metrics_that_take_them() -> None:
    y, score = multi_label()
    metrics = select_metrics(["f1_micro", "auroc", "mcc"], thresholds=np.full(5, 0.3))
    assert metrics["f1_micro"](y, score) == f1(y, score, thresholds=np.full(5, 0.3), average="micro")
    assert metrics["f1_micro"](y, score) != f1(y, score, average="micro")
    assert "thresholds" not in getattr(metrics["auroc"], "keywords", {})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0, 1], [[0.1, 0.9], [0.5, 0.5]]), "multi-label"),
        (([[0.0]], [[0.1]], "accuracy"), "unknown criterion"),
    ],
)
def test_bad_input_is_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ProbeError, match=message):
        choose_thresholds(*arguments)
    with pytest.raises(ProbeError, match="specificity must lie"):
        choose_thresholds([[0.0]], [[0.1]], "specificity", specificity=2)
