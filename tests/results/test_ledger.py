"""The ledger: what was asked before is answered at once, and nothing stale ever is."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import featcache
from featcache.errors import ResultError
from featcache.records import Estimate, Result, Task
from featcache.results import Ledger, compare_results
from featcache.store import FeatureStore, SampleTable, write_samples
from tests.store.conftest import MakeStore, digest_of, features_of, make_key
from tests.store.conftest import make_store as make_store  # noqa: PLC0414 - a fixture

NAMES = [f"row{number}" for number in range(120)]
SIGN = Task("sign", "binary", ("sign",), ("minus", "plus"))


def samples(**columns: object) -> pd.DataFrame:
    first = features_of(NAMES)["cls"][:, 0].astype(float)
    frame = pd.DataFrame(
        {
            "id": NAMES,
            "digest": [digest_of(name).hex() for name in NAMES],
            "patient": [f"p{number // 2}" for number in range(120)],
            "split": ["train"] * 60 + ["val"] * 20 + ["test"] * 40,
            "sign": np.where(first > 0, "plus", "minus"),
        }
    )
    return frame.assign(**columns)


@pytest.fixture
def store(make_store: MakeStore) -> Path:
    return make_store([NAMES], samples(), tasks=(SIGN,))


def same(one: Result, two: Result) -> bool:
    def plain(result: Result) -> object:
        return json.loads(json.dumps([result.config, [run.parameters for run in result.runs], result.notes]))

    scores = zip(one.runs, two.runs, strict=True)
    return (
        plain(one) == plain(two)
        and one.ids == two.ids
        and np.array_equal(one.targets, two.targets)
        and all(np.array_equal(a.scores, b.scores) for a, b in scores)  # type: ignore[arg-type]
        and repr([(run.metrics, run.per_class, run.subgroups) for run in one.runs])
        == repr([(run.metrics, run.per_class, run.subgroups) for run in two.runs])
    )


def test_the_same_question_gives_the_recorded_answer(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = featcache.probe("knn", store, k=(1, 5), by=["patient"], n_bootstrap=50)
    assert first.id.startswith("knn-")
    with monkeypatch.context() as patched:
        patched.setattr("featcache.evaluation.answering.fit", lambda *_, **__: pytest.fail("it was computed again"))
        again = featcache.probe("knn", store, k=(1, 5), by=["patient"], n_bootstrap=50)
    assert again.created == first.created
    assert same(first, again)
    fresh = featcache.probe("knn", store, k=(1, 5), by=["patient"], n_bootstrap=50, fresh=True)
    assert same(first, fresh)


@pytest.mark.parametrize(
    "changes",
    [
        {"k": 3},
        {"seed": 1},
        {"n_bootstrap": 51},
        {"split": "val"},
        {"features": "patch_mean"},
        {"where": "id != 'row0'"},
        {"metrics": ["auroc"]},
        {"interval": "bca"},
        {"train_fraction": 0.5},
        {"standardize": True},
        {"by": ["patient"]},
    ],
    ids=lambda value: next(iter(value)),
)
def test_another_question_is_another_result(store: Path, changes: dict[str, object]) -> None:
    options: dict[str, object] = {"k": 5, "n_bootstrap": 50}
    first = featcache.probe("knn", store, **options)  # type: ignore[arg-type]
    other = featcache.probe("knn", store, **{**options, **changes})  # type: ignore[arg-type]
    assert other.fingerprint != first.fingerprint


@pytest.mark.parametrize("column", ["sign", "split", "patient"])
def test_changed_labels_splits_or_patients_are_another_result(store: Path, column: str) -> None:
    first = featcache.probe("knn", store, k=5)
    changed = samples()
    values = {"sign": "plus", "split": "val", "patient": "someone"}
    row = {"sign": 100, "split": 59, "patient": 119}[column]
    if column == "split":
        row = 58
        changed.loc[[58, 59], column] = "val"
    changed.loc[row, column] = values[column] if changed.loc[row, column] != values[column] else "minus"
    write_samples(store.parent, SampleTable("table", changed, (SIGN,), "table", ()))
    assert featcache.probe("knn", store, k=5).fingerprint != first.fingerprint


def test_another_order_of_the_samples_is_not_a_stale_answer(store: Path) -> None:
    featcache.probe("knn", store, k=5)
    turned = samples().iloc[::-1].reset_index(drop=True)
    write_samples(store.parent, SampleTable("table", turned, (SIGN,), "table", ()))
    result = featcache.probe("knn", store, k=5)
    assert result.ids == tuple(reversed(NAMES[80:]))


def test_a_damaged_result_is_computed_again(store: Path, home: Path) -> None:
    first = featcache.probe("knn", store, k=5)
    folder = home / "results" / first.id
    for file in ("result.json", "scores.parquet"):
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(content[: len(content) // 2])
        with pytest.raises(ResultError, match="cannot be read"):
            Ledger(home / "results").read(first.id)
        assert same(featcache.probe("knn", store, k=5), first)


def test_per_sample_scores_can_be_read_by_any_parquet_reader(store: Path, home: Path) -> None:
    result = featcache.probe("knn", store, k=(1, 5))
    table = pd.read_parquet(home / "results" / result.id / "scores.parquet")
    assert list(table["id"]) == list(result.ids)
    np.testing.assert_array_equal(table[["run1_0", "run1_1"]], result.runs[1].scores)  # type: ignore[arg-type]
    np.testing.assert_array_equal(table["target"], result.targets)


def test_undefined_numbers_survive_the_ledger(store: Path, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "results")
    result = featcache.probe("knn", store, k=5, record=False)
    run = replace(result.runs[0], metrics={"auroc": Estimate(float("nan"), float("nan"), 0.5)})
    back = ledger.read(ledger.record(replace(result, runs=(run,))).id)
    assert np.isnan(back.runs[0].metrics["auroc"].value)
    assert back.runs[0].metrics["auroc"].high == 0.5


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_home_that_cannot_be_written_gives_the_result_and_says_so(store: Path, home: Path) -> None:
    home.chmod(0o500)
    try:
        assert "cannot be written" in featcache.probe("knn", store, k=5).notes[-1]
    finally:
        home.chmod(0o700)


def test_a_ledger_that_is_a_file_gives_the_result_and_says_so(store: Path, home: Path) -> None:
    (home / "results").write_text("not a folder")
    result = featcache.probe("knn", store, k=5)
    assert result.id == ""
    assert "cannot be written" in result.notes[-1]


def test_results_are_listed_and_found_by_the_beginning_of_their_id(store: Path, home: Path) -> None:
    knn = featcache.probe("knn", store, k=5)
    logistic = featcache.probe("logistic", store, C=1.0)
    ledger = Ledger(home / "results")
    assert {line["id"] for line in ledger.list()} == {knn.id, logistic.id}
    assert same(ledger.read(knn.id[:8]), knn)
    for name in ("nothing", ""):
        with pytest.raises(ResultError, match="begin with"):
            ledger.read(name)


def test_results_are_compared_on_the_samples_they_share(store: Path, make_store: MakeStore) -> None:
    knn = featcache.probe("knn", store, k=5)
    other = make_store([NAMES[:110]], samples(), key=make_key(model="other"), tasks=(SIGN,))
    logistic = featcache.probe("logistic", other, C=1.0)
    found = compare_results(knn, logistic, n_bootstrap=200)
    assert found.n_rows == 30
    assert found.notes == ("10 samples that only one of the two scored are left out.",)
    from sklearn.metrics import roc_auc_score

    rows = [knn.ids.index(name) for name in logistic.ids]
    first = roc_auc_score(knn.targets[rows], knn.runs[0].scores[rows, 1])  # type: ignore[index]
    second = roc_auc_score(logistic.targets, logistic.runs[0].scores[:, 1])  # type: ignore[index]
    assert found.metrics[0].first == pytest.approx(first)
    assert found.metrics[0].second == pytest.approx(second)
    assert [name for name, _ in found.labels] == ["plus"]
    assert found.labels[0][1].difference.value == pytest.approx(first - second)
    assert found.metrics[0].n_groups == 15


def test_results_of_different_questions_are_not_compared(store: Path, make_store: MakeStore) -> None:
    knn = featcache.probe("knn", store, k=5)
    with pytest.raises(ResultError, match="cannot be compared"):
        compare_results(knn, replace(knn, task="another"))
    with pytest.raises(ResultError, match="no sample in common"):
        compare_results(knn, replace(knn, ids=tuple(f"x{name}" for name in knn.ids)))
    with pytest.raises(ResultError, match="labels of some samples differ"):
        compare_results(knn, replace(knn, targets=1 - knn.targets))
    with pytest.raises(ResultError, match="1 runs"):
        compare_results(knn, knn, run=(0, 3))
    assert FeatureStore(store).model == "tiny"
