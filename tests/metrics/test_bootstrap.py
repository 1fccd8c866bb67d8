"""The bootstrap against a literal loop, and as a statistical procedure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from featcache.errors import ProbeError
from featcache.metrics import METRICS, accuracy, auroc, bootstrap, bootstrap_many, resample_weights
from featcache.records import Estimate


def data(n: int = 200, seed: int = 0) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, n // 4, n)
    y = rng.integers(0, 2, n)
    positive = np.round(np.clip(0.3 * y + 0.7 * rng.random(n), 0, 1), 2)
    return y, np.stack([1 - positive, positive], axis=1), groups


def literal_loop(metric: Any, groups: NDArray[Any], n: int, seed: int) -> NDArray[Any]:
    """Draw the groups one resample at a time and collect their rows, as a textbook does."""
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    values = []
    for _ in range(n):
        rows = np.concatenate([members[i] for i in rng.integers(0, len(members), size=len(members))])
        values.append(metric(rows))
    return np.quantile(values, [0.025, 0.975])


def test_bounds_equal_a_literal_loop_with_scikit_learn() -> None:
    y, score, groups = data()
    estimates = bootstrap_many(METRICS, y, score, groups, n=300, seed=7)
    references = {
        "auroc": lambda rows: roc_auc_score(y[rows], score[rows, 1]),
        "balanced_accuracy": lambda rows: balanced_accuracy_score(y[rows], score[rows].argmax(axis=1)),
        "accuracy": lambda rows: (score[rows].argmax(axis=1) == y[rows]).mean(),
    }
    for name, metric in references.items():
        low, high = literal_loop(metric, groups, 300, 7)
        assert estimates[name].low == pytest.approx(low, abs=1e-12)
        assert estimates[name].high == pytest.approx(high, abs=1e-12)
        assert estimates[name].value == pytest.approx(metric(np.arange(len(y))), abs=1e-12)


def test_multi_label_with_missing_labels_equals_repeated_rows() -> None:
    rng = np.random.default_rng(3)
    y = (rng.random((120, 3)) < 0.3).astype(float)
    score = np.round(rng.random((120, 3)), 1)
    y[rng.random(y.shape) < 0.2] = np.nan

    def macro(truth: NDArray[Any], s: NDArray[Any]) -> float:
        known = ~np.isnan(truth)
        return float(np.mean([roc_auc_score(truth[k, j], s[k, j]) for j, k in enumerate(known.T)]))

    fast, slow = bootstrap(auroc, y, score, n=100), bootstrap(macro, y, score, n=100)
    assert (fast.value, fast.low, fast.high) == pytest.approx((slow.value, slow.low, slow.high), abs=1e-12)


def test_same_seed_same_estimate_and_other_seed_another() -> None:
    y, score, groups = data()
    first = bootstrap(auroc, y, score, groups, n=100, seed=1)
    assert first == bootstrap(auroc, y, score, groups, n=100, seed=1)
    assert first != bootstrap(auroc, y, score, groups, n=100, seed=2)


def test_the_draws_do_not_depend_on_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, groups = data()
    whole = np.concatenate(list(resample_weights(groups, 50, 4)))
    monkeypatch.setitem(resample_weights.__globals__, "_BLOCK_ENTRIES", 7 * len(groups))
    blocks = list(resample_weights(groups, 50, 4))
    assert [len(block) for block in blocks] == [7] * 7 + [1]
    np.testing.assert_array_equal(np.concatenate(blocks), whole)


def test_a_group_is_drawn_as_a_whole_and_as_many_groups_as_there_are() -> None:
    groups = np.array(["b", "a", "b", "c"])
    weights = np.concatenate(list(resample_weights(groups, 100)))
    np.testing.assert_array_equal(weights[:, 0], weights[:, 2])
    assert (weights[:, [0, 1, 3]].sum(axis=1) == 3).all()


def test_clusters_widen_the_interval_when_rows_of_a_patient_repeat() -> None:
    y, score, _ = data(100)
    y, score, patients = np.repeat(y, 9), np.repeat(score, 9, axis=0), np.repeat(np.arange(100), 9)
    rows, clusters = bootstrap(auroc, y, score), bootstrap(auroc, y, score, patients)
    ratio = (clusters.high - clusters.low) / (rows.high - rows.low)
    assert 2.4 < ratio < 3.6  # the square root of 9


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(11)
    truth, covered, simulations = 0.8, 0, 200
    for seed in range(simulations):
        y = (rng.random(150) < truth).astype(int)
        estimate = bootstrap(accuracy, y, np.tile([0.0, 1.0], (150, 1)), n=300, seed=seed)
        covered += estimate.low <= truth <= estimate.high
    assert 0.90 <= covered / simulations <= 0.99


def test_a_higher_level_is_wider() -> None:
    y, score, groups = data()
    narrow, wide = (bootstrap(auroc, y, score, groups, level=level) for level in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_undefined_resamples_are_left_out_and_mostly_undefined_has_no_bounds() -> None:
    score = np.array([[0.9, 0.1], [0.2, 0.8], [0.8, 0.2]])
    some = bootstrap(auroc, [0, 1, 0], score)  # about a third of the resamples lack a class
    assert (some.value, some.low, some.high) == (1.0, 1.0, 1.0)

    def mostly_undefined(truth: NDArray[Any], s: NDArray[Any]) -> float:
        return 1.0 if len(np.unique(truth)) == 3 else float("nan")

    rare = bootstrap(mostly_undefined, np.arange(3), score)
    assert rare.value == 1.0
    assert np.isnan([rare.low, rare.high]).all()


def test_one_group_has_no_bounds() -> None:
    y, score, _ = data(20)
    estimate = bootstrap(accuracy, y, score, np.zeros(20))
    assert isinstance(estimate, Estimate)
    assert np.isnan([estimate.low, estimate.high]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"groups": [1, 2]}, "2 groups for 20 rows"),
        ({"groups": [None] + ["a"] * 19}, "missing in 1 rows"),
        ({"groups": [np.nan] * 20}, "missing in 20 rows"),
        ({"groups": np.zeros((20, 2))}, "one value for each"),
        ({"n": 0}, "at least one resample"),
        ({"level": 1.0}, "level"),
        ({"y_true": [0, 1]}, "does not fit"),
    ],
)
def test_bad_input_is_refused(change: dict[str, Any], message: str) -> None:
    y, score, _ = data(20)
    with pytest.raises(ProbeError, match=message):
        bootstrap(accuracy, **{"y_true": y, "y_score": score, **change})
