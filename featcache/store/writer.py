"""``StoreWriter``: appends immutable segments to one store."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import shutil
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.errors import StoreCorruptError, StoreError
from featcache.records import Failure
from featcache.store.backend import FORMAT_VERSION, NOT_FEATURES, family_path
from featcache.store.durable import sync_folder, write_durably
from featcache.store.keys import Key
from featcache.store.lock import brief_lock, claim_shard, write_lock
from featcache.store.manifest import Manifest, group_copy, read_manifest, write_manifest
from featcache.store.segments import Segment, segment_number, segment_records, write_segments
from featcache.store.token_basis import to_npy
from featcache.store.token_forms import BASIS
from featcache.store.zarr_backend import quarantine_document, quarantine_file, read_attributes, read_quarantine
from featcache.store.zarr_layout import (
    ArrayLayout,
    chunk_file,
    encode_chunk,
    encode_strings,
    family_of,
    group_document,
    layouts_of,
    metadata_digest,
    to_json,
)

__all__ = ["StoreWriter", "chunk_rows_for", "open_writer", "token_rows_for"]

_SHARD_BYTES = 1 << 26
"""About the size of a shard of tokens: a segment is held in memory while it is computed."""


def chunk_rows_for(rows: int, together: int = 1) -> int:
    """Rows of a segment for a dataset of so many rows: at least 16 segments, 64 to 1024 rows each.

    Segments hold the largest volume too, if it has no more than 4096 slices.

    Examples
    --------
    >>> chunk_rows_for(800), chunk_rows_for(5_000), chunk_rows_for(112_120), chunk_rows_for(800, together=150)
    (64, 256, 1024, 256)
    """
    enough = min(1024, max(64, 1 << max(1, rows // 16).bit_length() - 1))
    return max(enough, min(4096, 1 << max(0, together - 1).bit_length()))


def token_rows_for(row_bytes: int) -> int:
    """Images of a segment of tokens: about 64 MB, a power of two from 8 to 64.

    Examples
    --------
    >>> token_rows_for(16 * 16 * 1024 * 2), token_rows_for(32 * 32 * 1024 * 2)
    (64, 32)
    """
    return min(64, max(8, 1 << max(1, _SHARD_BYTES // max(1, row_bytes)).bit_length() - 1))


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
                with _explained(path):
                    facts: dict[str, Any] = {"planned_rows": planned_rows, "together": together, "basis": basis}
                    _create(path, key, family, arrays, provenance=provenance, **facts)
        try:
            yield StoreWriter(path, arrays, shared=shard is not None)
        finally:
            with contextlib.nullcontext() if shard is None else brief_lock(path), _explained(path):
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
            with _explained(self.path):  # noted before any is used: what a killed shard had reserved stays unused
                write_manifest(self.path, next_segment=self.first_free)
            return reserved

    def _reserve(self, rows: int) -> range:
        count = -(-rows // self.chunk_rows)
        length = max(self.first_free * self.chunk_rows + rows, *array_lengths(self.path, self._layouts))
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
        """Write one segment durably: its chunks, and last its record. Parameters as of :meth:`write`."""
        self.record([self.write(number, digests, ids, features)])

    def record(self, segments: Sequence[Segment]) -> None:
        """Commit what was written: the rows of all these segments, of one volume for example, at once."""
        with _explained(self.path):
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
        with _explained(self.path):
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
        with brief_lock(store), _explained(store):
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


def write_quarantine(store: Path, failures: tuple[Failure, ...], *, others: Container[str] | None = None) -> None:
    """Replace the list of samples without features, if it changed.

    Parameters
    ----------
    store
        The store's folder.
    failures
        The samples without features.
    others
        For a shard: ids that other shards answer for. What the list says of them stays.
    """
    if others is None:
        if failures == read_quarantine(store):
            return
        with write_lock(store):
            _replace_quarantine(store, failures)
        return
    with brief_lock(store):
        kept = [failure for failure in read_quarantine(store) if failure.id in others]
        merged = tuple(sorted([*kept, *failures], key=lambda failure: failure.id))
        if merged != read_quarantine(store):
            _replace_quarantine(store, merged)


def _replace_quarantine(store: Path, failures: tuple[Failure, ...]) -> None:
    with _explained(store):
        write_durably(quarantine_file(store), quarantine_document([asdict(failure) for failure in failures]))
        noted = read_manifest(store) or Manifest()
        write_manifest(store, next_segment=noted.next_segment)


def _create(
    path: Path,
    key: Key,
    family: str,
    arrays: Mapping[str, tuple[int, ...]],
    *,
    planned_rows: int,
    together: int,
    provenance: Mapping[str, Any],
    basis: NDArray[np.float32] | None,
) -> None:
    """Make an empty group to the side and move it into place."""
    shapes = {"digests": [16], "ids": [], **{name: list(shape) for name, shape in arrays.items()}}
    attributes = {
        "format_version": FORMAT_VERSION,
        "key": key.digest,
        "spec": key.as_dict(),
        "families": {family: shapes},
        "chunk_rows": 1,
        "provenance": dict(provenance),
    }
    if family == "vectors" and key.dtype != "uint8":
        attributes["chunk_rows"] = chunk_rows_for(planned_rows, together)
    else:
        layouts = layouts_of(attributes)
        attributes["chunk_rows"] = token_rows_for(sum(layouts[name].row_bytes for name in arrays))
    if basis is not None:
        stored_basis = to_npy(basis)
        attributes["basis"] = hashlib.sha256(stored_basis).hexdigest()
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "segments").mkdir(parents=True)
    for layout in layouts_of(attributes).values():
        (partial / layout.name / "c").mkdir(parents=True)
        write_durably(partial / layout.name / "zarr.json", to_json(layout.document(0)))
    document = to_json(group_document({"featcache": attributes}))
    if basis is not None:
        write_durably(partial / BASIS, stored_basis)
    write_durably(partial / "segments" / "zarr.json", to_json(group_document({})))
    write_durably(group_copy(partial), document)
    write_durably(partial / "zarr.json", document)
    if path.exists():
        raise StoreCorruptError(
            f"{path} is there without its document zarr.json",
            remedy=f"Run `featcache verify --repair --store {path}`, or remove that folder.",
        )
    partial.rename(path)
    sync_folder(path.parent)
