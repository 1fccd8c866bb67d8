"""Multi-label kNN against the algorithm of the paper, written as its loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from featcache.errors import ProbeError
from featcache.probes import MultiLabelKNN


def paper(
    X: NDArray[Any], Y: NDArray[Any], Q: NDArray[Any], k: int, *, s: float, self_neighbour: bool
) -> NDArray[np.float64]:
    """Figure 1 of Zhang and Zhou, one row and one label at a time; NaN rows are left out of a label's counts."""
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)

    def neighbours(vector: NDArray[Any], without: int | None) -> NDArray[Any]:
        similarity = np.round(unit @ (vector / np.linalg.norm(vector)), 10)
        order = np.argsort(-similarity, kind="stable")
        return order[order != without][:k] if without is not None else order[:k]

    near = [neighbours(X[i], None if self_neighbour else i) for i in range(len(X))]
    scores = np.empty((len(Q), Y.shape[1]))
    for label in range(Y.shape[1]):
        y = Y[:, label]
        known = [i for i in range(len(X)) if not np.isnan(y[i])]
        prior = (s + sum(y[i] for i in known)) / (2 * s + len(known))
        c1, c0 = np.zeros(k + 1), np.zeros(k + 1)
        for i in known:
            positives = sum(1 for j in near[i] if y[j] == 1)
            if y[i] == 1:
                c1[positives] += 1
            else:
                c0[positives] += 1
        for number, query in enumerate(Q):
            j = sum(1 for i in neighbours(query, None) if y[i] == 1)
            one = prior * (s + c1[j]) / (s * (k + 1) + c1.sum())
            zero = (1 - prior) * (s + c0[j]) / (s * (k + 1) + c0.sum())
            scores[number, label] = one / (one + zero)
    return scores


def data(missing: float = 0.0) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    rng = np.random.default_rng(0)
    X, Q = rng.normal(size=(150, 12)), rng.normal(size=(30, 12))
    X[100:140] = X[:40]  # equal rows, some of them hidden behind others
    X[140:150] = X[0]
    Y = (X[:, :4] + 0.5 * rng.normal(size=(150, 4)) > 0.8).astype(float)
    Y[rng.random(Y.shape) < missing] = np.nan
    return X.astype(np.float32).astype(np.float64), Y, Q


@pytest.mark.parametrize("self_neighbour", [False, True])
@pytest.mark.parametrize("missing", [0.0, 0.3])
@pytest.mark.parametrize("s", [1.0, 0.5])
def test_scores_equal_the_loops_of_the_paper(self_neighbour: bool, missing: float, s: float) -> None:
    X, Y, Q = data(missing)
    by_k = MultiLabelKNN((10, 1, 5), s, self_neighbour=self_neighbour).fit(X, Y).predict_scores(Q)
    assert list(by_k) == [1, 5, 10]
    for k, scores in by_k.items():
        np.testing.assert_allclose(scores, paper(X, Y, Q, k, s=s, self_neighbour=self_neighbour), atol=1e-12)


def test_a_row_is_left_out_by_its_number_not_by_its_similarity() -> None:
    X = np.array([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    Y = np.array([[1], [1], [0], [0]])
    model = MultiLabelKNN(1).fit(X, Y)
    # Each row's nearest other row is its twin: all positives see one positive, all negatives none.
    np.testing.assert_allclose(model.likelihood_[1], [[[3 / 4, 1 / 4]], [[1 / 4, 3 / 4]]])


def test_one_k_and_several_agree() -> None:
    X, Y, Q = data()
    np.testing.assert_array_equal(
        MultiLabelKNN(7).fit(X, Y).predict_scores(Q)[7], MultiLabelKNN((3, 7)).fit(X, Y).predict_scores(Q)[7]
    )


def test_class_indices_are_a_label_each() -> None:
    X, _, Q = data()
    y = np.arange(len(X)) % 3
    model = MultiLabelKNN(5).fit(X, y)
    assert model.exclusive_
    np.testing.assert_array_equal(
        model.predict_scores(Q)[5], MultiLabelKNN(5).fit(X, np.eye(3)[y]).predict_scores(Q)[5]
    )


def test_default_ks_that_have_no_neighbours_are_left_out_and_noted() -> None:
    X, Y, _ = data()
    model = MultiLabelKNN().fit(X[:20], Y[:20])
    assert model.k_ == (10,)
    assert model.notes_ == ("k = 20, 100, 200 left out: the training rows are 20.",)


@pytest.mark.parametrize(
    ("settings", "y", "message"),
    [
        ({"k": 3}, [[0], [1], [1]], r"each training row has 2 \(n_samples = 3\)\n.*between 1 and 2"),
        ({"k": 0}, [[0], [1], [1]], "k must be positive"),
        ({"k": 1, "s": 0.0}, [[0], [1], [1]], "s must be positive"),
        ({"k": 1}, [[0, np.nan]] * 3, r"labels \[1\] are missing"),
    ],
)
def test_fit_refuses_bad_input(settings: dict[str, Any], y: Any, message: str) -> None:
    with pytest.raises(ProbeError, match=message):
        MultiLabelKNN(**settings).fit(np.eye(3), y)
