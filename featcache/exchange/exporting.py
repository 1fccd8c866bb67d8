"""A store in the formats of others, with ids and labels beside the features."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from featcache.errors import ConfigurationError, MissingDependencyError, StoreError
from featcache.exchange.rows import RowReader
from featcache.store import FeatureStore, SampleTable
from featcache.store.durable import sync_folder
from featcache.store.packing import pack_hdf5
from featcache.store.steady_file import SteadyFile
from featcache.store.visible import chosen_arrays, visible_rows

__all__ = ["EXPORT_VERSION", "FORMATS", "ExportFormat", "export"]

ExportFormat = Literal["hdf5", "npy", "parquet", "anndata", "faiss"]

FORMATS: tuple[ExportFormat, ...] = ("hdf5", "npy", "parquet", "anndata", "faiss")
"""What :func:`export` writes."""

EXPORT_VERSION = 1
"""Of the facts that npy and Parquet exports carry."""


def export(
    store: FeatureStore, path: Path | str, *, format: ExportFormat, features: Sequence[str] | None = None
) -> Path:
    """Write a store's features, ids and labels for other programs.

    Parameters
    ----------
    store
        What to export: its visible rows, in the order of ``store.samples``.
    path
        File, or folder for npy. A file is replaced at the end; a folder must not exist.
    format
        ``hdf5``
            One self-contained file; ``samples/<column>`` aligned with the rows.
        ``npy``
            A folder: ``<array>.npy``, ``samples.csv``, ``featcache.json``.
        ``parquet``
            The samples' columns and a column of fixed-size lists for each array (flattened; shapes in the metadata).
        ``anndata``
            ``.h5ad``: X is cls (else the first array), the others are in obsm, the samples in obs. Needs anndata.
        ``faiss``
            An inner-product index over the L2-normalised first array (cls) in float32, and ``<path>.csv`` with the
            samples by row. One way only: norms are lost.
    features
        Which arrays; default: all.

    Returns
    -------
    Path
        What was written. hdf5, npy, parquet and anndata hold the features bit for bit.

    Raises
    ------
    ConfigurationError
        If the store lacks an array, the format is unknown or the folder exists.
    MissingDependencyError
        If the format needs a package that is not installed.
    StoreError
        If the place cannot be written.

    Examples
    --------
    >>> export(featcache.open("brain_regions"), "regions.parquet", format="parquet")  # doctest: +SKIP
    PosixPath('regions.parquet')
    """
    target = Path(path)
    if format not in FORMATS:
        raise ConfigurationError(f"unknown format {format!r}", remedy=f"Known: {', '.join(FORMATS)}.")
    names = chosen_arrays(store, features)
    if format != "hdf5" and target.is_dir() and (format != "npy" or any(target.iterdir())):
        raise ConfigurationError(f"{target} exists and is a folder", remedy="Choose another --out, or remove it.")
    if target.absolute() == store.path:
        raise ConfigurationError(f"{target} is the store itself", remedy="Choose another --out.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if format == "hdf5":
            pack_hdf5(store, target, features=names, flatten=True)
            return target
        table, _ = visible_rows(store)
        _aside(target, lambda aside: _WRITERS[format](store, RowReader(store, table), table, names, aside))
        if format == "faiss":
            numbered = table.frame.reset_index(names="row")
            _aside(_sidecar(target), lambda aside: numbered.to_csv(aside, index=False, lineterminator="\n"))
    except (OSError, RuntimeError) as error:  # faiss and HDF5 report failed writes as RuntimeError
        if isinstance(error, StoreError):
            raise
        raise StoreError(
            f"cannot write {target}: {getattr(error, 'strerror', None) or error}",
            remedy="Choose another place or free some space; the store itself is untouched.",
        ) from error
    return target


def _aside(target: Path, write: Callable[[Path], object]) -> None:
    """Write to the side, flush to disk, rename."""
    aside = target.with_name(f".{target.name}.partial{target.suffix}")
    _remove(aside)
    try:
        write(aside)
        for file in sorted(aside.iterdir()) if aside.is_dir() else [aside]:
            with file.open("rb+") as written:
                os.fsync(written.fileno())
        if aside.is_dir():
            sync_folder(aside)
            if target.is_dir():
                target.rmdir()
        aside.replace(target)
        sync_folder(target.parent)
    except BaseException:
        _remove(aside)
        raise


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def _write_npy(store: FeatureStore, rows: RowReader, table: SampleTable, names: Sequence[str], folder: Path) -> None:
    folder.mkdir()
    digests = {}
    for name in names:
        header = {
            "descr": np.lib.format.dtype_to_descr(store[name].dtype.newbyteorder("<")),
            "fortran_order": False,
            "shape": (len(table.frame), *store[name].shape[1:]),
        }
        total = hashlib.sha256()
        with (folder / f"{name}.npy").open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for block in rows.blocks(name):
                content = np.ascontiguousarray(block, block.dtype.newbyteorder("<")).tobytes()
                total.update(content)
                file.write(content)
        digests[name] = total.hexdigest()
    missing = _missing_text(table.frame)
    table.frame.to_csv(folder / "samples.csv", index=False, na_rep=missing, lineterminator="\n")
    facts = {**_facts(store, table, digests), "missing": missing}
    text = json.dumps(facts, indent=1, ensure_ascii=False)
    (folder / "featcache.json").write_text(text, encoding="utf-8")


def _write_parquet(store: FeatureStore, rows: RowReader, table: SampleTable, names: Sequence[str], path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    digests = {}
    for name in names:
        total = hashlib.sha256()
        for block in rows.blocks(name):
            total.update(np.ascontiguousarray(block, block.dtype.newbyteorder("<")).tobytes())
        digests[name] = total.hexdigest()
    columns = {name: name for name in names}
    for name in names:
        while columns[name] in table.frame:
            columns[name] = f"feature_{columns[name]}"
    samples = pyarrow.Table.from_pandas(table.frame, preserve_index=False)
    schema = samples.schema
    for name in names:
        value = pyarrow.from_numpy_dtype(store[name].dtype)
        schema = schema.append(pyarrow.field(columns[name], pyarrow.list_(value, _width(store, name))))
    facts = json.dumps({**_facts(store, table, digests), "array_columns": columns})
    schema = schema.with_metadata({**(samples.schema.metadata or {}), b"featcache": facts.encode()})
    size = 4096
    with pyarrow.parquet.ParquetWriter(path, schema, write_page_checksum=True) as writer:
        for start in range(0, len(table.frame), size):
            places = np.arange(start, min(start + size, len(table.frame)))
            lists = [_fixed_lists(rows(name, places)) for name in names]
            part = samples.slice(start, len(places)).columns
            writer.write_table(pyarrow.Table.from_arrays([*part, *lists], schema=schema))


def _write_anndata(store: FeatureStore, rows: RowReader, table: SampleTable, names: Sequence[str], path: Path) -> None:
    try:
        import anndata
        import anndata.io
    except ImportError as error:
        raise MissingDependencyError(
            f"the format anndata needs the package anndata ({error})", remedy="pip install 'featcache[anndata]'"
        ) from error
    import h5py

    places = np.arange(len(table.frame))
    first = _main_array(names)
    X = rows(first, places).reshape(len(places), -1)
    obs = pd.DataFrame(index=pd.Index(table.frame["id"].to_numpy(object), dtype=object, name=None))
    for column in table.frame.columns.drop("id"):
        obs[str(column).replace("/", "_")] = _obs_column(table.frame[column])
    others = {name: rows(name, places) for name in names if name != first}
    facts = json.dumps(_facts(store, table, {}))
    var = pd.DataFrame(index=pd.Index([f"{first}_{column}" for column in range(X.shape[1])], dtype=object))
    data = anndata.AnnData(X=X, obs=obs, var=var, obsm=others, uns={"featcache": facts})
    with SteadyFile(path) as file, h5py.File(file, "w") as root:
        anndata.io.write_elem(root, "/", data)


def _write_faiss(store: FeatureStore, rows: RowReader, table: SampleTable, names: Sequence[str], path: Path) -> None:
    import faiss

    first = _main_array(names)
    index = faiss.IndexFlatIP(_width(store, first))
    for block in rows.blocks(first):
        vectors = np.ascontiguousarray(block.reshape(len(block), -1), np.float32)
        faiss.normalize_L2(vectors)
        index.add(vectors)
    faiss.write_index(index, str(path))


_Write = Callable[[FeatureStore, RowReader, SampleTable, Sequence[str], Path], None]
_WRITERS: Mapping[str, _Write] = {
    "npy": _write_npy,
    "parquet": _write_parquet,
    "anndata": _write_anndata,
    "faiss": _write_faiss,
}


def _facts(store: FeatureStore, table: SampleTable, digests: Mapping[str, str]) -> dict[str, Any]:
    """All that is needed to make the store again from the arrays and the samples."""
    return {
        "export_version": EXPORT_VERSION,
        "dataset": store.dataset,
        "attributes": store.attributes,
        "arrays": {
            name: {"row_shape": [*store[name].shape[1:]], "dtype": str(store[name].dtype), "sha256": digest}
            for name, digest in digests.items()
        },
        "samples": {
            "registry_name": table.registry_name,
            "tasks": [asdict(task) for task in table.tasks],
            "split_origin": table.split_origin,
            "notes": list(table.notes),
            "columns": {str(name): str(dtype) for name, dtype in table.frame.dtypes.items()},
        },
        "failures": [asdict(failure) for failure in store.failures],
    }


def _missing_text(frame: pd.DataFrame) -> str:
    """What stands for a missing value in the CSV: the first of a few that no text equals."""
    texts = {value for name in frame if frame[name].dtype.kind not in "biuf" for value in frame[name].dropna()}
    candidates = ["", "NA", "<missing>"]
    return next((text for text in candidates if text not in texts), f"<missing {len(texts)}>")


def _fixed_lists(block: NDArray[Any]) -> Any:
    import pyarrow

    return pyarrow.FixedSizeListArray.from_arrays(
        pyarrow.array(np.ascontiguousarray(block).reshape(-1)), int(np.prod(block.shape[1:]))
    )


def _obs_column(values: pd.Series[Any]) -> Any:
    """Numbers with missing ones as NaN; all else as categories of text, which .h5ad holds with missing ones."""
    if values.dtype.kind in "biuf":
        return values.to_numpy() if not values.isna().any() else values.to_numpy(np.float64, na_value=np.nan)
    texts = [None if missing else str(value) for value, missing in zip(values, values.isna(), strict=True)]
    found = sorted({text for text in texts if text is not None})
    return pd.Categorical(cast(Any, texts), categories=pd.Index(found, dtype=object))


def _main_array(names: Sequence[str]) -> str:
    return "cls" if "cls" in names else names[0]


def _width(store: FeatureStore, name: str) -> int:
    return int(np.prod(store[name].shape[1:], dtype=np.int64))


def _sidecar(path: Path) -> Path:
    return path.with_name(f"{path.name}.csv")
