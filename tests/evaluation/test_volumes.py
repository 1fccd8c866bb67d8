"""The probe ``volume`` on a store: splits, cross-validation by patient, and what is refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import featcache
from featcache.errors import ConfigurationError, ProbeError
from featcache.metrics import auroc, bootstrap
from featcache.probes import VolumeProbe, patient_folds
from featcache.store import FeatureStore
from tests.evaluation.test_rows import Store
from tests.evaluation.test_rows import store as store  # noqa: PLC0414 - a fixture
from tests.store.conftest import make_store as make_store  # noqa: PLC0414 - a fixture

FAST = {"epochs": 3, "learning_rates": (1e-2,), "hidden": 4}


def in_volumes(store: Store, **columns: object) -> FeatureStore:
    """Sixty volumes of four slices, two of each patient, in reversed order of the rows."""
    index = pd.Series([3 - number % 4 for number in range(240)], dtype="Int64")
    given = {
        "volume": [f"v{number // 4}" for number in range(240)],
        "sign": ["plus" if number // 8 % 2 else "minus" for number in range(240)],
        "patient": [f"p{number // 8}" for number in range(240)],
        "index": index,
    }
    return store(**(given | columns))


def test_heads_are_fitted_on_the_splits_and_compared_in_one_result(store: Store) -> None:
    opened = in_volumes(store)
    result = featcache.probe("volume", opened, folds=0, n_bootstrap=50, **FAST)
    assert [run.parameters["pool"] for run in result.runs] == ["attention", "mean", "max"]
    assert result.ids == tuple(f"v{number}" for number in range(40, 60))
    X = opened.features("cls").reshape(60, 4, -1)[:, ::-1]
    y = np.arange(60) // 2 % 2
    for run in result.runs:
        alone = VolumeProbe(run.parameters["pool"], **FAST).fit(list(X[:30]), y[:30], list(X[30:40]), y[30:40])  # type: ignore[arg-type]
        assert run.scores is not None
        np.testing.assert_allclose(run.scores, alone.predict_scores(list(X[40:])), atol=1e-6)
        assert run.parameters["epochs"] == alone.epochs_


def test_without_a_split_patients_are_cross_validated_whole(store: Store) -> None:
    opened = in_volumes(store)
    result = featcache.probe("volume", opened, pool="mean", folds=3, seed=2, n_bootstrap=50, **FAST)
    (run,) = result.runs
    assert (run.split, run.n, result.config["resampled"]) == ("cross-validated", 60, "patients")
    X, y, patients = opened.features("cls").reshape(60, 4, -1), np.arange(60) // 2 % 2, np.arange(60) // 2
    fold = patient_folds(y, patients, 3, seed=2)
    assert result.config["fold"] == fold.tolist()
    assert [note for note in result.notes if "epochs" in note and "folds:" in note] == [
        "mean, 3 of 3 folds: The last of 3 epochs was the best: more may be better."
    ]
    assert run.scores is not None
    for number in range(3):
        inside, outside = fold != number, fold == number
        alone = VolumeProbe("mean", seed=2, **FAST).fit(list(X[inside]), y[inside], groups=patients[inside])  # type: ignore[arg-type]
        np.testing.assert_allclose(run.scores[outside], alone.predict_scores(list(X[outside])), atol=1e-6)
    expected = bootstrap(auroc, y, run.scores, groups=patients, n=50, seed=2)
    assert run.metrics["auroc"].value == pytest.approx(expected.value)
    assert (run.metrics["auroc"].low, run.metrics["auroc"].high) == pytest.approx((expected.low, expected.high))


def test_folds_are_the_default_only_where_the_data_give_no_split(store: Store) -> None:
    opened = in_volumes(store)
    assert opened.split_origin not in ("seeded", "none")
    assert featcache.probe("volume", opened, pool="mean", n_bootstrap=2, **FAST).config["folds"] == 0


def test_the_same_question_is_answered_from_the_ledger(store: Store) -> None:
    opened = in_volumes(store)
    first = featcache.probe("volume", opened, pool=("mean",), folds=2, n_bootstrap=2, **FAST)
    assert featcache.probe("volume", opened, pool="mean", folds=2, n_bootstrap=2, **FAST).id == first.id
    other = featcache.probe("volume", opened, pool="mean", folds=2, n_bootstrap=2, position=True, **FAST)
    assert other.id != first.id


def test_probe_all_compares_volumes_where_slices_share_a_label(store: Store) -> None:
    names = [result.probe for result in featcache.probe_all(in_volumes(store), n_bootstrap=2, pool="max")]
    assert names[-1] == "volume"
    signs = ["plus" if number % 8 < 4 else "minus" for number in range(240)]
    mixed = in_volumes(store, volume=[f"v{number // 8}" for number in range(240)], sign=signs)
    assert "volume" not in [result.probe for result in featcache.probe_all(mixed, n_bootstrap=2)]


def test_what_cannot_be_pooled_is_refused(store: Store) -> None:
    opened = in_volumes(store)
    with pytest.raises(ConfigurationError, match=r"knn[\s\S]*probe volume"):
        featcache.probe("knn", opened, pool="attention")
    with pytest.raises(ConfigurationError, match="unknown pool 'sum'"):
        featcache.probe("knn", opened, pool="sum")
    with pytest.raises(ConfigurationError, match="at least 2 folds"):
        featcache.probe("volume", opened, folds=1)
    with pytest.raises(ProbeError, match="40 folds"):
        featcache.probe("volume", opened, folds=40)
    with pytest.raises(ConfigurationError, match="training fraction"):
        featcache.probe("volume", opened, train_fraction=0.5, folds=0)
    with pytest.raises(ProbeError, match="nothing to pool"):
        featcache.probe("volume", store(), folds=2)
