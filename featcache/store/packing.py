"""Packing a store into one ordinary HDF5 file: written to the side, read back, then renamed."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featcache.errors import ConfigurationError, StoreCorruptError, StoreError
from featcache.registry import nearest
from featcache.store.backend import Backend, open_backend
from featcache.store.durable import sync_folder
from featcache.store.feature_store import FeatureStore, digests_from_text
from featcache.store.hdf5_backend import ATTRIBUTES, CHECKSUMS, QUARANTINE, Hdf5Backend
from featcache.store.lock import write_lock
from featcache.store.samples import SampleTable, read_samples, write_samples

if TYPE_CHECKING:
    import h5py
    import pandas as pd

__all__ = ["SteadyFile", "check_packed", "chosen_arrays", "pack_hdf5", "packed_samples", "visible_rows"]

_CHUNK_BYTES = 1 << 18
_BLOCK_BYTES = 1 << 24
_SAMPLES = "samples.parquet"


def pack_hdf5(
    store: FeatureStore,
    path: Path | None = None,
    *,
    features: Sequence[str] | None = None,
    flatten: bool = False,
) -> Path:
    """Write a packed, read-only copy of a store: one HDF5 file that any HDF5 library reads.

    Parameters
    ----------
    store
        What to pack. Its visible rows are packed, in the order of ``store.samples``.
    path
        The file; default: beside the store, ``.h5`` instead of ``.zarr``. An existing one is replaced at the end.
    features
        Which arrays; default: all.
    flatten
        False: each digest once; ``samples.parquet`` stays beside the file and says which sample has which row.
        True: one row for each sample (duplicates repeat), and the table inside the file, as datasets
        ``samples/<column>`` aligned with the rows and as the bytes of the Parquet file.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    StoreCorruptError
        If a row of the store cannot be read, or the written file is not what was read.
    StoreLockedError
        If another process packs into the same file.
    StoreError
        If the file cannot be written.

    Examples
    --------
    >>> pack_hdf5(featcache.open("brain_regions")).name  # doctest: +SKIP
    'efficientnet_lite0-3f9a1c2e.h5'
    """
    import h5py

    target = store.path.with_suffix(".h5") if path is None else Path(path).absolute()
    if target == store.path:
        raise ConfigurationError(f"{target} is packed already", remedy="Choose another file.")
    backend = open_backend(store.path)
    table, rows = visible_rows(store)
    if not flatten:
        first = ~table.frame["digest"].duplicated().to_numpy()
        table, rows = replace(table, frame=table.frame[first]), rows[first]
    names = chosen_arrays(store, features)
    aside = target.with_name(f".{target.name}.partial")
    with write_lock(target):
        try:
            with SteadyFile(aside) as sink, h5py.File(sink, "w", libver=("v110", "v110")) as file:
                checksums = _write(file, backend, names, table, rows, flatten=flatten)
                file.attrs["dataset"] = _fixed(store.dataset)
                file.attrs[CHECKSUMS] = _fixed(json.dumps(checksums, sort_keys=True))
                file.flush()
            _compare(aside, checksums)
            with aside.open("rb+") as written:
                os.fsync(written.fileno())
            aside.replace(target)
            sync_folder(target.parent)
        except (OSError, RuntimeError) as error:  # HDF5 reports a failed flush as either
            aside.unlink(missing_ok=True)
            raise StoreError(
                f"cannot write {target}: {getattr(error, 'strerror', None) or error}",
                remedy="Free some space or choose another file; the store itself is untouched.",
            ) from error
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
    return target


def check_packed(path: Path) -> list[str]:
    """Read all of a packed store and compare it with the SHA-256 of each array.

    Returns
    -------
    list of str
        One sentence for each fault; empty if there is none.

    Raises
    ------
    StoreVersionError, StoreNotFoundError
        If a newer featcache wrote it, or there is no such file.
    """
    import h5py

    try:
        backend = Hdf5Backend(path)
    except StoreCorruptError as error:
        return [error.message]
    faults = []
    try:
        with h5py.File(path, "r") as file:
            expected: dict[str, str] = json.loads(_text(file.attrs[CHECKSUMS]))
            expected_names = {name for arrays in backend.attributes["families"].values() for name in arrays}
            missing = sorted(expected_names - set(expected))
            faults += [f"{path}: no checksum of {name}" for name in missing]
            for name, digest in expected.items():
                try:
                    if _dataset_digest(file[name]) != digest:
                        faults.append(f"{path}: {name} differs from what was packed")
                except (OSError, RuntimeError, KeyError, ValueError) as error:
                    faults.append(f"{path}: {name} cannot be read ({error})")
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        faults.append(f"{path}: its checksums cannot be read ({error})")
    return faults


def visible_rows(store: FeatureStore) -> tuple[SampleTable, NDArray[np.int64]]:
    """The samples that have features, their digests included, and the row number in the container of each.

    Returns
    -------
    table
        Of the n samples of ``store.samples`` in their order, with the column ``digest``.
    rows
        (n,) for :meth:`Backend.read`.
    """
    table = read_samples(store.path.parent)
    if table is None and store.path.is_file():
        table = packed_samples(store.path)
    if table is None:
        table = _bare_table(open_backend(store.path))
    rows = store.rows_of(digests_from_text(table.frame["digest"].tolist()))
    present = rows >= 0
    return replace(table, frame=table.frame[present].reset_index(drop=True)), rows[present]


def packed_samples(path: Path) -> SampleTable | None:
    """The samples table inside a self-contained packed store; None if it holds none."""
    import h5py

    with h5py.File(path, "r") as file:
        if _SAMPLES not in file:
            return None
        content = file[_SAMPLES][:].tobytes()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / _SAMPLES).write_bytes(content)
        return read_samples(Path(folder))


def chosen_arrays(store: FeatureStore, features: Sequence[str] | None) -> list[str]:
    """Names of the arrays asked for, checked; all of them for None.

    Raises
    ------
    ConfigurationError
        If the store lacks one, or none is asked for.
    """
    names = list(dict.fromkeys(store.names if features is None else features))
    for name in names:
        if name not in store:
            raise ConfigurationError(
                f"{store.path.name} has no array {name!r}{nearest(name, store.names)}",
                remedy=f"It has: {', '.join(store.names)}.",
            )
    if not names:
        raise ConfigurationError("no array is asked for", remedy=f"The store has: {', '.join(store.names)}.")
    return names


class SteadyFile(io.FileIO):
    """A file that remembers the first failed write and raises it when it is closed.

    HDF5 cannot close a file whose last writes fail (a full disk), and ends the process later.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")
        self._error: OSError | None = None

    def write(self, content: Any, /) -> int:
        """Write all of it, or note why not."""
        view = memoryview(content).cast("B")
        written = 0
        try:
            while self._error is None and written < len(view):
                written += super().write(view[written:]) or 0
        except OSError as error:
            self._error = error
        return len(view)

    def truncate(self, size: int | None = None, /) -> int:
        """Set the length, or note why not."""
        try:
            return super().truncate(size)
        except OSError as error:
            self._error = self._error or error
            return size or 0

    def close(self) -> None:
        """Close, and raise the first failure."""
        super().close()
        if self._error is not None:
            raise self._error


