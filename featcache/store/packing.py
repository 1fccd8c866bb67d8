"""Packing a store into one ordinary HDF5 file: written to the side, read back, then renamed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from featcache.errors import ConfigurationError, StoreCorruptError, StoreError
from featcache.records import Failure
from featcache.store.backend import open_backend
from featcache.store.durable import sync_folder
from featcache.store.feature_store import FeatureStore, digests_from_text
from featcache.store.hdf5_backend import ATTRIBUTES, CHECKSUMS, QUARANTINE, Hdf5Backend
from featcache.store.lock import write_lock
from featcache.store.samples import PACKED_SAMPLES, SampleTable, samples_file, write_samples
from featcache.store.steady_file import SteadyFile
from featcache.store.token_forms import is_token_family
from featcache.store.visible import chosen_arrays, visible_rows

if TYPE_CHECKING:
    import h5py
    import pandas as pd

__all__ = ["Content", "Rows", "check_packed", "pack_hdf5", "readable_rows", "write_packed"]

_CHUNK_BYTES = 1 << 18
_BLOCK_BYTES = 1 << 24


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
    target = store.path.with_suffix(".h5") if path is None else Path(path).absolute()
    if target == store.path:
        raise ConfigurationError(f"{target} is packed already", remedy="Choose another file.")
    table, rows = visible_rows(store)
    if not flatten:
        first = ~table.frame["digest"].duplicated().to_numpy()
        table, rows = replace(table, frame=table.frame[first]), rows[first]
    digests = digests_from_text(table.frame["digest"].tolist())
    known = {} if flatten else open_backend(store.path).ids()
    content = Content(
        attributes=store.attributes,
        dataset=store.dataset,
        digests=digests,
        ids=table.frame["id"].tolist() if flatten else [known[row] for row in rows.tolist()],
        arrays={name: store.array_of(name, digests) for name in chosen_arrays(store, features)},
        failures=store.failures,
        table=table if flatten else None,
    )
    write_packed(target, content)
    return target


@dataclass(frozen=True, slots=True)
class Content:
    """What goes into a packed store."""

    attributes: Mapping[str, Any]
    """Of the group that the rows come from."""
    dataset: str
    """Name in the home."""
    digests: NDArray[np.uint8]
    """(n, 16)."""
    ids: Sequence[str]
    """n, as they were at extraction."""
    arrays: Mapping[str, Rows]
    """(n, …) features by name."""
    failures: Sequence[Failure]
    """The samples in quarantine."""
    table: SampleTable | None = None
    """Of the n samples, for a self-contained file."""


class Rows(Protocol):
    """An array that is read by blocks."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, …)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """As stored."""

    def __getitem__(self, key: Any, /) -> NDArray[Any]:
        """Some rows."""


def write_packed(target: Path, content: Content) -> None:
    """Write a packed store to the side, read it back, rename it."""
    import h5py

    aside = target.with_name(f".{target.name}.partial")
    with write_lock(target):
        try:
            with SteadyFile(aside) as sink, h5py.File(sink, "w", libver=("v110", "v110")) as file:
                checksums = _write(file, content)
                file.attrs["dataset"] = _fixed(content.dataset)
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


def readable_rows(path: Path) -> NDArray[np.bool_]:
    """Which rows of a packed store can be read in all of its arrays; an array that reads and is not what was
    packed makes all of them doubtful.
    """
    import h5py

    backend = Hdf5Backend(path)
    names = [name for arrays in backend.attributes["families"].values() for name in arrays]
    with h5py.File(path, "r") as file:
        expected = json.loads(_text(file.attrs[CHECKSUMS]))
        intact = np.ones(len(backend.committed()[0]), bool)
        for name in names:
            dataset = file[name]
            step = dataset.chunks[0] if dataset.chunks else max(1, len(dataset))
            whole = True
            for start in range(0, len(dataset), step):
                try:
                    dataset[start : start + step]
                except (OSError, RuntimeError):
                    intact[start : start + step] = whole = False
            if whole and _dataset_digest(dataset) != expected[name]:
                intact[:] = False
    return intact


def _write(file: h5py.File, content: Content) -> dict[str, str]:
    """Write all datasets; return the SHA-256 of what was handed to HDF5, by dataset."""
    families = {"vectors": ["digests", "ids", *(name for name in content.arrays if not is_token_family(name))]}
    families |= {name: [name] for name in content.arrays if is_token_family(name)}
    file.attrs[ATTRIBUTES] = _fixed(json.dumps({**content.attributes, "families": families}, ensure_ascii=False))
    sums = {"digests": _put(file, "digests", content.digests), "ids": _put(file, "ids", _strings(content.ids))}
    for name, array in content.arrays.items():
        sums[name] = _put_blocks(file, name, array.shape, array.dtype, array.__getitem__)
    if content.failures:
        listed = json.dumps([asdict(failure) for failure in content.failures], ensure_ascii=False).encode()
        sums[QUARANTINE] = _put(file, QUARANTINE, np.frombuffer(listed, np.uint8))
    if content.table is not None:
        frame = content.table.frame
        sums[PACKED_SAMPLES] = _put(file, PACKED_SAMPLES, np.frombuffer(_samples_file(content.table), np.uint8))
        for column, name in zip(frame.columns, _dataset_names(list(frame.columns)), strict=True):
            sums[name] = _put(file, name, _plain(frame[column]))
    return sums


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
        return samples_file(Path(folder)).read_bytes()


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
