"""``StoreWriter``: appends immutable segments to one store."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.errors import StoreCorruptError, StoreError
from featcache.records import Failure
from featcache.store.backend import FORMAT_VERSION
from featcache.store.durable import sync_folder, write_durably
from featcache.store.keys import Key
from featcache.store.lock import write_lock
from featcache.store.manifest import Manifest, read_manifest, write_manifest
from featcache.store.segments import Segment, segment_number, segment_records, write_segment
from featcache.store.zarr_backend import quarantine_file, read_attributes, read_layout
from featcache.store.zarr_layout import (
    ArrayLayout,
    ArrayType,
    chunk_file,
    encode_chunk,
    encode_strings,
    group_document,
    metadata_digest,
    to_json,
)

__all__ = ["StoreWriter", "chunk_rows_for", "open_writer"]

_FAMILY = "vectors"


def chunk_rows_for(rows: int) -> int:
    """Rows of a segment for a dataset of so many rows: at least 16 segments, 64 to 1024 rows each.

    Examples
    --------
    >>> chunk_rows_for(800), chunk_rows_for(5_000), chunk_rows_for(112_120)
    (64, 256, 1024)
    """
    return min(1024, max(64, 1 << max(1, rows // 16).bit_length() - 1))


@contextlib.contextmanager
def open_writer(
    folder: Path,
    key: Key,
    *,
    arrays: Mapping[str, tuple[int, ...]],
    planned_rows: int,
    provenance: Mapping[str, Any],
) -> Iterator[StoreWriter]:
    """Open the store of a key for appending, under its lock; make it if it is not there.

    Parameters
    ----------
    folder
        The dataset's folder in the home.
    key
        The specification of the features.
    arrays
        Shape of one row of each feature array.
    planned_rows
        Rows of the whole dataset: decides the segments' size when the store is made.
    provenance
        JSON values that say how the features were made; stored, not part of the key.

    Raises
    ------
    StoreLockedError
        If another process writes to it.
    StoreCorruptError
        If a store of that name has another key.
    """
    path = folder / key.store_name
    with write_lock(path):
        if (path / "zarr.json").is_file():
            found = Key.from_dict(read_attributes(path)["spec"])
            if found.digest != key.digest:
                raise StoreCorruptError(
                    f"{path} holds features of another specification: {'; '.join(key.difference(found))}",
                    remedy="Move that store away and extract again.",
                )
            for leftover in path.rglob("*.partial"):
                leftover.unlink(missing_ok=True)
        else:
            with _explained(path):
                _create(path, key, arrays, chunk_rows_for(planned_rows), provenance)
        try:
            yield StoreWriter(path, arrays)
        finally:
            with _explained(path):
                noted = read_manifest(path) or Manifest()
                write_manifest(path, next_segment=noted.next_segment)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what the file system refuses into an error with a remedy."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            free = "Free some space, or move the home with FEATCACHE_HOME"
        else:
            free = "Make the home writable"
        raise StoreError(
            f"cannot write to {path}: {error.strerror or error}",
            remedy=f"{free}; what was committed stays, and the same command goes on from there.",
        ) from error


class StoreWriter:
    """Commits segments of the family ``vectors``. Made by :func:`open_writer`.

    Parameters
    ----------
    path
        The store's folder.
    """

    def __init__(self, path: Path, arrays: Mapping[str, tuple[int, ...]]) -> None:
        self.path = path
        self._arrays = dict(arrays)
        self._families = read_attributes(path)["families"]
        names = self._families[_FAMILY]
        self._layouts = {name: read_layout(path, name) for name in names}
        shapes = {name: self._layouts[name].row_shape for name in names if name in arrays}
        if shapes != self._arrays:
            raise StoreCorruptError(
                f"the arrays of {path} are {shapes}, the encoder gives {self._arrays}",
                remedy="Run `featcache verify`; if it finds nothing, report this.",
            )
        self.chunk_rows = self._layouts["digests"].chunk_rows
        self.dtype = np.dtype(self._layouts[next(iter(arrays))].dtype)
        # Numbers are never used twice, so that a reader that opened the store before finds its rows or an error.
        manifest = read_manifest(path) or Manifest()
        used = [segment_number(record) for record in segment_records(path, _FAMILY)]
        self.first_free = max([manifest.next_segment, *(number + 1 for number in used)])

    def reserve(self, rows: int) -> range:
        """Grow all arrays for new rows, before any is written.

        Returns
        -------
        range
            The segment numbers for these rows, ``chunk_rows`` rows each, the last one maybe short.
        """
        count = -(-rows // self.chunk_rows)
        length = self.first_free * self.chunk_rows + rows
        with _explained(self.path):
            for layout in self._layouts.values():
                write_durably(self.path / layout.name / "zarr.json", to_json(layout.document(length)))
        reserved = range(self.first_free, self.first_free + count)
        self.first_free += count
        return reserved

    def commit(
        self,
        number: int,
        digests: NDArray[np.uint8],
        ids: Sequence[str],
        features: Mapping[str, NDArray[Any]],
    ) -> None:
        """Write one segment durably: its chunks, and last its record.

        Parameters
        ----------
        number
            From :meth:`reserve`; each number is committed at most once.
        digests
            (n, 16) uint8; zeros where a place holds no row. n <= ``chunk_rows``.
        ids
            The n ids, for information.
        features
            (n, *row shape) for each array, in the store's dtype; NaN in places without a row.
        """
        contents = {
            "digests": encode_chunk(self._layouts["digests"], digests),
            "ids": encode_strings(self._layouts["ids"], list(ids)),
        }
        for name, rows in features.items():
            contents[name] = encode_chunk(self._layouts[name], rows)
        files = {}
        with _explained(self.path):
            for name, content in contents.items():
                file = chunk_file(self.path, self._layouts[name], number)
                file.parent.mkdir(parents=True, exist_ok=True)
                write_durably(file, content)
                sync_folder(self.path / name / "c")
                files[file.relative_to(self.path).as_posix()] = hashlib.sha256(content).hexdigest()
            metadata = metadata_digest(read_attributes(self.path), self._layouts.values())
            write_segment(self.path, Segment(_FAMILY, number, digests, files, metadata))


def write_quarantine(store: Path, failures: Sequence[Failure]) -> None:
    """Replace the list of samples without features, if it changed."""
    path = quarantine_file(store)
    content = json.dumps([asdict(failure) for failure in failures], indent=1, ensure_ascii=False).encode()
    if not failures and not path.exists():
        return
    if not path.exists() or path.read_bytes() != content:
        with write_lock(store), _explained(store):
            write_durably(path, content)
            noted = read_manifest(store) or Manifest()
            write_manifest(store, next_segment=noted.next_segment)


def _create(
    path: Path,
    key: Key,
    arrays: Mapping[str, tuple[int, ...]],
    chunk_rows: int,
    provenance: Mapping[str, Any],
) -> None:
    """Make an empty store to the side and move it into place."""
    dtype: ArrayType = "float32" if key.dtype == "float32" else "float16"
    layouts = [
        ArrayLayout("digests", "uint8", (16,), chunk_rows),
        ArrayLayout("ids", "string", (), chunk_rows),
        *(ArrayLayout(name, dtype, tuple(shape), chunk_rows) for name, shape in arrays.items()),
    ]
    attributes = {
        "format_version": FORMAT_VERSION,
        "key": key.digest,
        "spec": key.as_dict(),
        "families": {_FAMILY: [layout.name for layout in layouts]},
        "provenance": dict(provenance),
    }
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for layout in layouts:
        folder = partial / layout.name
        (folder / "c").mkdir(parents=True)
        write_durably(folder / "zarr.json", to_json(layout.document(0)))
    (partial / "segments").mkdir()
    write_durably(partial / "segments" / "zarr.json", to_json(group_document({})))
    write_durably(partial / "zarr.json", to_json(group_document({"featcache": attributes})))
    partial.rename(path)
    sync_folder(path.parent)
