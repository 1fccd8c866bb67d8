"""Ridge paths against scikit-learn's Ridge, one fit after another."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from featcache.errors import ProbeError
from featcache.probes import RidgeProbe, RidgeSweep

GRID = (1e-3, 1.0, 1e4)


@pytest.mark.parametrize(("n", "width"), [(200, 20), (30, 80), (40, 40)])
@pytest.mark.parametrize("missing", [False, True])
def test_every_target_and_penalty_equals_scikit_learn(n: int, width: int, missing: bool) -> None:
    rng = np.random.default_rng(0)
    X = (3 * rng.normal(size=(n, width)) + 100).astype(np.float32)
    X[:, 3] = 0.1  # constant
    Y = rng.normal(size=(n, 4))
    if missing:
        Y[:5, 1] = np.nan
        Y[3:9, 2:] = np.nan  # two targets share their rows
    sweep = RidgeSweep(GRID).fit(X, Y)
    assert sweep.coef_.shape == (3, 4, width)
    predicted = sweep.decision_function(X)
    assert predicted.shape == (3, n, 4)
    for place, alpha in enumerate(GRID):
        for target in range(4):
            known = ~np.isnan(Y[:, target])
            model = Ridge(alpha=alpha).fit(X[known].astype(float), Y[known, target])
            np.testing.assert_allclose(sweep.coef_[place, target], model.coef_, atol=1e-8)
            assert sweep.intercept_[place, target] == pytest.approx(model.intercept_, abs=1e-6)
            np.testing.assert_allclose(predicted[place, :, target], model.predict(X.astype(float)), atol=1e-4)


def test_one_target_is_one_column() -> None:
    sweep = RidgeSweep((1.0,)).fit([[0.0], [1.0], [2.0]], [0.0, 1.0, 2.0])
    assert sweep.coef_.tolist() == [[[pytest.approx(2 / 3)]]]


@pytest.mark.parametrize("multi", [False, True])
def test_the_probe_chooses_by_val_and_refits_on_all_rows(multi: bool) -> None:
    rng = np.random.default_rng(0)
    X, X_val = rng.normal(size=(2, 120, 10))
    weights = rng.normal(size=(10, 3))

    def label(rows: Any) -> Any:
        score = rows @ weights + 3 * rng.normal(size=(len(rows), 3))
        return (score > 1).astype(float) if multi else score.argmax(axis=1)

    y, y_val = label(X), label(X_val)
    probe = RidgeProbe((0.1, 100.0, 1e4)).fit(X, y, X_val, y_val)
    scaler = StandardScaler().fit(X)
    target = y if multi else np.eye(3)[y]
    for alpha, found in probe.val_scores_.items():
        predicted = Ridge(alpha=alpha).fit(scaler.transform(X), target).predict(scaler.transform(X_val))
        truth = y_val if multi else np.eye(3)[y_val]
        assert found["auroc"] == pytest.approx(roc_auc_score(truth, predicted), abs=1e-6)
    both = np.concatenate([X, X_val])
    scaler = StandardScaler().fit(both)
    target = np.concatenate([y, y_val]) if multi else np.eye(3)[np.concatenate([y, y_val])]
    expected = Ridge(alpha=probe.alpha_).fit(scaler.transform(both), target).predict(scaler.transform(X))
    np.testing.assert_allclose(probe.predict_scores(X), 1 / (1 + np.exp(2 - 4 * expected)), atol=1e-5)
    assert "then the larger alpha, on val (120 rows)" in probe.selection_


def test_two_classes_have_two_columns_and_labels_with_one_value_a_constant_score() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 3))
    scores = RidgeProbe((1.0,)).fit(X, (X[:, 0] > 0).astype(int)).predict_scores(X)
    np.testing.assert_allclose(scores.sum(axis=1), 1)
    assert roc_auc_score(X[:, 0] > 0, scores[:, 1]) > 0.95
    Y = np.stack([X[:, 0] > 0, np.zeros(40), np.ones(40)], axis=1).astype(float)
    probe = RidgeProbe((1.0,)).fit(X, Y)
    assert probe.predict_scores(X)[0, 1:].tolist() == [0.0, 1.0]
    assert "Labels [1, 2]" in probe.notes_[0]


@pytest.mark.parametrize(
    ("alphas", "Y", "message"),
    [
        ((0.0,), [1.0, 2.0], "alphas must be positive"),
        ((1.0,), [1.0], r"shape \(2,\)"),
        ((1.0,), [np.inf, 1.0], "infinity"),
        ((1.0,), [[1.0, np.nan], [2.0, np.nan]], "missing in every row"),
    ],
)
def test_bad_input_is_refused(alphas: Any, Y: Any, message: str) -> None:
    with pytest.raises(ProbeError, match=message):
        RidgeSweep(alphas).fit([[0.0], [1.0]], Y)
    with pytest.raises(ProbeError, match="not fitted"):
        RidgeSweep().decision_function([[0.0]])
