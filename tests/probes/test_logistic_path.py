"""LogisticSweep against scikit-learn, one fit after another, run to tight tolerance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from featcache.errors import ProbeError
from featcache.probes import LogisticSweep
from featcache.probes.schedule import solved_between

GRID = tuple(float(C) for C in 10.0 ** np.arange(-5, 6, 2))


def features(n: int, width: int, seed: int = 0) -> NDArray[np.float32]:
    """Correlated columns of very different scale and an offset, as a network's."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(7).normal(size=(width, width)) / np.sqrt(width)
    spread = np.arange(1, width + 1) ** -0.7
    return ((rng.normal(size=(n, width)) * spread) @ mixing * 3 + 1).astype(np.float32)


def signal(X: NDArray[Any], noise: float, seed: int = 1) -> NDArray[np.float64]:
    weights = np.random.default_rng(3).normal(size=X.shape[1])
    value = (X - X.mean(axis=0)) @ weights
    return value / value.std() + noise * np.random.default_rng(seed).normal(size=len(X))


def reference(X: NDArray[Any], y: NDArray[Any], C: float, class_weight: Any = None) -> Any:
    # Newton's method, exact in a few steps: L-BFGS needs thousands for separable rows.
    model = LogisticRegression(C=C, tol=1e-10, max_iter=1000, class_weight=class_weight, solver="newton-cholesky")
    return model.fit(X.astype(float), y)


def check_model(sweep: LogisticSweep, X: NDArray[Any], place: int, output: slice | int, model: Any) -> None:
    size = np.abs(model.coef_).max()
    np.testing.assert_allclose(sweep.coef_[place, output], model.coef_.squeeze(0) if output != slice(None)
                               else model.coef_, atol=2e-3 * size)  # fmt: skip
    logits = sweep.decision_function(X)[place][:, output]
    expected = model.decision_function(X.astype(float))
    np.testing.assert_allclose(logits, expected, atol=1e-3 * np.std(expected) + 2e-4)


@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_two_classes_equal_scikit_learn_at_every_strength(class_weight: Any) -> None:
    X = features(400, 20)
    y = (signal(X, 1.0) > 1).astype(int)
    sweep = LogisticSweep(GRID, class_weight=class_weight).fit(X, y)
    assert sweep.coef_.shape == (len(GRID), 1, 20)
    assert sweep.intercept_.shape == sweep.n_iter_.shape == sweep.converged_.shape == (len(GRID), 1)
    assert sweep.converged_.all()
    assert sweep.notes_ == ()
    for place, C in enumerate(GRID):
        model = reference(X, y, C, class_weight)
        check_model(sweep, X, place, 0, model)
        assert sweep.intercept_[place, 0] == pytest.approx(model.intercept_[0], abs=2e-3)


@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_classes_equal_multinomial_scikit_learn(class_weight: Any) -> None:
    X = features(400, 15)
    y = np.array([1, 4, 5, 9])[np.digitize(signal(X, 1.0), [-1.5, 0.2, 1.5])]
    sweep = LogisticSweep(GRID, class_weight=class_weight).fit(X, y)
    assert sweep.classes_.tolist() == [1, 4, 5, 9]
    assert sweep.coef_.shape == (len(GRID), 4, 15)
    for place, C in enumerate(GRID):
        model = reference(X, y, C, class_weight)
        centred = model.intercept_ - model.intercept_.mean()  # the softmax does not see a shift of all
        np.testing.assert_allclose(sweep.coef_[place], model.coef_, atol=2e-3 * np.abs(model.coef_).max())
        np.testing.assert_allclose(sweep.intercept_[place], centred, atol=5e-3 * max(1, np.abs(centred).max()))


def test_two_thousand_labels_and_strengths_take_their_turns() -> None:
    # More columns than are fitted at a time, so that columns come, go and start between their neighbours.
    X = features(200, 8)
    rng = np.random.default_rng(0)
    Y = (X @ rng.normal(size=(8, 40)) + rng.normal(size=(200, 40)) > 0).astype(float)
    grid = 10.0 ** np.linspace(-6, 5, 45)
    sweep = LogisticSweep(grid).fit(X, Y)
    assert sweep.coef_.shape == (45, 40, 8)
    assert sweep.converged_.all()
    for place in (0, 11, 22, 33, 44):
        for label in (0, 39):
            check_model(sweep, X, place, label, reference(X, Y[:, label], grid[place]))


