"""Comparisons against literal loops, under no difference and under one."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from featcache.errors import ProbeError
from featcache.metrics import (
    Comparison,
    accuracy,
    adjust,
    auroc,
    compare,
    compare_classes,
    compare_many,
    f1,
    holm,
    resample_weights,
    select_metrics,
)
from featcache.records import Estimate


def paired(
    n: int = 200, labels: int = 1, better: float = 0.0, seed: int = 0, rows_a_group: int = 1
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Truth, two correlated scores and groups; the first score separates the classes further by ``better``."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n), rows_a_group)
    y = (rng.random((n, labels)) < 0.4).astype(float)[groups]
    patient = rng.standard_normal((3, n, labels))[:, groups]
    row = rng.standard_normal((3, len(groups), labels))
    common, one, two = patient if rows_a_group == 1 else np.sqrt(0.5) * (patient + row)
    return y, common + one + (1.2 + better) * y, common + two + 1.2 * y, groups


def comparison(p_value: float, value: float = 0.1, **changes: Any) -> Comparison:
    made = Comparison("auroc", 0.8 + value, 0.8, Estimate(value, -0.05, 0.25), p_value, "bootstrap", 100, 50, 0.95)
    return dataclasses.replace(made, **changes)


def test_the_difference_equals_a_literal_paired_loop() -> None:
    y, one, two, _ = paired(better=0.4)
    groups = np.random.default_rng(1).integers(0, 80, len(y))
    (weights,) = resample_weights(groups, 300, 5)
    differences = []
    for w in weights:
        rows = np.repeat(np.arange(len(y)), w.astype(int))
        differences.append(roc_auc_score(y[rows, 0], one[rows, 0]) - roc_auc_score(y[rows, 0], two[rows, 0]))
    found = compare(auroc, y, one, two, groups, n=300, seed=5)
    assert (found.first, found.second) == pytest.approx((roc_auc_score(y, one), roc_auc_score(y, two)), abs=1e-12)
    assert found.difference.value == pytest.approx(found.first - found.second, abs=1e-15)
    low, high = np.quantile(differences, [0.025, 0.975])
    assert (found.difference.low, found.difference.high) == pytest.approx((low, high), abs=1e-12)
    below, above = (np.array(differences) <= 0).sum(), (np.array(differences) >= 0).sum()
    assert found.p_value == pytest.approx(min(1, 2 * (min(below, above) + 1) / 301))
    assert (found.n_rows, found.n_groups, found.test) == (200, len(np.unique(groups)), "bootstrap")


@pytest.mark.parametrize("rows_a_group", [1, 3])
def test_where_there_is_no_difference_about_five_percent_are_shown(rows_a_group: int) -> None:
    """1200 simulated comparisons, each a label: the standard error is 0.6 percent."""
    shown = []
    for seed in range(3):
        y, one, two, groups = paired(150, 400, 0.0, seed, rows_a_group)
        shown += [found.shown for found in compare_classes(auroc, y, one, two, groups, n=1000, seed=seed)]
    assert 0.03 <= np.mean(shown) <= 0.075


def test_a_true_difference_is_shown_and_swapping_turns_its_sign() -> None:
    y, one, two, _ = paired(400, better=0.8)
    found, swapped = compare(auroc, y, one, two), compare(auroc, y, two, one)
    assert found.shown
    assert found.difference.low > 0
    assert found.p_value == swapped.p_value
    assert (swapped.difference.low, swapped.difference.high) == pytest.approx(
        (-found.difference.high, -found.difference.low), abs=1e-12
    )
    assert found.sentence("a", "b").startswith("a has a higher auroc than b: a 0.")
    assert swapped.sentence("b", "a").startswith("a has a higher auroc than b: b 0.")


def test_equal_scores_show_no_difference() -> None:
    y, one, _, _ = paired()
    found = compare(auroc, y, one, one, n=100)
    assert (found.difference, found.p_value) == (Estimate(0.0, 0.0, 0.0), 1.0)
    assert found.sentence().startswith("No difference in auroc shown")


def test_pairing_makes_the_interval_of_the_difference_narrow() -> None:
    y, one, _, _ = paired()
    noisy = one + 0.01 * np.random.default_rng(0).standard_normal(one.shape)
    found = compare(auroc, y, one, noisy)
    assert found.difference.high - found.difference.low < 0.01


def test_many_metrics_and_both_methods_agree_on_the_value() -> None:
    rng = np.random.default_rng(2)
    y = rng.integers(0, 3, 150)
    one, two = (rng.random((150, 3)) + strength * np.eye(3)[y] for strength in (0.5, 0.3))
    metrics = select_metrics(["accuracy", "f1", "auroc"])
    percentile, bca = (compare_many(metrics, y, one, two, n=200, method=method) for method in ("percentile", "bca"))
    assert list(percentile) == ["accuracy", "f1", "auroc"]
    assert percentile["f1"].difference.value == pytest.approx(f1(y, one) - f1(y, two))
    assert percentile["f1"].metric == "f1"
    for name in metrics:
        assert percentile[name].p_value == bca[name].p_value
        assert percentile[name].difference != bca[name].difference


def test_a_metric_of_ones_own_is_compared_with_repeated_rows() -> None:
    y, one, two, _ = paired(60)
    own = compare(roc_auc_score, y, one, two, n=50)
    ours = compare(auroc, y, one, two, n=50)
    assert own.p_value == ours.p_value
    assert own.difference.low == pytest.approx(ours.difference.low, abs=1e-12)


def test_what_cannot_be_tested_is_said() -> None:
    score = np.array([[0.9, 0.1], [0.2, 0.8]])
    one_group = compare(accuracy, [0, 1], score, score[::-1], ["a", "a"], n=10)
    assert np.isnan([one_group.p_value, one_group.difference.low]).all()
    assert not one_group.shown
    assert "cannot be tested" in one_group.sentence()
    undefined = compare_classes(auroc, [[0.0, 1.0], [1.0, 1.0]], score, score, n=10)[1]
    assert np.isnan([undefined.first, undefined.difference.value, undefined.p_value]).all()


def test_scores_of_other_rows_or_classes_are_refused() -> None:
    y, one, two, _ = paired(20)
    with pytest.raises(ProbeError, match="differ in shape"):
        compare(auroc, y, one, two[:10])
    with pytest.raises(ProbeError, match="groups for 20 rows"):
        compare(auroc, y, one, two, [1, 2])


def test_holm_rejects_what_the_step_down_procedure_rejects() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        p_values = np.round(rng.random(7) ** 3, 3)
        adjusted = holm(p_values)
        for alpha in (0.0101, 0.0501, 0.1001, 0.3001):  # never a multiple of a p-value
            rejected, remaining = set(), list(np.argsort(p_values))
            while remaining and p_values[remaining[0]] <= alpha / len(remaining):
                rejected.add(int(remaining.pop(0)))
            assert {int(i) for i in np.flatnonzero(adjusted <= alpha + 1e-12)} == rejected


def test_holm_does_not_count_what_was_not_tested() -> None:
    np.testing.assert_allclose(holm([0.02, np.nan, 0.03]), [0.04, np.nan, 0.04])
    assert holm([]).shape == (0,)
    with pytest.raises(ProbeError, match="p-values must be"):
        holm([0.5, 1.5])


def test_adjusting_can_take_back_a_difference() -> None:
    found = adjust([comparison(0.03), comparison(0.04), comparison(0.001)])
    assert [one.p_adjusted for one in found] == pytest.approx([0.06, 0.06, 0.003])
    assert [one.shown for one in found] == [False, False, True]
    assert comparison(0.03).shown
    assert found[0].sentence() == (
        "No difference in auroc shown: A 0.9000, B 0.8000, difference 0.1000 (95 % CI -0.0500 to 0.2500), "
        "p = 0.06 (Holm)."
    )
