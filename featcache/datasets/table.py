"""``table``: a CSV or Parquet file with a path, labels, a split and a patient for each image."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PureWindowsPath

import numpy as np
import pandas as pd

from featcache.datasets.base import SAMPLE_COLUMNS, Dataset, generic_name, sample_table
from featcache.datasets.files import as_on_disk, shown
from featcache.datasets.label_files import read_table
from featcache.datasets.masks import mask_task, with_masks
from featcache.datasets.pages import with_pages
from featcache.datasets.splits import normalized_split, seeded_split
from featcache.errors import ConfigurationError, DatasetError
from featcache.label_columns import tasks_of_columns, whole_numbers
from featcache.registry import nearest

__all__ = ["load", "relative_paths"]


def load(
    root: Path,
    *,
    table: Path | str | None = None,
    path_column: str = "path",
    label_columns: Sequence[str] = (),
    split_column: str = "split",
    patient_column: str = "patient",
    id_column: str | None = None,
    keep_columns: Sequence[str] = (),
    mask_column: str | None = None,
    mask_classes: Sequence[str] | str = (),
    seed: int = 0,
) -> Dataset:
    """Read a table of images.

    One label column is a binary or multi-class task (a missing value is a missing label). Several are one
    multi-label task, their values 0, 1 or missing. Of the other columns only those in ``keep_columns`` are kept
    beside the samples: names, birth dates and reports do not belong into a feature store.

    Parameters
    ----------
    root
        Paths in the table are relative to it; absolute ones must lie below it.
    table
        CSV (UTF-8, with or without BOM) or Parquet; default: the only one in ``root``.
    path_column, split_column, patient_column
        Names in the table. The last two may be absent under their default names.
    label_columns
        Default: the column ``label``, if there is one.
    id_column
        Default: the path is the id.
    keep_columns
        Further columns to keep: age, sex, view …
    mask_column
        Paths of mask files of the images' size, as the paths of images; empty where there is none. They become the
        column ``mask`` and the task ``segmentation``.
    mask_classes
        Names of the mask's values 0, 1, 2 …, as a list or with commas; without them every value but 0 is foreground.
    seed
        Of the split by patient, where the table has no split column.

    Raises
    ------
    DatasetError
        For an unreadable table, a missing column (with the nearest names), a path outside the root.
    """
    root = root.absolute()
    file = _find(root, table)
    frame = read_table(file)
    labels = tuple(label_columns) or (("label",) if "label" in frame.columns else ())
    named = (path_column, id_column, split_column, patient_column, mask_column, *labels, *keep_columns)
    frame, repeated = _without_repeats(frame, id_column or path_column, named, file)
    paths = relative_paths(_column(frame, path_column, file).astype("str"), root, file)
    patient = _optional(frame, patient_column, "patient", file)
    split = _optional(frame, split_column, "split", file)
    for name in labels:
        _column(frame, name, file)
    tasks = tasks_of_columns(frame, labels, f"table {file}")
    ids = paths if id_column is None else _column(frame, id_column, file).astype("str")
    missing = pd.Series([None] * len(frame), dtype="str")
    has_split = bool(split.notna().any())
    if has_split:
        split = split.map(normalized_split, na_action="ignore").astype("str")
    else:
        stratum = frame[labels[0]].astype("str") if len(labels) == 1 else missing.fillna("")
        split = seeded_split(stratum, patient, seed=seed)
    places, case_notes = as_on_disk(root, paths)
    samples = sample_table(ids, places, split=split, patient=patient)
    reserved = {*SAMPLE_COLUMNS, "digest"}
    mask_notes: tuple[str, ...] = ()
    if mask_column is not None:
        given = _column(frame, mask_column, file).dropna().astype("str")
        masks = relative_paths(given, root, file).set_axis(given.index).reindex(frame.index)
        samples, mask_notes = with_masks(samples, masks, root, f"table {file}, column {mask_column!r}")
        tasks = (*tasks, mask_task(mask_classes))
        reserved |= {"mask", "mask_selector"}
    elif mask_classes:
        raise ConfigurationError("dataset 'table': mask classes without masks", remedy="Pass mask_column.")
    for column in (*labels, *keep_columns):
        if column in reserved:
            raise DatasetError(
                f"table {file}: a label or kept column may not be called {column!r}", remedy="Rename it."
            )
        samples[column] = whole_numbers(_column(frame, column, file))
    split_notes = () if has_split else (_split_note(split, patient, seed),)
    samples, page_notes = with_pages(samples, root)
    return Dataset(
        name=generic_name(root),
        root=root,
        samples=samples,
        tasks=tasks,
        split_origin="table" if has_split else "none" if split.isna().all() else "seeded",
        notes=(*split_notes, *repeated, *case_notes, *page_notes, *mask_notes),
        split_notes=split_notes,
    )


def _without_repeats(
    frame: pd.DataFrame, key: str, named: Sequence[str | None], file: Path
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The rows without those that say the same again in all columns that are used."""
    used = list(dict.fromkeys(name for name in named if name in frame.columns))
    if key not in used or not frame[key].duplicated().any():
        return frame, ()
    again = frame[used].duplicated()
    frame = frame[~again].reset_index(drop=True)
    twice = frame[key][frame[key].duplicated() & frame[key].notna()].astype("str").unique().tolist()
    if twice:
        raise DatasetError(
            f"table {file}: {len(twice)} values of {key!r} have several rows that differ: {shown(twice)}",
            remedy="Keep one row for each, or name a column of unique ids with --id-column.",
        )
    count = int(again.sum())
    return frame, (f"{count} rows of {file.name} are repeated and were dropped.",) if count else ()


