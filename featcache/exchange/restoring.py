"""Exports of featcache, made a store again: same key, same rows, same samples."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from featcache.errors import DatasetError, FeatcacheError, StoreCorruptError, StoreVersionError
from featcache.exchange.exporting import EXPORT_VERSION
from featcache.exchange.rows import RowReader
from featcache.records import Failure, Task
from featcache.store import (
    FeatureStore,
    Key,
    ReadRows,
    SampleTable,
    add_rows,
    find_home,
    join_samples,
    read_samples,
    remember_last_store,
    write_quarantine,
    write_samples,
)
from featcache.store.adding import refuse_decoded
from featcache.store.packing import check_packed
from featcache.store.visible import visible_rows

__all__ = ["import_export", "import_hdf5", "import_npy", "import_parquet", "is_export"]

_EDITED = "Export it again; if the numbers were changed on purpose, import them with --dataset and --model."


def is_export(path: Path) -> bool:
    """Whether this is an export that carries its key: a folder of npy, a Parquet file or a packed store."""
    if path.is_dir():
        return (path / "featcache.json").is_file()
    if path.suffix in {".h5", ".hdf5"} and path.is_file():
        import h5py

        try:
            with h5py.File(path, "r") as file:
                return "featcache" in file.attrs
        except OSError:
            return False
    return path.suffix == ".parquet" and path.is_file() and _parquet_facts(path) is not None


def import_export(path: Path | str, *, home: Path | str | None = None, dataset: str | None = None) -> Path:
    """Make a store again from what :func:`export` wrote as npy, Parquet or HDF5.

    Parameters
    ----------
    path
        Folder or file.
    home
        Default: FEATCACHE_HOME or the platform's data folder.
    dataset
        Name in the home; default: as it was.

    Returns
    -------
    Path
        The store; rows that it has already are not added again.

    Raises
    ------
    StoreCorruptError
        If the numbers are not those that were exported.
    StoreVersionError
        If a newer featcache wrote it.
    """
    source = Path(path)
    if not is_export(source):
        raise DatasetError(
            f"{source} is no export of featcache", remedy="Embeddings made elsewhere need --dataset and --model."
        )
    if source.is_dir():
        return import_npy(source, home=home, dataset=dataset)
    if source.suffix == ".parquet":
        return import_parquet(source, home=home, dataset=dataset)
    return import_hdf5(source, home=home, dataset=dataset)


def import_npy(folder: Path, *, home: Path | str | None = None, dataset: str | None = None) -> Path:
    """Make a store again from a folder of ``.npy`` files; see :func:`import_export`."""
    try:
        facts = json.loads((folder / "featcache.json").read_text(encoding="utf-8"))
        _refuse_newer(facts, folder)
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in facts["arrays"]}
        frame = _read_samples_csv(folder / "samples.csv", facts["samples"]["columns"], facts["missing"])
        return _restore(facts, arrays, frame, folder, home=home, dataset=dataset)
    except FeatcacheError:  # some are ValueErrors too
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreCorruptError(f"{folder} is no whole export ({error!r})", remedy=_EDITED) from error


def import_parquet(path: Path, *, home: Path | str | None = None, dataset: str | None = None) -> Path:
    """Make a store again from a Parquet file; see :func:`import_export`."""
    import pyarrow
    import pyarrow.parquet

    facts = _parquet_facts(path)
    if facts is None:
        raise DatasetError(f"{path} is no export of featcache", remedy="Import it with --dataset and --model.")
    _refuse_newer(facts, path)
    try:
        table = pyarrow.parquet.read_table(path, page_checksum_verification=True)
        arrays = {}
        for name, column in facts["array_columns"].items():
            flat = table.column(column).combine_chunks().flatten().to_numpy(zero_copy_only=False)
            arrays[name] = flat.reshape(table.num_rows, *facts["arrays"][name]["row_shape"])
        frame = table.drop_columns(list(facts["array_columns"].values())).to_pandas()
    except (OSError, pyarrow.ArrowException, KeyError, ValueError) as error:
        raise StoreCorruptError(f"{path} is no whole export ({error})", remedy=_EDITED) from error
    return _restore(facts, arrays, frame, path, home=home, dataset=dataset)


def import_hdf5(path: Path, *, home: Path | str | None = None, dataset: str | None = None) -> Path:
    """Make a Zarr store again from a packed store; see :func:`import_export`."""
    import h5py

    store = FeatureStore(path)
    faults = check_packed(store.path)
    if faults:
        raise StoreCorruptError("; ".join(faults), remedy=_EDITED)
    if dataset is None:
        with h5py.File(store.path, "r") as file:
            name = file.attrs.get("dataset", store.dataset)
            dataset = name.decode() if isinstance(name, bytes) else str(name)
    table, _ = visible_rows(store)
    return _commit(
        store.attributes,
        table,
        arrays={name: store[name].shape[1:] for name in store.names},
        read=RowReader(store, table),
        failures=store.failures,
        home=home,
        dataset=dataset,
    )


def _restore(
    facts: Mapping[str, Any],
    arrays: Mapping[str, NDArray[Any]],
    frame: pd.DataFrame,
    source: Path,
    *,
    home: Path | str | None,
    dataset: str | None,
) -> Path:
    for name, array in arrays.items():
        expected = facts["arrays"][name]
        total = hashlib.sha256()
        for start in range(0, len(array), 4096):
            total.update(np.ascontiguousarray(array[start : start + 4096]).tobytes())
        shape = [len(frame), *expected["row_shape"]]
        if [*array.shape] != shape or str(array.dtype) != expected["dtype"] or total.hexdigest() != expected["sha256"]:
            raise StoreCorruptError(f"{source}: {name} is not what was exported", remedy=_EDITED)
    samples = facts["samples"]
    tasks = tuple(
        Task(**{**task, "columns": tuple(task["columns"]), "classes": tuple(task["classes"])})
        for task in samples["tasks"]
    )
    table = SampleTable(samples["registry_name"], frame, tasks, samples["split_origin"], tuple(samples["notes"]))
    return _commit(
        facts["attributes"],
        table,
        arrays={name: array.shape[1:] for name, array in arrays.items()},
        read=lambda name, rows: np.asarray(arrays[name][rows]),
        failures=tuple(Failure(**failure) for failure in facts["failures"]),
        home=home,
        dataset=dataset or facts["dataset"],
    )


def _commit(
    attributes: Mapping[str, Any],
    table: SampleTable,
    *,
    arrays: Mapping[str, tuple[int, ...]],
    read: ReadRows,
    failures: tuple[Failure, ...],
    home: Path | str | None,
    dataset: str,
) -> Path:
    refuse_decoded(arrays)  # before anything is written
    folder = find_home(home) / dataset
    write_samples(folder, join_samples(read_samples(folder), table, dataset))
    path, _ = add_rows(
        folder,
        Key.from_dict(attributes["spec"]),
        arrays=arrays,
        ids=table.frame["id"].tolist(),
        digests=table.frame["digest"].tolist(),
        read=read,
        provenance=attributes["provenance"],
    )
    write_quarantine(path, failures)
    remember_last_store(find_home(home), path)
    return path


def _read_samples_csv(path: Path, columns: Mapping[str, str], missing: str) -> pd.DataFrame:
    texts = pd.read_csv(path, dtype=object, keep_default_na=False, encoding="utf-8")
    if list(texts) != list(columns):
        raise StoreCorruptError(f"{path} has the columns {', '.join(map(str, texts))}", remedy=_EDITED)
    frame = {name: _typed(texts[name].where(texts[name] != missing, None), dtype) for name, dtype in columns.items()}
    return pd.DataFrame(frame)


def _typed(values: pd.Series[Any], dtype: str) -> pd.Series[Any]:
    """Text from a CSV in the type that the column had."""
    if dtype in {"bool", "boolean"}:
        return values.map({"True": True, "False": False}).astype(dtype)  # type: ignore[call-overload,no-any-return,unused-ignore]
    if dtype.lower().startswith(("int", "uint", "float")):
        plain = dtype.lower().startswith("float")
        numbers = [None if value is None else (float(value) if plain else int(value)) for value in values]
        return pd.Series(numbers, dtype=dtype)
    return values.astype(dtype)  # type: ignore[call-overload,no-any-return,unused-ignore]


def _parquet_facts(path: Path) -> dict[str, Any] | None:
    import pyarrow
    import pyarrow.parquet

    try:
        metadata = pyarrow.parquet.read_schema(path).metadata or {}
        facts = json.loads(metadata[b"featcache"])
    except (OSError, pyarrow.ArrowException, KeyError, ValueError):
        return None
    return facts if isinstance(facts, dict) and "export_version" in facts else None


def _refuse_newer(facts: Mapping[str, Any], path: Path) -> None:
    if facts["export_version"] > EXPORT_VERSION:
        raise StoreVersionError(
            f"{path} has export version {facts['export_version']}, this featcache reads up to {EXPORT_VERSION}",
            remedy="Upgrade featcache: pip install -U featcache.",
        )
