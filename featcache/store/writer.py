"""``StoreWriter``: appends immutable segments to one store."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.errors import StoreCorruptError
from featcache.store.backend import NOT_FEATURES, family_path
from featcache.store.creating import create_group
from featcache.store.durable import explained, sync_folder, write_durably
from featcache.store.keys import Key
from featcache.store.lock import brief_lock, claim_shard, write_lock
from featcache.store.manifest import Manifest, read_manifest, write_manifest
from featcache.store.segments import Segment, segment_number, segment_records, write_segments
from featcache.store.zarr_backend import read_attributes
from featcache.store.zarr_layout import (
    ArrayLayout,
    chunk_file,
    encode_chunk,
    encode_strings,
    family_of,
    layouts_of,
    metadata_digest,
    to_json,
)

__all__ = ["StoreWriter", "open_writer"]


@contextlib.contextmanager
def open_writer(
    folder: Path,
    key: Key,
    *,
    arrays: Mapping[str, tuple[int, ...]],
    planned_rows: int,
    provenance: Mapping[str, Any],
    family: str = "vectors",
    together: int = 1,
    shard: tuple[int, int] | None = None,
    basis: NDArray[np.float32] | None = None,
) -> Iterator[StoreWriter]:
    """Open one family of the store of a key for appending, under its lock; make it if it is not there.

    Families other than ``vectors`` are groups inside the store; they are opened while ``vectors`` is. Without
    ``shard`` the store is held alone until the writer closes. With it, the writers of other shards append at the same
    time: each holds its claim, and the lock only while it opens, reserves segments and lists what it committed.

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
    family
        ``vectors``, or a family of tokens: that of a :class:`TokenForm`.
    together
        Rows of the largest volume: segments of vectors are made large enough for it, up to 4096 rows.
    shard
        (i, n) for the i-th of n writers, counted from 1.
    basis
        Of projected tokens, (layers, 1 + d, D); kept when the family is made, and never replaced.

    Raises
    ------
    StoreLockedError
        If another process writes to it, or to this shard of it.
    StoreCorruptError
        If a store of that name has another key.
    """
    path = family_path(folder / key.store_name, family)
    with contextlib.ExitStack() as held:
        if shard is None:
            held.enter_context(write_lock(path))
        elif family == "vectors":
            held.enter_context(claim_shard(path, shard))
        with contextlib.nullcontext() if shard is None else brief_lock(path):
            if (path / "zarr.json").is_file():
                _check_key(path, key)
                if shard is None:  # those of other shards are not left over
                    _remove_partial(path)
            else:
                with explained(path):
                    facts: dict[str, Any] = {"planned_rows": planned_rows, "together": together, "basis": basis}
                    create_group(path, key, family, arrays, provenance=provenance, **facts)
        try:
            yield StoreWriter(path, arrays, shared=shard is not None)
        finally:
            with contextlib.nullcontext() if shard is None else brief_lock(path), explained(path):
                noted = read_manifest(path) or Manifest()
                write_manifest(path, next_segment=noted.next_segment)


def _check_key(path: Path, key: Key) -> None:
    found = Key.from_dict(read_attributes(path)["spec"])
    if found.digest != key.digest:
        raise StoreCorruptError(
            f"{path} holds features of another specification: {'; '.join(key.difference(found))}",
            remedy="Move that store away and extract again.",
        )


def _remove_partial(path: Path) -> None:
    """What a killed writer left behind."""
    for leftover in list(path.rglob("*.partial")):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        leftover.unlink(missing_ok=True)


class StoreWriter:
    """Commits segments of one family. Made by :func:`open_writer`.

    Parameters
    ----------
    path
        The store's folder.
    arrays
        Shape of one row of each feature array.
    shared
        Whether others write at the same time, each under the claim of its shard.
    """

    def __init__(self, path: Path, arrays: Mapping[str, tuple[int, ...]], *, shared: bool = False) -> None:
        self.path = path
        self._shared = shared
        self._attributes = read_attributes(path)
        self.family, _ = family_of(self._attributes)
        self._layouts = layouts_of(self._attributes)
        declared = {name: self._layouts[name].row_shape for name in self._layouts if name not in NOT_FEATURES}
        if declared != {name: tuple(shape) for name, shape in arrays.items()}:
            raise StoreCorruptError(
                f"the arrays of {path} are {declared}, the encoder gives {dict(arrays)}",
                remedy="Move that store away and extract again; if it happens again, report it.",
            )
        self.chunk_rows = self._layouts["digests"].chunk_rows
        self.dtype = np.dtype(self._attributes["spec"]["dtype"])
        """Of features as readers get them."""
        self.first_free = first_free_segment(path)

    @property
    def features(self) -> list[str]:
        """The arrays that a commit must bring."""
        return [name for name in self._layouts if name not in NOT_FEATURES]

    def layout(self, name: str) -> ArrayLayout:
        """Type and chunking of an array."""
        return self._layouts[name]

    def reserve(self, rows: int) -> range:
        """Grow all arrays for new rows, before any is written.

        Returns
        -------
        range
            The segment numbers for these rows, ``chunk_rows`` rows each, the last one maybe short.
        """
        if not self._shared:
            return self._reserve(rows)
        if rows == 0:
            return range(0)
        with brief_lock(self.path):
            self.first_free = first_free_segment(self.path)
            reserved = self._reserve(rows)
            with explained(self.path):  # noted before any is used: what a killed shard had reserved stays unused
                write_manifest(self.path, next_segment=self.first_free)
            return reserved

    def _reserve(self, rows: int) -> range:
        count = -(-rows // self.chunk_rows)
        length = max(self.first_free * self.chunk_rows + rows, *array_lengths(self.path, self._layouts))
        with explained(self.path):
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
        """Write one segment durably: its chunks, and last its record. Parameters as of :meth:`write`."""
        self.record([self.write(number, digests, ids, features)])

    def record(self, segments: Sequence[Segment]) -> None:
        """Commit what was written: the rows of all these segments, of one volume for example, at once."""
        with explained(self.path):
            write_segments(self.path, segments)

    def discard(self, segments: Sequence[Segment]) -> None:
        """Remove what was written and is not to be recorded; its numbers are not used again."""
        for segment in segments:
            for file in segment.files:
                (self.path / file).unlink(missing_ok=True)

    def write(
        self,
        number: int,
        digests: NDArray[np.uint8],
        ids: Sequence[str],
        features: Mapping[str, NDArray[Any]],
    ) -> Segment:
        """Write the chunks of one segment durably; without a record (:meth:`record`) they hold no rows.

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

        Returns
        -------
        Segment
            To be recorded.
        """
        contents: dict[str, bytes | memoryview] = {
            "digests": encode_chunk(self._layouts["digests"], digests),
            "ids": encode_strings(self._layouts["ids"], list(ids)),
        }
        for name, rows in features.items():
            contents[name] = encode_chunk(self._layouts[name], rows)
        files = {}
        with explained(self.path):
            for name, content in contents.items():
                file = chunk_file(self.path, self._layouts[name], number)
                file.parent.mkdir(parents=True, exist_ok=True)
                write_durably(file, content)
                sync_folder(self.path / name / "c")
                files[file.relative_to(self.path).as_posix()] = hashlib.sha256(content).hexdigest()
        metadata = metadata_digest(self._attributes, self._layouts.values())
        return Segment(self.family, number, digests, files, metadata)


def first_free_segment(store: Path) -> int:
    """The number after all that were ever used or reserved.

    Numbers are never used twice, so that a reader that opened the store before finds its rows or an error.
    """
    manifest = read_manifest(store) or Manifest()
    return max([manifest.next_segment, *(segment_number(record) + 1 for record in segment_records(store))])


def finish_session(store: Path) -> None:
    """Write the manifest that a killed run left out."""
    if read_manifest(store) is None:
        with brief_lock(store), explained(store):
            write_manifest(store)


def array_lengths(store: Path, layouts: Iterable[str]) -> list[int]:
    """Rows of each array as its document says; 0 where that cannot be read."""
    lengths = []
    for name in layouts:
        try:
            lengths.append(int(json.loads((store / name / "zarr.json").read_bytes())["shape"][0]))
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            lengths.append(0)
    return lengths
