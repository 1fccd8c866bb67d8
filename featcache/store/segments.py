"""Commit records: a segment's rows exist once its record does."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featcache.errors import StoreCorruptError
from featcache.store.durable import write_durably

__all__ = ["Segment", "read_segments", "write_segment"]


@dataclass(frozen=True, slots=True)
class Segment:
    """One immutable commit of one family: one chunk of each of its arrays."""

    family: str
    """``vectors`` or ``patches``."""
    number: int
    """Its chunk number: it holds the array rows ``number * chunk_rows`` and following."""
    digests: NDArray[np.uint8]
    """(n, 16) digests of its rows; :data:`featcache.store.backend.NO_ROW` where there is none."""
    files: Mapping[str, str]
    """SHA-256 of each of its files, by path relative to the store."""


def record_file(store: Path, family: str, number: int) -> Path:
    """Path of a segment's record."""
    return store / "segments" / f"{family}-{number:08}.json"


def write_segment(store: Path, segment: Segment) -> None:
    """Write a record durably: after this the segment's rows are committed."""
    record = {
        "family": segment.family,
        "segment": segment.number,
        "rows": len(segment.digests),
        "digests": base64.b64encode(segment.digests.tobytes()).decode(),
        "files": dict(segment.files),
    }
    content = json.dumps(record, indent=1, sort_keys=True).encode()
    write_durably(record_file(store, segment.family, segment.number), content)


def read_segments(store: Path, family: str) -> list[Segment]:
    """All committed segments of a family, by number.

    Raises
    ------
    StoreCorruptError
        If a record is not what its name says.
    """
    return [_read(path, family) for path in sorted((store / "segments").glob(f"{family}-*.json"))]


def _read(path: Path, family: str) -> Segment:
    try:
        record = json.loads(path.read_bytes())
        digests = np.frombuffer(base64.b64decode(record["digests"], validate=True), np.uint8).reshape(-1, 16)
        segment = Segment(record["family"], record["segment"], digests, record["files"])
        consistent = (
            len(digests) == record["rows"]
            and segment.family == family
            and path == record_file(path.parents[1], family, segment.number)
        )
    except (ValueError, KeyError, TypeError) as error:
        raise StoreCorruptError(
            f"a commit record cannot be read: {path} ({error})",
            remedy="Restore it from a copy, or remove it: its rows are then computed again.",
        ) from error
    if not consistent:
        raise StoreCorruptError(
            f"a commit record contradicts itself: {path}",
            remedy="Restore it from a copy, or remove it: its rows are then computed again.",
        )
    return segment
