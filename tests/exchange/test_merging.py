"""Stores of one key are joined; others are refused with the field that differs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from featcache.errors import ConfigurationError, DatasetError, StoreError
from featcache.exchange import export, import_export, merge
from featcache.records import Failure, Task
from featcache.store import (
    BASIS,
    FeatureStore,
    SampleTable,
    TokenForm,
    open_writer,
    verify_store,
    write_quarantine,
    write_samples,
)
from featcache.store.packing import pack_hdf5
from tests.store.conftest import ARRAYS, digest_of, features_of, make_key

NAMES = [f"row{number}" for number in range(100)]


def shard(folder: Path, names: list[str], changes: dict[str, object] | None = None, **columns: object) -> FeatureStore:
    """A store of its own home with the labels given."""
    key = make_key(**(changes or {}))
    frame = pd.DataFrame({"id": names, "digest": [digest_of(name).hex() for name in names], "split": "train"})
    tasks = (Task("label", "multiclass", ("label",), tuple(sorted(set(columns.get("label", []))))),)
    write_samples(folder / "data", SampleTable("table", frame.assign(**columns), tasks, "table", ()))
    with open_writer(folder / "data", key, arrays=ARRAYS, planned_rows=len(names), provenance={}) as writer:
        for place, number in enumerate(writer.reserve(len(names))):
            part = names[place * writer.chunk_rows : (place + 1) * writer.chunk_rows]
            digests = np.frombuffer(b"".join(map(digest_of, part)), np.uint8).reshape(-1, 16)
            writer.commit(number, digests, part, features_of(part, key.dtype))
    return FeatureStore(folder / "data" / key.store_name)


def test_shards_become_one_store(tmp_path: Path) -> None:
    first = shard(tmp_path / "a", NAMES[:70], label=["x", "y"] * 35)
    second = shard(tmp_path / "b", NAMES[60:], label=["x", "z"] * 5 + ["y", "y"] * 15, grade=range(40))
    write_quarantine(first.path, (Failure("row99", "p", "r", "m"), Failure("other", "p", "r", "m")))
    report = merge([FeatureStore(first.path), second], into=tmp_path / "joined")
    joined = FeatureStore(report.store)
    assert (report.rows, report.added, joined.key) == (100, 100, first.key)
    assert report.store == tmp_path / "joined" / "data" / first.path.name
    assert list(joined.samples["id"]) == NAMES
    for name, expected in features_of(NAMES).items():
        np.testing.assert_array_equal(joined[name][:], expected)
    assert joined.samples["grade"].isna().sum() == 60
    assert joined.tasks[0].classes == ("x", "y", "z")
    assert [failure.id for failure in joined.failures] == ["other"]
    assert len(report.conflicts) == 5
    assert "row61: label is 'y'" in report.conflicts[0]
    assert "'z'" in report.conflicts[0]
    assert list(joined.samples["label"][60:70]) == ["x", "y"] * 5
    again = merge([FeatureStore(first.path), second], into=tmp_path / "joined")
    assert (again.rows, again.added) == (100, 0)


def test_a_store_can_be_merged_into_another_and_be_packed(tmp_path: Path) -> None:
    first = shard(tmp_path / "a", NAMES[:10], label=["x"] * 10)
    second = FeatureStore(pack_hdf5(shard(tmp_path / "b", NAMES[5:20], label=["x"] * 15)))
    report = merge([first, second], into=tmp_path / "a")
    assert (report.store, report.rows, report.added, report.conflicts) == (first.path, 20, 10, ())
    np.testing.assert_array_equal(FeatureStore(first.path)["cls"][:], features_of(NAMES[:20])["cls"])


def test_other_keys_are_refused_by_field(tmp_path: Path) -> None:
    first = shard(tmp_path / "a", NAMES[:5])
    second = shard(tmp_path / "b", NAMES[5:9], {"preprocess": {"crop": 9}, "precision": "bf16"})
    with pytest.raises(StoreError, match=r"precision: fp32, there bf16; preprocess\.crop: 8, there 9"):
        merge([first, second], into=tmp_path / "joined")
    assert not (tmp_path / "joined").exists()


def test_one_id_with_two_contents_is_refused(tmp_path: Path) -> None:
    first, second = shard(tmp_path / "a", NAMES[:5]), shard(tmp_path / "b", NAMES[5:9])
    frame = pd.DataFrame({"id": NAMES[:4], "digest": [digest_of(name).hex() for name in NAMES[5:9]]})
    (tmp_path / "b" / "data" / "samples.parquet").unlink()
    write_samples(tmp_path / "b" / "data", SampleTable("table", frame.assign(split="train"), (), "table", ()))
    with pytest.raises(DatasetError, match=r"4 id\(s\) mean different content, first row0: digest"):
        merge([first, FeatureStore(second.path)], into=tmp_path / "joined")


def test_datasets_of_several_names_need_one(tmp_path: Path) -> None:
    first = shard(tmp_path / "a", NAMES[:5])
    second = shard(tmp_path / "b", NAMES[5:9])
    moved = (tmp_path / "b" / "data").rename(tmp_path / "b" / "other")
    second = FeatureStore(moved / second.path.name)
    with pytest.raises(ConfigurationError, match="data, other"):
        merge([first, second], into=tmp_path / "joined")
    assert merge([first, second], into=tmp_path / "joined", dataset="all").rows == 9
    with pytest.raises(ConfigurationError, match="no store"):
        merge([])


def tokens_added(store: FeatureStore, names: list[str], form: TokenForm, seed: int = 0) -> dict[str, np.ndarray]:
    """Tokens that depend on the row's name only; the basis on the seed."""
    shapes = form.arrays((2, 3, 8))
    rows = {
        array: np.stack([np.random.default_rng([*name.encode(), 7]).integers(-99, 99, shape) for name in names])
        for array, shape in shapes.items()
    }
    basis = None if form.pca is None else np.random.default_rng(seed).normal(size=(1, 1 + form.pca, 8)).astype("f4")
    facts = {"planned_rows": len(names), "provenance": {}}
    folder = store.path.parent
    with (
        open_writer(folder, store.key, arrays=ARRAYS, **facts),
        open_writer(folder, store.key, arrays=shapes, family=form.family, basis=basis, **facts) as writer,
    ):
        for place, number in enumerate(writer.reserve(len(names))):
            part = slice(place * writer.chunk_rows, (place + 1) * writer.chunk_rows)
            digests = np.frombuffer(b"".join(map(digest_of, names[part])), np.uint8).reshape(-1, 16)
            writer.commit(number, digests, names[part], {array: values[part] for array, values in rows.items()})
    return rows