def _write(
    file: h5py.File,
    backend: Backend,
    names: Sequence[str],
    table: SampleTable,
    rows: NDArray[np.int64],
    *,
    flatten: bool,
) -> dict[str, str]:
    """Write all datasets; return the SHA-256 of what was handed to HDF5, by dataset."""
    frame = table.frame
    families = {
        family: [name for name in arrays if name in ("digests", "ids", *names)]
        for family, arrays in backend.attributes["families"].items()
    }
    file.attrs[ATTRIBUTES] = _fixed(json.dumps({**backend.attributes, "families": families}, ensure_ascii=False))
    sums = {"digests": _put(file, "digests", digests_from_text(frame["digest"].tolist()))}
    known = backend.ids()
    ids = frame["id"].tolist() if flatten else [known[row] for row in rows.tolist()]
    sums["ids"] = _put(file, "ids", _strings(ids))
    for name in names:
        shape, dtype = backend.describe(name)
        sums[name] = _put_blocks(file, name, (len(rows), *shape), dtype, partial(_read_rows, backend, name, rows))
    failures = backend.failures()
    if failures:
        listed = json.dumps([asdict(failure) for failure in failures], ensure_ascii=False).encode()
        sums[QUARANTINE] = _put(file, QUARANTINE, np.frombuffer(listed, np.uint8))
    if flatten:
        sums[_SAMPLES] = _put(file, _SAMPLES, np.frombuffer(_samples_file(table), np.uint8))
        for column, name in zip(frame.columns, _dataset_names(list(frame.columns)), strict=True):
            sums[name] = _put(file, name, _plain(frame[column]))
    return sums


def _read_rows(backend: Backend, name: str, rows: NDArray[np.int64], part: slice) -> NDArray[Any]:
    return backend.read(name, rows[part])


