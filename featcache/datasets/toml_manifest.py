"""``my_set.toml``: a dataset of one's own, described without code.

::

    [dataset]
    name = "my_set"                # its name in the home
    root = "images"                # relative to this file; --root wins
    table = "labels.csv"           # relative to this file, or below the root
    licence = "internal use"
    citation = ""
    source = "PACS export of 2024"
    notes = ["Portable X-rays only."]

    [columns]                      # what they are called in the table
    path = "file"
    id = "key"
    patient = "mrn"
    split = "fold"
    mask = "mask_file"
    keep = ["age", "sex"]

    [[tasks]]
    name = "finding"
    type = "multiclass"            # binary, multiclass, multilabel, segmentation
    columns = ["finding"]
    classes = ["none", "mild", "severe"]

    [split]
    file = "split.csv"             # or
    seed = 3
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pandas as pd

from featcache.datasets.base import Dataset, checked_name
from featcache.datasets.files import shown
from featcache.datasets.splits import split_from_file
from featcache.datasets.table import load as load_table
from featcache.datasets.table import relative_paths
from featcache.errors import ConfigurationError, DatasetError
from featcache.records import Task, TaskType
from featcache.registry import nearest

__all__ = ["load_manifest"]

_KNOWN = {
    "": ("dataset", "columns", "tasks", "split"),
    "dataset": ("name", "root", "table", "licence", "citation", "source", "notes"),
    "columns": ("path", "id", "patient", "split", "mask", "keep"),
    "split": ("file", "seed"),
    "tasks": ("name", "type", "columns", "classes", "level", "mask_values"),
}


def load_manifest(file: Path, *, root: Path | str | None = None) -> Dataset:
    """Read a manifest and the table that it names.

    Parameters
    ----------
    file
        The TOML file: see this module's description and docs/datasets.md.
    root
        Overrides the manifest's.

    Raises
    ------
    DatasetError
        If the file or its table is not there, or labels do not fit the classes.
    ConfigurationError
        If it is no TOML or has a key that does not exist (the message names the nearest).
    """
    facts = _parsed(file)
    about, columns, chosen = (dict(facts.get(part, {})) for part in ("dataset", "columns", "split"))
    here = file.absolute().parent
    folder = Path(root).absolute() if root is not None else (here / about.get("root", "")).absolute()
    if not folder.is_dir():
        raise DatasetError(f"manifest {file}: no folder {folder}", remedy="Set root in [dataset], or pass --root DIR.")
    tasks = tuple(_task(entry, file) for entry in facts.get("tasks", []))
    labels = [column for task in tasks if task.type != "segmentation" for column in task.columns]
    masks = [column for task in tasks if task.type == "segmentation" for column in task.columns]
    masks = masks or ([columns["mask"]] if "mask" in columns else [])
    table = about.get("table")
    dataset = load_table(
        folder,
        table=None if table is None else here / table if (here / table).is_file() else folder / table,
        path_column=columns.get("path", "path"),
        split_column=columns.get("split", "split"),
        patient_column=columns.get("patient", "patient"),
        id_column=columns.get("id"),
        keep_columns=tuple(dict.fromkeys([*labels, *masks, *columns.get("keep", [])])),
        seed=int(chosen.get("seed", 0)),
        label_columns=(),
    )
    samples = dataset.samples
    for column in masks:
        given = samples[column].dropna().astype("str")
        samples[column] = relative_paths(given, folder, file).set_axis(given.index).reindex(samples.index)
    if masks and "mask_selector" not in samples:
        samples["mask_selector"] = samples["selector"]  # a page of a TIFF has that page as its mask
    tasks = tuple(_completed(task, samples, file) for task in tasks)
    dataset = replace(
        dataset,
        name=checked_name(about.get("name", file.stem)),
        samples=samples,
        tasks=tasks or dataset.tasks,
        notes=(*_stated(about), *dataset.notes),
    )
    if "file" in chosen:
        split, notes = split_from_file(samples, here / chosen["file"])
        kept = tuple(note for note in dataset.notes if note not in dataset.split_notes)
        samples = samples.assign(split=split)
        dataset = replace(dataset, samples=samples, split_origin="file", notes=(*kept, *notes), split_notes=notes)
    return dataset


def _parsed(file: Path) -> Mapping[str, Any]:
    if not file.is_file():
        raise DatasetError(f"no manifest {file}", remedy="Expected --dataset path/my_set.toml.")
    try:
        facts = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{file} is not valid TOML: {error}", remedy="Mend that line.") from error
    for part, known in _KNOWN.items():
        entries: Any = facts if part == "" else facts.get(part, {})
        for entry in entries if isinstance(entries, list) else [entries]:
            if not isinstance(entry, dict):
                raise ConfigurationError(f"{file}: {part} is no table", remedy=f"Write [{part}] or [[{part}]].")
            unknown = [name for name in entry if name not in known]
            if unknown:
                where = f" in [{part}]" if part else ""
                raise ConfigurationError(
                    f"{file}: unknown key {unknown[0]!r}{where}{nearest(unknown[0], known)}",
                    remedy=f"Known: {', '.join(known)}.",
                )
    return facts


def _task(entry: Mapping[str, Any], file: Path) -> Task:
    missing = [name for name in ("name", "type", "columns") if name not in entry]
    if missing:
        raise ConfigurationError(f"{file}: a task has no {missing[0]!r}", remedy="Expected name, type and columns.")
    if entry["type"] not in get_args(TaskType):
        raise ConfigurationError(
            f"{file}: task {entry['name']!r} is of type {entry['type']!r}",
            remedy=f"Known: {', '.join(get_args(TaskType))}.",
        )
    values = entry.get("mask_values")
    return Task(
        name=entry["name"],
        type=entry["type"],
        columns=tuple(entry["columns"]),
        classes=tuple(entry.get("classes", ())),
        level=entry.get("level", "sample"),
        mask_values=None if values is None else tuple(values),
    )


def _completed(task: Task, samples: pd.DataFrame, file: Path) -> Task:
    """The task with classes, checked against the labels."""
    if task.type == "segmentation":
        return task if task.classes else replace(task, classes=("background", "foreground"))
    if task.type == "multilabel":
        for column in task.columns:
            odd = set(samples[column].dropna().unique()) - {0, 1}
            if odd:
                raise DatasetError(
                    f"{file}: label {column!r} has the values {shown(sorted(map(str, odd)))}",
                    remedy="Expected 0, 1 or nothing in each column of a multilabel task.",
                )
        return task if task.classes else replace(task, classes=task.columns)
    found = sorted(set(samples[task.columns[0]].dropna().astype("str")))
    odd_labels = [label for label in found if task.classes and label not in task.classes]
    if odd_labels:
        raise DatasetError(
            f"{file}: task {task.name!r} has labels that are none of its classes: {shown(map(repr, odd_labels))}",
            remedy=f"Classes: {', '.join(task.classes)}.",
        )
    return task if task.classes else replace(task, classes=tuple(found))


def _stated(about: Mapping[str, Any]) -> tuple[str, ...]:
    """Notes of the user's own, and licence, citation and source as notes: a result must carry them."""
    named = [f"{name.capitalize()}: {about[name]}." for name in ("licence", "citation", "source") if about.get(name)]
    return (*about.get("notes", ()), *named)