@pytest.mark.parametrize("form", [TokenForm(dtype="int8"), TokenForm(pca=4), TokenForm(pca=4, dtype="int8")])
def test_coded_tokens_are_carried_number_by_number(tmp_path: Path, form: TokenForm) -> None:
    first = shard(tmp_path / "a", NAMES[:30], label=["x"] * 30)
    second = shard(tmp_path / "b", NAMES[20:50], label=["x"] * 30)
    tokens_added(first, NAMES[:30], form)
    tokens_added(second, NAMES[25:50], form)  # five samples have vectors alone
    stores = [FeatureStore(first.path), FeatureStore(second.path)]
    report = merge(stores, into=tmp_path / "joined")
    assert report.left_out == ()
    assert verify_store(report.store) == []
    joined = FeatureStore(report.store)
    expected = tokens_added(shard(tmp_path / "c", NAMES[:50]), NAMES[:50], form)
    values = expected["tokens"].astype(np.float32)
    if "scales" in expected:
        values = values * expected["scales"][..., None].astype(np.float32)
    np.testing.assert_array_equal(joined[form.family][:], values.astype(np.float16))
    if form.pca is not None:
        content = [(path / form.family / BASIS).read_bytes() for path in (first.path, report.store)]
        assert content[0] == content[1]
    assert merge(stores, into=tmp_path / "joined").added == 0


def test_tokens_on_another_basis_are_refused_by_name_before_anything_is_written(tmp_path: Path) -> None:
    form = TokenForm(pca=4)
    first = shard(tmp_path / "a", NAMES[:5], label=["x"] * 5)
    second = shard(tmp_path / "b", NAMES[5:9], label=["x"] * 4)
    tokens_added(first, NAMES[:5], form, seed=1)
    tokens_added(second, NAMES[5:9], form, seed=2)
    with pytest.raises(StoreError, match=r"patches_pca4\.basis: \w{8}, there \w{8}"):
        merge([FeatureStore(first.path), FeatureStore(second.path)], into=tmp_path / "joined")
    assert not (tmp_path / "joined").exists()
    with pytest.raises(StoreError, match=r"patches_pca4\.basis"):  # the target is one of those that are compared
        merge([FeatureStore(second.path)], into=tmp_path / "a")
    assert len(FeatureStore(first.path)) == 5


def test_an_export_of_coded_tokens_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    store = shard(tmp_path / "a", NAMES[:5], label=["x"] * 5)
    tokens_added(store, NAMES[:5], TokenForm(dtype="int8"))
    store = FeatureStore(store.path)
    for form, name in (("hdf5", "all.h5"), ("npy", "all"), ("parquet", "all.parquet")):
        file = export(store, tmp_path / name, format=form)  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="patches_int8"):
            import_export(file, home=tmp_path / "home")
        assert not (tmp_path / "home").exists()
        vectors = export(store, tmp_path / f"vectors{Path(name).suffix}", format=form, features=["cls"])  # type: ignore[arg-type]
        back = FeatureStore(import_export(vectors, home=tmp_path / f"home {form}"))
        np.testing.assert_array_equal(back["cls"][:], store["cls"][:])