@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_a_missing_label_leaves_its_row_out_of_that_label_only(class_weight: Any) -> None:
    X = features(300, 10)
    Y = np.stack([signal(X, 1.0, seed) > 0.5 for seed in range(3)], axis=1).astype(float)
    Y[np.random.default_rng(0).random(Y.shape) < 0.3] = np.nan
    sweep = LogisticSweep(GRID, class_weight=class_weight).fit(X, Y)
    for place, C in enumerate(GRID):
        for label in range(3):
            known = ~np.isnan(Y[:, label])
            check_model(sweep, X, place, label, reference(X[known], Y[known, label], C, class_weight))


@pytest.mark.parametrize("classes", [2, 3])
def test_fewer_rows_than_columns(classes: int) -> None:
    X = features(50, 120)
    y = np.arange(50) % classes
    sweep = LogisticSweep((1e-4, 1e-2, 1.0)).fit(X, y)
    for place, C in enumerate(sweep.C_):
        model = reference(X, y, C)
        np.testing.assert_allclose(sweep.coef_[place], model.coef_, atol=2e-3 * np.abs(model.coef_).max())


def test_auroc_of_rare_and_separable_labels_is_that_of_scikit_learn() -> None:
    X, X_test = features(3000, 100), features(3000, 100, seed=5)
    shares = (0.017, 0.1, 0.4)  # 51 positives: with 100 columns separable
    Y = np.stack([signal(X, 0.7) > np.quantile(signal(X, 0.7), 1 - share) for share in shares], axis=1).astype(float)
    truth = signal(X_test, 0.7, seed=2)
    grid = (1e-4, 1.0, 1e3, 1e5)
    logits = LogisticSweep(grid).fit(X, Y).decision_function(X_test)
    for place, C in enumerate(grid):
        for label, share in enumerate(shares):
            y_test = truth > np.quantile(truth, 1 - share)
            expected = roc_auc_score(y_test, reference(X, Y[:, label], C).decision_function(X_test.astype(float)))
            assert roc_auc_score(y_test, logits[place, :, label]) == pytest.approx(expected, abs=1e-3)


def test_separable_rows_reach_the_minimum_of_the_objective() -> None:
    X = np.array([[0.0], [1.0], [2.0], [3.0]])
    y = np.array([0, 0, 1, 1])
    sweep = LogisticSweep(GRID).fit(X, y)
    for place, C in enumerate(GRID):

        def objective(w: float, b: float, C: float = C) -> float:
            p = 1 / (1 + np.exp(-(X[:, 0] * w + b)))
            return float(C * log_loss(y, p, normalize=False) + w * w / 2)

        model = reference(X, y, C)
        best = objective(model.coef_[0, 0], model.intercept_[0])
        assert objective(sweep.coef_[place, 0, 0], sweep.intercept_[place, 0]) <= best * (1 + 1e-5)


def test_constant_columns_get_no_weight() -> None:
    X = features(100, 5)
    X[:, 2] = 0.1
    sweep = LogisticSweep((0.1, 10.0)).fit(X, (signal(X[:, :2], 1.0) > 0).astype(int))
    np.testing.assert_allclose(sweep.coef_[:, :, 2], 0, atol=1e-6)
    nothing = LogisticSweep((1.0,)).fit(np.full((10, 2), 0.1), [0, 0, 1, 0, 0] * 2)
    np.testing.assert_allclose(nothing.coef_, 0, atol=1e-6)
    assert nothing.intercept_[0, 0] == pytest.approx(np.log(0.2 / 0.8), abs=1e-4)