def _split_note(split: pd.Series[str], patient: pd.Series[str], seed: int) -> str:
    if split.isna().all():
        return "The table gives no split, and it has too few patients or images to make one."
    by = "by patient" if patient.notna().any() else "by image (no patient ids), stratified"
    return f"The table gives no split: 60/20/20 {by}, seed {seed}."


def _find(root: Path, table: Path | str | None) -> Path:
    if table is not None:
        places = [Path(table), root / table]
        for place in places:
            if place.is_file():
                return place
        raise DatasetError(f"dataset 'table': no file {table}, neither here nor below {root}", remedy="Check the name.")
    found = sorted([*root.glob("*.csv"), *root.glob("*.parquet")])
    if len(found) != 1:
        raise DatasetError(
            f"dataset 'table': {root} has {len(found)} CSV or Parquet files, expected one",
            remedy="Pass --table FILE. Expected a column of image paths in it.",
        )
    return found[0]


def _column(frame: pd.DataFrame, name: str, file: Path) -> pd.Series[str]:
    if name not in frame.columns:
        columns = ", ".join(map(str, frame.columns))
        raise DatasetError(
            f"table {file} has no column {name!r}{nearest(name, map(str, frame.columns))} (columns: {columns})",
            remedy="Name it with --path-column, --label-column, --split-column, --patient-column, --id-column.",
        )
    column = frame[name]
    if name not in frame or column.isna().all():
        raise DatasetError(f"table {file}: column {name!r} has no values", remedy="Fill it, or name another.")
    return column


def _optional(frame: pd.DataFrame, name: str, default: str, file: Path) -> pd.Series[str]:
    if name == default and name not in frame.columns:
        return pd.Series([None] * len(frame), dtype="str")
    column = _column(frame, name, file)
    if column.dtype.kind == "f" and (column.dropna() % 1 == 0).all():
        return column.astype("Int64").astype("str")  # a patient 12 beside a missing one is not "12.0"
    return column.astype("str")


def relative_paths(paths: pd.Series[str], root: Path, file: Path) -> pd.Series[str]:
    """Paths of a table as they are below the root, with ``/``.

    Raises
    ------
    DatasetError
        If one is missing or leads out of the root.
    """
    missing = np.flatnonzero(paths.isna().to_numpy() | (paths == "nan").to_numpy())
    if len(missing):
        raise DatasetError(
            f"table {file}: {len(missing)} rows have no path, the first is row {missing[0] + 1}",
            remedy="Fill them in, or delete those rows.",
        )
    relative = []
    for text in paths:
        if os.name != "nt" and PureWindowsPath(text).is_absolute() and not text.startswith("/"):
            raise DatasetError(
                f"table {file}: {text!r} is a path of a Windows machine",
                remedy=f"Write paths as they are below the root: what follows after {root.name}, the folder of --root.",
            )
        path = Path(PureWindowsPath(text).as_posix()) if "\\" in text else Path(text)
        if path.is_absolute():
            path = path if path.is_relative_to(root) else Path(os.path.realpath(path))
            if not path.is_relative_to(root):
                raise DatasetError(
                    f"table {file}: {path} does not lie below the root {root}",
                    remedy="Pass the folder that holds all images as --root.",
                )
            path = path.relative_to(root)
        if ".." in path.parts:
            raise DatasetError(
                f"table {file}: {text!r} leads out of the root {root}",
                remedy="Pass the folder that holds all images as --root.",
            )
        relative.append(path.as_posix())
    return pd.Series(relative, dtype="str")
