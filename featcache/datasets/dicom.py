"""``dicom``: a tree of DICOM files; a row is a slice of a series, a frame, or a single image."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from featcache.datasets.base import SAMPLE_COLUMNS, Dataset, SplitOrigin, generic_name
from featcache.datasets.files import shown
from featcache.datasets.label_files import read_table, unique_rows
from featcache.datasets.privacy import hashed_patient, patient_salt
from featcache.datasets.splits import SPLITS, normalized_split, seeded_split
from featcache.datasets.volumes import chosen_slices
from featcache.errors import DatasetError
from featcache.records import Selector, Task

if TYPE_CHECKING:
    from featcache.imaging.series import Scan, Series

__all__ = ["load", "series_table"]

_CODE = re.compile(r"[A-Z0-9]{1,16}")
_KEYS = ("series", "patient", "path")


def load(
    root: Path,
    *,
    slices: str = "all",
    table: Path | str | None = None,
    label_columns: Sequence[str] = (),
    keep_columns: Sequence[str] = (),
    keep_ids: bool = False,
    seed: int = 0,
    home: Path | str | None = None,
) -> Dataset:
    """Scan a folder for DICOM files, with or without extension.

    Series whose files are slices of one volume are stacks, a row a slice, also where they lie in several folders; every
    other file is an image of its own, or with several frames a row a frame. Doses, segmentations, reports and other
    objects that are no images are left out and counted in the notes; a damaged file keeps a row, so that the extraction
    puts it into quarantine by name. Of the headers only UIDs, the modality and the patient's id are kept, and the
    id as a hash. Names of folders and files are kept as they are: rename them if they say who the patient is.

    Parameters
    ----------
    root
        The folder. Where its folders at the top are ``train``, ``val``, ``test``, they are the split.
    slices
        See :func:`featcache.datasets.volumes.chosen_slices`.
    table
        CSV or Parquet with labels, by exactly one of the columns ``series`` (UID), ``patient`` (the id in the header)
        and ``path`` (of a file or its folder); optionally ``split``.
    label_columns
        Its columns with labels; default ``label``, if there is one. Each is a task.
    keep_columns
        Further columns to keep.
    keep_ids
        Keep patient ids as they are.
    seed
        Of the split by patient, where there is none.
    home
        Keeps the salt of the hashes, see :func:`featcache.datasets.privacy.patient_salt`.

    Raises
    ------
    DatasetError
        If there are no DICOM files, or the table does not fit them.
    """
    from featcache.imaging.series import scan_tree  # pydicom loads when this dataset is used

    root = root.absolute()
    scan = scan_tree(root, apart=_splits_at_top(root))
    if not scan.series and not scan.damaged:
        kinds = f"; {_counted(scan.left_out)} are no images" if scan.left_out else ""
        raise DatasetError(f"dataset 'dicom' at {root}: no DICOM images{kinds}", remedy="Expected ROOT/…/*.dcm.")
    salt = None if keep_ids else patient_salt(home)
    samples, notes = series_table(root, scan.series, slices=slices, salt=salt, damaged=scan.damaged)
    notes = (*notes, *_scan_notes(scan))
    labels: tuple[str, ...] = tuple(label_columns)
    if table is not None:
        samples, labels = _with_labels(samples, _table_file(root, table), labels, tuple(keep_columns), salt)
    elif labels or keep_columns:
        raise DatasetError("dataset 'dicom': label or kept columns without a table", remedy="Pass table.")
    samples, origin, split_notes = _with_split(samples, labels, seed)
    return Dataset(
        name=generic_name(root),
        root=root,
        samples=samples,
        tasks=_tasks(samples, labels),
        split_origin=origin,
        notes=(*notes, *split_notes),
        split_notes=split_notes,
    )


def _splits_at_top(root: Path) -> bool:
    try:
        tops = [place.name for place in root.iterdir() if place.is_dir() and not place.name.startswith(".")]
    except OSError:
        return False  # the scan says why
    return bool(tops) and {normalized_split(name) for name in tops} <= set(SPLITS)


def _counted(kinds: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {what}" for what, count in sorted(kinds.items()))


def _scan_notes(scan: Scan) -> list[str]:
    notes = []
    if scan.left_out:
        left = sum(scan.left_out.values())
        notes.append(f"{left} DICOM files are no images and were left out: {_counted(scan.left_out)}.")
    if scan.damaged:
        notes.append(
            f"{len(scan.damaged)} DICOM files or folders are damaged or cannot be read: {shown(scan.damaged)}."
        )
    if scan.links:
        notes.append(f"{scan.links} links to folders were not followed; copy or mount what they point to.")
    captures = sum(series.secondary_captures for series in scan.series)
    if captures:
        notes.append(f"{captures} files are secondary captures: look for text that is burned into their pixels.")
    return notes


def series_table(
    root: Path,
    found: Sequence[Series],
    *,
    slices: str = "all",
    salt: bytes | None = None,
    damaged: Sequence[str] = (),
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The samples of scanned series.

    Parameters
    ----------
    root
        The files lie below it.
    found
        In any order: rows are sorted by folder and UID.
    slices
        Which slices of a stack, which frames of a file.
    salt
        Of the hashes of patient ids; None keeps the ids.
    damaged
        Files that cannot be read, relative to the root: a row each, without patient and modality.

    Returns
    -------
    samples
        With the column ``modality``. A slice's path is the folder of its series and its selector names series, the
        axis along which it was acquired, and index; a frame's selector names the frame.
    notes
        What is odd about the series, without anything from the headers.
    """
    rows: list[dict[str, Any]] = []
    odd: list[str] = []
    for series in sorted(found, key=lambda series: (str(series.folder), series.uid)):
        patient = (series.patient_id or "").strip() or None
        modality = (series.modality or "").strip().upper()
        facts = {
            "patient": patient if patient is None or salt is None else hashed_patient(patient, salt),
            "series": series.uid,
            "modality": modality if _CODE.fullmatch(modality) else None,
        }
        folder = series.folder.relative_to(root).as_posix()
        if series.notes:
            odd.append(f"{folder}/{series.uid.rpartition('.')[2][-12:]} ({' '.join(series.notes)})")
        if series.axis is not None and len(series.files) > 1:
            name = f"{folder}/{series.uid.rpartition('.')[2][-12:]}"
            for index in chosen_slices(slices, len(series.files)).tolist():
                text = Selector(series.axis, index, series=series.uid).to_text()
                place = {
                    "id": f"{name}_{index:03}",
                    "path": folder,
                    "selector": text,
                    "axis": series.axis,
                    "index": index,
                }
                rows.append({**facts, **place, "volume": series.uid})
            continue
        for file, frames in zip(series.files, series.frames, strict=True):
            path = file.relative_to(root).as_posix()
            if frames == 1:
                rows.append({**facts, "id": path, "path": path, "selector": ""})
                continue
            for index in chosen_slices(slices, frames).tolist():
                place = {"id": f"{path}_{index:03}", "path": path, "selector": f'{{"frame":{index}}}', "index": index}
                rows.append({**facts, **place, "volume": path})
    rows += [{"id": path, "path": path, "selector": ""} for path in damaged]
    frame = pd.DataFrame(rows, columns=[*SAMPLE_COLUMNS, "modality", "series"])
    for column in frame.columns:
        frame[column] = frame[column].astype("Int64" if column == "index" else "str")
    more = " …" if len(odd) > 5 else ""
    return frame, ((f"{len(odd)} series are not as they should be: {'; '.join(odd[:5])}{more}.",) if odd else ())


