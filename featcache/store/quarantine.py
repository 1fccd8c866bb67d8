"""The list of samples without features, in the store: ``segments/quarantine.json``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container
from dataclasses import asdict
from pathlib import Path

from featcache.errors import StoreCorruptError
from featcache.records import Failure
from featcache.store.durable import explained, write_durably
from featcache.store.lock import brief_lock, write_lock
from featcache.store.manifest import Manifest, read_manifest, write_manifest

__all__ = ["quarantine_document", "quarantine_file", "read_quarantine", "write_quarantine"]


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
    with explained(store):
        write_durably(quarantine_file(store), quarantine_document([asdict(failure) for failure in failures]))
        noted = read_manifest(store) or Manifest()
        write_manifest(store, next_segment=noted.next_segment)
