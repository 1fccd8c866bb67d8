"""Ranking metrics against scikit-learn and brute force, in numpy and compiled."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from featcache.errors import ProbeError
from featcache.metrics import auroc, average_precision, per_class, sensitivity_at_specificity
from featcache.metrics import ranking as ranking_module
from tests.metrics.samples import multi_label, single_label

PEERS = {auroc: roc_auc_score, average_precision: average_precision_score}


@pytest.fixture(params=["numpy", "compiled"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to the same sums."""
    monkeypatch.setattr(ranking_module, "worth_compiling", lambda steps: request.param == "compiled")
    return str(request.param)


def columns(y: NDArray[Any], score: NDArray[Any]) -> list[tuple[NDArray[Any], NDArray[Any], NDArray[np.bool_]]]:
    """(truth, score, known rows) of each class against the rest, or of each label."""
    if y.ndim == 1:
        return [(y == c, score[:, c], np.ones(len(y), dtype=bool)) for c in range(score.shape[1])]
    return [(y[k, j] == 1, score[k, j], k) for j, k in enumerate((~np.isnan(y)).T)]


@pytest.mark.parametrize("metric", list(PEERS))
@pytest.mark.parametrize("data", [single_label(), single_label(classes=3, seed=5), multi_label()])
def test_every_average_of_weighted_resamples_equals_scikit_learn(
    path: str, metric: Any, data: tuple[NDArray[Any], NDArray[Any]]
) -> None:
    y, score = data
    weights = np.random.default_rng(1).poisson(1.0, (70, len(y)))  # more than one tile
    parts, peer = columns(y, score), PEERS[metric]
    for b, w in enumerate(weights[:5]):
        each = [peer(truth, s, sample_weight=w[known]) for truth, s, known in parts]
        support = [w[known][truth].sum() for truth, _, known in parts]
        pooled = (np.concatenate(part) for part in zip(*[(t, s, w[known]) for t, s, known in parts], strict=True))
        truth, values, sample_weight = pooled
        expected = {
            "macro": np.mean(each),
            "weighted": np.average(each, weights=support),
            "micro": peer(truth, values, sample_weight=sample_weight),
        }
        for average, value in expected.items():
            assert metric(y, score, weights, average=average)[b] == pytest.approx(value, abs=1e-12)
        np.testing.assert_allclose(per_class(metric, y, score, weights)[:, b], each, rtol=0, atol=1e-12)


@pytest.mark.parametrize("metric", list(PEERS))
@pytest.mark.parametrize("average", ["macro", "micro", "weighted"])
def test_two_classes_are_scored_by_the_second_column(path: str, metric: Any, average: Any) -> None:
    y, score = single_label(classes=2)
    expected = PEERS[metric](y, score[:, 1])
    assert metric(y, score, average=average) == pytest.approx(expected, abs=1e-14)
    both = [PEERS[metric](y == c, score[:, c]) for c in (0, 1)]
    np.testing.assert_allclose(per_class(metric, y, score), both, atol=1e-14)


@pytest.mark.parametrize("specificity", [0.0, 0.5, 0.8, 0.9, 0.95, 1.0])
def test_sensitivity_at_specificity_is_the_best_of_all_cuts(path: str, specificity: float) -> None:
    y, score = multi_label(seed=3)
    weights = np.random.default_rng(2).poisson(1.0, (3, len(y)))
    for w, found in zip(weights, per_class(sensitivity_at_specificity, y, score, weights, specificity=specificity).T):
        for (truth, values, known), value in zip(columns(y, score), found, strict=True):
            best = 0.0
            for cut in [*np.unique(values), np.inf]:
                above = values >= cut
                true_negative = w[known][~truth & ~above].sum()
                if true_negative >= specificity * w[known][~truth].sum() - 1e-6:
                    best = max(best, w[known][truth & above].sum() / w[known][truth].sum())
            assert value == pytest.approx(best, abs=1e-14)


def test_sensitivity_at_specificity_lies_on_the_curve_of_scikit_learn(path: str) -> None:
    y, score = multi_label(labels=1)
    known = ~np.isnan(y[:, 0])
    alarms, hits, _ = roc_curve(y[known, 0], score[known, 0], drop_intermediate=False)
    found = sensitivity_at_specificity(y, score, specificity=0.8)
    assert found == pytest.approx(hits[alarms <= 0.2 + 1e-12].max(), abs=1e-14)


def test_a_specificity_that_is_met_exactly_is_met(path: str) -> None:
    # 1 - 0.9 is a little less than 0.1: one false alarm of ten negatives is allowed all the same.
    y = np.array([[0.0]] * 10 + [[1.0]])
    score = np.arange(11.0)[:, None]
    score[9], score[10] = 10, 9
    assert sensitivity_at_specificity(y, score, specificity=0.9) == 1.0
    assert sensitivity_at_specificity(y, score, specificity=0.91) == 0.0


@pytest.mark.parametrize("metric", [auroc, average_precision, sensitivity_at_specificity])
def test_compiled_loops_give_the_bits_of_numpy(metric: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    y, score = multi_label(500)
    weights = np.random.default_rng(1).poisson(1.0, (100, len(y)))
    monkeypatch.setattr(ranking_module, "worth_compiling", lambda steps: False)
    expected = per_class(metric, y, score, weights)
    monkeypatch.setattr(ranking_module, "worth_compiling", lambda steps: True)
    np.testing.assert_array_equal(per_class(metric, y, score, weights), expected)
    np.testing.assert_array_equal(per_class(metric, y, score, weights[:1]), expected[:, :1])


@pytest.mark.parametrize("metric", [auroc, average_precision, sensitivity_at_specificity])
def test_resamples_without_a_class_are_undefined(path: str, metric: Any) -> None:
    y, score = np.array([[0.0], [1.0], [1.0]]), np.array([[0.1], [0.2], [0.3]])
    values = metric(y, score, [[1, 0, 0], [0, 1, 1], [0, 0, 0], [1, 1, 0]])
    np.testing.assert_array_equal(np.isnan(values), [True, True, True, False])
    assert np.isnan(per_class(metric, [[1.0], [np.nan]], [[0.1], [0.2]])).all()
    assert np.isnan(per_class(metric, [[np.nan], [np.nan]], [[0.1], [0.2]])).all()


def test_bad_options_are_refused() -> None:
    y, score = single_label()
    with pytest.raises(ProbeError, match="specificity must lie"):
        sensitivity_at_specificity(y, score, specificity=1.5)
    with pytest.raises(ProbeError, match="no average 'mean'"):
        auroc(y, score, average="mean")  # type: ignore[call-overload]