def _put(file: h5py.File, name: str, content: NDArray[Any]) -> str:
    return _put_blocks(file, name, content.shape, content.dtype, lambda part: content[part])


def _put_blocks(
    file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], read: Callable[[slice], NDArray[Any]]
) -> str:
    import h5py

    row_bytes = max(1, int(np.dtype(dtype).itemsize * np.prod(shape[1:], dtype=np.int64)))
    options: dict[str, Any] = {}
    if np.prod(shape, dtype=np.int64):
        options = {"chunks": (min(shape[0], max(1, _CHUNK_BYTES // row_bytes)), *shape[1:]), "fletcher32": True}
    stored = h5py.string_dtype("utf-8", dtype.itemsize) if dtype.kind == "S" else dtype.newbyteorder("<")
    dataset = file.create_dataset(name, shape, stored, **options)
    total = hashlib.sha256()
    for part in _blocks(shape[0], row_bytes):
        content = np.ascontiguousarray(read(part), dtype)
        total.update(content.tobytes())
        dataset[part] = content.view(stored) if dtype.kind == "S" else content
    return total.hexdigest()


def _compare(path: Path, expected: Mapping[str, str]) -> None:
    """Read the file that was written and compare every array with what was read from the store."""
    import h5py

    with h5py.File(path, "r") as file:
        wrong = [name for name, digest in expected.items() if _dataset_digest(file[name]) != digest]
    if wrong:
        raise StoreCorruptError(
            f"what was written to {path} is not what was read from the store: {', '.join(wrong)}",
            remedy="Check the disk, and pack again; the store itself is untouched.",
        )
    Hdf5Backend(path)


def _dataset_digest(dataset: h5py.Dataset) -> str:
    row_bytes = max(1, int(dataset.dtype.itemsize * np.prod(dataset.shape[1:], dtype=np.int64)))
    total = hashlib.sha256()
    for part in _blocks(dataset.shape[0], row_bytes):
        total.update(np.ascontiguousarray(dataset[part]).tobytes())
    return total.hexdigest()


def _blocks(rows: int, row_bytes: int) -> Iterator[slice]:
    step = max(1, _BLOCK_BYTES // row_bytes)
    for start in range(0, rows, step):
        yield slice(start, min(rows, start + step))


def _dataset_names(columns: Sequence[str]) -> list[str]:
    """``samples/<column>``; a slash would make a group, so it becomes ``_``; a second one of a name gets ``_`` too."""
    names: list[str] = []
    for column in columns:
        name = "samples/" + (re.sub(r"[/\0]", "_", str(column)).strip(".") or "_")
        while name in names:
            name += "_"
        names.append(name)
    return names


def _plain(values: pd.Series[Any]) -> NDArray[Any]:
    """A column for HDF5: numbers as they are, or float64 with NaN; all else as text. Missing text is empty."""
    if values.dtype.kind in "biuf":
        if not values.isna().any() and values.dtype.kind == "b":
            return values.to_numpy(dtype=np.uint8)
        if not values.isna().any() and values.dtype.kind in "iu":
            return values.to_numpy(dtype=np.dtype(str(values.dtype).lower()))
        return values.to_numpy(dtype=np.float64, na_value=np.nan)
    return _strings(["" if missing else str(value) for value, missing in zip(values, values.isna(), strict=True)])


def _samples_file(table: SampleTable) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        write_samples(Path(folder), table)
        return (Path(folder) / _SAMPLES).read_bytes()


def _strings(values: Sequence[str]) -> NDArray[np.bytes_]:
    """UTF-8 of fixed length: the bytes lie in the chunks, where the checksum covers them."""
    encoded = [value.encode() for value in values]
    return np.array(encoded, dtype=f"S{max([1, *map(len, encoded)])}")


def _fixed(text: str) -> Any:
    """A text for an attribute, of fixed length, so that the checksum of the object's header covers it."""
    import h5py

    content = text.encode()
    return np.array(content, dtype=h5py.string_dtype("utf-8", len(content)))


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _bare_table(backend: Backend) -> SampleTable:
    """Ids as they were at extraction, for a store without its table."""
    import pandas as pd

    digests, rows = backend.committed()
    names = backend.ids()
    frame = pd.DataFrame(
        {
            "id": pd.Series([names[row] for row in rows.tolist()], dtype="str"),
            "digest": pd.Series([digest.tobytes().hex() for digest in digests], dtype="str"),
            "split": pd.Series([None] * len(rows), dtype="str"),
        }
    )
    return SampleTable("", frame.drop_duplicates("digest", keep="last"), (), "none", ())
