"""Embeddings made elsewhere become a store that says so; bad ones are refused with their place."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest

import featcache
from featcache.errors import ConfigurationError, DatasetError
from featcache.exchange import import_files, store_from_arrays
from featcache.records import Task
from featcache.store import FeatureStore
from tests.store.conftest import MakeStore, features_of, make_store

__all__ = ["make_store"]

X = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
TABLE = pd.DataFrame({"id": list("abcdef"), "split": ["train", "test"] * 3, "label": list("xxyyxy")})
TASK = Task("label", "binary", ("label",), ("x", "y"))


def segments(path: Path) -> list[str]:
    return sorted(file.name for file in (path / "segments").glob("vectors-*.json"))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_arrays_become_a_store_bit_for_bit(dtype: str) -> None:
    array = X.astype(dtype)
    store = FeatureStore(store_from_arrays({"cls": array}, TABLE, dataset="mine", model="theirs", tasks=[TASK]))
    assert (store.dataset, store.model, store.key.runtime, store.key.dtype) == ("mine", "theirs", "imported", dtype)
    np.testing.assert_array_equal(store["cls"][:], array)
    features, labels = store.arrays(split="train", target="label")
    np.testing.assert_array_equal(features, array[::2].astype(np.float32))
    assert list(labels) == ["x", "y", "x"]


def test_the_same_content_again_adds_nothing_also_in_another_order() -> None:
    first = store_from_arrays({"cls": X}, TABLE, dataset="mine", model="theirs")
    before = segments(first)
    order = [3, 1, 0, 2, 5, 4]
    assert store_from_arrays({"cls": X}, TABLE, dataset="mine", model="theirs") == first
    assert store_from_arrays({"cls": X[order]}, TABLE.iloc[order], dataset="mine", model="theirs") == first
    assert segments(first) == before
    np.testing.assert_array_equal(FeatureStore(first)["cls"][:], X)


def test_other_numbers_or_another_model_never_join_the_same_store() -> None:
    first = store_from_arrays({"cls": X}, TABLE, dataset="mine", model="theirs")
    second = store_from_arrays({"cls": X + 1}, TABLE, dataset="mine", model="theirs")
    third = store_from_arrays({"cls": X * 2, "patch_mean": X}, TABLE, dataset="mine", model="others")
    assert len({first, second, third}) == 3
    for path, expected in ((first, X), (second, X + 1), (third, X * 2)):  # all three are aligned with the samples
        np.testing.assert_array_equal(FeatureStore(path)["cls"][:], expected)


def test_an_import_aligns_with_the_stores_that_a_dataset_has(make_store: MakeStore) -> None:
    names = [f"row{number}" for number in range(6)]
    extracted = make_store([names])
    table = pd.DataFrame({"id": names[::-1], "grade": range(6)})
    imported = FeatureStore(store_from_arrays({"cls": X}, table, dataset="data", model="theirs"))
    np.testing.assert_array_equal(imported["cls"][:], X[::-1])
    np.testing.assert_array_equal(FeatureStore(extracted)["cls"][:], features_of(names)["cls"])
    assert list(imported.samples["grade"]) == [5, 4, 3, 2, 1, 0]
    with pytest.raises(ConfigurationError, match="none of the ids"):
        store_from_arrays({"cls": X}, TABLE, dataset="data", model="theirs")
    changed = pd.DataFrame({"id": names, "split": ["test"] * 6})
    with pytest.raises(DatasetError, match=r"row0: split is 'train' in dataset data and 'test' in the import"):
        store_from_arrays({"cls": X}, changed, dataset="data", model="theirs")


def test_float64_is_rounded_and_mixed_types_become_float32() -> None:
    store = FeatureStore(
        store_from_arrays(
            {"cls": X.astype(np.float64) / 3, "patch_mean": X.astype(np.float16)}, TABLE, dataset="d", model="m"
        )
    )
    np.testing.assert_array_equal(store["cls"][:], (X.astype(np.float64) / 3).astype(np.float32))
    np.testing.assert_array_equal(store["patch_mean"][:], X.astype(np.float16).astype(np.float32))
    assert store.attributes["provenance"]["original_dtypes"] == {"cls": "float64", "patch_mean": "float16"}


@pytest.mark.parametrize(
    ("features", "samples", "message"),
    [
        ({"cls": np.where(np.arange(30).reshape(6, 5) == 12, np.nan, X)}, TABLE, "first row 2 .'c'"),
        ({"cls": np.where(np.arange(30).reshape(6, 5) == 12, np.inf, X)}, TABLE, "not finite"),
        ({"cls": X.astype(np.float64) * 1e300}, TABLE, "not finite in float32"),
        ({"cls": X[:5]}, TABLE, "5 rows, the samples have 6"),
        ({"cls": X}, TABLE.assign(id=list("abcdea")), "more than once, first 'a'"),
        ({"cls": X}, TABLE.assign(id=[*"abcde", None]), "row 5 .* no id"),
        ({"cls": X}, TABLE.drop(columns="id"), "no column 'id'"),
        ({"cls": X[:, 0]}, TABLE, "shape"),
        ({"cls": np.full((6, 2), 2**25 + 1)}, TABLE, "24 bits"),
        ({"../cls": X}, TABLE, "array's name"),
        ({"ids": X}, TABLE, "array's name"),
        ({}, TABLE, "no array"),
    ],
)
def test_bad_input_is_refused(home: Path, features: dict[str, np.ndarray], samples: pd.DataFrame, message: str) -> None:
    with pytest.raises(DatasetError, match=message) as caught:
        store_from_arrays(features, samples, dataset="mine", model="theirs")
    assert caught.value.remedy
    assert not home.exists()


def test_a_datasets_name_cannot_leave_the_home() -> None:
    with pytest.raises(ConfigurationError, match="folder's name"):
        store_from_arrays({"cls": X}, TABLE, dataset="../x", model="m")


def test_npy_and_csv(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    TABLE.rename(columns={"id": "image"}).to_csv(tmp_path / "x.csv", index=False)
    files = [tmp_path / "x.csv", tmp_path / "x.npy"]
    store = FeatureStore(import_files(files, dataset="d", model="m", id_column="image"))
    np.testing.assert_array_equal(store["cls"][:], X)
    assert list(store.samples["label"]) == list(TABLE["label"])
    with pytest.raises(DatasetError, match=r"no column 'imagee'.*did you mean 'image'"):
        import_files(files, dataset="d", model="m", id_column="imagee")
    np.save(tmp_path / "x.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(DatasetError, match="numpy array"):
        import_files(files, dataset="d", model="m")


def test_label_columns_of_a_table_become_the_task_that_a_probe_answers(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    truth = np.arange(40) % 2
    X = (rng.normal(size=(40, 8)) + 4 * truth[:, None]).astype(np.float32)
    table = pd.DataFrame({"id": [f"i{row}" for row in range(40)], "split": ["train"] * 30 + ["test"] * 10})
    table["label"], table["mass"], table["nodule"] = np.array(["no", "yes"])[truth], truth, 1 - truth
    np.save(tmp_path / "x.npy", X)
    table.to_csv(tmp_path / "x.csv", index=False)
    files = [tmp_path / "x.npy", tmp_path / "x.csv"]
    one = FeatureStore(import_files(files, dataset="one", model="m"))
    (task,) = one.tasks
    assert (task.name, task.type, task.classes) == ("label", "binary", ("no", "yes"))
    store = FeatureStore(import_files(files, dataset="two", model="m", label_columns=("mass", "nodule")))
    (several,) = store.tasks
    assert (several.type, several.columns) == ("multilabel", ("mass", "nodule"))
    with pytest.raises(DatasetError, match="no column 'lable'; did you mean 'label'"):
        import_files(files, dataset="three", model="m", label_columns=("lable",))
    result = featcache.probe("logistic", one, C=[0.1, 1.0], n_bootstrap=20)
    assert result.runs[0].metrics["accuracy"].value == 1.0
    (note,) = [note for note in result.notes if note.startswith("No val split: C = ")]
    assert "a part of train held out" in note


@pytest.mark.parametrize("layout", ["list", "fixed", "columns"])
def test_parquet(tmp_path: Path, layout: str) -> None:
    columns = {"id": pyarrow.array(TABLE["id"]), "label": pyarrow.array(TABLE["label"])}
    if layout == "columns":
        columns |= {f"f{number}": pyarrow.array(X[:, number]) for number in range(5)}
    else:
        kind = pyarrow.list_(pyarrow.float32()) if layout == "list" else pyarrow.list_(pyarrow.float32(), 5)
        columns["embedding"] = pyarrow.array(X.tolist(), kind)
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "x.parquet")
    store = FeatureStore(import_files([tmp_path / "x.parquet"], dataset="d", model="m"))
    np.testing.assert_array_equal(store["cls"][:], X)
    assert list(store.samples.columns[[0, -1]]) == ["id", "label"]


@pytest.mark.parametrize("bad", ["ragged", "null", "two", "none", "unreadable"])
def test_bad_parquet_is_refused(tmp_path: Path, bad: str) -> None:
    vectors = [[1.0, 2.0], [3.0]] if bad == "ragged" else [[1.0, 2.0], None]
    columns: dict[str, list[object]] = {"id": ["a", "b"], "v": vectors}
    if bad == "two":
        columns["w"] = columns["v"]
    if bad == "none":
        del columns["v"]
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "x.parquet")
    if bad == "unreadable":
        (tmp_path / "x.parquet").write_bytes(b"PAR1")
    message = {"ragged": "lengths", "null": "lengths", "two": "2 columns", "none": "neither", "unreadable": "Parquet"}
    with pytest.raises(DatasetError, match=message[bad]):
        import_files([tmp_path / "x.parquet"], dataset="d", model="m")


def test_hdf5_of_several_slides(tmp_path: Path) -> None:
    for name, part in (("slide1", X[:4]), ("slide2", X[4:][None])):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["features"], file["coords"] = part, np.arange(part.size // 5 * 2).reshape(-1, 2)
    files = [tmp_path / "slide1.h5", tmp_path / "slide2.h5"]
    store = FeatureStore(import_files(files, dataset="slides", model="m"))
    np.testing.assert_array_equal(store["cls"][:], X)
    assert list(store.samples["id"][3:5]) == ["slide1/3", "slide2/0"]
    assert list(store.samples["volume"]) == ["slide1"] * 4 + ["slide2"] * 2
    assert list(store.samples["x"]) == [0, 2, 4, 6, 0, 2]
    with h5py.File(tmp_path / "slide3.h5", "w") as file:
        file["features"] = X[:2] * 3
    later = FeatureStore(import_files([tmp_path / "slide3.h5"], dataset="slides", model="m"))
    assert list(later.samples["id"]) == ["slide3/0", "slide3/1"]
    assert len(FeatureStore(store.path)) == 6


def test_bad_hdf5_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    path.write_bytes(b"no HDF5")
    with pytest.raises(DatasetError, match="HDF5"):
        import_files([path], dataset="d", model="m")
    with h5py.File(path, "w") as file:
        file["other"] = X
    with pytest.raises(DatasetError, match="no dataset 'features', only other"):
        import_files([path], dataset="d", model="m")
    with h5py.File(path, "w") as file:
        file["features"] = X
    with h5py.File(tmp_path / "y.h5", "w") as file:
        file["features"] = X[:, :3]
    with pytest.raises(DatasetError, match="different shapes"):
        import_files([path, tmp_path / "y.h5"], dataset="d", model="m")
    (tmp_path / "z.npy").touch()
    with pytest.raises(DatasetError, match=r"cannot import x\.h5, z\.npy"):
        import_files([path, tmp_path / "z.npy"], dataset="d", model="m")
    with pytest.raises(DatasetError, match="no such file"):
        import_files([tmp_path / "nowhere.h5"], dataset="d", model="m")


def test_no_torch_is_loaded(tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np, pandas as pd; from featcache.exchange import store_from_arrays, export, merge\n"
        "from featcache.store import FeatureStore; from pathlib import Path; out = Path(sys.argv[1])\n"
        "table = pd.DataFrame({'id': ['a', 'b']})\n"
        "path = store_from_arrays({'cls': np.ones((2, 3))}, table, dataset='d', model='m')\n"
        "for f in ('hdf5', 'npy', 'parquet'): export(FeatureStore(path), out / f, format=f)\n"
        "merge([FeatureStore(path)], into=out / 'home'); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "False", done.stderr
