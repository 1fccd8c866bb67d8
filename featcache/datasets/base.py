"""What a dataset is: ``Dataset`` (loaded) and ``DatasetSpec`` (a registry row)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pandas as pd

from featcache.errors import ConfigurationError, DatasetError
from featcache.records import Sample, Selector, Task

__all__ = [
    "SAMPLE_COLUMNS",
    "Dataset",
    "DatasetSpec",
    "SplitOrigin",
    "checked_name",
    "generic_name",
    "layout_error",
    "refuse_invalid",
    "sample_table",
]

SAMPLE_COLUMNS = ("id", "path", "selector", "patient", "volume", "axis", "index", "split")
"""The columns every samples table begins with; label columns follow."""

SplitOrigin = Literal["official", "study", "table", "folder", "file", "seeded", "within-subject", "none"]
"""``official``: the publisher's lists; ``study``: the rule of arXiv 2312.02366; ``table``, ``folder``: what the user's
table or folders say; ``file``: a split file; ``seeded``: ours; ``within-subject``: one subject may be on both sides."""


@dataclass(frozen=True, slots=True)
class DatasetSpec:
    """A registry row: facts about a dataset, and the dotted name of what loads it."""

    name: str
    """The registry name."""
    summary: str
    """One line for ``featcache datasets``."""
    modality: str
    """X-ray, CT, MRI …"""
    task_types: tuple[str, ...]
    """The types of its tasks."""
    licence: str
    """Of the data."""
    citation: str
    """To be cited by who uses it; empty for the generic datasets."""
    layout: str
    """The files that are expected, as text."""
    needs_root: bool
    """Whether the user must say where the files are."""
    loader: str
    """``"module:function"``; called with ``root`` and the dataset's own options, returns a Dataset."""
    source: str = ""
    """Where its publisher offers it: the page's name or address; empty for the generic datasets."""
    expected: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Published counts: unit (``samples``, ``patients``, ``volumes``, ``masks``) to split (or ``all``) to count, with
    the options left at their defaults. ``check_dataset`` compares."""
    hashes_patients: bool = False
    """Whether its patient ids come from file headers and are hashed: the loader is called with ``home``, which
    keeps the salt."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """Samples, tasks and splits of one dataset on this machine."""

    name: str
    """Its folder in the home."""
    root: Path
    """Paths in ``samples`` are relative to this."""
    samples: pd.DataFrame
    """One row a sample: :data:`SAMPLE_COLUMNS` (str or missing; ``index`` Int64), then label columns."""
    tasks: tuple[Task, ...]
    """The questions its labels answer; may be empty."""
    split_origin: SplitOrigin
    """Where the split comes from; ``within-subject`` allows one subject on both sides, and says so."""
    notes: tuple[str, ...] = ()
    """Sentences that every result on this dataset must carry."""
    missing: tuple[str, ...] = ()
    """Files that the publisher's lists name and that are not there: their rows are not in ``samples``."""
    surplus: tuple[str, ...] = ()
    """Image files below the root that no list names."""
    split_notes: tuple[str, ...] = ()
    """Those of the notes that speak of this split: a split file replaces it and drops them."""

    def sample(self, row: int) -> Sample:
        """The sample in a row of ``samples``."""
        record = self.samples.iloc[row]
        return Sample(record["id"], self.root / record["path"], Selector.from_text(record["selector"]))


def sample_table(
    ids: pd.Series[str], paths: pd.Series[str], *, split: pd.Series[str], patient: pd.Series[str]
) -> pd.DataFrame:
    """The first columns of a table in which each sample is one whole file."""
    missing = pd.Series([None] * len(ids), dtype="str")
    return pd.DataFrame(
        {
            "id": ids,
            "path": paths,
            "selector": missing.fillna(""),
            "patient": patient,
            "volume": missing,
            "axis": missing,
            "index": pd.Series([None] * len(ids), dtype="Int64"),
            "split": split,
        },
        columns=list(SAMPLE_COLUMNS),
    )


def layout_error(name: str, root: Path, found: str) -> DatasetError:
    """The error for files that are not there: what was found, and the layout that is expected."""
    from featcache.datasets.catalog import DATASETS

    spec = DATASETS[name]
    got = f" Get it from: {spec.source}." if spec.source else ""
    return DatasetError(f"dataset {name!r} at {root}: {found}", remedy=f"Expected below the root: {spec.layout}.{got}")


def generic_name(root: Path) -> str:
    """Name of a generic dataset in the home: its folder plus a hash of where it is."""
    digest = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:6]
    return checked_name(f"{root.resolve().name or 'root'}-{digest}")


def checked_name(name: str) -> str:
    """A dataset name that is safe as a folder's name.

    Raises
    ------
    ConfigurationError
        If there is nothing safe left of it.
    """
    safe = "".join(char if char.isalnum() or char in "._-" else "_" for char in name).strip(".")
    if not safe:
        raise ConfigurationError(f"{name!r} cannot be a dataset's name", remedy="Pass --name with letters.")
    return safe


def refuse_invalid(dataset: Dataset) -> None:
    """Refuse a table without rows, without the columns that all tables have, or with repeated ids.

    Raises
    ------
    DatasetError
        That says which.
    """
    samples = dataset.samples
    if len(samples) == 0:
        raise DatasetError(
            f"dataset {dataset.name!r} at {dataset.root} has no samples",
            remedy="Check the root and the options: nothing is left after them.",
        )
    if tuple(samples.columns[: len(SAMPLE_COLUMNS)]) != SAMPLE_COLUMNS:
        raise DatasetError(
            f"dataset {dataset.name!r}: its table begins with {list(samples.columns)}, expected {SAMPLE_COLUMNS}",
            remedy="Make it with featcache.datasets.base.sample_table.",
        )
    repeated = samples["id"][samples["id"].duplicated()].unique()
    if len(repeated):
        raise DatasetError(
            f"dataset {dataset.name!r}: {len(repeated)} ids occur more than once, for example "
            + ", ".join(map(repr, repeated[:3])),
            remedy="Give every row an id of its own.",
        )
