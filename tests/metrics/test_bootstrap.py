"""The bootstrap against a literal loop, and as a statistical procedure."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score

from featcache.errors import ProbeError
from featcache.metrics import (
    METRICS,
    accuracy,
    auroc,
    average_precision,
    bootstrap,
    bootstrap_classes,
    bootstrap_many,
    f1,
    per_class,
    resample_weights,
)
from featcache.metrics import ranking as ranking_module
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
        ({"method": "normal"}, "unknown interval method"),
        ({"y_true": [0, 1]}, "does not fit"),
    ],
)
def test_bad_input_is_refused(change: dict[str, Any], message: str) -> None:
    y, score, _ = data(20)
    with pytest.raises(ProbeError, match=message):
        bootstrap(accuracy, **{"y_true": y, "y_score": score, **change})


def binormal(n: int, labels: int, rows_a_group: int, seed: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Independent labels, each a study of its own, whose true AUROC is that of :func:`true_area`.

    A group shares its truth and half of the variance of its scores.
    """
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n), rows_a_group)
    y = (rng.random((n, labels)) < 0.4).astype(float)[groups]
    shared, own = rng.standard_normal((n, labels))[groups], rng.standard_normal((len(groups), labels))
    noise = shared if rows_a_group == 1 else np.sqrt(0.5) * (shared + own)
    return y, 1.2 * y + noise, groups


def true_area() -> float:
    return float(stats.norm.cdf(1.2 / np.sqrt(2)))


@pytest.mark.parametrize("method", ["percentile", "bca"])
@pytest.mark.parametrize(("n", "rows_a_group"), [(250, 1), (150, 3)])
def test_the_95_percent_interval_covers_93_to_97_percent(method: Any, n: int, rows_a_group: int) -> None:
    """2000 simulated studies: the standard error of the coverage is half a percent.

    Each label is a study; four seeds, because the studies of one call share its resamples.
    """
    covered = []
    for seed in range(4):
        y, score, groups = binormal(n, 500, rows_a_group, seed)
        intervals = bootstrap_classes(auroc, y, score, groups, n=1000, seed=seed, method=method)
        covered += [found.low <= true_area() <= found.high for found in intervals]
    assert len(covered) == 2000
    assert 0.93 <= np.mean(covered) <= 0.97


def test_resampling_rows_of_patients_covers_too_little() -> None:
    y, score, _ = binormal(150, 500, 3, seed=0)
    intervals = bootstrap_classes(auroc, y, score, n=500)
    assert np.mean([found.low <= true_area() <= found.high for found in intervals]) < 0.9


def test_bca_is_the_formula_of_efron_and_tibshirani() -> None:
    y, score, groups = data(120)
    n, codes = 400, np.unique(groups, return_inverse=True)[1]
    resampled = np.concatenate([f1(y, score, weights) for weights in resample_weights(groups, n)])
    value = f1_score(y, score.argmax(axis=1), average="macro")
    bias = stats.norm.ppf((np.mean(resampled < value) + np.mean(resampled <= value)) / 2)
    without = np.array([f1(y[codes != g], score[codes != g]) for g in range(codes.max() + 1)])
    deviation = without.mean() - without
    acceleration = (deviation**3).sum() / (6 * (deviation**2).sum() ** 1.5)
    z = bias + stats.norm.ppf([0.025, 0.975])
    expected = np.quantile(resampled, stats.norm.cdf(bias + z / (1 - acceleration * z)))
    found = bootstrap(f1, y, score, groups, n=n, method="bca")
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=1e-12)
    assert (found.low, found.high) != (
        bootstrap(f1, y, score, groups, n=n).low,
        bootstrap(f1, y, score, groups, n=n).high,
    )


def test_bca_agrees_with_scipy_on_a_skewed_statistic() -> None:
    p = np.random.default_rng(0).exponential(size=40) / 10

    def mean(truth: NDArray[Any], score: NDArray[Any], weights: Any = None) -> Any:
        w = np.ones((1, len(score))) if weights is None else weights
        values = (w @ score[:, 0]) / w.sum(axis=1)
        return float(values[0]) if weights is None else values

    ours = bootstrap(mean, np.zeros(40), p[:, None], n=200_000, method="bca")
    theirs = stats.bootstrap((p,), np.mean, n_resamples=200_000, method="BCa", rng=1).confidence_interval
    plain = bootstrap(mean, np.zeros(40), p[:, None], n=200_000)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.0006)
    assert ours.high - plain.high > 0.002  # the correction is what agrees