def _table_file(root: Path, table: Path | str) -> Path:
    for place in (Path(table), root / table):
        if place.is_file():
            return place
    raise DatasetError(f"dataset 'dicom': no file {table}, neither here nor below {root}", remedy="Check the name.")


def _with_labels(
    samples: pd.DataFrame, file: Path, labels: tuple[str, ...], kept: tuple[str, ...], salt: bytes | None
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    frame = read_table(file, required=(*labels, *kept))
    keys = [name for name in _KEYS if name in frame.columns]
    if len(keys) != 1:
        raise DatasetError(
            f"table {file} has the columns {', '.join(map(str, frame.columns))}",
            remedy=f"Expected exactly one of {', '.join(_KEYS)}.",
        )
    key = keys[0]
    labels = labels or (("label",) if "label" in frame else ())
    wanted = [*dict.fromkeys([*labels, *kept, *(("split",) if "split" in frame else ())])]
    frame, _ = unique_rows(frame[[key, *wanted]], key, file)
    if key == "patient" and salt is not None:
        frame["patient"] = [hashed_patient(patient, salt) for patient in frame["patient"].tolist()]
    own = samples[key]
    if key == "path":
        folders = own.str.replace(r"/[^/]*$", "", regex=True)
        frame["path"] = [path.replace("\\", "/").strip("/") for path in frame["path"].tolist()]
        own = own.where(own.isin(frame["path"]), folders)
    unknown = ~frame[key].isin(own)
    if unknown.any():
        named = "" if key == "patient" else f": {shown(frame[key][unknown].tolist())}"
        raise DatasetError(
            f"table {file}: {int(unknown.sum())} values of {key!r} are not among the files{named}",
            remedy="Remove those rows, or mend the names.",
        )
    indexed = frame.set_index(key)
    for column in wanted:
        samples[column] = own.map(indexed[column]).astype("str")
    return samples, labels


def _with_split(
    samples: pd.DataFrame, labels: tuple[str, ...], seed: int
) -> tuple[pd.DataFrame, SplitOrigin, tuple[str, ...]]:
    if samples["split"].notna().any():
        return (
            samples.assign(split=samples["split"].map(normalized_split, na_action="ignore").astype("str")),
            "table",
            (),
        )
    top = pd.Series([normalized_split(path.split("/")[0]) for path in samples["path"].tolist()], dtype="str")
    if set(top) <= set(SPLITS):
        return samples.assign(split=top), "folder", ()
    group = samples["patient"].fillna(samples["volume"])
    stratum = samples[labels[0]] if labels else pd.Series([""] * len(samples), dtype="str")
    split = seeded_split(stratum.fillna(""), group, seed=seed)
    if split.isna().all():
        return samples, "none", ("There is no split, and there are too few patients or images to make one.",)
    return samples.assign(split=split), "seeded", (f"No split is given: 60/20/20 by patient, seed {seed}.",)


def _tasks(samples: pd.DataFrame, labels: tuple[str, ...]) -> tuple[Task, ...]:
    tasks = []
    for column in labels:
        classes = tuple(sorted(samples[column].dropna().unique()))
        if len(classes) > 1:
            kind: Any = "binary" if len(classes) == 2 else "multiclass"
            tasks.append(Task(column, kind, (column,), classes))
    return tuple(tasks)
