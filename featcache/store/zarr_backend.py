"""Reading the Zarr group: committed rows only, straight from uncompressed chunks."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from featcache.errors import StoreCorruptError, StoreNotFoundError, StoreVersionError
from featcache.records import Failure
from featcache.store.backend import FORMAT_VERSION
from featcache.store.segments import Segment, read_segments
from featcache.store.zarr_layout import ArrayLayout, chunk_file, decode_chunk, decode_strings

__all__ = ["ZarrBackend", "quarantine_file", "read_attributes", "read_layout"]

_WHOLE_CHUNK_SHARE = 0.25
"""From this share of a chunk's rows on, the chunk is read whole and its checksum is checked."""

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
        self._segments: list[Segment] = read_segments(path, "vectors")
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
        try:
            listed = json.loads(quarantine_file(self.path).read_bytes())
            return tuple(Failure(**failure) for failure in listed)
        except FileNotFoundError:
            return ()
        except (ValueError, TypeError) as error:
            raise StoreCorruptError(
                f"the quarantine list of {self.path} cannot be read: {error}", remedy="Extract again: it is rewritten."
            ) from error

    def read(self, name: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Some rows of an array, in the order asked for.

        Raises
        ------
        StoreCorruptError
            If a chunk is missing, has another length, or (where it is read whole) fails its crc32c.
        """
        layout = self._layout(name)
        result = np.empty((len(rows), *layout.row_shape), np.dtype(layout.dtype))
        chunks, offsets = np.divmod(rows, layout.chunk_rows)
        if len(rows) > 1 and (np.diff(chunks) < 0).any():
            order = np.argsort(chunks, kind="stable")
        else:
            order = np.arange(len(rows))
        bounds = np.flatnonzero(np.diff(chunks[order])) + 1
        for first, last in zip([0, *bounds], [*bounds, len(rows)], strict=True):
            if first == last:
                continue
            places = order[first:last]
            path = chunk_file(self.path, layout, int(chunks[places[0]]))
            inside = offsets[places]
            if len(inside) >= _WHOLE_CHUNK_SHARE * layout.chunk_rows:
                source: NDArray[Any] = decode_chunk(path, layout)
            else:
                source = _map(path, layout)
            if _consecutive(places) and _consecutive(inside):
                result[places[0] : places[-1] + 1] = source[inside[0] : inside[-1] + 1]
            else:
                result[places] = source[inside]
        return result

    def _layout(self, name: str) -> ArrayLayout:
        if name not in self._layouts:
            self._layouts[name] = read_layout(self.path, name)
        return self._layouts[name]


def quarantine_file(store: Path) -> Path:
    """Path of the list of samples without features."""
    return store / "segments" / "quarantine.json"


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
        complete = version > FORMAT_VERSION or {"key", "spec", "families", "provenance"} <= set(attributes)
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


def _consecutive(numbers: NDArray[np.int64]) -> bool:
    return bool(numbers[-1] - numbers[0] == len(numbers) - 1 and (np.diff(numbers) == 1).all())


def _map(path: Path, layout: ArrayLayout) -> NDArray[Any]:
    expected = layout.chunk_rows * layout.row_bytes + 4
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        size = -1
    if size != expected:
        found = "missing" if size < 0 else f"{size} bytes, expected {expected}"
        raise StoreCorruptError(f"a committed chunk is {found}: {path}", remedy=_DAMAGED)
    dtype = np.dtype(layout.dtype).newbyteorder("<")
    return np.memmap(path, dtype, mode="r", shape=(layout.chunk_rows, *layout.row_shape))
