"""The kNN probe against a brute-force vote in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from featcache.errors import FeatcacheError, ProbeError
from featcache.probes import KNNProbe, vote


def brute_force(X: NDArray[Any], y: NDArray[Any], Q: NDArray[Any], k: int, temperature: float) -> NDArray[np.float64]:
    """One query at a time, one label at a time."""
    x = X / np.linalg.norm(X, axis=1, keepdims=True)
    targets = np.eye(int(y.max()) + 1)[y] if y.ndim == 1 else y
    scores = []
    for query in Q:
        similarity = np.round(x @ (query / np.linalg.norm(query)), 12)
        near = np.argsort(-similarity, kind="stable")[:k]
        weight = np.exp(similarity[near] / temperature)
        row = []
        for label in targets.T:
            known = ~np.isnan(label[near])
            share = np.sum(weight[known] * label[near][known]) / np.sum(weight[known]) if known.any() else None
            row.append(np.nanmean(label) if share is None else share)
        scores.append(row)
    return np.array(scores)


def data(labels: int | None = None) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    rng = np.random.default_rng(0)
    X, Q = rng.normal(size=(200, 16)), rng.normal(size=(40, 16))
    X[100:120] = X[:20]  # ties
    Q[:10] = X[:10]
    if labels is None:
        return X, rng.integers(0, 4, 200), Q
    y = (rng.random((200, labels)) < 0.3).astype(float)
    y[rng.random(y.shape) < 0.5] = np.nan
    return X, y, Q


@pytest.mark.parametrize("labels", [None, 3])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_votes_equal_brute_force_for_every_k(labels: int | None, temperature: float) -> None:
    X, y, Q = data(labels)
    by_k = KNNProbe(k=(20, 1, 5), temperature=temperature).fit(X, y).predict_scores(Q)
    assert list(by_k) == [1, 5, 20]
    for k, scores in by_k.items():
        assert scores.dtype == np.float64
        np.testing.assert_allclose(scores, brute_force(X, y, Q, k, temperature), atol=2e-5)


@pytest.mark.parametrize("labels", [None, 3])
def test_the_majority_vote_counts_neighbours(labels: int | None) -> None:
    X, y, Q = data(labels)
    by_k = KNNProbe(k=(20, 5), vote="majority").fit(X, y).predict_scores(Q)
    for k, scores in by_k.items():
        # A temperature without end makes all weights equal.
        np.testing.assert_allclose(scores, brute_force(X, y, Q, k, 1e12), atol=1e-9)


def test_the_default_ks_are_those_that_people_compare() -> None:
    X, y, Q = data()
    assert list(KNNProbe().fit(X, y).predict_scores(Q)) == [10, 20, 100, 200]
    fewer = KNNProbe().fit(X[:50], y[:50])
    assert list(fewer.predict_scores(Q)) == [10, 20]
    assert fewer.notes_[0] == "k = 100, 200 left out: the training rows are 50."
    with pytest.raises(ProbeError, match="training rows are 9"):
        KNNProbe().fit(X[:9], y[:9])


@pytest.mark.parametrize("algorithm", ["faiss", "bf16", "float64"])
def test_votes_do_not_depend_on_the_algorithm(algorithm: Any) -> None:
    X, y, Q = data()
    scores = KNNProbe(k=(3,), algorithm=algorithm).fit(X, y).predict_scores(Q)[3]
    np.testing.assert_array_equal(scores, KNNProbe(k=(3,)).fit(X, y).predict_scores(Q)[3])


def test_an_approximate_index_is_noted() -> None:
    X, y, Q = data()
    probe = KNNProbe(k=(3,), index="ivf").fit(X, y)
    probe.predict_scores(Q)
    assert "recall" in probe.notes_[0]


def test_settings_survive_a_clone() -> None:
    sklearn_base = pytest.importorskip("sklearn.base")
    probe = KNNProbe(k=(3,), vote="majority")
    assert sklearn_base.clone(probe).get_params() == probe.get_params()
    assert sklearn_base.clone(probe).set_params(k=(4,)).k == (4,)


def test_shares_of_exclusive_classes_sum_to_one() -> None:
    X, y, Q = data()
    scores = KNNProbe(k=(7,)).fit(X, y, n_classes=6).predict_scores(Q)[7]
    assert scores.shape == (40, 6)
    np.testing.assert_allclose(scores.sum(axis=1), 1.0, atol=1e-12)
    assert (scores[:, 4:] == 0).all()


def test_a_sweep_equals_single_runs() -> None:
    X, y, Q = data(3)
    sweep = KNNProbe(k=(3, 11)).fit(X, y).predict_scores(Q)
    for k, scores in sweep.items():
        np.testing.assert_allclose(KNNProbe(k=(k,)).fit(X, y).predict_scores(Q)[k], scores, atol=1e-12)


def test_standardize_uses_training_moments_and_leaves_constant_columns() -> None:
    X, y, Q = data()
    X, Q = X * 100 + 7, Q * 100 + 7
    X[:, 3] = Q[:, 3] = 0.1
    mean, deviation = X.mean(axis=0), X.std(axis=0)
    mean[3], deviation[3] = np.float64(np.float32(0.1)), 1.0
    by_hand = KNNProbe(k=(5,)).fit((X - mean) / deviation, y).predict_scores((Q - mean) / deviation)[5]
    probe = KNNProbe(k=(5,), standardize=True).fit(X, y)
    np.testing.assert_allclose(probe.predict_scores(Q)[5], by_hand, atol=1e-4)
    assert probe.scale_[3] == 1.0


def test_a_label_no_neighbour_has_gets_its_share_in_training() -> None:
    y = np.array([[np.nan], [1.0], [0.0], [0.0]])
    X = np.array([[1.0, 0], [0, 1], [0, 1], [0, 1]])
    assert KNNProbe(k=(1,)).fit(X, y).predict_scores([[1.0, 0]])[1].item() == pytest.approx(1 / 3)


def test_vote_of_a_tiny_temperature_is_the_nearest() -> None:
    assert vote([[0.9, 0.1]], [[1, 0]], n_classes=2, temperature=1e-6).tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"n_classes": 1}, "not between 0 and 0"),
        ({"neighbour_labels": [[0]]}, "do not fit"),
    ],
)
def test_vote_refuses_bad_input(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ProbeError, match=message):
        vote(**{"similarity": [[0.9, 0.1]], "neighbour_labels": [[1, 0]], "n_classes": 2, **arguments})


@pytest.mark.parametrize(
    ("settings", "y", "message"),
    [
        ({"k": (5,)}, [0, 1, 2], "k = 5 neighbours.*3"),
        ({"k": ()}, [0, 1, 2], "k must be positive"),
        ({"k": (0,)}, [0, 1, 2], "k must be positive"),
        ({"temperature": -1.0}, [0, 1, 2], "temperature"),
        ({"vote": "secret"}, [0, 1, 2], "unknown vote 'secret'"),
        ({}, [0, 1], r"shape \(3,\)"),
        ({}, [0, 1, -1], "no class index"),
        ({}, [0, 1, np.nan], "no class index"),
        ({}, ["a", "b", "c"], "expected numbers"),
        ({}, [[0], [1], [2]], "not 0, 1 or NaN"),
        ({}, [[0, np.nan]] * 3, r"labels \[1\] are missing"),
    ],
)
def test_fit_refuses_bad_input(settings: dict[str, Any], y: Any, message: str) -> None:
    with pytest.raises(FeatcacheError, match=message):
        KNNProbe(**{"k": (1,), **settings}).fit(np.eye(3), y)


def test_fewer_classes_than_seen_and_unfitted_are_refused() -> None:
    with pytest.raises(ProbeError, match="3 classes or labels, expected 2"):
        KNNProbe(k=(1,)).fit(np.eye(3), [0, 1, 2], n_classes=2)
    with pytest.raises(ProbeError, match="not fitted"):
        KNNProbe().predict_scores(np.eye(3))


def test_queries_with_another_number_of_features_are_refused() -> None:
    for standardize in (False, True):
        probe = KNNProbe(k=(1,), standardize=standardize).fit(np.eye(3) + 1, [0, 1, 2])
        with pytest.raises(ProbeError, match="2 features"):
            probe.predict_scores(np.eye(2))
