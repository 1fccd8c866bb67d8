"""Commit records: a segment's rows exist once its record does."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.errors import StoreCorruptError
from featcache.store.durable import write_together

__all__ = [
    "Segment",
    "read_segment",
    "read_segments",
    "record_file",
    "segment_number",
    "segment_records",
    "serialize_segment",
    "write_segments",
]

_REMEDY = "Run `featcache verify --repair`, or restore the file: its rows are then computed again."


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
    metadata: str
    """SHA-256 of what the arrays' metadata and the store's specification said at the commit."""


def record_file(store: Path, family: str, number: int) -> Path:
    """Path of a segment's record."""
    return store / "segments" / f"{family}-{number:08}.json"


def segment_records(store: Path) -> list[Path]:
    """Paths of all records of a group, which holds one family, by number."""
    return sorted((store / "segments").glob("*-[0-9]*.json"))


def segment_number(record: Path) -> int:
    """The number in a record's file name."""
    return int(record.stem.rsplit("-", 1)[1])


def write_segments(store: Path, segments: Iterable[Segment]) -> None:
    """Write records durably: after this the segments' rows are committed, those of all of them together."""
    write_together({record_file(store, one.family, one.number): serialize_segment(one) for one in segments})


def read_segments(store: Path) -> list[Segment]:
    """All committed segments of a group, by number.

    Raises
    ------
    StoreCorruptError
        If a record is not what was written.
    """
    return [read_segment(path) for path in segment_records(store)]


def read_segment(path: Path) -> Segment:
    """Read one record.

    Raises
    ------
    StoreCorruptError
        If it cannot be read, fails its checksum, or lies under another name.
    """
    try:
        record = json.loads(path.read_bytes())
        checksum = record.pop("sha256")
        digests = np.frombuffer(base64.b64decode(record["digests"], validate=True), np.uint8).reshape(-1, 16)
        segment = Segment(record["family"], record["segment"], digests, record["files"], record["metadata"])
        intact = (
            checksum == _checksum(record)
            and len(digests) == record["rows"]
            and path.name == record_file(path.parents[1], segment.family, segment.number).name
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreCorruptError(f"a commit record cannot be read: {path} ({error!r})", remedy=_REMEDY) from error
    if not intact:
        raise StoreCorruptError(f"a commit record is damaged: {path} fails its checksum", remedy=_REMEDY)
    return segment


def serialize_segment(segment: Segment) -> bytes:
    """A record as it is written, byte for byte."""
    record: dict[str, Any] = {
        "family": segment.family,
        "segment": segment.number,
        "rows": len(segment.digests),
        "digests": base64.b64encode(segment.digests.tobytes()).decode(),
        "files": dict(segment.files),
        "metadata": segment.metadata,
    }
    return json.dumps({**record, "sha256": _checksum(record)}, indent=1, sort_keys=True).encode()


def _checksum(record: Mapping[str, Any]) -> str:
    canonical = json.dumps(record, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
