"""What is exported comes back without loss, and other programs can read it."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest

from featcache.errors import ConfigurationError, MissingDependencyError, StoreCorruptError, StoreError
from featcache.exchange import export, import_export, is_export
from featcache.store import FeatureStore, read_samples
from tests.exchange.conftest import Labelled
from tests.store.conftest import ARRAYS

SUFFIX = {"hdf5": ".h5", "npy": "", "parquet": ".parquet", "anndata": ".h5ad", "faiss": ".faiss"}


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("format", ["hdf5", "npy", "parquet"])
def test_an_export_comes_back_bit_for_bit(labelled: Labelled, tmp_path: Path, format: str, dtype: str) -> None:
    store = labelled(dtype)
    path = export(store, tmp_path / f"out{SUFFIX[format]}", format=format)
    assert is_export(path)
    back = FeatureStore(import_export(path, home=tmp_path / "home"))
    assert (back.dataset, back.key, back.tasks) == (store.dataset, store.key, store.tasks)
    assert (back.failures, back.attributes) == (store.failures, store.attributes)
    pd.testing.assert_frame_equal(back.samples, store.samples)
    for name in ARRAYS:
        assert back[name].dtype == dtype
        np.testing.assert_array_equal(back[name][:], store[name][:])
    before = sorted(file.name for file in (back.path / "segments").iterdir())
    assert import_export(path, home=tmp_path / "home") == back.path
    assert sorted(file.name for file in (back.path / "segments").iterdir()) == before
    assert not list(tmp_path.glob(".*.partial*"))


@pytest.mark.parametrize("format", ["hdf5", "npy", "parquet"])
def test_some_arrays_can_be_chosen(labelled: Labelled, tmp_path: Path, format: str) -> None:
    store = labelled()
    path = export(store, tmp_path / f"out{SUFFIX[format]}", format=format, features=["patch_mean"])
    back = FeatureStore(import_export(path, home=tmp_path / "home", dataset="other"))
    assert (back.names, back.dataset) == (["patch_mean"], "other")
    with pytest.raises(ConfigurationError, match="did you mean"):
        export(store, tmp_path / "x", format=format, features=["patchmean"])


def test_npy_is_plain_numpy_and_csv(labelled: Labelled, tmp_path: Path) -> None:
    store = labelled()
    folder = export(store, tmp_path / "out", format="npy")
    assert {file.name for file in folder.iterdir()} == {"samples.csv", "featcache.json", *(f"{n}.npy" for n in ARRAYS)}
    np.testing.assert_array_equal(np.load(folder / "intermediate.npy"), store["intermediate"][:])
    table = pd.read_csv(folder / "samples.csv", keep_default_na=False)
    assert list(table["id"]) == list(store.samples["id"])
    with pytest.raises(ConfigurationError, match="exists"):
        export(store, folder, format="npy")
    array = np.load(folder / "cls.npy")
    array[0, 0] += 1
    np.save(folder / "cls.npy", array)
    with pytest.raises(StoreCorruptError, match="cls is not what was exported"):
        import_export(folder, home=tmp_path / "home")


def test_parquet_is_one_table(labelled: Labelled, tmp_path: Path) -> None:
    store = labelled()
    path = export(store, tmp_path / "out.parquet", format="parquet")
    table = pyarrow.parquet.read_table(path)
    assert table.column("cls").type.list_size == 8
    np.testing.assert_array_equal(np.stack(table.column("cls").to_pandas()), store["cls"][:])
    assert table.column("finding").to_pylist()[:3] == ['a, "quoted"', "NA", None]
    content = bytearray(path.read_bytes())
    place = bytes(content).index(store["cls"][0].tobytes()[:8])
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreCorruptError):
        import_export(path, home=tmp_path / "home")


def test_hdf5_is_self_contained(labelled: Labelled, tmp_path: Path) -> None:
    store = labelled()
    path = export(store, tmp_path / "out.h5", format="hdf5")
    with h5py.File(path) as file:
        assert len(file["cls"]) == len(file["samples/id"]) == 91
        assert file["samples/id"][90] == b"a copy of 3"
        np.testing.assert_array_equal(file["cls"][90], file["cls"][3])


def test_anndata_holds_features_and_samples(labelled: Labelled, tmp_path: Path) -> None:
    anndata = pytest.importorskip("anndata")
    store = labelled()
    data = anndata.read_h5ad(export(store, tmp_path / "out.h5ad", format="anndata"))
    assert data.X.dtype == np.float16
    np.testing.assert_array_equal(data.X, store["cls"][:])
    np.testing.assert_array_equal(data.obsm["intermediate"], store["intermediate"][:])
    assert list(data.obs_names) == list(store.samples["id"])
    assert data.obs["finding"].isna().sum() == store.samples["finding"].isna().sum()
    assert json.loads(data.uns["featcache"])["attributes"]["key"] == store.key.digest


def test_without_anndata_its_name_is_said(labelled: Labelled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "anndata", None)
    with pytest.raises(MissingDependencyError, match=r"featcache\[anndata\]"):
        export(labelled(), tmp_path / "out.h5ad", format="anndata")
    assert list(tmp_path.iterdir()) == []


def test_faiss_finds_each_row_by_cosine(labelled: Labelled, tmp_path: Path) -> None:
    faiss = pytest.importorskip("faiss")
    store = labelled()
    path = export(store, tmp_path / "out.faiss", format="faiss")
    index = faiss.read_index(str(path))
    X = store["cls"][:].astype(np.float32)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    scores, found = index.search(X[:50], 2)
    np.testing.assert_allclose(scores, np.sort(X[:50] @ X.T, axis=1)[:, :-3:-1], rtol=1e-5)
    table = pd.read_csv(tmp_path / "out.faiss.csv")
    assert list(table["row"]) == list(range(91))
    assert list(table["id"]) == list(store.samples["id"])
    assert found[7, 0] == 7


def test_a_place_that_cannot_be_written_is_said(labelled: Labelled, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for format in ("hdf5", "npy", "parquet"):
        with pytest.raises((StoreError, ConfigurationError)):
            export(labelled(), tmp_path / "file" / "below", format=format)
    with pytest.raises(ConfigurationError, match="unknown format"):
        export(labelled(), tmp_path / "x", format="matlab")


def test_a_label_column_may_be_named_like_an_array(labelled: Labelled, tmp_path: Path) -> None:
    store = labelled()
    table = read_samples(store.path.parent)
    assert table is not None
    frame = table.frame.rename(columns={"flag": "cls"})
    from dataclasses import replace

    from featcache.store import write_samples

    write_samples(store.path.parent, replace(table, frame=frame))
    path = export(FeatureStore(store.path), tmp_path / "out.parquet", format="parquet")
    back = FeatureStore(import_export(path, home=tmp_path / "home"))
    pd.testing.assert_frame_equal(back.samples, FeatureStore(store.path).samples)
    np.testing.assert_array_equal(back["cls"][:], store["cls"][:])
