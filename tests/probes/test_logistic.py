"""The linear probe against scikit-learn pipelines."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from featcache.errors import ProbeError
from featcache.probes import LogisticProbe

GRID = (0.001, 0.1, 10.0)


def reference(C: float) -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=5000, tol=1e-8))


def data(classes: int = 3, n: int = 150, seed: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    centre = np.random.default_rng(99).normal(size=(classes, 8))
    X = (centre[y] + 1.5 * rng.normal(size=(n, 8))) * np.arange(1, 9) + 5
    X[:, 2] = 0.1  # constant
    return X.astype(np.float32).astype(np.float64), y  # what a store gives, for a float64 reference


def multi_label(n: int = 150, seed: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 6)).astype(np.float32).astype(np.float64)
    y = (X[:, :3] + rng.normal(size=(n, 3)) > 0.5).astype(float)
    y[rng.random(y.shape) < 0.2] = np.nan
    return X, y


@pytest.mark.parametrize("classes", [2, 3])
def test_choice_and_refit_equal_scikit_learn(classes: int) -> None:
    (X, y), (X_val, y_val), (X_test, _) = (data(classes, seed=seed) for seed in range(3))
    probe = LogisticProbe(C=GRID).fit(X, y, X_val, y_val)
    for C, scores in probe.val_scores_.items():
        fitted = reference(C).fit(X, y)
        expected = balanced_accuracy_score(y_val, fitted.predict(X_val))
        assert scores["balanced_accuracy"] == pytest.approx(expected, abs=1e-12)
        proba = fitted.predict_proba(X_val)
        area = roc_auc_score(y_val, proba[:, 1] if classes == 2 else proba, multi_class="ovr")
        assert scores["auroc"] == pytest.approx(area, abs=1e-3)
    best = max(scores["balanced_accuracy"] for scores in probe.val_scores_.values())
    assert probe.val_scores_[probe.C_]["balanced_accuracy"] == best
    refit = reference(probe.C_).fit(np.concatenate([X, X_val]), np.concatenate([y, y_val]))
    np.testing.assert_allclose(probe.predict_scores(X_test), refit.predict_proba(X_test), atol=1e-4)
    np.testing.assert_allclose(probe.coef_, refit[-1].coef_, atol=1e-3)
    assert "on val (150 rows); refitted on all 300 rows" in probe.selection_
    assert probe.notes_ == ()


def test_multi_label_equals_one_regression_for_each_label_without_its_missing_rows() -> None:
    (X, y), (X_val, y_val), (X_test, _) = (multi_label(seed=seed) for seed in range(3))
    probe = LogisticProbe(C=GRID).fit(X, y, X_val, y_val)
    everything, targets = np.concatenate([X, X_val]), np.concatenate([y, y_val])
    scaler = StandardScaler().fit(everything)
    for label in range(3):
        known = ~np.isnan(targets[:, label])
        model = LogisticRegression(C=probe.C_, tol=1e-8, max_iter=5000)
        model.fit(scaler.transform(everything[known]), targets[known, label])
        expected = model.predict_proba(scaler.transform(X_test))[:, 1]
        np.testing.assert_allclose(probe.predict_scores(X_test)[:, label], expected, atol=1e-4)
    best = max(scores["auroc"] for scores in probe.val_scores_.values())
    assert probe.val_scores_[probe.C_]["auroc"] == best


def test_equal_val_scores_choose_the_smallest_strength() -> None:
    X = np.array([[0.0], [1.0], [10.0], [11.0]])
    probe = LogisticProbe(C=(10.0, 0.1, 1.0)).fit(X, [0, 0, 1, 1], X, [0, 0, 1, 1])
    assert probe.C_ == 0.1
    assert list(probe.val_scores_) == [0.1, 1.0, 10.0]


@pytest.mark.parametrize("make", [data, multi_label])
def test_without_val_whole_groups_are_held_out_and_all_rows_refitted(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from featcache.probes import path_probe

    X, y = make()
    groups = np.array([f"patient {i // 3}" for i in range(len(X))])
    seen: list[tuple[NDArray[Any], NDArray[Any]]] = []

    def spy(*arguments: Any) -> Any:
        seen.append(hold_out(*arguments))
        return seen[-1]

    hold_out = path_probe.hold_out
    monkeypatch.setattr(path_probe, "hold_out", spy)
    probe = LogisticProbe(C=GRID, seed=3).fit(X, y, groups=groups)
    ((fitted, held),) = seen
    assert set(groups[fitted]).isdisjoint(groups[held])
    assert sorted([*fitted, *held]) == list(range(len(X)))
    assert 0.15 < len(held) / len(X) < 0.25
    assert "held out by group" in probe.selection_
    assert f"refitted on all {len(X)} rows" in probe.selection_
    again = LogisticProbe(C=GRID, seed=3).fit(X, y, groups=groups)
    np.testing.assert_array_equal(again.predict_scores(X), probe.predict_scores(X))


def test_without_val_and_groups_rows_are_held_out() -> None:
    X, y = data()
    assert "held out by row (30 rows)" in LogisticProbe(C=GRID).fit(X, y).selection_


def test_one_strength_needs_no_choice() -> None:
    X, y = data()
    probe = LogisticProbe(C=(0.5,)).fit(X, y)
    assert probe.C_ == 0.5
    assert probe.val_scores_ == {}
    assert "nothing to choose" in probe.selection_


@pytest.mark.parametrize("seen", [[0, 2], [1, 3, 4]])
def test_a_class_that_never_occurs_scores_zero_and_is_noted(seen: list[int]) -> None:
    X, y = data(len(seen))
    probe = LogisticProbe(C=(1.0,)).fit(X, np.array(seen)[y], n_classes=5)
    scores = probe.predict_scores(X)
    expected = np.zeros((len(X), 5))
    expected[:, seen] = reference(1.0).fit(X, y).predict_proba(X)
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    assert probe.classes_.tolist() == [0, 1, 2, 3, 4]
    assert "do not occur in training" in probe.notes_[0]


def test_a_class_with_one_row_is_learnt_and_noted() -> None:
    X, y = data(2)
    y[0] = 2
    probe = LogisticProbe(C=GRID).fit(X, y)
    assert probe.predict_scores(X).shape == (150, 3)
    assert probe.notes_ == ("Classes [2] have one training row.",)


def test_a_label_with_one_value_gets_a_constant_score_and_is_noted() -> None:
    X, y = multi_label()
    y[:, 1] = np.where(np.isnan(y[:, 1]), np.nan, 0.0)
    y[:, 2] = 1.0
    probe = LogisticProbe(C=GRID).fit(X, y, *multi_label(seed=1)[:1], y)
    scores = probe.predict_scores(X)
    assert (scores[:, 1] == 0).all()
    assert (scores[:, 2] == 1).all()
    assert "Labels [1, 2]" in probe.notes_[0]


def test_fits_that_stop_early_are_noted_and_no_warning_escapes() -> None:
    X, y = data()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        probe = LogisticProbe(C=GRID, max_iter=1).fit(X, y)
    assert any("Selection: 3 of 3 fits did not converge in 1 iterations" in note for note in probe.notes_)
    assert any("Final fit: 1 of 1 fits did not converge" in note for note in probe.notes_)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"X": [[np.nan]] * 4}, "NaN or infinity in 4 of 4"),
        ({"y": [0, 0, 0, 0]}, "nothing can be learnt"),
        ({"y": [0, 1]}, r"shape \(4,\)"),
        ({"y": [[0, 1]] * 4}, "nothing can be learnt"),
        ({"y": [[0, np.nan], [1, np.nan], [0, np.nan], [1, np.nan]]}, r"labels \[1\] are missing"),
        ({"X_val": [[1.0]]}, "belong together"),
        ({"X_val": [[1.0, 2.0]], "y_val": [0]}, "2 features"),
        ({"X_val": [[1.0]], "y_val": [[0]]}, "not of one task"),
        ({"groups": [1, 2]}, "2 groups for 4"),
        ({"groups": [1, 1, 1, 1]}, "one group"),
        ({"groups": ["a", "a", "b", "b"]}, "one class"),
        ({"y": [0, 1, 2, 3]}, "cannot be held out"),
        ({"y": [[0], [0], [1], [1]], "X_val": [[1.0]], "y_val": [[1]]}, "positives and negatives in both"),
    ],
)
def test_fit_refuses_bad_input(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"X": [[0.0], [1.0], [2.0], [3.0]], "y": [0, 0, 1, 1], **change}
    with pytest.raises(ProbeError, match=message):
        LogisticProbe(C=GRID).fit(**arguments)


@pytest.mark.parametrize("settings", [{"C": ()}, {"C": (0.0,)}, {"max_iter": 0}, {"tol": 0.0}])
def test_bad_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ProbeError, match="positive"):
        LogisticProbe(**settings).fit([[0.0], [1.0]], [0, 1])


def test_scores_of_other_features_or_unfitted_are_refused() -> None:
    with pytest.raises(ProbeError, match="not fitted"):
        LogisticProbe().predict_scores([[0.0]])
    with pytest.raises(ProbeError, match="2 features"):
        LogisticProbe(C=(1.0,)).fit([[0.0], [1.0]], [0, 1]).predict_scores([[0.0, 1.0]])