def test_a_large_mean_costs_no_accuracy() -> None:
    X = features(300, 6) + 1000
    y = (signal(X.astype(float), 1.0) > 0).astype(int)
    sweep = LogisticSweep((0.1,)).fit(X, y)
    model = reference(X - np.float32(1000), y, 0.1)
    np.testing.assert_allclose(sweep.coef_[0], model.coef_, atol=2e-3 * np.abs(model.coef_).max())
    expected = model.decision_function((X - np.float32(1000)).astype(float))
    np.testing.assert_allclose(sweep.decision_function(X)[0, :, 0], expected, atol=2e-3)


def test_strengths_keep_their_order_and_float16_is_read_as_it_is() -> None:
    X = features(100, 5).astype(np.float16)
    y = (signal(X.astype(float), 1.0) > 0).astype(int)
    mixed, sorted_ = LogisticSweep((1.0, 0.01, 1.0)).fit(X, y), LogisticSweep((0.01, 1.0)).fit(X.astype(np.float32), y)
    np.testing.assert_array_equal(mixed.coef_, sorted_.coef_[[1, 0, 1]])
    np.testing.assert_array_equal(mixed.decision_function(X), sorted_.decision_function(X)[[1, 0, 1]])


def test_what_did_not_converge_is_said() -> None:
    X = features(100, 5)
    sweep = LogisticSweep((1.0, 10.0), max_iter=2).fit(X, (signal(X, 1.0) > 0).astype(int))
    assert not sweep.converged_.any()
    assert (sweep.n_iter_ == 2).all()
    assert "2 of 2 fits did not converge in 2 iterations" in sweep.notes_[0]


def test_a_label_with_one_value_has_no_model() -> None:
    X = features(50, 4)
    Y = np.stack([signal(X, 1.0) > 0, np.zeros(50), np.ones(50)], axis=1).astype(float)
    sweep = LogisticSweep((1.0, 2.0)).fit(X, Y)
    assert sweep.intercept_[:, 1].tolist() == [-np.inf] * 2
    assert sweep.intercept_[:, 2].tolist() == [np.inf] * 2
    assert (sweep.coef_[:, 1:] == 0).all()
    assert "Labels [1, 2]" in sweep.notes_[0]
    check_model(sweep, X, 0, 0, reference(X, Y[:, 0], 1.0))


def test_every_strength_lies_between_solved_ones() -> None:
    for count in range(1, 60):
        parents = solved_between(count)
        solved = {place for place, pair in enumerate(parents) if not pair}
        while len(solved) < count:
            ready = {place for place, pair in enumerate(parents) if pair and set(pair) <= solved}
            assert ready - solved, "nothing would ever be ready"
            solved |= ready
        assert all(pair[0] < place < pair[1] for place, pair in enumerate(parents) if pair)


@pytest.mark.parametrize(
    ("settings", "X", "Y", "message"),
    [
        ({"C": (-1.0,)}, [[0.0], [1.0]], [0, 1], "C must be positive"),
        ({"C": ()}, [[0.0], [1.0]], [0, 1], "C must be positive"),
        ({"max_iter": 0}, [[0.0], [1.0]], [0, 1], "max_iter and tol"),
        ({"class_weight": "equal"}, [[0.0], [1.0]], [0, 1], "class_weight"),
        ({}, [[0.0], [np.nan]], [0, 1], "NaN or infinity in 1 of 2"),
        ({}, [[0.0], [1.0]], [0, 0], "nothing can be learnt"),
        ({}, [[0.0], [1.0]], [[np.nan, 0], [np.nan, 1]], r"labels \[0\] are missing"),
    ],
)
def test_bad_input_is_refused(settings: Any, X: Any, Y: Any, message: str) -> None:
    with pytest.raises(ProbeError, match=message):
        LogisticSweep(**settings).fit(X, Y)


def test_the_sweep_must_be_fitted() -> None:
    with pytest.raises(ProbeError, match="not fitted"):
        LogisticSweep().decision_function([[1.0]])
    with pytest.raises(ProbeError, match="2 features"):
        LogisticSweep((1.0,)).fit([[0.0], [1.0]], [0, 1]).decision_function([[1.0, 2.0]])
