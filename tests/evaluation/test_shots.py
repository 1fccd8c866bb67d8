"""Few-shot through the store: the estimator's numbers, episodes that replay, the study's protocol, the curve."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.neighbors import NearestCentroid

import featcache
from featcache.errors import ConfigurationError, ProbeError
from featcache.records import Task
from featcache.reports import draw_learning_curve
from featcache.store import FeatureStore
from tests.evaluation.test_rows import make_store as make_store  # noqa: PLC0414 - a fixture
from tests.evaluation.test_rows import store as store  # noqa: PLC0414 - a fixture

Store = Callable[..., FeatureStore]


def test_the_mean_over_episodes_is_that_of_classifiers_fitted_one_by_one(store: Store) -> None:
    opened = store()
    result = featcache.probe("fewshot", opened, shots=(2, 8), n_episodes=12, normalize="l2", metrics=["accuracy"])
    assert [run.parameters["shots"] for run in result.runs] == [2, 8]
    assert result.episodes is not None
    X, y = opened.arrays(split="train")
    X_test, y_test = opened.arrays(split="test")
    X, X_test = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (X, X_test))
    for run, episodes in zip(result.runs, result.episodes["rows"], strict=True):
        found = [(NearestCentroid().fit(X[rows], y[rows]).predict(X_test) == y_test).mean() for rows in episodes]
        assert run.metrics["accuracy"].value == pytest.approx(np.mean(found), abs=1e-9)
        assert run.scores is None


def test_episodes_of_a_recorded_result_can_be_replayed(store: Store, home: Path) -> None:
    opened = store()
    first = featcache.probe("fewshot", opened, shots=(1, 4), n_episodes=5, seed=3)
    file = home / "results" / first.id / "episodes.json"
    assert json.loads(file.read_text()) == first.episodes
    again = featcache.probe("fewshot", opened, episodes=file, head="centroid")
    assert repr([run.metrics for run in again.runs]) == repr([run.metrics for run in first.runs])
    other = featcache.probe("fewshot", opened, features="patch_mean", episodes=file)
    assert other.episodes == first.episodes
    with pytest.raises(ConfigurationError, match=r"holds no episodes[\s\S]*episodes.json"):
        featcache.probe("fewshot", opened, episodes=home / "results" / first.id / "result.json")


def test_the_studys_protocol_takes_whole_patients_of_a_finding(store: Store) -> None:
    findings = Task("findings", "multilabel", ("a", "b"), ("a", "b"))
    both = {name: [float(number // 2 % 3 == place) for number in range(240)] for place, name in enumerate("ab")}
    opened = store(tasks=(findings,), **both)
    result = featcache.probe("fewshot", opened, protocol="study", shots=(2,), head="ridge", metrics=["auroc"])
    assert result.episodes is not None
    ((rows,),) = result.episodes["rows"]
    train = opened.samples.query("split == 'train'").reset_index(drop=True)
    assert train.loc[rows].groupby("patient").size().eq(2).all()  # all images of each patient
    assert train.loc[rows, "patient"].nunique() == 4  # two patients of each finding
    single = featcache.probe("fewshot", store(), protocol="study", shots=(4,))
    assert single.runs[0].parameters["n_episodes"] == 1


def test_shots_that_a_class_is_too_small_for_are_left_out_and_said(store: Store) -> None:
    labels = ["plus" if number % 24 == 0 else "minus" for number in range(240)]  # 5 in train
    result = featcache.probe("fewshot", store(sign=labels), n_episodes=3)
    assert [run.parameters["shots"] for run in result.runs] == [1, 2, 4]
    assert any("8, 16 shots are left out" in note for note in result.notes)


def test_the_learning_curve_is_drawn(store: Store, tmp_path: Path) -> None:
    opened = store()
    few = featcache.probe("fewshot", opened, shots=(1, 4), n_episodes=4)
    shares = featcache.probe("knn", opened, k=3, train_fraction=(0.25, 1))
    for result in (few, shares):
        path = draw_learning_curve([result], tmp_path / f"{result.probe}.png")
        with Image.open(path) as picture:
            assert picture.format == "PNG"
    with pytest.raises(ConfigurationError, match="no curve"):
        draw_learning_curve([featcache.probe("knn", opened, k=3)], tmp_path / "x.png")


def test_low_shot_knn_is_few_shot_with_neighbours(store: Store) -> None:
    opened = store()
    low = featcache.probe("knn", opened, n_per_class=8, n_tries=3, k=5)
    few = featcache.probe("fewshot", opened, shots=8, n_episodes=3, head="knn", k=5)
    assert repr([run.metrics for run in low.runs]) == repr([run.metrics for run in few.runs])
    for wrong, message in (({"k": (1, 5)}, "one k"), ({"index": "ivf"}, "does not take index")):
        with pytest.raises(ConfigurationError, match=message):
            featcache.probe("knn", opened, n_per_class=8, **wrong)


def test_mlknn_learns_from_train_and_val_and_answers_only_labels(store: Store) -> None:
    rng = np.random.default_rng(0)
    findings = Task("findings", "multilabel", ("a", "b"), ("a", "b"))
    opened = store(tasks=(findings,), **{name: rng.integers(0, 2, 240).astype(float) for name in "ab"})
    result = featcache.probe("mlknn", opened, k=(5, 9))
    assert [run.parameters["k"] for run in result.runs] == [5, 9]
    from featcache.probes import MultiLabelKNN

    parts = [opened.arrays(split=split, target="findings") for split in ("train", "val")]
    X, Y = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    expected = MultiLabelKNN((5, 9)).fit(X, Y).predict_scores(opened.arrays(split="test", target="findings")[0])
    np.testing.assert_array_equal(result.runs[1].scores, expected[9])  # type: ignore[arg-type]
    with pytest.raises(ProbeError, match="multi-label"):
        featcache.probe("mlknn", store(), k=5)
