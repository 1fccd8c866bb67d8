"""Exact neighbours against brute force in float64."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from featcache.errors import ConfigurationError, ProbeError
from featcache.probes import ExactKNN


def brute_force(X: NDArray[Any], Q: NDArray[Any], k: int) -> tuple[NDArray[Any], NDArray[Any]]:
    x, q = X.astype(np.float64), Q.astype(np.float64)
    similarity = (q / np.linalg.norm(q, axis=1, keepdims=True)) @ (x / np.linalg.norm(x, axis=1, keepdims=True)).T
    index = np.argsort(-np.round(similarity, 9), axis=1, kind="stable")[:, :k]
    return np.take_along_axis(similarity, index, axis=1), index


@pytest.mark.parametrize("queries", [1, 5, 60])
def test_neighbours_equal_brute_force(queries: int) -> None:
    rng = np.random.default_rng(0)
    X, Q = rng.normal(size=(400, 32)), rng.normal(size=(queries, 32))
    similarity, index = ExactKNN(10).fit(X).kneighbors(Q)
    expected, rows = brute_force(X, Q, 10)
    np.testing.assert_array_equal(index, rows)
    np.testing.assert_allclose(similarity, expected, atol=1e-6)
    assert similarity.dtype == np.float32
    assert index.dtype == np.int64


def test_duplicates_are_ordered_by_row_also_across_the_kth_place() -> None:
    rng = np.random.default_rng(1)
    X = np.repeat(rng.normal(size=(20, 48)), 40, axis=0)[rng.permutation(800)].astype(np.float32)
    Q = np.concatenate([X[:30], rng.normal(size=(30, 48)).astype(np.float32)])
    similarity, index = ExactKNN(50).fit(X).kneighbors(Q)
    np.testing.assert_array_equal(index, brute_force(X, Q, 50)[1])
    assert (np.diff(similarity, axis=1) <= 0).all()


def test_a_query_alone_gets_what_it_gets_in_a_batch() -> None:
    rng = np.random.default_rng(2)
    X = (1 + 0.01 * rng.normal(size=(300, 40))).astype(np.float32)  # cosines close to 1
    X[100:200] = X[:100]
    index = ExactKNN(20).fit(X)
    batch = index.kneighbors(X[:50])
    for row in (0, 17, 49):
        alone = index.kneighbors(X[row : row + 1])
        np.testing.assert_array_equal(alone[0][0], batch[0][row])
        np.testing.assert_array_equal(alone[1][0], batch[1][row])


def test_lengths_that_overflow_or_vanish_in_float32_keep_their_direction() -> None:
    X = np.array([[3e38, 3e38], [1e-40, 0.0], [0.0, 5.0]], dtype=np.float32)
    similarity, index = ExactKNN(1).fit(X).kneighbors([[1.0, 1.0], [1.0, 0.0]])
    assert index.tolist() == [[0], [1]]
    np.testing.assert_allclose(similarity, 1.0, atol=1e-6)


def test_float16_features_are_accepted() -> None:
    X = np.random.default_rng(3).normal(size=(30, 8)).astype(np.float16)
    assert ExactKNN(1).fit(X).kneighbors(X)[1][:, 0].tolist() == list(range(30))


@pytest.mark.parametrize("threads", [None, 1])
def test_the_faiss_thread_setting_is_left_as_it_was(threads: int | None) -> None:
    before = faiss.omp_get_max_threads()
    ExactKNN(1, threads=threads).fit(np.eye(3)).kneighbors(np.eye(3))
    assert faiss.omp_get_max_threads() == before


@pytest.mark.parametrize(
    ("X", "k", "message"),
    [
        (np.eye(3), 4, "k = 4 neighbours were asked for, the training rows are 3"),
        (np.eye(3), 0, "k = 0"),
        (np.array([[1.0, 0], [0, 0], [0, 0]]), 1, r"2 rows are all zero.*\[1, 2\]"),
        (np.array([[1.0, np.nan], [np.inf, 0]]), 1, r"NaN or infinity in 2 of 2 rows, first: \[0, 1\]"),
        (np.zeros((0, 3)), 1, "at least one row"),
        (np.zeros(3), 1, r"\(n, D\) array"),
        (np.array([["a"]]), 1, "real numbers"),
    ],
)
def test_bad_rows_are_refused(X: Any, k: int, message: str) -> None:
    with pytest.raises(ProbeError, match=message):
        ExactKNN(k).fit(X)


@pytest.mark.parametrize(
    ("Q", "message"),
    [([[0.0, 0.0]], "all zero"), ([[1.0, 2.0, 3.0]], "3 features"), ([[np.nan, 1.0]], "NaN")],
)
def test_bad_queries_are_refused(Q: Any, message: str) -> None:
    with pytest.raises(ProbeError, match=message):
        ExactKNN(1).fit(np.eye(2)).kneighbors(Q)


def test_unfitted_and_unknown_metric_are_refused() -> None:
    with pytest.raises(ProbeError, match="not fitted"):
        ExactKNN(1).kneighbors(np.eye(2))
    with pytest.raises(ConfigurationError, match="unknown metric"):
        ExactKNN(1, metric="l2").fit(np.eye(2))  # type: ignore[arg-type]


_PICKLED_BESIDE_SIMPLEITK = """
import copy
import pickle

import numpy as np

from featcache.probes import ExactKNN, MultiLabelKNN

rng = np.random.default_rng(0)
X, Y = rng.normal(size=(40, 5)), rng.random((40, 3)) < 0.5
model, index = MultiLabelKNN(3).fit(X, Y), ExactKNN(4).fit(X)
near = index.kneighbors(X)[1]
import SimpleITK

again = pickle.loads(pickle.dumps(model))
np.testing.assert_array_equal(again.predict_scores(X)[3], model.predict_scores(X)[3])
np.testing.assert_array_equal(pickle.loads(pickle.dumps(index)).kneighbors(X)[1], near)
np.testing.assert_array_equal(copy.deepcopy(index).kneighbors(X)[1], near)
"""


def test_what_has_searched_is_pickled_after_simpleitk_took_over_the_swig_types_of_faiss() -> None:
    pytest.importorskip("SimpleITK")
    # A process of its own: the fault shows only where FAISS was imported first.
    done = subprocess.run(
        [sys.executable, "-c", _PICKLED_BESIDE_SIMPLEITK], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
