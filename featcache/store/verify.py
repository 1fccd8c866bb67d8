"""``verify_store``: is every byte of a store what was committed?"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from featcache.errors import StoreCorruptError, StoreNotFoundError
from featcache.store.backend import NO_ROW, token_families
from featcache.store.feature_store import FeatureStore, digests_from_text
from featcache.store.keys import Key
from featcache.store.manifest import group_copy, manifest_file, read_manifest
from featcache.store.packing import check_packed
from featcache.store.quarantine import quarantine_file, read_quarantine
from featcache.store.samples import checksum_file, read_samples, samples_file, samples_match_checksum
from featcache.store.segments import Segment, read_segment, segment_records, serialize_segment
from featcache.store.token_basis import basis_fault
from featcache.store.token_forms import BASIS
from featcache.store.writer import array_lengths
from featcache.store.zarr_backend import read_attributes
from featcache.store.zarr_layout import ArrayLayout, group_document, layouts_of, metadata_digest, to_json

__all__ = ["Problem", "verify_store"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is not as it was committed."""

    file: str
    """Relative to the store; ``samples.parquet`` lies beside it."""
    what: str
    """What is wrong."""
    record: str | None = None
    """File name of the commit record whose rows are affected: without it they count as missing."""
    incomplete: bool = False
    """Nothing is damaged: a run was killed, or has not been made yet. The next extraction mends it."""
    family: str = "vectors"
    """The family that ``record`` belongs to."""


def verify_store(path: Path) -> list[Problem]:
    """Compare every file of a store with its checksums, and its parts with each other.

    Covered: the group's and the arrays' documents, byte by byte; every commit record; every chunk (SHA-256); the
    digests in the chunks against those in the records; files that should be there and are not; the samples table
    and whether each of its samples is committed or in quarantine.

    Parameters
    ----------
    path
        The store's folder, or a packed store's file (there: the SHA-256 of each array).

    Returns
    -------
    list of Problem
        Empty for an intact and complete store. Leftovers of a killed run are no problem.

    Raises
    ------
    StoreNotFoundError, StoreVersionError
        If there is no store, or a newer one.
    """
    if path.is_file():
        return [Problem(path.name, fault) for fault in check_packed(path)] or list(_sample_problems(path))
    problems = _verify_group(path, path.name)
    for family in token_families(path):
        found = _verify_group(path / family, path.name)
        problems += [replace(problem, file=f"{family}/{problem.file}", family=family) for problem in found]
    return problems or list(_sample_problems(path))


def _verify_group(path: Path, store_name: str) -> list[Problem]:
    """One group: the store with its vectors, or a family of tokens inside it."""
    try:
        attributes = read_attributes(path)
    except StoreCorruptError as error:
        return [Problem("zarr.json", error.message)]
    except StoreNotFoundError:
        if not (path / "segments").is_dir():
            raise
        return [Problem("zarr.json", "the group's document is gone")]
    problems = [*_group_problems(path, attributes, store_name)]
    layouts = list(layouts_of(attributes).values())
    segments = []
    for record in segment_records(path):
        try:
            segments.append(read_segment(record))
        except StoreCorruptError as error:
            problems.append(Problem(f"segments/{record.name}", error.message, record.name))
            continue
        problems += _segment_problems(path, segments[-1], record)
    problems += _array_problems(path, attributes, layouts, segments)
    problems += _manifest_problems(path, bool(segments))
    return problems


def _group_problems(path: Path, attributes: dict[str, Any], store_name: str) -> Iterator[Problem]:
    if (path / "zarr.json").read_bytes() != to_json(group_document({"featcache": attributes})):
        yield Problem("zarr.json", "its bytes are not those that featcache wrote")
    if not group_copy(path).is_file() or group_copy(path).read_bytes() != (path / "zarr.json").read_bytes():
        yield Problem("zarr.json", "the document differs from its copy, segments/group.json")
    fault = basis_fault(path)
    if fault is not None:
        yield Problem(BASIS, fault)
    key = Key.from_dict(attributes["spec"])
    if key.digest != attributes["key"]:
        yield Problem("zarr.json", "the key is not that of the specification")
    elif key.store_name != store_name:
        yield Problem("zarr.json", f"the store of this key is called {key.store_name}, the folder {store_name}")
    segments = path / "segments" / "zarr.json"
    if not segments.is_file() or segments.read_bytes() != to_json(group_document({})):
        yield Problem("segments/zarr.json", "the document is missing or not what featcache wrote")


