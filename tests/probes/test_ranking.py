"""Every way to find neighbours gives the float64 ranking."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from featcache.errors import ConfigurationError
from featcache.probes import ExactKNN

ALGORITHMS = ["faiss", "bf16", "float64"]


def random() -> tuple[NDArray[Any], NDArray[Any]]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(3000, 48)), rng.normal(size=(70, 48))


def concentrated() -> tuple[NDArray[Any], NDArray[Any]]:
    rng = np.random.default_rng(1)
    mean, spectrum = rng.normal(size=64), 0.1 * np.arange(1, 65) ** -0.5
    return mean + rng.normal(size=(3000, 64)) * spectrum, mean + rng.normal(size=(70, 64)) * spectrum


def duplicated() -> tuple[NDArray[Any], NDArray[Any]]:
    rng = np.random.default_rng(2)
    X = np.repeat(rng.normal(size=(300, 40)), 10, axis=0)[rng.permutation(3000)]
    return X, np.concatenate([X[:35], rng.normal(size=(35, 40))])


def integers() -> tuple[NDArray[Any], NDArray[Any]]:
    rng = np.random.default_rng(3)
    return rng.integers(0, 2, (3000, 30)) + np.eye(30)[0], rng.integers(0, 2, (70, 30)) + np.eye(30)[0]


def far_apart() -> tuple[NDArray[Any], NDArray[Any]]:
    """Concentrated rows with a few blank images far from them, and queries of both kinds."""
    X, Q = concentrated()
    rng = np.random.default_rng(4)
    X[::100] = rng.normal(size=(30, 64))
    Q[:20] = rng.normal(size=(20, 64))
    return X, Q


DATA = [random, concentrated, duplicated, integers, far_apart]


def brute_force(X: NDArray[Any], Q: NDArray[Any], k: int) -> tuple[NDArray[Any], NDArray[Any], int]:
    """Ranking in float64; near ties between the places and with the place after the last."""
    x, q = X.astype(np.float32).astype(np.float64), Q.astype(np.float32).astype(np.float64)
    similarity = (q @ x.T) / np.outer(np.linalg.norm(q, axis=1), np.linalg.norm(x, axis=1))
    similarity = np.round(similarity, 12)
    index = np.argsort(-similarity, axis=1, kind="stable")
    ordered = np.take_along_axis(similarity, index, axis=1)
    gap = -np.diff(ordered[:, : k + 1], axis=1)
    return ordered[:, :k], index[:, :k], int(((gap > 0) & (gap < 1e-6)).sum())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("k", [1, 20, 90])
def test_neighbours_are_the_float64_ranking(algorithm: Any, data: Any, k: int) -> None:
    X, Q = data()
    found = ExactKNN(k, algorithm=algorithm).fit(X)
    similarity, index = found.kneighbors(Q)
    expected, rows, near_ties = brute_force(X, Q, k)
    np.testing.assert_array_equal(index, rows)
    np.testing.assert_array_equal(similarity, expected.astype(np.float32))
    assert found.n_near_ties_ == near_ties
    assert found.algorithm_ == algorithm


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("data", DATA)
def test_a_query_alone_gets_what_it_gets_in_a_batch(algorithm: Any, data: Any) -> None:
    X, Q = data()
    found = ExactKNN(15, algorithm=algorithm).fit(X)
    similarity, index = found.kneighbors(Q)
    for part in (slice(0, 1), slice(33, 34), slice(1, 4)):
        alone = found.kneighbors(Q[part])
        np.testing.assert_array_equal(alone[0], similarity[part])
        np.testing.assert_array_equal(alone[1], index[part])


def test_the_screen_decides_ordinary_queries_by_itself() -> None:
    for data in (random, concentrated):
        X, Q = data()
        found = ExactKNN(10, algorithm="bf16").fit(X)
        found.kneighbors(Q)
        assert found.n_scanned_ == 0


def test_what_the_bound_cannot_decide_is_scanned() -> None:
    X = np.ones((2000, 16))
    X[1500:, 0] = 2
    for algorithm in ("faiss", "bf16"):
        found = ExactKNN(5, algorithm=algorithm).fit(X)  # type: ignore[arg-type]
        assert found.kneighbors(np.ones((3, 16)))[1].tolist() == [list(range(5))] * 3
        assert found.n_scanned_ == 3


def test_near_ties_are_counted() -> None:
    angles = np.array([0.0, 0.5, 0.5 + 4e-7, 1.0, 1.0 + 3e-7])
    X = np.stack([np.cos(angles), np.sin(angles)], axis=1) @ np.eye(2, 8)
    found = ExactKNN(4).fit(X)
    assert found.kneighbors(X[:1])[1].tolist() == [[0, 1, 2, 3]]
    assert found.n_near_ties_ == 2  # places 2 and 3, and the last with the one after it


def test_small_searches_do_not_pay_for_torch() -> None:
    found = ExactKNN(3).fit(np.eye(8))
    found.kneighbors(np.eye(8))
    assert found.algorithm_ in ("faiss", "faiss-gpu")


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_an_approximate_index_reports_its_recall(kind: Any) -> None:
    X, Q = random()
    found = ExactKNN(10, index=kind).fit(X)
    _, index = found.kneighbors(Q)
    exact = ExactKNN(10).fit(X)
    _, truth = exact.kneighbors(Q)
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(index, truth, strict=True)])
    assert found.recall_ == pytest.approx(recall)
    assert f"recall {found.recall_:.4f}" in found.notes_[0]
    assert (exact.recall_, found.algorithm_) == (1.0, kind)


def test_exact_neighbours_say_how_many_places_float32_may_swap() -> None:
    X, Q = random()
    X = np.concatenate([X, X * np.float32(1 + 1e-7) + np.float32(1e-8)])  # near-duplicates
    found = ExactKNN(6).fit(X)
    similarity, _ = found.kneighbors(Q)
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (Q.astype(float), X.astype(float))]
    ordered = -np.sort(-(unit[0] @ unit[1].T).round(12), axis=1)[:, :7]
    gaps = ordered[:, :-1] - ordered[:, 1:]
    assert found.n_near_ties_ == ((gaps > 0) & (gaps < 1e-6)).sum() > 0
    assert f"may swap {found.n_near_ties_} of {similarity.size} places" in found.notes_[0]


@pytest.mark.parametrize(
    "settings", [{"algorithm": "magic"}, {"index": "magic"}, {"algorithm": "bf16", "index": "ivf"}]
)
def test_unknown_settings_are_refused(settings: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"magic|searched by FAISS"):
        ExactKNN(1, **settings).fit(np.eye(3))
