"""``samples.parquet``: which sample has which digest, and what is known of it. Replaceable at any time."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from featcache.errors import ConfigurationError, StoreCorruptError, StoreError, StoreVersionError
from featcache.records import Task
from featcache.store.durable import write_durably

__all__ = [
    "PACKED_SAMPLES",
    "SAMPLES_VERSION",
    "SampleTable",
    "bare_table",
    "packed_samples",
    "read_samples",
    "samples_file",
    "samples_match_checksum",
    "write_samples",
]

SAMPLES_VERSION = 1

PACKED_SAMPLES = "samples.parquet"
"""Dataset of a self-contained packed store: the bytes of its samples table."""


@dataclass(frozen=True, slots=True)
class SampleTable:
    """The samples of a dataset and the facts that probes need, without the dataset's files."""

    registry_name: str
    """Which dataset loader made it."""
    frame: pd.DataFrame
    """Columns ``id``, ``digest`` (32 hexadecimal digits; missing for unreadable files), ``path`` … labels."""
    tasks: tuple[Task, ...]
    """Tasks that the label columns answer."""
    split_origin: str
    """Where the split comes from; ``within-subject`` for one subject on both sides."""
    notes: tuple[str, ...]
    """Sentences that results must carry."""
    root: str = ""
    """Fingerprint of the folder that the paths are relative to; empty if unknown."""


def samples_file(folder: Path) -> Path:
    """Path of the table in a dataset's folder of the home."""
    return folder / "samples.parquet"


def checksum_file(folder: Path) -> Path:
    """Path of the SHA-256 of the table that featcache wrote last."""
    return folder / ".samples.parquet.sha256"


def samples_match_checksum(folder: Path) -> bool:
    """Whether the table is the one that featcache wrote last: false where no checksum was noted."""
    noted = checksum_file(folder)
    if not noted.is_file():
        return False
    return (
        noted.read_bytes().strip().decode("ascii", "replace")
        == hashlib.sha256(samples_file(folder).read_bytes()).hexdigest()
    )


def read_samples(folder: Path) -> SampleTable | None:
    """Read the table of a dataset's folder; None if there is none.

    Raises
    ------
    StoreCorruptError
        If the file is no such table.
    StoreVersionError
        If a newer featcache wrote it.
    """
    import pyarrow
    import pyarrow.parquet

    path = samples_file(folder)
    if not path.is_file():
        return None
    try:
        table = pyarrow.parquet.read_table(path)
        facts = json.loads((table.schema.metadata or {})[b"featcache"])
        version = int(facts["version"])
        if version <= SAMPLES_VERSION:
            tasks = tuple(_task(task) for task in facts["tasks"])
            said = facts["dataset"], table.to_pandas(), tasks, facts["split_origin"], tuple(facts["notes"])
            return SampleTable(*said, facts.get("root", ""))
    except (pyarrow.ArrowException, OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise StoreCorruptError(
            f"{path} is not a featcache samples table ({' '.join(str(error).split())})",
            remedy="Run `featcache extract` again: it writes the table anew and computes nothing twice.",
        ) from error
    raise StoreVersionError(
        f"{path} has version {version}, this featcache reads up to {SAMPLES_VERSION}", remedy="Upgrade featcache."
    )


def packed_samples(path: Path) -> SampleTable | None:
    """The samples table inside a self-contained packed store; None if it holds none."""
    import h5py

    with h5py.File(path, "r") as file:
        if PACKED_SAMPLES not in file:
            return None
        content = file[PACKED_SAMPLES][:].tobytes()
    with tempfile.TemporaryDirectory() as folder:
        samples_file(Path(folder)).write_bytes(content)
        return read_samples(Path(folder))


def bare_table(digests: NDArray[np.uint8], ids: Sequence[str]) -> SampleTable:
    """Ids as they were at extraction, for a store that lies without its table: (n, 16) digests and n ids."""
    frame = pd.DataFrame(
        {
            "id": pd.Series(list(ids), dtype="str"),
            "digest": pd.Series([digest.tobytes().hex() for digest in digests], dtype="str"),
            "split": pd.Series([None] * len(ids), dtype="str"),
        }
    )
    note = "samples.parquet is not beside the store: ids are those of the extraction, labels are unknown."
    return SampleTable("", frame.drop_duplicates("digest", keep="last"), (), "none", (note,))


def write_samples(folder: Path, table: SampleTable) -> None:
    """Replace the table durably; unchanged content is not written again.

    Raises
    ------
    ConfigurationError
        If the folder holds another dataset: another loader, or from another folder without an image in common.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        before = read_samples(folder)
    except StoreCorruptError:
        before = None  # what is damaged is replaced
    if before is not None:
        if _same(before, table) and samples_match_checksum(folder):
            return
        _refuse_clash(folder, before, table)
    facts = {
        "version": SAMPLES_VERSION,
        "dataset": table.registry_name,
        "tasks": [asdict(task) for task in table.tasks],
        "split_origin": table.split_origin,
        "notes": list(table.notes),
        "root": table.root,
    }
    arrow = pyarrow.Table.from_pandas(table.frame, preserve_index=False)
    arrow = arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), b"featcache": json.dumps(facts)})
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(arrow, sink)
    content = sink.getvalue().to_pybytes()
    path = samples_file(folder)
    if path.is_file() and path.read_bytes() == content and samples_match_checksum(folder):
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_durably(path, content)
        write_durably(checksum_file(folder), hashlib.sha256(content).hexdigest().encode())
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {error.strerror}",
            remedy="Choose a home that this user may write, with --home or FEATCACHE_HOME.",
        ) from error


def _same(before: SampleTable, after: SampleTable) -> bool:
    facts = [
        (table.registry_name, table.tasks, table.split_origin, table.notes, table.root, list(table.frame.columns))
        for table in (before, after)
    ]
    return facts[0] == facts[1] and before.frame.equals(after.frame)


def _refuse_clash(folder: Path, before: SampleTable, after: SampleTable) -> None:
    same_root = bool(after.root) and before.root == after.root
    common = same_root or bool(set(before.frame["digest"].dropna()) & set(after.frame["digest"].dropna()))
    if before.registry_name != after.registry_name or not common:
        raise ConfigurationError(
            f"{folder} already holds another dataset ({before.registry_name!r}, {len(before.frame)} samples, from "
            "another folder and without an image in common)",
            remedy="Choose another name with --name, or another home.",
        )


def _task(fields: Mapping[str, Any]) -> Task:
    return Task(**{**fields, "columns": tuple(fields["columns"]), "classes": tuple(fields["classes"])})
