"""Reading the packed copy of a store: one ordinary HDF5 file whose rows are all committed."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from featcache.errors import StoreCorruptError, StoreNotFoundError, StoreVersionError
from featcache.records import Failure
from featcache.store.backend import FORMAT_VERSION

__all__ = ["ATTRIBUTES", "CHECKSUMS", "QUARANTINE", "Hdf5Backend"]

ATTRIBUTES = "featcache"
"""Root attribute: JSON of format version, key, specification, families and provenance."""

CHECKSUMS = "checksums"
"""Root attribute: JSON of dataset name to SHA-256 of its bytes, rows in order, little-endian."""

QUARANTINE = "quarantine"
"""Dataset of bytes: the JSON list of samples without features."""

_REMEDY = "Restore the file from a copy, or pack the store again."


class Hdf5Backend:
    """A packed store, opened for reading. It can be shared with forked or spawned processes.

    Parameters
    ----------
    path
        The ``.h5`` file.

    Raises
    ------
    StoreNotFoundError
        If there is no such file.
    StoreVersionError
        If a newer featcache wrote it.
    StoreCorruptError
        If it is cut, damaged, or no packed store.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise StoreNotFoundError(
                f"no feature store at {path}", remedy="`featcache list` shows the stores of the home."
            )
        self.path = path
        self._identity = _identity(path)
        self._opened: tuple[int, h5py.File] | None = None
        with self._explained("its metadata"):
            attributes = json.loads(_text(self._file.attrs[ATTRIBUTES]))
            version = int(attributes["format_version"])
            if version > FORMAT_VERSION:
                raise StoreVersionError(
                    f"{path} has format version {version}, this featcache reads up to {FORMAT_VERSION}",
                    remedy="Upgrade featcache: pip install -U featcache.",
                )
            self.attributes: dict[str, Any] = {
                name: attributes[name] for name in ("format_version", "key", "spec", "families", "provenance")
            }
            names = [name for arrays in attributes["families"].values() for name in arrays]
            lengths = {name: len(self._file[name]) for name in names}
        if len(set(lengths.values())) > 1:
            raise StoreCorruptError(f"the arrays of {path} differ in their number of rows: {lengths}", remedy=_REMEDY)

    def committed(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """(n, 16) digests and (n,) row numbers: every row of the file."""
        return self._committed

    @cached_property
    def _committed(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        with self._explained("digests"):
            digests = np.ascontiguousarray(self._file["digests"][:], np.uint8).reshape(-1, 16)
        return digests, np.arange(len(digests), dtype=np.int64)

    def ids(self) -> dict[int, str]:
        """The id of each row at its extraction, by row number."""
        with self._explained("ids"):
            return {row: value.decode() for row, value in enumerate(self._file["ids"][:].tolist())}

    def describe(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Shape of one row and dtype of an array."""
        with self._explained(name):
            array = self._file[name]
            return tuple(array.shape[1:]), np.dtype(array.dtype)

    def failures(self) -> tuple[Failure, ...]:
        """The samples that were in quarantine when the store was packed."""
        with self._explained(QUARANTINE):
            if QUARANTINE not in self._file:
                return ()
            return tuple(Failure(**failure) for failure in json.loads(self._file[QUARANTINE][:].tobytes()))

    def read(self, name: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Some rows of an array, in the order asked for; rows may repeat.

        Raises
        ------
        StoreCorruptError
            If a chunk that is read fails its checksum.

        Notes
        -----
        A checksum covers a whole chunk, so each chunk that is touched is read once and rows are picked in memory:
        HDF5's own selection of scattered rows needs them sorted and unique and costs more with each of them.
        """
        with self._explained(name):
            array = self._file[name]
            if len(rows) and (np.diff(rows) == 1).all():
                whole: NDArray[Any] = array[int(rows[0]) : int(rows[-1]) + 1]
                return whole
            result = np.empty((len(rows), *array.shape[1:]), array.dtype)
            chunk_rows = array.chunks[0] if array.chunks else max(1, len(array))
            order = np.argsort(rows, kind="stable")
            chunks = rows[order] // chunk_rows
            bounds = np.flatnonzero(np.diff(chunks)) + 1
            for places in np.split(order, bounds) if len(rows) else []:
                first, last = int(rows[places[0]]), int(rows[places[-1]])
                result[places] = array[first : last + 1][rows[places] - first]
            return result

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    @property
    def _file(self) -> h5py.File:
        """The open file of this process; HDF5 handles must not cross a fork."""
        if self._opened is None or self._opened[0] != os.getpid():
            if _identity(self.path) != self._identity:
                raise StoreCorruptError(
                    f"{self.path} was replaced while it was open", remedy="Open the store again: FeatureStore(path)."
                )
            self._opened = (os.getpid(), h5py.File(self.path, "r"))
        return self._opened[1]

    @contextlib.contextmanager
    def _explained(self, part: str) -> Iterator[None]:
        """Turn what HDF5 reports about damaged bytes into an error of the store."""
        try:
            yield
        except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
            if isinstance(error, FileNotFoundError):
                raise StoreNotFoundError(f"{self.path} is gone", remedy=_REMEDY) from error
            raise StoreCorruptError(f"{self.path}: {part} cannot be read ({error})", remedy=_REMEDY) from error


def _identity(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
