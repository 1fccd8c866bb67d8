"""``nifti``: a folder of your own NIfTI volumes, with label volumes and a table of labels where there are any."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from featcache.datasets.base import Dataset, SplitOrigin, generic_name
from featcache.datasets.files import left_out_notes, shown, walk
from featcache.datasets.label_files import read_table, unique_rows
from featcache.datasets.splits import SPLITS, normalized_split, seeded_split
from featcache.datasets.volumes import ITK_EXTENSIONS, VOLUME_EXTENSIONS, Volume, slice_table, volume_name
from featcache.errors import DatasetError
from featcache.records import Axis, Task

__all__ = ["load"]

_LABEL_FOLDER = re.compile(r"^(labels?|masks?|segmentations?|gt)(tr|va|ts)?$", re.IGNORECASE)
_LABEL_SUFFIX = re.compile(r"[-_](seg|segmentation|mask|label|labels|gt|dseg)$", re.IGNORECASE)
_IMAGE_SUFFIX = re.compile(r"_(0000|image|img)$", re.IGNORECASE)
_BIDS_SUBJECT = re.compile(r"(?:^|[/_])(sub-[A-Za-z0-9]+)(?=[/_])")


def load(
    root: Path,
    *,
    axis: Axis = "axial",
    slices: str = "all",
    classes: Sequence[str] | str = (),
    table: Path | str | None = None,
    label_columns: Sequence[str] = (),
    keep_columns: Sequence[str] = (),
    seed: int = 0,
) -> Dataset:
    """Find volumes below a folder; one row a slice.

    A file below a folder ``labels``, ``labelsTr``, ``masks`` …, or whose name ends with ``_seg``, ``_mask`` or
    ``_label``, is the label volume of the image with the same name. The id of a volume is its file name, or its path
    where two have the same name. BIDS subjects (``sub-01``) are patients; otherwise each volume is a patient.

    Parameters
    ----------
    root
        The folder. Where its folders at the top are ``train``, ``val``, ``test``, they are the split.
    axis, slices
        See :func:`featcache.datasets.volumes.slice_table`.
    classes
        Names of the label values 0, 1, 2 …, as a list or with commas; without them every value but 0 is foreground.
    table
        CSV or Parquet below the root (or anywhere) with a column ``volume``; optionally ``patient`` and ``split``.
    label_columns
        Its columns with a label a volume; default ``label``, if there is one. Each is a task.
    keep_columns
        Further columns to keep.
    seed
        Of the split by patient, where there is none.

    Raises
    ------
    DatasetError
        If there are no volumes, or the table does not fit them.
    """
    tree = walk(root)
    itk = importlib.util.find_spec("SimpleITK") is not None
    paths = sorted(tree.ending(*VOLUME_EXTENSIONS, *(ITK_EXTENSIONS if itk else ())))
    others = 0 if itk else len(tree.ending(*ITK_EXTENSIONS))
    masks = {_key(path): path for path in paths if _is_label(path)}
    images = [path for path in paths if not _is_label(path)]
    if not images:
        raise DatasetError(
            f"dataset 'nifti' at {root}: {len(paths)} NIfTI files, {len(masks)} of them label volumes",
            remedy="Expected ROOT/…/*.nii.gz, with label volumes in ROOT/labels/ or called <volume>_seg.nii.gz.",
        )
    names = [volume_name(path) for path in images]
    if len(set(names)) < len(names):
        names = [path[: path.rfind(volume_name(path))] + volume_name(path) for path in images]
    if len(set(names)) < len(names):  # scan.nii beside scan.nii.gz
        names = images
    volumes = [
        Volume(name, path, masks.get(_key(path)), patient=_patient(path) or name)
        for name, path in zip(names, images, strict=True)
    ]
    volumes += [Volume(folder, folder, patient=folder) for folder in tree.unreadable]
    facts = _facts(root, table, (*label_columns, *keep_columns), volumes)
    labels = tuple(label_columns) or (("label",) if "label" in facts else ())
    volumes, origin, notes = _with_split(volumes, facts, labels, seed)
    samples, slice_notes = slice_table(root, volumes, axis=axis, slices=slices)
    for column in (*labels, *keep_columns):
        samples[column] = samples["volume"].map(facts[column]).astype("str")
    orphans = sorted(set(masks.values()) - {volume.mask for volume in volumes})
    no_patients = all(volume.patient == volume.name for volume in volumes)
    return Dataset(
        name=generic_name(root),
        root=root,
        samples=samples,
        tasks=(*_label_tasks(samples, labels), *_mask_tasks(volumes, classes)),
        split_origin=origin,
        notes=(
            *(("No patient ids: each volume is taken as a patient of its own.",) if no_patients else ()),
            *notes,
            *slice_notes,
            *(
                (f"{others} MetaImage or NRRD files were left out: pip install 'featcache[formats]'.",)
                if others
                else ()
            ),
            *((f"{len(orphans)} label volumes have no image: {shown(orphans)}.",) if orphans else ()),
            *left_out_notes(tree),
        ),
        surplus=tuple(orphans),
        split_notes=notes,
    )


def _is_label(path: str) -> bool:
    folders = path.split("/")[:-1]
    return any(_LABEL_FOLDER.match(folder) for folder in folders) or bool(_LABEL_SUFFIX.search(volume_name(path)))


def _key(path: str) -> tuple[str, ...]:
    """What an image and its label volume have in common: the name, and the folders that are no images or labels."""
    stem = _IMAGE_SUFFIX.sub("", _LABEL_SUFFIX.sub("", volume_name(path)))
    folders = [folder.lower() for folder in path.split("/")[:-1]]
    kept = [folder for folder in folders if not _LABEL_FOLDER.match(folder) and not folder.startswith(("image", "img"))]
    return (*kept, stem.lower())


def _patient(path: str) -> str | None:
    subject = _BIDS_SUBJECT.search(path)
    return subject[1] if subject else None


def _facts(root: Path, table: Path | str | None, columns: Sequence[str], volumes: Sequence[Volume]) -> pd.DataFrame:
    """What the table says of each volume, indexed by its id."""
    if table is None:
        if columns:
            raise DatasetError(f"dataset 'nifti': columns {shown(columns)} without a table", remedy="Pass table.")
        return pd.DataFrame(index=[volume.name for volume in volumes])
    file = next((place for place in (Path(table), root / table) if place.is_file()), None)
    if file is None:
        raise DatasetError(f"dataset 'nifti': no file {table}, neither here nor below {root}", remedy="Check the name.")
    frame, _ = unique_rows(read_table(file, required=("volume", *columns)), "volume", file)
    frame["volume"] = [_known_name(name, volumes) for name in frame["volume"].tolist()]
    unknown = sorted(set(frame["volume"]) - {volume.name for volume in volumes})
    if unknown:
        raise DatasetError(
            f"table {file} names {len(unknown)} volumes that are not below {root}: {shown(unknown)}",
            remedy=f"Volumes are called after their files, for example {volumes[0].name!r}.",
        )
    return frame.set_index("volume")


def _known_name(name: str, volumes: Sequence[Volume]) -> str:
    """A table may also give a volume's file name."""
    return volume_name(name) if name.lower().endswith((*VOLUME_EXTENSIONS, *ITK_EXTENSIONS)) else name


