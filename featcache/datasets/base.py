"""What a dataset is: ``Dataset`` (loaded), ``DatasetSpec`` (a registry row) and how one becomes the other."""

from __future__ import annotations

import hashlib
import os
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from featcache.errors import ConfigurationError, DatasetError
from featcache.records import Sample, Selector, Task
from featcache.registry import load_dotted

__all__ = ["SAMPLE_COLUMNS", "Dataset", "DatasetSpec", "dataset_root", "load_dataset"]

SAMPLE_COLUMNS = ("id", "path", "selector", "patient", "volume", "axis", "index", "split")
"""The columns every samples table begins with; label columns follow."""

SplitOrigin = Literal["official", "table", "folder", "seeded", "within-subject", "none"]


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

    def sample(self, row: int) -> Sample:
        """The sample in a row of ``samples``."""
        record = self.samples.iloc[row]
        return Sample(record["id"], self.root / record["path"], Selector.from_text(record["selector"]))


def load_dataset(name: str, *, root: Path | str | None = None, **options: Any) -> Dataset:
    """Load a dataset's table of samples. Opens no image.

    Parameters
    ----------
    name
        A registry name: ``featcache datasets`` lists them.
    root
        The folder with its files; otherwise looked for as :func:`dataset_root` says.
    **options
        What the dataset's loader takes, for example ``table`` and ``label`` for ``table``; ``dataset_name``
        (``--name``) names a generic dataset in the home.

    Raises
    ------
    UnknownNameError
        If no dataset has that name.
    DatasetError
        If the files are not there; the message shows the layout that is expected.
    ConfigurationError
        If the dataset does not take an option.
    """
    from featcache.datasets.catalog import DATASETS

    spec = DATASETS[name]
    chosen = options.pop("dataset_name", None)
    found = dataset_root(spec, root)
    try:
        dataset: Dataset = load_dotted(spec.loader)(root=found, **options)
    except TypeError as error:
        if "unexpected keyword" not in str(error):
            raise
        raise ConfigurationError(f"dataset {name!r} does not take these options: {error}") from error
    _check(dataset)
    if chosen is not None:
        return replace(dataset, name=checked_name(chosen))
    return dataset


def dataset_root(spec: DatasetSpec, root: Path | str | None = None) -> Path | None:
    """Where a dataset's files lie.

    Looked for in this order: ``root``; the table ``[roots]`` of ``featcache.toml`` in the working folder;
    ``<FEATCACHE_DATA>/<name>`` for each folder in that variable. None for a dataset that needs no root.

    Raises
    ------
    DatasetError
        If a root is needed and none is found, or the one that was given is no folder.
    """
    places = [] if root is None else [Path(root)]
    if root is None and spec.needs_root:
        places = _configured_places(spec.name)
    for place in places:
        if place.is_dir():
            return place.absolute()
    if places or spec.needs_root:
        tried = "".join(f"\n  {place}" for place in places) or " nothing (no --root, no FEATCACHE_DATA)"
        raise DatasetError(
            f"dataset {spec.name!r}: no folder with its files; tried{tried}",
            remedy=f"Pass --root DIR, set FEATCACHE_DATA, or name it in featcache.toml. Expected: {spec.layout}",
        )
    return None


def _configured_places(name: str) -> list[Path]:
    places: list[Path] = []
    config = Path("featcache.toml")
    if config.is_file():
        try:
            roots = tomllib.loads(config.read_text(encoding="utf-8")).get("roots", {})
        except tomllib.TOMLDecodeError as error:
            raise ConfigurationError(
                f"featcache.toml is not valid TOML: {error}", remedy="Mend that line, or remove the file."
            ) from error
        if name in roots:
            places.append(Path(roots[name]).expanduser())
    for folder in os.environ.get("FEATCACHE_DATA", "").split(os.pathsep):
        if folder:
            places.append(Path(folder).expanduser() / name)
    return places


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


def _check(dataset: Dataset) -> None:
    samples = dataset.samples
    if len(samples) == 0:
        raise DatasetError(f"dataset {dataset.name!r} at {dataset.root} has no samples")
    if tuple(samples.columns[: len(SAMPLE_COLUMNS)]) != SAMPLE_COLUMNS:
        raise DatasetError(
            f"dataset {dataset.name!r}: its table begins with {list(samples.columns)}, expected {SAMPLE_COLUMNS}"
        )
    repeated = samples["id"][samples["id"].duplicated()].unique()
    if len(repeated):
        raise DatasetError(
            f"dataset {dataset.name!r}: {len(repeated)} ids occur more than once, for example "
            + ", ".join(map(repr, repeated[:3])),
            remedy="Give every row an id of its own.",
        )
