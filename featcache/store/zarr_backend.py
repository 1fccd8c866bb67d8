"""Reading the Zarr group: committed rows only, straight from uncompressed chunks."""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from io import FileIO
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from featcache.errors import StoreCorruptError, StoreNotFoundError, StoreVersionError
from featcache.records import Failure
from featcache.store.backend import FORMAT_VERSION
from featcache.store.segments import Segment, read_segments
from featcache.store.zarr_layout import ArrayLayout, chunk_file, decode_strings

__all__ = ["ZarrBackend", "quarantine_document", "quarantine_file", "read_attributes", "read_layout", "read_quarantine"]

_WHOLE_CHUNK_SHARE = 0.25
"""From this share of a chunk's rows on, the chunk is read whole and its checksum is checked."""

_PIECE = 1 << 20
"""Bytes that are read and then added to the checksum: few enough to be in the processor's cache still."""

_THREADS_FROM = 1 << 25
"""Bytes of a result from which on chunks are read by several threads (reads and checksums release the GIL)."""

_GROUP = 4
"""Chunks that a thread takes at a time: one whose core is busy with something else takes fewer."""

_THREADS = min(4, 1 + (os.cpu_count() or 1))
"""Memory is busy with so many; more only disturb what else runs."""

_DAMAGED = "Restore the store from a copy, or remove its folder and extract again."


