"""Reading equals numpy on what plain zarr reads, whatever the index, the order of the rows and the gaps."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import zarr

from featcache.errors import ConfigurationError, StoreCorruptError
from featcache.records import Task
from featcache.store import FeatureStore, open_writer, zarr_backend
from tests.store.conftest import ARRAYS, MakeStore, digest_of, features_of, make_key

NAMES = [f"row{number}" for number in range(300)]
TASKS = (
    Task("finding", "binary", ("finding",), ("healthy", "ill")),
    Task("signs", "multilabel", ("x", "y"), ("x", "y")),
)


def shuffled_samples() -> pd.DataFrame:
    """The rows in another order, one of them twice, one of them missing, with labels."""
    names = [NAMES[place] for place in np.random.default_rng(0).permutation(len(NAMES))]
    names = [*names[1:], names[5]]
    frame = pd.DataFrame({"id": [f"{name}-{place}" for place, name in enumerate(names)]})
    frame["digest"] = [digest_of(name).hex() for name in names]
    frame["split"] = ["train", "train", "test"] * (len(names) // 3)
    frame["finding"] = ["healthy", "ill", None, "healthy", "ill"] * (len(names) // 5)
    frame["x"] = [0, 1, None, 1] * (len(names) // 4)
    frame["y"] = [None, 1, None, 0] * (len(names) // 4)
    frame["age"] = np.arange(len(names))
    return frame


@pytest.fixture(params=["in order", "shuffled"])
def store(make_store: MakeStore, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> FeatureStore:
    """Six segments of 64 rows, three of them short; small reads use threads too."""
    monkeypatch.setattr(zarr_backend, "_THREADS_FROM", 1)
    samples = shuffled_samples() if request.param == "shuffled" else None
    return FeatureStore(make_store([NAMES[:100], NAMES[100:130], NAMES[130:]], samples, tasks=TASKS))


def reference(store: FeatureStore, name: str) -> np.ndarray:
    """What plain zarr reads, in the order of the samples."""
    digests = [digest_of(text.split("-")[0]) for text in store.samples["id"]]
    rows = store.rows_of(np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16))
    array = zarr.open_group(store.path, mode="r")[name][:]
    assert len(array) > len(rows)
    return array[rows]


INDICES = {
    "all": np.s_[:],
    "slice": np.s_[10:250],
    "steps": np.s_[7:290:13],
    "backwards": np.s_[::-1],
    "nothing": np.s_[5:5],
    "beyond the end": np.s_[290:1000],
    "one": 5,
    "last": -1,
    "numpy's integer": np.int64(7),
    "integer array of no axes": np.array(7),
    "list": [3, 299, 3, -1, 0],
    "empty list": [],
    "few": np.array([250, 2, 130]),
    "most of a segment, out of order": np.random.default_rng(1).permutation(64)[:40],
    "most rows, out of order": np.random.default_rng(2).permutation(300)[:270],
    "many, repeated": np.random.default_rng(3).integers(0, 300, 900),
    "mask": np.arange(300) % 3 == 0,
    "mask as a list": [True, False, False] * 100,
    "rows in two axes": np.array([[1, 2, 3], [299, 0, 1]]),
    "ellipsis": np.s_[...],
    "no index": (),
    "new axis": np.s_[None, 3:6],
    "a column": np.s_[:, 2],
    "ellipsis and a column": np.s_[..., 2],
    "slices": np.s_[2:90, ::2],
    "one row's part": np.s_[4, 1:3],
    "rows and a slice": (np.array([7, 2]), np.s_[1:3]),
    "paired indices": (np.array([7, 2, 200]), np.array([0, 1, 2])),
    "outer product of indices": (np.array([[7], [2]]), np.array([0, 1, 2])),
    "mask and a column": (np.arange(300) > 280, 1),
}


@pytest.mark.parametrize("name", list(ARRAYS))
def test_an_array_is_indexed_like_numpy(store: FeatureStore, name: str) -> None:
    array, expected = store[name], reference(store, name)
    for label, index in INDICES.items():
        got = array[index]
        np.testing.assert_array_equal(got, expected[index], err_msg=label)
        assert (got.dtype, got.shape) == (expected.dtype, expected[index].shape), label


def test_an_index_that_numpy_refuses_is_refused(store: FeatureStore) -> None:
    for index in (300, -301, [0, 300], 1.5, "x", np.ones(299, bool)):
        with pytest.raises(IndexError):
            store["cls"][index]


def chunks_of(path: Path) -> list[Path]:
    return sorted(file for file in (path / "cls" / "c").rglob("0") if file.is_file())


@pytest.mark.parametrize("place", [0, 500, -5, -1])
@pytest.mark.parametrize("rows", [np.s_[:], np.s_[:64], np.s_[40:64], np.arange(63, 30, -1)], ids=str)
def test_one_flipped_bit_in_a_chunk_that_is_read_whole_is_an_error(
    make_store: MakeStore, place: int, rows: object
) -> None:
    path = make_store([NAMES[:200]])
    content = bytearray(chunks_of(path)[0].read_bytes())
    content[place] ^= 1
    chunks_of(path)[0].write_bytes(content)
    store = FeatureStore(path)
    with pytest.raises(StoreCorruptError, match=r"checksum: .*cls"):
        store["cls"][rows]
    np.testing.assert_array_equal(store["cls"][64:], features_of(NAMES[64:200])["cls"])


@pytest.mark.parametrize("rows", [np.s_[:], [3]], ids=str)
@pytest.mark.parametrize("damage", ["cut", "longer", "empty", "missing"])
def test_a_chunk_of_another_length_is_an_error(make_store: MakeStore, damage: str, rows: object) -> None:
    path = make_store([NAMES[:100]])
    chunk = chunks_of(path)[0]
    content = chunk.read_bytes()
    chunk.unlink()
    if damage != "missing":
        chunk.write_bytes({"cut": content[:-1], "longer": content + b"0", "empty": b""}[damage])
    with pytest.raises(StoreCorruptError, match="missing" if damage == "missing" else "expected 1028"):
        FeatureStore(path)["cls"][rows]


def test_rows_read_while_a_writer_appends_do_not_change(make_store: MakeStore) -> None:
    path = make_store([NAMES[:70]])
    store = FeatureStore(path)
    before = store["cls"][:]
    with open_writer(path.parent, make_key(), arrays=ARRAYS, planned_rows=300, provenance={}) as writer:
        names = NAMES[:64]
        digests = np.frombuffer(b"".join(map(digest_of, names)), np.uint8).reshape(-1, 16)
        writer.commit(writer.reserve(64)[0], digests, names, {n: a + 1 for n, a in features_of(names).items()})
        np.testing.assert_array_equal(store["cls"][:], before)
    np.testing.assert_array_equal(FeatureStore(path)["cls"][:64], before[:64] + 1)


@pytest.mark.parametrize("size", [1, 64, 77, 300, 1000])
def test_blocks_cover_every_row_once_in_order(store: FeatureStore, size: int) -> None:
    expected = reference(store, "intermediate")
    for rows in (np.s_[:], np.s_[20:211], np.s_[5:5], np.s_[::-3], np.arange(300) % 7 == 0, [5, 299, 5], 7):
        seen = []
        for block, array in store.blocks("intermediate", rows, size=size):
            assert 1 <= len(array) <= size
            assert array.dtype == np.float16
            np.testing.assert_array_equal(array, expected[block])
            assert isinstance(block, slice) == (isinstance(rows, slice) and rows.step is None)
            seen.append(np.arange(300)[block])
        np.testing.assert_array_equal(np.concatenate([[], *seen]), np.atleast_1d(np.arange(300)[rows]))


def test_blocks_of_an_expression_are_features(store: FeatureStore) -> None:
    blocks = [array for _, array in store.blocks("cls+patch_mean", size=128)]
    np.testing.assert_array_equal(np.concatenate(blocks), store.features("cls+patch_mean"))
    with pytest.raises(ConfigurationError, match="at least 1"):
        next(store.blocks(size=0))
    with pytest.raises(ConfigurationError, match="did you mean 'cls'"):
        next(store.blocks("clss"))


@pytest.mark.parametrize("split", [None, "train", "test"])
@pytest.mark.parametrize(("target", "features"), [("signs", "cls"), ("age", "layers:2"), ("finding", "cls+patch_mean")])
def test_a_torch_view_holds_what_arrays_gives(
    make_store: MakeStore, split: str | None, target: str, features: str
) -> None:
    store = FeatureStore(make_store([NAMES[:100], NAMES[100:]], shuffled_samples(), tasks=TASKS))
    X, y = store.arrays(split=split, features=features, target=target)
    if target == "finding":
        y = np.array([["healthy", "ill"].index(label) for label in y])
    view = store.torch(split=split, features=features, target=target)
    assert len(view) == len(X)
    x, label = view[3]
    np.testing.assert_array_equal(x.numpy(), X[3])
    np.testing.assert_array_equal(label.numpy(), y[3])
    rows = [5, 0, 5, len(X) - 1]
    batch = view.__getitems__(rows)
    np.testing.assert_array_equal([x.numpy() for x, _ in batch], X[rows])
    np.testing.assert_array_equal([label.numpy() for _, label in batch], y[rows])


def test_a_torch_view_without_target_has_all_rows(store: FeatureStore) -> None:
    view = store.torch()
    assert len(view) == 300
    np.testing.assert_array_equal(view[-1].numpy(), store.features()[-1])
    for row in (300, -301):
        with pytest.raises(IndexError):
            view[row]
    with pytest.raises(ConfigurationError, match="did you mean 'finding'"):
        store.torch(target="findings")
    with pytest.raises(ConfigurationError, match="did you mean 'cls'"):
        store.torch(features="clss")


def test_text_labels_of_a_column_are_numbered_and_unknown_classes_refused(make_store: MakeStore) -> None:
    samples = shuffled_samples()
    store = FeatureStore(make_store([NAMES], samples, tasks=(Task("t", "binary", ("finding",), ("healthy", "odd")),)))
    view = store.torch(target="finding")
    assert view.classes == ("healthy", "ill")
    assert [view.classes[number] for number in view.labels] == samples["finding"].dropna().tolist()
    with pytest.raises(ConfigurationError, match="'ill' is none of the classes"):
        store.torch(target="t")


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_of_a_data_loader_share_a_torch_view(make_store: MakeStore, start: str) -> None:
    from torch.utils.data import DataLoader

    store = FeatureStore(make_store([NAMES[:100], NAMES[100:]], shuffled_samples(), tasks=TASKS))
    X, y = store.arrays(features="cls+patch_mean", target="signs")
    view = store.torch(features="cls+patch_mean", target="signs")
    view[0]  # Opened in the parent before the workers start.
    loader = DataLoader(view, batch_size=32, num_workers=2, multiprocessing_context=start)
    batches = list(loader)
    np.testing.assert_array_equal(np.concatenate([x.numpy() for x, _ in batches]), X)
    np.testing.assert_array_equal(np.concatenate([label.numpy() for _, label in batches]), y)


def test_a_pickled_torch_view_is_small_and_finds_its_rows_by_content(make_store: MakeStore) -> None:
    path = make_store([NAMES[:200]])
    view = FeatureStore(path).torch(split="test")
    expected = [x.numpy() for x in view.__getitems__(range(len(view)))]
    content = pickle.dumps(view)
    assert len(content) < 16 * len(view) + 1000
    make_store([NAMES[200:]], samples=shuffled_samples())
    reopened = pickle.loads(content)
    np.testing.assert_array_equal([x.numpy() for x in reopened.__getitems__(range(len(view)))], expected)
    (path / "segments" / "vectors-00000000.json").unlink()
    with pytest.raises(StoreCorruptError, match="32 of 100 rows are no longer"):
        pickle.loads(content)[0]