def _with_split(
    volumes: list[Volume], facts: pd.DataFrame, labels: tuple[str, ...], seed: int
) -> tuple[list[Volume], SplitOrigin, tuple[str, ...]]:
    if "patient" in facts:
        of: dict[Any, Any] = facts["patient"].dropna().to_dict()
        volumes = [replace(volume, patient=of.get(volume.name, volume.patient)) for volume in volumes]
    if "split" in facts:
        given: dict[Any, Any] = facts["split"].dropna().to_dict()
        return (
            [
                replace(volume, split=normalized_split(given[volume.name]) if volume.name in given else None)
                for volume in volumes
            ],
            "table",
            (),
        )
    top = [normalized_split(volume.path.split("/")[0]) for volume in volumes]
    if set(top) <= set(SPLITS):
        return [replace(volume, split=name) for volume, name in zip(volumes, top, strict=True)], "folder", ()
    names = [volume.name for volume in volumes]
    stratum = facts[labels[0]].reindex(names).reset_index(drop=True) if labels else pd.Series([""] * len(names))
    patients = pd.Series([volume.patient for volume in volumes], dtype="str")
    split = seeded_split(stratum.astype("str"), patients, seed=seed)
    if split.isna().all():
        return volumes, "none", ("There is no split, and there are too few volumes to make one.",)
    made = [replace(volume, split=name) for volume, name in zip(volumes, split.tolist(), strict=True)]
    return made, "seeded", (f"No split is given: 60/20/20 by patient, seed {seed}.",)


def _label_tasks(samples: pd.DataFrame, labels: tuple[str, ...]) -> tuple[Task, ...]:
    tasks = []
    for column in labels:
        classes = tuple(sorted(samples[column].dropna().unique()))
        if len(classes) > 1:
            kind: Any = "binary" if len(classes) == 2 else "multiclass"
            tasks.append(Task(column, kind, (column,), classes, level="volume"))
    return tuple(tasks)


def _mask_tasks(volumes: Sequence[Volume], classes: Sequence[str] | str) -> tuple[Task, ...]:
    if isinstance(classes, str):
        classes = tuple(name.strip() for name in classes.split(",") if name.strip())
    if not any(volume.mask for volume in volumes):
        return ()
    if len(classes) < 2:
        return (Task("segmentation", "segmentation", ("mask",), ("background", "foreground")),)
    values = tuple(range(len(classes)))
    return (Task("segmentation", "segmentation", ("mask",), tuple(classes), mask_values=values),)