class ZarrBackend:
    """A store's folder, opened for reading.

    Parameters
    ----------
    path
        The Zarr group.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.attributes = read_attributes(path)
        self._segments: list[Segment] = read_segments(path)
        self._layouts: dict[str, ArrayLayout] = {}

    def committed(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """(n, 16) digests and (n,) row numbers of the committed rows."""
        return self._committed

    @cached_property
    def _committed(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        if not self._segments:
            return np.zeros((0, 16), np.uint8), np.zeros(0, np.int64)
        chunk_rows = self._layout("digests").chunk_rows
        digests = np.concatenate([segment.digests for segment in self._segments])
        rows = np.concatenate(
            [segment.number * chunk_rows + np.arange(len(segment.digests)) for segment in self._segments]
        )
        present = digests.any(axis=1)
        return digests[present], rows[present]

    def ids(self) -> dict[int, str]:
        """The id of each committed row at its extraction, by row number."""
        layout = self._layout("ids")
        names: dict[int, str] = {}
        for segment in self._segments:
            values = decode_strings(chunk_file(self.path, layout, segment.number), layout)
            first = segment.number * layout.chunk_rows
            names |= {first + place: values[place] for place in range(len(segment.digests))}
        return names

    def describe(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Shape of one row and dtype of an array."""
        layout = self._layout(name)
        return layout.row_shape, np.dtype(layout.dtype)

    def failures(self) -> tuple[Failure, ...]:
        """The samples in quarantine at the last extraction."""
        return read_quarantine(self.path)

    def read(self, name: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Some rows of an array, in the order asked for; rows may repeat.

        A chunk of which at least a quarter of the rows is asked for is read whole and checked against its
        crc32c. Of other chunks only those rows are read and the file's length is checked, not the rows' bytes:
        a chunk has one checksum, and checking it would mean reading up to 1024 rows for one. ``featcache verify``
        checks every byte. A row of tokens has a checksum of its own, which is always checked.

        Raises
        ------
        StoreCorruptError
            If a chunk is missing, has another length, or (where it is read whole) fails its crc32c.
        """
        layout = self._layout(name)
        result = np.empty((len(rows), *layout.row_shape), np.dtype(layout.dtype).newbyteorder("<"))
        if result.size == 0:
            return result
        lines = result.reshape(len(rows), -1).view(np.uint8)
        parts = _by_chunk(rows, layout.chunk_rows)

        read_rows = _read_entries if layout.sharded else _read_rows

        def read_parts(some: list[_Part]) -> None:
            for chunk, places, inside in some:
                read_rows(chunk_file(self.path, layout, chunk), layout, inside, lines, places)

        if result.nbytes < _THREADS_FROM:
            read_parts(parts)
        else:
            # Made for this read and gone after it, so that a forked worker never inherits a pool without threads.
            with ThreadPoolExecutor(_THREADS) as pool:
                for _ in pool.map(
                    read_parts, [parts[first : first + _GROUP] for first in range(0, len(parts), _GROUP)]
                ):
                    pass
        return result.astype(result.dtype.newbyteorder("="), copy=False)

    def _layout(self, name: str) -> ArrayLayout:
        if name not in self._layouts:
            self._layouts[name] = read_layout(self.path, name)
        return self._layouts[name]


def read_quarantine(store: Path) -> tuple[Failure, ...]:
    """The samples in quarantine at the last extraction.

    Raises
    ------
    StoreCorruptError
        If the list is damaged.
    """
    path = quarantine_file(store)
    try:
        content = path.read_bytes()
        listed = json.loads(content)["failures"]
        failures = tuple(Failure(**failure) for failure in listed)
        intact = quarantine_document(listed) == content
    except FileNotFoundError:
        return ()
    except (ValueError, TypeError, KeyError) as error:
        raise StoreCorruptError(f"{path} cannot be read: {error!r}", remedy="featcache verify --repair") from error
    if not intact:
        raise StoreCorruptError(f"{path} fails its checksum", remedy="featcache verify --repair")
    return failures


def quarantine_file(store: Path) -> Path:
    """Path of the list of samples without features."""
    return store / "segments" / "quarantine.json"


def quarantine_document(failures: list[dict[str, str]]) -> bytes:
    """The list of samples without features as it is written, with its checksum."""
    canonical = json.dumps(failures, sort_keys=True, separators=(",", ":"))
    checksum = hashlib.sha256(canonical.encode()).hexdigest()
    return json.dumps({"failures": failures, "sha256": checksum}, indent=1, sort_keys=True).encode()


def read_attributes(path: Path) -> dict[str, Any]:
    """The attribute ``featcache`` of a store's group.

    Raises
    ------
    StoreNotFoundError, StoreVersionError, StoreCorruptError
        If there is no store, it is of a newer format, or it cannot be read.
    """
    file = path / "zarr.json"
    try:
        attributes = json.loads(file.read_bytes())["attributes"]["featcache"]
        version = int(attributes["format_version"])
        fields = {"key", "spec", "families", "chunk_rows", "provenance"}
        complete = version > FORMAT_VERSION or fields <= set(attributes)
    except (FileNotFoundError, NotADirectoryError):
        raise StoreNotFoundError(
            f"no feature store at {path}", remedy="`featcache list` shows the stores of the home."
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreCorruptError(
            f"{file} is not the metadata of a featcache store ({error!r})", remedy=_DAMAGED
        ) from error
    if version > FORMAT_VERSION:
        raise StoreVersionError(
            f"{path} has format version {version}, this featcache reads up to {FORMAT_VERSION}",
            remedy="Upgrade featcache: pip install -U featcache.",
        )
    if not complete:
        raise StoreCorruptError(f"{file} lacks fields of the metadata of a featcache store", remedy=_DAMAGED)
    return cast(dict[str, Any], attributes)


def read_layout(store: Path, name: str) -> ArrayLayout:
    """The layout of one array of a store, from its ``zarr.json``."""
    path = store / name / "zarr.json"
    try:
        return ArrayLayout.from_document(name, json.loads(path.read_bytes()))
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise StoreCorruptError(
            f"the metadata of an array cannot be read: {path} ({error!r})", remedy=_DAMAGED
        ) from error


_Part = tuple[int, NDArray[np.int64], NDArray[np.int64]]
"""A chunk's number, places in the rows that were asked for, and the rows inside the chunk."""


def _by_chunk(rows: NDArray[np.int64], chunk_rows: int) -> list[_Part]:
    """What to read from each chunk that is touched, in the order of the chunks."""
    chunks, inside = np.divmod(rows, chunk_rows)
    if (np.diff(chunks) < 0).any():
        order = np.argsort(chunks, kind="stable")
        chunks, inside = chunks[order], inside[order]
    else:
        order = np.arange(len(rows))
    bounds = [0, *(np.flatnonzero(np.diff(chunks)) + 1).tolist(), len(rows)]
    return [(int(chunks[first]), order[first:last], inside[first:last]) for first, last in pairwise(bounds)]


def _read_rows(
    path: Path,
    layout: ArrayLayout,
    inside: NDArray[np.int64],
    lines: NDArray[np.uint8],
    places: NDArray[np.int64],
) -> None:
    """Copy the rows ``inside`` of a chunk to ``lines[places]``, (n, row_bytes) uint8."""
    try:
        with path.open("rb", buffering=0) as file:
            size, expected = os.fstat(file.fileno()).st_size, layout.chunk_rows * layout.row_bytes + 4
            if size != expected:
                raise StoreCorruptError(
                    f"a committed chunk has {size} bytes, expected {expected}: {path}", remedy=_DAMAGED
                )
            if len(inside) < _WHOLE_CHUNK_SHARE * layout.chunk_rows:
                for place, offset in zip(places.tolist(), (inside * layout.row_bytes).tolist(), strict=True):
                    file.seek(offset)
                    _fill(file, lines[place])
                return
            target = slice(int(places[0]), int(places[-1]) + 1)
            source = slice(int(inside[0]), int(inside[-1]) + 1)
            in_order = _consecutive(places) and _consecutive(inside)
            if in_order and len(inside) == layout.chunk_rows:
                _read_checked(file, lines[target].reshape(-1))
                return
            chunk = np.empty((layout.chunk_rows, layout.row_bytes), np.uint8)
            _read_checked(file, chunk.reshape(-1))
            if in_order:
                lines[target] = chunk[source]
            else:
                lines[places] = chunk[inside]
    except FileNotFoundError:
        raise StoreCorruptError(f"a committed chunk is missing: {path}", remedy=_DAMAGED) from None


def _read_entries(
    path: Path,
    layout: ArrayLayout,
    inside: NDArray[np.int64],
    lines: NDArray[np.uint8],
    places: NDArray[np.int64],
) -> None:
    """Copy the rows ``inside`` of a shard to ``lines[places]``; each lies alone, followed by its crc32c."""
    try:
        with path.open("rb", buffering=0) as file:
            for place, offset in zip(places.tolist(), (inside * layout.entry_bytes).tolist(), strict=True):
                file.seek(offset)
                _read_checked(file, lines[place])
    except FileNotFoundError:
        raise StoreCorruptError(f"a committed shard is missing: {path}", remedy=_DAMAGED) from None


def _read_checked(file: FileIO, content: NDArray[np.uint8]) -> None:
    """Fill ``content`` from a chunk's start and compare with the crc32c that follows, piece by piece in the cache."""
    checksum = 0
    for first in range(0, len(content), _PIECE):
        piece = content[first : first + _PIECE]
        _fill(file, piece)
        checksum = google_crc32c.extend(checksum, piece)
    if file.read(4) != checksum.to_bytes(4, "little"):
        raise StoreCorruptError(f"a committed chunk fails its checksum: {file.name!s}", remedy=_DAMAGED)


def _fill(file: FileIO, target: NDArray[np.uint8]) -> None:
    """Read until ``target`` is full: one read may give less than it was asked for."""
    count = file.readinto(target.data)
    while count < len(target):
        more = file.readinto(target[count:].data)
        if not more:
            raise StoreCorruptError(f"a committed chunk ends early: {file.name!s}", remedy=_DAMAGED)
        count += more


def _consecutive(numbers: NDArray[np.int64]) -> bool:
    return bool(numbers[-1] - numbers[0] == len(numbers) - 1 and (np.diff(numbers) == 1).all())
