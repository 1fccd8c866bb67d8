"""One contract for both containers: what was committed is read back, from Zarr and from its packed copy."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from featcache.errors import ConfigurationError, StoreCorruptError, StoreError, StoreNotFoundError, StoreVersionError
from featcache.records import Failure, Task
from featcache.store import FeatureStore, write_quarantine
from featcache.store.packing import check_packed, pack_hdf5
from featcache.store.samples import packed_samples
from tests.store.conftest import ARRAYS, MakeStore, digest_of, features_of, make_key

NAMES = [f"row{number}" for number in range(150)]
Open = Callable[..., FeatureStore]


@pytest.fixture(params=["zarr", "hdf5"])
def open_store(request: pytest.FixtureRequest, make_store: MakeStore) -> Open:
    """Make a store and open it in one of the containers."""

    def make(*arguments: object, **options: object) -> FeatureStore:
        store = FeatureStore(make_store(*arguments, **options))
        return store if request.param == "zarr" else FeatureStore(pack_hdf5(store))

    return make


def test_rows_come_back_bit_for_bit_in_the_order_of_the_samples(open_store: Open) -> None:
    store = open_store([NAMES[:70], NAMES[70:]])
    expected = features_of(NAMES)
    assert list(store.samples["id"]) == NAMES
    assert store.names == list(ARRAYS)
    for name, shape in ARRAYS.items():
        assert (store[name].shape, store[name].dtype) == ((150, *shape), np.float16)
        np.testing.assert_array_equal(store[name][:], expected[name])


def test_float32_stays_float32(open_store: Open) -> None:
    store = open_store([NAMES], key=make_key(dtype="float32"))
    assert store["cls"].dtype == np.float32
    np.testing.assert_array_equal(store["cls"][:], features_of(NAMES, "float32")["cls"])


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
def test_indexing_is_numpys(open_store: Open, rows: object) -> None:
    store = open_store([NAMES])
    plain = np.s_[rows] if not isinstance(rows, list) else np.array(rows, dtype=int)
    np.testing.assert_array_equal(store["cls"][rows], features_of(NAMES)["cls"][plain])


def test_duplicates_repeat_and_unknown_samples_are_invisible(open_store: Open) -> None:
    samples = pd.DataFrame(
        {
            "id": ["new name", "row2", "copy of row2", "not embedded", "unreadable"],
            "digest": [*(digest_of(name).hex() for name in ("row7", "row2", "row2", "unknown")), None],
            "split": "train",
        }
    )
    store = open_store([NAMES], samples)
    assert list(store.samples["id"]) == ["new name", "row2", "copy of row2"]
    np.testing.assert_array_equal(store["cls"][:], features_of(["row7", "row2", "row2"])["cls"])


def test_labels_and_tasks_are_those_of_the_table_beside(open_store: Open) -> None:
    samples = pd.DataFrame(
        {
            "id": NAMES[:4],
            "digest": [digest_of(name).hex() for name in NAMES[:4]],
            "split": ["train", "train", "train", "test"],
            "finding": ["a", None, "b", "a"],
        }
    )
    store = open_store([NAMES[:4]], samples, tasks=(Task("finding", "binary", ("finding",), ("a", "b")),))
    X, y = store.arrays(split="train", features="cls+patch_mean")
    assert (X.shape, X.dtype, list(y)) == ((2, 16), np.float32, ["a", "b"])


def test_a_store_copied_alone_still_opens(open_store: Open, tmp_path: Path) -> None:
    path = open_store([NAMES[:5]]).path
    store = FeatureStore(path.rename(tmp_path / path.name))
    assert list(store.samples["id"]) == NAMES[:5]
    np.testing.assert_array_equal(store["cls"][:], features_of(NAMES[:5])["cls"])


def test_an_empty_store_has_no_rows(open_store: Open) -> None:
    store = open_store([[]])
    assert len(store) == 0
    assert store["intermediate"][:].shape == (0, 3, 8)


def test_the_quarantine_list_is_kept(make_store: MakeStore) -> None:
    path = make_store([NAMES[:5]])
    failures = (Failure("broken", "a/broken ü.png", "cut", "Copy it again."),)
    write_quarantine(path, failures)
    assert FeatureStore(pack_hdf5(FeatureStore(path))).failures == failures


def test_the_packed_file_is_ordinary_hdf5_with_checksums(make_store: MakeStore) -> None:
    store = FeatureStore(make_store([NAMES[:100], NAMES[100:]]))
    path = pack_hdf5(store)
    assert path == store.path.with_suffix(".h5")
    with h5py.File(path) as file:
        assert set(file) == {"digests", "ids", *ARRAYS}
        np.testing.assert_array_equal(file["cls"][:], features_of(NAMES)["cls"])
        assert [value.decode() for value in file["ids"][:]] == NAMES
        assert h5py.check_string_dtype(file["ids"].dtype).encoding == "utf-8"
        assert file["digests"][3].tobytes() == digest_of("row3")
        assert all(file[name].fletcher32 and file[name].compression is None for name in file)
        assert json.loads(file.attrs["featcache"])["key"] == make_key().digest
    assert check_packed(path) == []
    assert not list(path.parent.glob("*.partial")) + list(path.parent.glob(".*.partial"))


def test_packing_again_replaces_the_file_and_an_open_store_says_so(make_store: MakeStore) -> None:
    path = make_store([NAMES[:5]])
    packed = FeatureStore(pack_hdf5(FeatureStore(path)))
    copy = pickle.dumps(packed["cls"])
    np.testing.assert_array_equal(pickle.loads(copy)[:], packed["cls"][:])
    make_store([NAMES[:5], NAMES[5:9]])
    assert len(FeatureStore(pack_hdf5(FeatureStore(path)))) == 9
    np.testing.assert_array_equal(packed["cls"][:], features_of(NAMES[:5])["cls"])  # the file that it opened
    with pytest.raises(StoreCorruptError, match="Open the store again"):
        pickle.loads(copy)[:]


def test_a_failed_pack_leaves_the_old_file_and_no_leftover(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FeatureStore(make_store([NAMES[:64]]))
    path = pack_hdf5(store)
    before = path.read_bytes()
    chunk = store.path / "cls" / "c" / "0" / "0"
    content = bytearray(chunk.read_bytes())
    content[100] ^= 1
    chunk.write_bytes(content)
    with pytest.raises(StoreCorruptError, match="chunk"):
        pack_hdf5(FeatureStore(store.path))
    assert path.read_bytes() == before
    content[100] ^= 1
    chunk.write_bytes(content)

    def no_space(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("featcache.store.packing._put_blocks", no_space)
    with pytest.raises(StoreError, match="No space left"):
        pack_hdf5(FeatureStore(store.path))
    assert path.read_bytes() == before
    assert not list(path.parent.glob(".*.partial"))


def test_what_was_written_wrong_is_not_renamed(make_store: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FeatureStore(make_store([NAMES[:64]]))
    monkeypatch.setattr("featcache.store.packing._dataset_digest", lambda _: "0" * 64)
    with pytest.raises(StoreCorruptError, match="not what was read"):
        pack_hdf5(store)
    assert not store.path.with_suffix(".h5").exists()


def test_every_flipped_or_cut_part_is_found(make_store: MakeStore) -> None:
    path = pack_hdf5(FeatureStore(make_store([NAMES])))
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    with h5py.File(path) as file:
        inside = [file[name].id.get_chunk_info(0).byte_offset for name in file]
    unnoticed = []
    for offset in [*inside, *rng.integers(0, len(content), 60).tolist()]:
        damaged = bytearray(content)
        damaged[offset] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        if not check_packed(path):
            unnoticed.append(offset)
    # Bytes that no object uses (HDF5 leaves gaps) cannot change what is read.
    for offset in unnoticed:
        damaged = bytearray(content)
        damaged[offset] ^= 0xFF
        path.write_bytes(damaged)
        np.testing.assert_array_equal(FeatureStore(path)["cls"][:], features_of(NAMES)["cls"])
    assert not set(unnoticed) & set(inside)
    for length in (0, 7, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        assert check_packed(path)
        with pytest.raises(StoreCorruptError):
            FeatureStore(path)


def test_a_flipped_feature_is_an_error_when_it_is_read(make_store: MakeStore) -> None:
    path = pack_hdf5(FeatureStore(make_store([NAMES])))
    with h5py.File(path) as file:
        offset = file["cls"].id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[offset + 40] ^= 4
    path.write_bytes(content)
    with pytest.raises(StoreCorruptError, match="cls"):
        FeatureStore(path)["cls"][[7, 3]]


def test_swapped_rows_and_a_missing_array_are_found(make_store: MakeStore) -> None:
    path = pack_hdf5(FeatureStore(make_store([NAMES])))
    with h5py.File(path, "r+") as file:
        file["cls"][:2] = file["cls"][:2][::-1]
    assert any("cls differs" in fault for fault in check_packed(path))
    with h5py.File(path, "r+") as file:
        del file["patch_mean"]
    assert check_packed(path)
    with pytest.raises(StoreCorruptError, match="patch_mean"):
        FeatureStore(path)


def test_a_newer_format_and_foreign_files_are_refused(make_store: MakeStore, tmp_path: Path) -> None:
    path = pack_hdf5(FeatureStore(make_store([NAMES[:5]])))
    with h5py.File(path, "r+") as file:
        attributes = json.loads(file.attrs["featcache"])
        file.attrs["featcache"] = json.dumps({**attributes, "format_version": 99})
    with pytest.raises(StoreVersionError, match="version 99"):
        FeatureStore(path)
    path.write_bytes(b"no HDF5")
    with pytest.raises(StoreCorruptError):
        FeatureStore(path)
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["features"] = np.zeros((3, 4))
    with pytest.raises(StoreCorruptError, match="metadata"):
        FeatureStore(tmp_path / "foreign.h5")
    with pytest.raises(StoreNotFoundError):
        FeatureStore(tmp_path / "nowhere.h5")


def test_a_flattened_copy_holds_the_samples(make_store: MakeStore, tmp_path: Path) -> None:
    samples = pd.DataFrame(
        {
            "id": ["ä", "b", "copy of ä"],
            "digest": [digest_of(name).hex() for name in ("row1", "row2", "row1")],
            "split": ["train", None, "test"],
            "a/b": [1.5, None, 2.0],
            "count": [1, 2, 3],
        }
    )
    store = FeatureStore(make_store([NAMES[:5]], samples))
    path = pack_hdf5(store, tmp_path / "all.h5", features=["cls"], flatten=True)
    with h5py.File(path) as file:
        assert len(file["cls"]) == 3
        assert [value.decode() for value in file["samples/id"][:]] == ["ä", "b", "copy of ä"]
        assert [value.decode() for value in file["samples/split"][:]] == ["train", "", "test"]
        np.testing.assert_array_equal(file["samples/a_b"][:], [1.5, np.nan, 2.0])
        np.testing.assert_array_equal(file["samples/count"][:], [1, 2, 3])
        assert "patch_mean" not in file
    table = packed_samples(path)
    assert table is not None
    pd.testing.assert_frame_equal(table.frame, samples.astype({"id": "str", "digest": "str", "split": "str"}))
    assert check_packed(path) == []
    with pytest.raises(ConfigurationError, match="did you mean"):
        pack_hdf5(store, tmp_path / "x.h5", features=["clss"])


def test_a_killed_pack_leaves_the_old_file_and_the_next_one_takes_over(make_store: MakeStore) -> None:
    store = FeatureStore(make_store([NAMES]))
    code = (
        "import os, sys; from featcache.store import FeatureStore, packing\n"
        "packing._compare = lambda *_: os.kill(os.getpid(), 9)\n"
        "packing.pack_hdf5(FeatureStore(sys.argv[1]))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(store.path)], check=False)
    target = store.path.with_suffix(".h5")
    aside = target.with_name(f".{target.name}.partial")
    assert (done.returncode, target.exists(), aside.exists()) == (-9, False, True)
    np.testing.assert_array_equal(FeatureStore(pack_hdf5(store))["cls"][:], store["cls"][:])
    assert not aside.exists()


def test_a_disk_that_fills_up_is_said_and_leaves_nothing(make_store: MakeStore) -> None:
    store = FeatureStore(make_store([NAMES]))
    code = (
        "import resource, sys; from featcache.store import FeatureStore, packing\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))\n"
        "try: packing.pack_hdf5(FeatureStore(sys.argv[1]))\n"
        "except packing.StoreError as error: print(error.message, error.remedy)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(store.path)], capture_output=True, text=True, check=False)
    assert "cannot write" in done.stdout, done.stderr
    assert done.returncode == 0, done.stderr
    assert not list(store.path.parent.glob("*.h5")) + list(store.path.parent.glob(".*.partial"))
