"""Reading the Zarr group: committed rows only, straight from uncompressed chunks."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import crc32c
import numpy as np
from numpy.typing import NDArray

from featcache.errors import StoreCorruptError, StoreNotFoundError, StoreVersionError
from featcache.records import Failure
from featcache.store.backend import FORMAT_VERSION
from featcache.store.keys import Key
from featcache.store.quarantine import read_quarantine
from featcache.store.segments import Segment, read_segments
from featcache.store.zarr_layout import ArrayLayout, chunk_file, chunk_name, decode_strings, layouts_of

__all__ = ["ZarrBackend", "read_attributes", "read_layout"]

_WHOLE_CHUNK_SHARE = 0.25
"""From this share of a chunk's rows on, the chunk is read whole and its checksum is checked."""

_PIECE = 1 << 21
"""Bytes that are read and then added to the checksum: few enough to be in the processor's cache still."""

_THREADS_FROM = 1 << 25
"""Bytes of a result from which on chunks are read by several threads (reads and checksums release the GIL)."""

_THREADS = min(4, os.cpu_count() or 1)
"""Memory is busy with so many; more only disturb what else runs."""

_TURNS = 3
"""Shares of the chunks that each thread takes: one whose core is busy with something else takes fewer."""

_FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0)

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
        folder = str(self.path)

        def read_parts(some: list[_Part]) -> None:
            for part in some:
                read_rows(f"{folder}/{chunk_name(layout, part.chunk)}", layout, part, lines)

        if result.nbytes < _THREADS_FROM:
            read_parts(parts)
        else:
            # Made for this read and gone after it, so that a forked worker never inherits a pool without threads.
            share = -(-len(parts) // (_TURNS * _THREADS))
            with ThreadPoolExecutor(_THREADS) as pool:
                list(pool.map(read_parts, [parts[first : first + share] for first in range(0, len(parts), share)]))
        return result.astype(result.dtype.newbyteorder("="), copy=False)

    def _layout(self, name: str) -> ArrayLayout:
        if name not in self._layouts:
            self._layouts[name] = read_layout(self.path, name)
        return self._layouts[name]


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
        if complete and version <= FORMAT_VERSION:
            Key.from_dict(attributes["spec"])
            layouts_of(attributes)
    except (FileNotFoundError, NotADirectoryError):
        raise StoreNotFoundError(
            f"no feature store at {path}", remedy="`featcache list` shows the stores of the home."
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
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


@dataclass(frozen=True, slots=True)
class _Part:
    """What is asked for of one chunk."""

    chunk: int
    """Its number."""
    places: slice | NDArray[np.int64]
    """Where its rows go in the result."""
    inside: slice | NDArray[np.int64]
    """The rows inside the chunk, as many as places."""

    def pairs(self) -> Iterator[tuple[int, int]]:
        """Place and row inside, one by one."""
        return zip(_numbers(self.places), _numbers(self.inside), strict=True)

    @property
    def count(self) -> int:
        """How many rows."""
        return len(_numbers(self.inside))


def _numbers(rows: slice | NDArray[np.int64]) -> range | list[int]:
    return range(rows.start, rows.stop) if isinstance(rows, slice) else rows.tolist()


def _by_chunk(rows: NDArray[np.int64], chunk_rows: int) -> list[_Part]:
    """What to read from each chunk that is touched, in the order of the chunks; runs of rows as slices."""
    if len(rows) and rows[-1] - rows[0] == len(rows) - 1 and bool((rows[1:] - rows[:-1] == 1).all()):
        first, last = int(rows[0]), int(rows[-1]) + 1
        bounds = [first, *range((first // chunk_rows + 1) * chunk_rows, last, chunk_rows), last]
        return [
            _Part(
                start // chunk_rows,
                slice(start - first, stop - first),
                slice(start % chunk_rows, (stop - 1) % chunk_rows + 1),
            )
            for start, stop in pairwise(bounds)
        ]
    chunks, inside = np.divmod(rows, chunk_rows)
    if (np.diff(chunks) < 0).any():
        order = np.argsort(chunks, kind="stable")
        chunks, inside = chunks[order], inside[order]
    else:
        order = np.arange(len(rows))
    bounds = [0, *(np.flatnonzero(np.diff(chunks)) + 1).tolist(), len(rows)]
    return [_Part(int(chunks[first]), order[first:last], inside[first:last]) for first, last in pairwise(bounds)]


def _open(path: str) -> int:
    """A file descriptor of a committed file."""
    try:
        return os.open(path, _FLAGS)
    except FileNotFoundError:
        raise StoreCorruptError(f"a committed chunk is missing: {path}", remedy=_DAMAGED) from None


def _read_rows(path: str, layout: ArrayLayout, part: _Part, lines: NDArray[np.uint8]) -> None:
    """Copy the rows of a part of a chunk to their places in ``lines``, (n, row_bytes) uint8."""
    size = layout.chunk_rows * layout.row_bytes
    file = _open(path)
    try:
        if part.count < _WHOLE_CHUNK_SHARE * layout.chunk_rows:
            _check_size(file, path, size + 4)
            for place, row in part.pairs():
                _fill(file, path, lines[place], row * layout.row_bytes)
        elif isinstance(part.places, slice) and part.count == layout.chunk_rows:
            _read_checked(file, path, lines[part.places].reshape(-1), alone=True)
        else:
            chunk = np.empty((layout.chunk_rows, layout.row_bytes), np.uint8)
            _read_checked(file, path, chunk.reshape(-1), alone=True)
            lines[part.places] = chunk[part.inside]
    finally:
        os.close(file)


def _read_entries(path: str, layout: ArrayLayout, part: _Part, lines: NDArray[np.uint8]) -> None:
    """Copy the rows of a part of a shard to their places in ``lines``; each lies alone, followed by its crc32c."""
    file = _open(path)
    try:
        for place, row in part.pairs():
            _read_checked(file, path, lines[place], row * layout.entry_bytes)
    finally:
        os.close(file)


def _read_checked(file: int, path: str, content: NDArray[np.uint8], offset: int = 0, *, alone: bool = False) -> None:
    """Fill ``content`` from an offset and compare with the crc32c that follows, piece by piece in the cache.

    As few calls as there can be: threads that read at the same time wait for each other after each of them.
    With ``alone``, a file that goes on after the checksum is refused.
    """
    checksum = 0
    stored = bytearray(5 if alone else 4)
    end = len(content)
    for first in range(0, end, _PIECE):
        piece = content[first : first + _PIECE]
        if first + _PIECE < end:
            _fill(file, path, piece, offset + first)
        elif (count := _read_at(file, offset + first, piece, stored)) != len(piece) + 4:
            if alone:
                _check_size(file, path, end + 4)
            _fill(file, path, piece[min(count, len(piece)) :], offset + first + min(count, len(piece)))
            _fill(file, path, np.frombuffer(stored, np.uint8)[:4], offset + end)
        checksum = crc32c.crc32c(piece, checksum)
    if stored[:4] != checksum.to_bytes(4, "little"):
        raise StoreCorruptError(f"a committed chunk fails its checksum: {path}", remedy=_DAMAGED)


def _check_size(file: int, path: str, expected: int) -> None:
    size = os.fstat(file).st_size
    if size != expected:
        raise StoreCorruptError(f"a committed chunk has {size} bytes, expected {expected}: {path}", remedy=_DAMAGED)


def _fill(file: int, path: str, target: NDArray[np.uint8], offset: int) -> None:
    """Read from an offset until ``target`` is full: one read may give less than it was asked for."""
    count = _read_at(file, offset, target)
    while count < len(target):
        more = _read_at(file, offset + count, target[count:])
        if not more:
            raise StoreCorruptError(f"a committed chunk ends early: {path}", remedy=_DAMAGED)
        count += more


def _read_at(file: int, offset: int, *targets: Any) -> int:
    """Bytes that one read from an offset put into buffers, one after the other."""
    if hasattr(os, "preadv"):
        return os.preadv(file, targets, offset)
    os.lseek(file, offset, os.SEEK_SET)
    content = os.read(file, len(targets[0]))
    memoryview(targets[0])[: len(content)] = content
    return len(content)
