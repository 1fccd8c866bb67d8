"""Every estimator passes scikit-learn's own checks; what cannot apply is named with its reason."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.utils.estimator_checks import check_estimator

from featcache.probes import (
    ExactKNN,
    FewShot,
    KNNProbe,
    LinearHeads,
    LogisticProbe,
    LogisticSweep,
    MultiLabelKNN,
    RidgeProbe,
    RidgeSweep,
    VolumeProbe,
)

# Settings are small for speed; a grid of one value keeps the few rows of the checks from being held out.
ESTIMATORS: list[Any] = [
    ExactKNN(2),
    FewShot(shots=(1,), n_episodes=2),
    KNNProbe((1,)),
    LinearHeads("study", learning_rates=(0.01,), n_iter=3),
    LogisticProbe(C=(1.0,)),
    LogisticSweep(C=(1.0,)),
    MultiLabelKNN(1),
    RidgeProbe(alpha=(1.0,)),
    RidgeSweep(alphas=(1.0,)),
    VolumeProbe("mean", epochs=2),
]

NO_DIRECTION = {"check_estimators_dtypes": "a row that is all zero after the cast to int has no cosine: it is refused"}
GRID_FIRST = {
    "check_methods_sample_order_invariance": "decision_function is (n_C, n, n_outputs): the first axis is the grid"
}
EXPECTED: dict[str, dict[str, str]] = {
    "ExactKNN": NO_DIRECTION,
    "KNNProbe": NO_DIRECTION,
    "LogisticSweep": GRID_FIRST,
    "MultiLabelKNN": NO_DIRECTION,
    "RidgeSweep": GRID_FIRST,
}


def name_of(estimator: Any) -> str:
    return type(estimator).__name__


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=name_of)
def test_scikit_learns_checks_pass(estimator: Any) -> None:
    expected = EXPECTED.get(name_of(estimator), {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = check_estimator(estimator, expected_failed_checks=expected, on_fail=None, on_skip=None)
    failed = {check["check_name"]: repr(check["exception"]) for check in found if check["status"] == "failed"}
    assert not failed
    # A check that has come to pass leaves the list.
    assert {check["check_name"] for check in found if check["status"] == "xfail"} == set(expected)
    assert sum(check["status"] == "passed" for check in found) >= 35


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=name_of)
def test_settings_survive_clone_and_are_shown(estimator: Any) -> None:
    copy = clone(estimator)
    assert repr(copy.get_params()) == repr(estimator.get_params())
    assert repr(copy) == repr(estimator)
    assert repr(estimator).startswith(name_of(estimator))


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=name_of)
def test_use_before_fit_is_scikit_learns_error_too(estimator: Any) -> None:
    for method in ("predict_scores", "decision_function", "kneighbors"):
        if hasattr(estimator, method):
            with pytest.raises(NotFittedError, match="not fitted"):
                getattr(clone(estimator), method)(np.eye(3))


@pytest.mark.parametrize(
    "estimator", [LogisticProbe(C=(0.1, 1.0)), RidgeProbe(), VolumeProbe("mean", epochs=2)], ids=name_of
)
def test_scikit_learns_cross_validation_scores_them(estimator: Any) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(120) % 3
    X = rng.normal(size=(120, 4)) + 6 * np.eye(4)[y]
    assert cross_val_score(estimator, X, y, scoring="accuracy", cv=StratifiedKFold(3)).min() > 0.8


def test_decisions_are_the_largest_score_or_half_of_each_label() -> None:
    rng = np.random.default_rng(1)
    X = rng.normal(size=(60, 4))
    exclusive = LogisticProbe(C=(1.0,)).fit(X, np.arange(60) % 3)
    np.testing.assert_array_equal(exclusive.predict(X), exclusive.predict_scores(X).argmax(axis=1))
    labels = LogisticProbe(C=(1.0,)).fit(X, X[:, :2] > 0)
    np.testing.assert_array_equal(labels.predict(X), labels.predict_scores(X) >= 0.5)