def _segment_problems(path: Path, segment: Segment, record: Path) -> Iterator[Problem]:
    if record.read_bytes() != serialize_segment(segment):
        yield Problem(f"segments/{record.name}", "its bytes are not those that featcache wrote", record.name)
    for name, expected in segment.files.items():
        try:
            found = hashlib.sha256((path / name).read_bytes()).hexdigest()
        except OSError as error:
            yield Problem(name, f"the chunk cannot be read: {error.strerror}", record.name)
            continue
        if found != expected:
            yield Problem(name, "the chunk is not what was committed (SHA-256)", record.name)


def _array_problems(
    path: Path, attributes: dict[str, Any], layouts: list[ArrayLayout], segments: list[Segment]
) -> Iterator[Problem]:
    needed = max((segment.number * layouts[0].chunk_rows + len(segment.digests) for segment in segments), default=0)
    names = [layout.name for layout in layouts]
    lengths = dict(zip(names, array_lengths(path, names), strict=True))
    for layout in layouts:
        document = path / layout.name / "zarr.json"
        length = lengths[layout.name]
        if not document.is_file() or document.read_bytes() != to_json(layout.document(length)):
            yield Problem(f"{layout.name}/zarr.json", "the document is missing or not what featcache wrote")
        elif length < needed:
            yield Problem(f"{layout.name}/zarr.json", f"{length} rows, {needed} are committed")
    if len(set(lengths.values())) > 1:
        longest = max(lengths.values())
        for name, length in lengths.items():
            if length != longest:
                yield Problem(f"{name}/zarr.json", f"{length} rows, other arrays have {longest}", incomplete=True)
    metadata = metadata_digest(attributes, layouts)
    strangers = [segment for segment in segments if segment.metadata != metadata]
    if strangers:
        yield Problem("zarr.json", f"{len(strangers)} commits were made under another specification or array layout")


def _manifest_problems(path: Path, has_rows: bool) -> Iterator[Problem]:
    name = manifest_file(path).relative_to(path).as_posix()
    try:
        manifest = read_manifest(path)
    except StoreCorruptError as error:
        yield Problem(name, error.message)
        return
    if manifest is None:
        if has_rows:
            yield Problem(name, "the list is missing: it was removed, or the first run was killed (extract again)")
        return
    for listed, expected in manifest.files.items():
        file = path / listed
        record = file.name if re.fullmatch(r"\w+-\d+\.json", file.name) else None
        if not file.is_file():
            yield Problem(listed, "the file was there at the end of the last session and is gone", record)
        elif expected and record is None and hashlib.sha256(file.read_bytes()).hexdigest() != expected:
            yield Problem(listed, "the file is not what it was at the end of the last session")
    try:
        read_quarantine(path)
    except StoreCorruptError as error:
        yield Problem(quarantine_file(path).relative_to(path).as_posix(), error.message)


def _sample_problems(path: Path) -> Iterator[Problem]:
    """Only asked of a store whose files are intact."""
    file, noted = samples_file(path.parent), checksum_file(path.parent)
    if noted.is_file() and not file.is_file():
        yield Problem(file.name, "the table is gone, its checksum is there: `featcache extract` writes it anew")
    if not file.is_file():
        return
    if not noted.is_file():
        yield Problem(noted.name, "the checksum of the table is gone: `featcache extract` writes both anew")
    elif not samples_match_checksum(path.parent):
        yield Problem(file.name, "the table is not the one that featcache wrote (checksum)")
        return
    try:
        table = read_samples(path.parent)
    except StoreCorruptError as error:
        yield Problem(file.name, error.message)
        return
    if table is None:
        return
    store = FeatureStore(path)
    digests = digests_from_text(table.frame["digest"].tolist())
    missing = (store.rows_of(digests) < 0) | (digests == np.frombuffer(NO_ROW, np.uint8)).all(axis=1)
    known = {failure.id for failure in store.failures}
    unexplained = [name for name in table.frame["id"][missing] if name not in known]
    if unexplained:
        shown = ", ".join(unexplained[:3])
        yield Problem(
            "samples.parquet",
            f"{len(unexplained)} samples are neither committed nor in quarantine, e.g. {shown}",
            incomplete=True,
        )
    for family in token_families(path):
        lacking = int((store.array_of(family, digests[~missing]).rows < 0).sum())
        if lacking:
            what = f"{lacking} samples have vectors and no {family}: the run that computes them has not ended"
            yield Problem("samples.parquet", what, incomplete=True)