def test_many_groups_are_left_out_by_shares_with_nearly_the_same_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    y, score, _ = data(2500)
    exact = bootstrap(average_precision, y, score, method="bca")
    assert exact == bootstrap(average_precision, y, score, method="bca")
    monkeypatch.setitem(bootstrap.__globals__, "_JACKKNIFE", 5000)
    every = bootstrap(average_precision, y, score, method="bca")
    plain = bootstrap(average_precision, y, score)
    assert abs(exact.low - every.low) < 0.05 * (plain.high - plain.low)
    assert abs(exact.high - every.high) < 0.05 * (plain.high - plain.low)


def test_a_perfect_score_has_the_same_interval_by_both_methods() -> None:
    y = np.array([0, 1] * 10)
    score = np.eye(2)[y]
    both = [bootstrap(auroc, y, score, n=200, method=method) for method in ("percentile", "bca")]
    assert all((found.value, found.low, found.high) == (1.0, 1.0, 1.0) for found in both)


@pytest.mark.parametrize("compiled", [False, True])
def test_each_resample_of_macro_auroc_equals_a_loop_of_scikit_learn(
    compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking_module, "worth_compiling", lambda steps: compiled)
    rng = np.random.default_rng(6)
    y = (rng.random((400, 4)) < 0.2).astype(float)
    score = np.round(rng.standard_normal(y.shape) + y, 1)
    groups = rng.integers(0, 150, 400)
    (weights,) = resample_weights(groups, 100, 9)
    rows = [np.repeat(np.arange(400), w.astype(int)) for w in weights]
    expected = [roc_auc_score(y[index], score[index]) for index in rows]
    np.testing.assert_allclose(auroc(y, score, weights), expected, rtol=0, atol=1e-12)
    found = bootstrap(auroc, y, score, groups, n=100, seed=9)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(expected, [0.025, 0.975])), abs=1e-12)


def test_classes_get_the_intervals_that_each_has_alone() -> None:
    rng = np.random.default_rng(3)
    y = (rng.random((90, 3)) < 0.3).astype(float)
    y[:, 2] = 0
    score = rng.random((90, 3))
    found = bootstrap_classes(average_precision, y, score, n=100)
    for j in (0, 1):
        alone = bootstrap(average_precision, y[:, [j]], score[:, [j]], n=100)
        assert found[j] == alone
    assert np.isnan([found[2].value, found[2].low, found[2].high]).all()
    assert [one.value for one in found[:2]] == per_class(average_precision, y, score)[:2].tolist()


def test_options_bound_to_a_metric_reach_the_resamples() -> None:
    y, score, groups = data()
    labels = np.stack([1 - y, y], axis=1).astype(float)
    chosen = partial(partial(f1, thresholds=[0.1, 0.1]), thresholds=[0.3, 0.6], average="micro")
    fast = bootstrap(chosen, labels, score, groups, n=50)
    slow = bootstrap(
        lambda truth, s: f1_score(truth, s > np.array([0.3, 0.6]), average="micro"), labels, score, groups, n=50
    )
    assert (fast.value, fast.low, fast.high) == pytest.approx((slow.value, slow.low, slow.high), abs=1e-12)


def test_every_metric_of_the_table_has_an_interval_around_its_value() -> None:
    y, score, groups = data()
    for name, found in bootstrap_many(METRICS, y, score, groups, n=200).items():
        assert found.low <= found.high, name
        if not name.startswith("ece"):  # biased upwards by resampling
            assert found.low <= found.value <= found.high, name


def test_a_group_drawn_more_often_than_a_byte_can_count_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    class Loaded:
        """Always draws the first group."""

        def integers(self, low: int, high: int, size: tuple[int, int]) -> NDArray[np.int64]:
            return np.zeros(size, dtype=np.int64)

    monkeypatch.setattr(np.random, "default_rng", lambda seed: Loaded())
    (weights,) = resample_weights(np.arange(300), n=2)
    np.testing.assert_array_equal(weights[:, 0], [300, 300])
    np.testing.assert_array_equal(weights[:, 1:], 0)
