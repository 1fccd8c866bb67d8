"""``drop_damage``: bring a damaged store back to a state in which everything that it says is true."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from featcache.errors import StoreCorruptError
from featcache.store.backend import token_families
from featcache.store.durable import write_durably
from featcache.store.keys import Key
from featcache.store.lock import write_lock
from featcache.store.manifest import group_copy, manifest_file, read_manifest, write_manifest
from featcache.store.quarantine import quarantine_document, quarantine_file, read_quarantine
from featcache.store.segments import segment_number, segment_records
from featcache.store.token_basis import basis_fault
from featcache.store.verify import Problem, verify_store
from featcache.store.writer import array_lengths
from featcache.store.zarr_backend import read_attributes
from featcache.store.zarr_layout import group_document, layouts_of, to_json

__all__ = ["drop_damage"]


def drop_damage(store: Path, problems: Sequence[Problem]) -> int:
    """Remove the records of damaged segments and write damaged documents anew.

    After this the rows of the damaged segments count as missing, and an extraction computes them.

    Parameters
    ----------
    store
        The store's folder.
    problems
        What :func:`featcache.store.verify_store` found.

    Returns
    -------
    int
        Segments dropped.

    Raises
    ------
    StoreCorruptError
        If the group's document and its copy are both damaged: then nothing says what the rows are.
    """
    with write_lock(store):
        restored = _restore_group(store, store.name)
        lost = False
        for family in token_families(store):
            try:
                restored |= _restore_group(store / family, store.name)
            except StoreCorruptError:  # vectors are what a store is; tokens without their document are computed again
                shutil.rmtree(store / family)
                lost = True
                continue
            if basis_fault(store / family) is not None:  # what was projected onto it cannot be continued
                shutil.rmtree(store / family)
                lost = True
        if restored or lost:
            problems = verify_store(store)  # what it said about the rows was judged by the damaged document
        dropped = 0
        for family in token_families(store):
            own = [problem for problem in problems if problem.family == family]
            dropped += _drop_records(store / family, own) if own else 0
        return dropped + _drop_records(store, [problem for problem in problems if problem.family == "vectors"])


def _drop_records(store: Path, problems: Sequence[Problem]) -> int:
    """Drop the damaged segments of one group and write its documents anew; how many were dropped."""
    attributes = read_attributes(store)
    used = [segment_number(record) for record in segment_records(store)]
    doomed = {problem.record for problem in problems if problem.record is not None}
    if any("commits were made" in problem.what for problem in problems):
        doomed = {record.name for record in segment_records(store)}
    dropped = 0
    for name in doomed:
        record = store / "segments" / name
        dropped += record.is_file()
        record.unlink(missing_ok=True)
    layouts = layouts_of(attributes)
    chunk_rows = int(attributes["chunk_rows"])
    length = max([0, *array_lengths(store, layouts), *((number + 1) * chunk_rows for number in used)])
    for layout in layouts.values():
        (store / layout.name).mkdir(exist_ok=True)
        write_durably(store / layout.name / "zarr.json", to_json(layout.document(length)))
    write_durably(store / "segments" / "zarr.json", to_json(group_document({})))
    try:
        read_quarantine(store)
    except StoreCorruptError:
        write_durably(quarantine_file(store), quarantine_document([]))
    manifest_file(store).unlink(missing_ok=True)
    write_manifest(store, next_segment=max([0, *(number + 1 for number in used)]))
    return dropped


def _restore_group(store: Path, store_name: str) -> bool:
    """Make the group's document and its copy equal, from the one that is intact. Whether something was changed."""
    places = (store / "zarr.json", group_copy(store))
    intact = [content for content in (_intact(place, store_name) for place in places) if content is not None]
    if len(set(intact)) == 2:  # each is consistent in itself: the list of the last session decides
        try:
            manifest = read_manifest(store)
        except StoreCorruptError:
            manifest = None
        noted = manifest.files.get("zarr.json") if manifest is not None else None
        intact = [content for content in intact if hashlib.sha256(content).hexdigest() == noted]
    if not intact:
        raise StoreCorruptError(
            f"{places[0]} and its copy are both damaged: nothing says what the rows of the store are",
            remedy="Restore the store from a copy, or remove its folder and extract again.",
        )
    damaged = [place for place in places if not place.is_file() or place.read_bytes() != intact[0]]
    for place in damaged:
        write_durably(place, intact[0])
    return bool(damaged)


def _intact(file: Path, store_name: str) -> bytes | None:
    """The bytes of a group's document if it is consistent in itself."""
    try:
        content = file.read_bytes()
        attributes = json.loads(content)["attributes"]["featcache"]
        key = Key.from_dict(attributes["spec"])
        consistent = (
            key.digest == attributes["key"]
            and key.store_name == store_name
            and to_json(group_document({"featcache": attributes})) == content
        )
        layouts_of(attributes)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return content if consistent else None
