"""The store's contract: what was committed is read back, by us and by plain zarr, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import zarr

import featcache
from featcache.errors import (
    ConfigurationError,
    StoreCorruptError,
    StoreLockedError,
    StoreNotFoundError,
    StoreVersionError,
)
from featcache.records import Task
from featcache.store import FeatureStore, Key, open_writer
from featcache.store.creating import chunk_rows_for
from featcache.store.lock import write_lock
from tests.store.conftest import ARRAYS, MakeStore, digest_of, features_of, make_key

NAMES = [f"row{number}" for number in range(150)]


def test_rows_come_back_bit_for_bit_in_the_order_of_the_samples(make_store: MakeStore) -> None:
    store = FeatureStore(make_store([NAMES[:70], NAMES[70:]]))
    expected = features_of(NAMES)
    assert list(store.samples["id"]) == NAMES
    for name, shape in ARRAYS.items():
        assert store[name].shape == (150, *shape)
        np.testing.assert_array_equal(store[name][:], expected[name])


@pytest.mark.parametrize(
    "rows",
    [
        slice(10, 90, 7),
        slice(None, None, -1),
        [3, 149, 3, 0],
        np.arange(150) % 3 == 0,
        [],
        5,
        -1,
        (slice(2, 9), 1),
        (np.array([1, 2]), slice(2, 4)),
    ],
    ids=str,
)
def test_indexing_is_numpys(make_store: MakeStore, rows: object) -> None:
    store = FeatureStore(make_store([NAMES]))
    np.testing.assert_array_equal(
        store["cls"][rows],
        features_of(NAMES)["cls"][np.s_[rows] if not isinstance(rows, list) else np.array(rows, dtype=int)],
    )


def test_plain_zarr_reads_the_same_and_sees_no_zeros(make_store: MakeStore) -> None:
    path = make_store([NAMES[:100], NAMES[100:]])
    group = zarr.open_group(path, mode="r")
    store = FeatureStore(path)
    assert sorted(name for name, _ in group.arrays()) == [
        "cls",
        "digests",
        "ids",
        "intermediate",
        "patch_mean",
    ]
    rows = store.rows_of(np.frombuffer(b"".join(map(digest_of, NAMES)), np.uint8).reshape(-1, 16))
    np.testing.assert_array_equal(group["cls"][:][rows], store["cls"][:])
    assert [str(group["ids"][row]) for row in rows] == NAMES
    np.testing.assert_array_equal(group["digests"][:][rows[3]], np.frombuffer(digest_of("row3"), np.uint8))
    gaps = np.setdiff1d(np.arange(group["cls"].shape[0]), rows)
    assert len(gaps) > 0
    assert np.isnan(group["cls"][:][gaps]).all()
    assert group.attrs["featcache"]["spec"]["model"] == "tiny"


def test_renamed_duplicated_and_removed_samples_need_no_new_row(make_store: MakeStore) -> None:
    samples = pd.DataFrame(
        {
            "id": ["new name", "row2", "copy of row2", "not embedded"],
            "digest": [*(digest_of(name).hex() for name in ("row7", "row2", "row2", "unknown"))],
            "split": "train",
        }
    )
    store = FeatureStore(make_store([NAMES], samples))
    assert list(store.samples["id"]) == ["new name", "row2", "copy of row2"]
    np.testing.assert_array_equal(store["cls"][:], features_of(["row7", "row2", "row2"])["cls"])


def test_a_segment_without_its_record_does_not_exist(make_store: MakeStore) -> None:
    path = make_store([NAMES[:64], NAMES[64:128]])
    (path / "segments" / "vectors-00000001.json").unlink()
    store = FeatureStore(path)
    assert list(store.samples["id"]) == NAMES[:64]


def test_a_store_copied_alone_still_opens(make_store: MakeStore, tmp_path: Path) -> None:
    path = make_store([NAMES[:5]])
    alone = path.rename(tmp_path / path.name)
    store = FeatureStore(alone)
    assert list(store.samples["id"]) == NAMES[:5]
    np.testing.assert_array_equal(store["cls"][:], features_of(NAMES[:5])["cls"])
    assert "samples.parquet" in store.notes[0]


def test_arrays_gives_features_and_labels(make_store: MakeStore) -> None:
    samples = pd.DataFrame(
        {
            "id": NAMES[:4],
            "digest": [digest_of(name).hex() for name in NAMES[:4]],
            "split": ["train", "train", "train", "test"],
            "finding": ["a", None, "b", "a"],
            "x": [0, 1, None, 1],
            "y": [1, 0, None, 1],
        }
    )
    tasks = (
        Task("finding", "binary", ("finding",), ("a", "b")),
        Task("xy", "multilabel", ("x", "y"), ("x", "y")),
    )
    store = FeatureStore(make_store([NAMES[:4]], samples, tasks=tasks))
    X, y = store.arrays(split="train", features="cls+patch_mean", target="finding")
    assert (X.shape, X.dtype, list(y)) == ((2, 16), np.float32, ["a", "b"])
    X, y = store.arrays(target="xy")
    np.testing.assert_array_equal(y, [[0, 1], [1, 0], [1, 1]])
    with pytest.raises(ConfigurationError, match="several tasks"):
        store.arrays()
    with pytest.raises(ConfigurationError, match="did you mean 'finding'"):
        store.arrays(target="findings")


def test_layers_joins_the_last_blocks_in_order(make_store: MakeStore) -> None:
    store = FeatureStore(make_store([NAMES[:3]]))
    expected = features_of(NAMES[:3])
    joined = np.concatenate([expected["intermediate"][:, 1:].reshape(3, -1), expected["cls"]], axis=1)
    np.testing.assert_array_equal(store.features("layers:3"), joined.astype(np.float32))
    with pytest.raises(ConfigurationError, match="layers:1 to layers:4"):
        store.features("layers:5")
    with pytest.raises(ConfigurationError, match="did you mean"):
        store.features("patchmean")


@pytest.mark.parametrize("damage", ["flip", "cut", "delete"])
def test_a_damaged_chunk_is_an_error_not_a_feature(make_store: MakeStore, damage: str) -> None:
    path = make_store([NAMES[:64]])
    chunk = path / "cls" / "c" / "0" / "0"
    content = bytearray(chunk.read_bytes())
    content[100] ^= 1
    chunk.unlink() if damage == "delete" else chunk.write_bytes(content if damage == "flip" else content[:-9])
    with pytest.raises(StoreCorruptError, match="chunk"):
        FeatureStore(path)["cls"][:]


def test_a_newer_format_and_broken_metadata_are_refused(make_store: MakeStore) -> None:
    path = make_store([NAMES[:5]])
    document = json.loads((path / "zarr.json").read_text())
    document["attributes"]["featcache"]["format_version"] = 99
    (path / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(StoreVersionError, match="version 99"):
        FeatureStore(path)
    (path / "zarr.json").write_text("{")
    with pytest.raises(StoreCorruptError, match="metadata"):
        FeatureStore(path)
    with pytest.raises(StoreNotFoundError):
        FeatureStore(path / "nowhere")


def test_the_key_ignores_order_and_names_differences() -> None:
    key = make_key(preprocess={"crop": 8, "resize": "squash"})
    same = make_key(preprocess={"resize": "squash", "crop": 8})
    other = make_key(preprocess={"crop": 9, "resize": "squash"})
    assert key.digest == same.digest == Key.from_dict(key.as_dict()).digest
    assert key.difference(other) == ["preprocess.crop: 8, there 9"]
    assert len({make_key(**{name: "x"}).digest for name in ("model", "weights", "precision", "runtime", "dtype")}) == 5


def test_a_second_writer_is_told_who_holds_the_lock(home: Path) -> None:
    options = {"arrays": ARRAYS, "planned_rows": 5, "provenance": {}}
    with open_writer(home / "data", make_key(), **options):  # type: ignore[arg-type]
        second = open_writer(home / "data", make_key(), **options)  # type: ignore[arg-type]
        with pytest.raises(StoreLockedError, match="process"):
            second.__enter__()
    note = home / "data" / f".{make_key().store_name}.lock.json"
    assert not note.exists()
    note.write_text(json.dumps({"pid": 1, "host": "another-host", "since": 0}))
    third = open_writer(home / "data", make_key(), **options)  # type: ignore[arg-type]
    with pytest.raises(StoreLockedError, match="process 1 on another-host"):
        third.__enter__()


def test_the_lock_of_a_killed_owner_is_taken_over(home: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from featcache.store.lock import write_lock\n"
        "with write_lock(Path(sys.argv[1])): print('held', flush=True); os.kill(os.getpid(), 9)"
    )
    store = home / "data" / "x.zarr"
    child = subprocess.run([sys.executable, "-c", code, str(store)], capture_output=True, text=True, check=False)
    assert (child.stdout.strip(), child.returncode) == ("held", -9)
    assert (home / "data" / ".x.zarr.lock.json").exists()
    with write_lock(store):
        pass


def test_open_finds_stores_by_dataset_and_model(make_store: MakeStore) -> None:
    first, second = make_store([NAMES[:2]]), make_store([NAMES[:2]], key=make_key(model="other"))
    assert featcache.open(first).path == first
    assert featcache.open("data", model="other").path == second
    assert featcache.open("data", model=first.name).path == first
    with pytest.raises(ConfigurationError, match="2 stores fit"):
        featcache.open("data")
    with pytest.raises(StoreNotFoundError, match="it has"):
        featcache.open("data", model="third")
    assert [store.path for store in featcache.list_stores()] == sorted([first, second])


def test_another_dataset_under_the_same_name_is_a_clash(make_store: MakeStore) -> None:
    make_store([NAMES[:2]])
    other = pd.DataFrame({"id": ["x"], "digest": [digest_of("x").hex()], "split": ["train"]})
    with pytest.raises(ConfigurationError, match="--name"):
        make_store([], other)


@pytest.mark.parametrize(
    ("rows", "expected"), [(1, 64), (1500, 64), (2048, 128), (5000, 256), (16384, 1024), (10**6, 1024)]
)
def test_segments_grow_with_the_dataset(rows: int, expected: int) -> None:
    assert chunk_rows_for(rows) == expected


def test_a_store_that_cannot_be_read_does_not_hide_its_neighbours(make_store: MakeStore) -> None:
    first, second = make_store([NAMES[:2]]), make_store([NAMES[:2]], key=make_key(model="other"))
    document = (first / "zarr.json").read_text()
    (first / "zarr.json").write_text(document.replace('"format_version": 1', '"format_version": 9'))
    assert featcache.open("data", model="other").path == second
    (first / "zarr.json").write_text(document.replace('"fp32"', '"bf16"'))
    with pytest.raises(StoreCorruptError, match="specification"):
        FeatureStore(first)
    with pytest.raises(StoreNotFoundError):
        featcache.open("/nowhere/at/all.zarr")


def test_a_damaged_samples_table_is_replaced(make_store: MakeStore) -> None:
    path = make_store([NAMES[:3]])
    table = path.parent / "samples.parquet"
    table.write_bytes(b"damaged")
    with pytest.raises(StoreCorruptError, match="extract"):
        len(FeatureStore(path))
    make_store([NAMES[:3]])
    assert len(FeatureStore(path)) == 3
