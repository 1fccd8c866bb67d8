"""The list of a store's records and documents, so that a file that vanished is missed.

A record says what its own files must be; only a list can say that a record is gone. The list is replaced at the
end of every session of a writer. What was committed after it (a killed run) is committed all the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from featcache.errors import StoreCorruptError
from featcache.store.backend import family_path, token_families
from featcache.store.durable import write_durably
from featcache.store.segments import segment_number, segment_records

__all__ = ["Manifest", "group_copy", "manifest_file", "read_manifest", "write_manifest"]


@dataclass(frozen=True, slots=True)
class Manifest:
    """A store at the end of a writer's session."""

    files: dict[str, str] = field(default_factory=dict)
    """SHA-256 of the group's document, of each file below ``segments/`` and of the documents of token families."""
    next_segment: int = 0
    """Numbers below this were in use at some time and are never used again."""


def manifest_file(store: Path) -> Path:
    """Path of the list."""
    return store / "segments" / "manifest.json"


def group_copy(store: Path) -> Path:
    """Path of the copy of the group's document, from which it can be repaired."""
    return store / "segments" / "group.json"


def write_manifest(
    store: Path, *, next_segment: int = 0, without: Container[str] = (), without_family: str | None = None
) -> None:
    """List the files that are there now, durably.

    ``next_segment`` is the least number that is noted as used; files named in ``without`` are about to go, and so is
    the family of tokens ``without_family``.
    """
    own = manifest_file(store)
    listed = [store / "zarr.json", *(path for path in sorted((store / "segments").glob("*.json")) if path != own)]
    listed += [group_copy(family_path(store, family)) for family in token_families(store) if family != without_family]
    listed = [path for path in listed if path.name not in without]
    files = {path.relative_to(store).as_posix(): _digest(path) for path in listed if path.is_file()}
    used = [segment_number(path) for path in segment_records(store)]
    content = _serialize(Manifest(files, max([next_segment, *(number + 1 for number in used)])))
    if not own.is_file() or own.read_bytes() != content:
        write_durably(own, content)


def read_manifest(store: Path) -> Manifest | None:
    """Read the list; None if there is none (no session has ended yet).

    Raises
    ------
    StoreCorruptError
        If it is damaged.
    """
    path = manifest_file(store)
    try:
        content = path.read_bytes()
        document = json.loads(content)
        manifest = Manifest(dict(document["files"]), int(document["next_segment"]))
        intact = _serialize(manifest) == content
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreCorruptError(f"{path} cannot be read ({error!r})", remedy="featcache verify --repair") from error
    if not intact:
        raise StoreCorruptError(f"{path} fails its checksum", remedy="featcache verify --repair")
    return manifest


def _digest(path: Path) -> str:
    """SHA-256; empty for the quarantine list, which changes between sessions and has a checksum of its own."""
    return "" if path.name == "quarantine.json" else hashlib.sha256(path.read_bytes()).hexdigest()


def _serialize(manifest: Manifest) -> bytes:
    document: dict[str, Any] = asdict(manifest)
    checksum = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    return json.dumps({**document, "sha256": checksum}, indent=1, sort_keys=True).encode()
