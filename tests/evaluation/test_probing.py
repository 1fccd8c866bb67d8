"""``probe``: what is joined, what is refused, and the numbers against scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler, normalize

import featcache
from featcache.errors import ConfigurationError, ProbeError, UnknownNameError
from featcache.records import Task
from featcache.store import FeatureStore
from tests.store.conftest import MakeStore, digest_of, features_of
from tests.store.conftest import make_store as make_store  # noqa: PLC0414 - a fixture

NAMES = [f"row{number}" for number in range(240)]


def labelled(**columns: object) -> pd.DataFrame:
    """Rows with a label that the features carry: the sign of their first number."""
    first = features_of(NAMES)["cls"][:, 0].astype(float)
    frame = pd.DataFrame(
        {
            "id": NAMES,
            "digest": [digest_of(name).hex() for name in NAMES],
            "patient": [f"p{number // 2}" for number in range(240)],
            "split": ["train"] * 120 + ["val"] * 40 + ["test"] * 80,
            "sign": pd.cut(first, [-9, -0.4, 0.4, 9], labels=["minus", "zero", "plus"]).astype(str),
        }
    )
    return frame.assign(**columns)


SIGN = Task("sign", "multiclass", ("sign",), ("minus", "zero", "plus"))


def test_knn_scores_are_scikit_learns(make_store: MakeStore) -> None:
    store = FeatureStore(make_store([NAMES], labelled(), tasks=(SIGN,)))
    result = featcache.probe("knn", store, k=(1, 7))
    X, y = store.arrays(split="train")
    X_test, y_test = store.arrays(split="test")
    for run in result.runs:
        reference = KNeighborsClassifier(
            run.parameters["k"], weights=lambda distance: np.exp((1 - distance**2 / 2) / 0.07)
        ).fit(normalize(X.astype(float)), y)
        shares = reference.predict_proba(normalize(X_test.astype(float)))
        order = [list(reference.classes_).index(name) for name in SIGN.classes]
        np.testing.assert_allclose(run.scores, shares[:, order], atol=1e-4)
        predicted = np.array(SIGN.classes)[run.scores.argmax(1)]
        assert run.metrics["accuracy"].value == pytest.approx((predicted == y_test).mean())
        assert run.metrics["balanced_accuracy"].value == pytest.approx(balanced_accuracy_score(y_test, predicted))
        codes = np.array([SIGN.classes.index(name) for name in y_test])
        expected = roc_auc_score(codes, run.scores, multi_class="ovr")
        assert run.metrics["auroc"].value == pytest.approx(expected)
    assert result.config["resampled"] == "patients"
    assert result.ids == tuple(NAMES[160:])


def test_knn_finds_the_same_by_every_algorithm_and_says_which(make_store: MakeStore) -> None:
    store = FeatureStore(make_store([NAMES], labelled(), tasks=(SIGN,)))
    results = [featcache.probe("knn", store, k=3, algorithm=name) for name in ("auto", "faiss", "float64")]
    for result in results[1:]:
        np.testing.assert_array_equal(result.runs[0].scores, results[0].runs[0].scores)
        assert any(f"found by {result.config['algorithm']}" in note for note in result.notes)
    approximate = featcache.probe("knn", store, k=3, index="hnsw")
    assert any("approximate" in note and "recall" in note for note in approximate.notes)


def test_logistic_refits_on_train_and_val_with_the_c_chosen_on_val(make_store: MakeStore) -> None:
    store = FeatureStore(make_store([NAMES], labelled(), tasks=(SIGN,)))
    result = featcache.probe("logistic", store, C=(0.01, 1.0))
    (run,) = result.runs
    X, y = (np.concatenate(parts) for parts in zip(store.arrays(split="train"), store.arrays(split="val"), strict=True))
    scaler = StandardScaler().fit(X)
    reference = LogisticRegression(C=run.parameters["C"], max_iter=5000, tol=1e-8).fit(scaler.transform(X), y)
    X_test, _ = store.arrays(split="test")
    order = [list(reference.classes_).index(name) for name in SIGN.classes]
    np.testing.assert_allclose(run.scores, reference.predict_proba(scaler.transform(X_test))[:, order], atol=5e-3)
    assert result.config["n_val"] == 40


def test_a_patient_on_both_sides_is_refused_by_name(make_store: MakeStore) -> None:
    patients = [f"p{number // 2}" for number in range(240)]
    patients[0] = patients[200] = "shared"
    store = FeatureStore(make_store([NAMES], labelled(patient=patients), tasks=(SIGN,)))
    with pytest.raises(ProbeError, match="shared"):
        featcache.probe("knn", store)
    result = featcache.probe("knn", store, allow_patient_overlap=True)
    assert any("too good" in note for note in result.notes)


def test_missing_labels_are_left_out(make_store: MakeStore) -> None:
    frame = labelled()
    frame.loc[[0, 239], "sign"] = None
    result = featcache.probe("knn", make_store([NAMES], frame, tasks=(SIGN,)))
    assert (result.config["n_train"], result.runs[0].n) == (119, 79)


def test_multilabel_tasks_are_scored_label_by_label(make_store: MakeStore) -> None:
    features = features_of(NAMES)["cls"]
    frame = labelled(a=(features[:, 0] > 0).astype(float), b=(features[:, 1] > 1).astype(float), c=0.0)
    frame.loc[5, "a"] = None
    task = Task("findings", "multilabel", ("a", "b", "c"), ("a", "b", "c"))
    store = FeatureStore(make_store([NAMES], frame, tasks=(task,)))
    (run,) = featcache.probe("knn", store, k=(15,)).runs
    _, y = store.arrays(split="test")
    expected = np.mean([roc_auc_score(y[:, label], run.scores[:, label]) for label in (0, 1)])
    assert run.metrics["auroc"].value == pytest.approx(expected)
    notes = featcache.probe("knn", store, k=(15,)).notes
    assert any("undefined" in note and "c" in note for note in notes)


def test_questions_that_cannot_be_answered_say_why(make_store: MakeStore, tmp_path: Path) -> None:
    path = make_store([NAMES], labelled(), tasks=(SIGN,))
    with pytest.raises(ProbeError, match="split 'holdout'"):
        featcache.probe("knn", path, split="holdout")
    with pytest.raises(ProbeError, match="k"):
        featcache.probe("knn", path, k=(121,))
    with pytest.raises(UnknownNameError, match="did you mean 'knn'"):
        featcache.probe("kn", path)
    with pytest.raises(ConfigurationError, match="neighbours"):
        featcache.probe("knn", path, neighbours=3)
    with pytest.raises(ConfigurationError, match="known: sign"):
        featcache.probe("knn", path, task="age")
    with pytest.raises(ProbeError, match="--label-column"):
        featcache.probe("knn", make_store([NAMES], dataset="unlabelled"))


def test_what_the_probe_learns_from_is_not_scored(make_store: MakeStore) -> None:
    path = make_store([NAMES], labelled(), tasks=(SIGN,))
    with pytest.raises(ProbeError, match="learns from train"):
        featcache.probe("knn", path, split="train")
    assert len(featcache.probe("knn", path, k=3).runs) == 1


def test_a_patient_in_train_and_val_is_refused_too(make_store: MakeStore) -> None:
    patients = [f"p{number // 2}" for number in range(240)]
    patients[0] = patients[130] = "shared"
    with pytest.raises(ProbeError, match="shared"):
        featcache.probe("logistic", make_store([NAMES], labelled(patient=patients), tasks=(SIGN,)))


def test_changing_the_samples_changes_no_labels(make_store: MakeStore) -> None:
    store = FeatureStore(make_store([NAMES], labelled(), tasks=(SIGN,)))
    _, before = store.arrays()
    frame = store.samples
    frame.sort_values("id", ascending=False, inplace=True, ignore_index=True)
    np.testing.assert_array_equal(store.arrays()[1], before)


def test_the_same_seed_gives_the_same_interval(make_store: MakeStore) -> None:
    path = make_store([NAMES], labelled(), tasks=(SIGN,))
    first, again = (featcache.probe("knn", path, seed=3).runs[0].metrics for _ in range(2))
    assert first == again
