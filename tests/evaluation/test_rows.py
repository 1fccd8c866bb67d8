"""Which rows a probe sees: conditions, shares of train, volumes, labels; and what makes a result another one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

import featcache
from featcache.errors import ConfigurationError, ProbeError
from featcache.evaluation.rows import fraction_of, select_rows
from featcache.records import Task
from featcache.store import FeatureStore
from tests.store.conftest import MakeStore, digest_of, features_of
from tests.store.conftest import make_store as make_store  # noqa: PLC0414 - a fixture

NAMES = [f"row{number}" for number in range(240)]
SIGN = Task("sign", "binary", ("sign",), ("minus", "plus"))
Store = Callable[..., FeatureStore]


@pytest.fixture
def store(make_store: MakeStore) -> Store:
    """240 rows of 120 patients; the label is the sign of the first feature."""

    def make(tasks: tuple[Task, ...] = (SIGN,), **columns: object) -> FeatureStore:
        first = features_of(NAMES)["cls"][:, 0].astype(float)
        frame = pd.DataFrame(
            {
                "id": NAMES,
                "digest": [digest_of(name).hex() for name in NAMES],
                "patient": [f"p{number // 2}" for number in range(240)],
                "split": ["train"] * 120 + ["val"] * 40 + ["test"] * 80,
                "sex": ["F", "F", "M", "M"] * 60,
                "age": [float(number % 90) for number in range(240)],
                "sign": np.where(first > 0, "plus", "minus"),
            }
        )
        return FeatureStore(make_store([NAMES], frame.assign(**columns), tasks=tasks))

    return make


def test_a_condition_chooses_rows_in_every_split(store: Store) -> None:
    opened = store()
    result = featcache.probe("knn", opened, k=3, where="sex == 'F' and age > 10")
    frame = opened.samples
    expected = frame[(frame["split"] == "test") & (frame["sex"] == "F") & (frame["age"] > 10)]
    assert result.ids == tuple(expected["id"])
    train = frame[(frame["split"] == "train") & (frame["sex"] == "F") & (frame["age"] > 10)]
    assert result.config["n_train"] == len(train)
    with pytest.raises(ConfigurationError, match=r"sexx[\s\S]*Columns: id"):
        featcache.probe("knn", opened, k=3, where="sexx == 'F'")


def test_subgroups_are_what_scoring_only_their_rows_gives(store: Store) -> None:
    opened = store()
    whole = featcache.probe("knn", opened, k=5, by=["sex", "age"], n_bootstrap=100)
    (run,) = whole.runs
    parts = {(part.column, part.value): part for part in run.subgroups}
    assert {value for column, value in parts if column == "sex"} == {"F", "M"}
    assert len([value for column, value in parts if column == "age"]) == 4  # quarters
    women = (opened.samples.set_index("id").loc[list(whole.ids), "sex"] == "F").to_numpy()
    assert run.scores is not None
    expected = (run.scores[women].argmax(1) == whole.targets[women]).mean()
    assert parts["sex", "F"].metrics["accuracy"].value == pytest.approx(expected)
    assert parts["sex", "F"].n == women.sum()
    with pytest.raises(ConfigurationError, match=r"sexx[\s\S]*--keep-column"):
        featcache.probe("knn", opened, k=5, by=["sexx"])


def test_shares_of_train_are_nested_whole_patients_in_proportion(store: Store) -> None:
    opened = store(sign=["plus" if number % 8 < 2 else "minus" for number in range(240)])
    rows = select_rows(opened, SIGN, "train")
    quarter, half = (fraction_of(rows, share, seed=0) for share in (0.25, 0.5))
    assert set(quarter.ids) < set(half.ids) < set(rows.ids)
    assert len(half) == 60
    for part in (quarter, half):
        assert part.frame.groupby("patient").size().eq(2).all()
        assert abs(part.y.mean() - rows.y.mean()) < 0.06
    assert fraction_of(rows, 0.25, seed=1).ids != quarter.ids
    result = featcache.probe("knn", opened, k=3, train_fraction=(0.25, 1))
    assert [run.parameters["train_fraction"] for run in result.runs] == [0.25, 1]
    for share in (0, 1.5):
        with pytest.raises(ConfigurationError, match="train fraction"):
            featcache.probe("knn", opened, k=3, train_fraction=share)


def test_slices_are_pooled_to_volumes(store: Store) -> None:
    volumes = [f"v{number // 4}" for number in range(240)]
    labels = ["plus" if number // 4 % 2 else "minus" for number in range(240)]
    patients = [f"p{number // 4}" for number in range(240)]
    index = pd.Series([3 - number % 4 for number in range(240)], dtype="Int64")
    opened = store(volume=volumes, sign=labels, patient=patients, index=index)
    result = featcache.probe("knn", opened, k=1, pool="mean")
    assert result.ids == tuple(f"v{number}" for number in range(40, 60))
    X = opened.features("cls").reshape(60, 4, -1)
    for pool, reference in (("mean", X.mean(1)), ("max", X.max(1)), ("median", np.median(X, axis=1))):
        (run,) = featcache.probe("knn", opened, k=1, pool=pool).runs
        unit = reference / np.linalg.norm(reference, axis=1, keepdims=True)
        nearest = (unit[40:] @ unit[:30].T).argmax(1)
        expected = np.array([SIGN.classes.index(labels[4 * row]) for row in range(30)])[nearest]
        assert run.scores is not None
        np.testing.assert_array_equal(run.scores.argmax(1), expected)
    mixed = store(volume=volumes, patient=patients, sign=["plus", *labels[1:]])
    with pytest.raises(ProbeError, match="volume 'v0' differ in 'sign'"):
        featcache.probe("knn", mixed, k=1, pool="mean")
    with pytest.raises(ProbeError, match="nothing to pool"):
        featcache.probe("knn", store(), k=1, pool="mean")


def test_labels_of_a_multilabel_task_can_be_chosen(store: Store) -> None:
    rng = np.random.default_rng(0)
    both = Task("both", "multilabel", ("a", "b", "c"), ("a", "b", "c"))
    columns = {name: rng.integers(0, 2, 240).astype(float) for name in "abc"}
    opened = store(tasks=(both,), **columns)
    result = featcache.probe("knn", opened, k=5, labels=["c", "a"])
    assert result.classes == ("c", "a")
    expected = opened.samples.set_index("id").loc[list(result.ids), ["c", "a"]]
    np.testing.assert_array_equal(result.targets, expected)
    assert set(result.runs[0].per_class["auroc"]) == {"c", "a"}
    with pytest.raises(ConfigurationError, match="no label 'd'"):
        featcache.probe("knn", opened, k=5, labels=["d"])
    with pytest.raises(ConfigurationError, match="multi-label"):
        featcache.probe("knn", store(), k=5, labels=["plus"])


def test_thresholds_are_chosen_on_val_and_never_on_the_scored_split(store: Store) -> None:
    rng = np.random.default_rng(0)
    both = Task("both", "multilabel", ("a", "b"), ("a", "b"))
    signs = features_of(NAMES)["cls"][:, :2].astype(float) + rng.normal(0, 0.5, (240, 2)) > 0.8
    opened = store(tasks=(both,), a=signs[:, 0].astype(float), b=signs[:, 1].astype(float))
    for probe, options in (("knn", {"k": 15}), ("logistic", {"C": (0.1, 1.0)})):
        chosen = featcache.probe(probe, opened, thresholds="f1", metrics=["f1"], **options).runs[0]
        half = featcache.probe(probe, opened, metrics=["f1"], **options).runs[0]
        levels = np.array(chosen.parameters["thresholds"])
        assert chosen.scores is not None
        np.testing.assert_array_equal(chosen.scores, half.scores)  # type: ignore[arg-type]
        from sklearn.metrics import f1_score

        truth = opened.samples.query("split == 'test'")[["a", "b"]].to_numpy()
        expected = f1_score(truth, chosen.scores >= levels, average="macro", zero_division=np.nan)
        assert chosen.metrics["f1"].value == pytest.approx(expected)
        relabelled = np.where(opened.samples["split"] == "test", 1.0 - signs[:, 0], signs[:, 0])
        other = store(tasks=(both,), a=relabelled, b=signs[:, 1].astype(float))
        again = featcache.probe(probe, other, thresholds="f1", metrics=["f1"], **options).runs[0]
        assert again.parameters["thresholds"] == chosen.parameters["thresholds"]
    no_val = store(tasks=(both,), a=signs[:, 0] * 1.0, b=signs[:, 1] * 1.0, split=["train"] * 120 + ["test"] * 120)
    with pytest.raises(ProbeError, match="chosen on val, and there is none"):
        featcache.probe("knn", no_val, k=5, thresholds="f1")


def test_linear_takes_the_blocks_of_the_store(store: Store) -> None:
    opened = store()
    (run,) = featcache.probe("linear", opened, epochs=3).runs
    assert set(run.parameters) == {"lr", "n_last_blocks", "avgpool"}
    assert run.parameters["n_last_blocks"] in (1, 4)
    (alone,) = featcache.probe("linear", opened, epochs=3, features="cls").runs
    assert (alone.parameters["n_last_blocks"], alone.parameters["avgpool"]) == (1, False)


def test_every_probe_answers_on_one_store(store: Store) -> None:
    results = featcache.probe_all(store(), n_bootstrap=50)
    names = [result.probe for result in results]
    assert {"knn", "linear", "logistic", "ridge"} <= set(names)
    assert "mlknn" not in names
    for result in results:
        assert result.runs[0].n == 80
        assert 0 <= result.runs[0].metrics["accuracy"].value <= 1
