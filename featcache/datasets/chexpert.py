"""``chexpert``: CheXpert, 224,316 chest X-rays of 65,240 patients with 14 observations and their uncertainty."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import pandas as pd

from featcache.datasets.base import Dataset, layout_error, sample_table
from featcache.datasets.files import posix, shown
from featcache.datasets.label_files import by_value, numbers_in, read_table, unique_rows
from featcache.datasets.splits import evenly_spaced
from featcache.errors import ConfigurationError, DatasetError
from featcache.records import Task

__all__ = ["COMPETITION", "OBSERVATIONS", "load"]

OBSERVATIONS = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
COMPETITION = ("Cardiomegaly", "Edema", "Consolidation", "Atelectasis", "Pleural Effusion")
"""The five of the publisher's competition, which the study uses."""
UNCERTAIN = "Uncertain"

_TABLES = {"train": ("train.csv",), "val": ("valid.csv", "val.csv"), "test": ("test.csv",)}
_PREFIX = re.compile(r"^(?:.*/)?CheXpert-v1\.0[^/]*/")

Policy = Literal["zeros", "ones", "ignore"]
_POLICY: dict[str, int | None] = {"zeros": 0, "ones": 1, "ignore": None}


def load(
    root: Path,
    *,
    uncertain: Policy = "zeros",
    observations: Literal["competition", "all"] = "competition",
    views: Literal["frontal", "lateral", "all"] = "frontal",
    uncertain_label: bool = False,
) -> Dataset:
    """Read ``train.csv``, ``valid.csv`` and ``test.csv``, as many of them as there are.

    An observation that a report does not mention (an empty cell) is 0, as its publisher and the study count it.

    Parameters
    ----------
    root
        The folder ``CheXpert-v1.0`` or ``CheXpert-v1.0-small``, or the one that holds it.
    uncertain
        What -1 becomes: 0 (the study), 1, or a missing label.
    observations
        The five of the competition, or all 14.
    views
        Frontal images only (the study), lateral only, or all.
    uncertain_label
        Add the study's sixth label: 1 where any of the five is -1.

    Raises
    ------
    DatasetError
        If there is no table, or its paths do not fit the root, or a label is none of 1, 0, -1 and empty.
    """
    for name, value, known in (
        ("uncertain", uncertain, tuple(_POLICY)),
        ("observations", observations, ("competition", "all")),
        ("views", views, ("frontal", "lateral", "all")),
    ):
        if value not in known:
            raise ConfigurationError(f"chexpert: {name} is {value!r}", remedy=f"Known: {', '.join(known)}.")
    base = _base(root)
    wanted: tuple[str, ...] = COMPETITION if observations == "competition" else OBSERVATIONS
    parts, notes = [], []
    for split, names in _TABLES.items():
        file = next((base / name for name in names if (base / name).is_file()), None)
        if file is None:
            notes.append(f"{names[0]} is not there: no {split} split.")
            continue
        part, repeated = _read(file, base, wanted)
        notes += repeated
        parts.append(part.assign(split=split))
    frame = pd.concat(parts, ignore_index=True)
    lower = frame["path"].str.lower()
    view = pd.Series("frontal", index=frame.index, dtype="str").where(
        lower.str.contains("_frontal.", regex=False), "lateral"
    )
    if views != "all":
        frame, view = frame[view == views].reset_index(drop=True), view[view == views].reset_index(drop=True)
    if frame.empty:
        raise DatasetError(
            f"dataset 'chexpert' at {base}: no {views} images in its tables", remedy="Choose other views."
        )
    prefix = base.relative_to(root).as_posix() + "/" if base != root else ""
    patient = pd.Series([_patient(path) for path in frame["path"].tolist()], dtype="str")
    samples = sample_table(frame["path"], prefix + frame["path"], split=frame["split"], patient=patient)
    for name in wanted:
        samples[name] = by_value(frame[name].fillna(""), lambda text: _value(text, uncertain), "Int64")
    classes: tuple[str, ...] = wanted
    if uncertain_label:
        unsure = pd.concat([frame[name].isin(["-1", "-1.0"]) for name in COMPETITION], axis=1).any(axis=1)
        samples[UNCERTAIN] = unsure.astype("Int64")
        classes = (*wanted, UNCERTAIN)
    samples["sex"] = frame["Sex"]
    samples["age"] = numbers_in(frame["Age"])
    samples["view"] = frame["AP/PA"].where(view == "frontal", "Lateral")
    return Dataset(
        name="chexpert",
        root=root,
        samples=samples,
        tasks=(Task("observations", "multilabel", classes, classes),),
        split_origin="official",
        notes=(f"Uncertain labels (-1): {uncertain}; not mentioned: 0. Views: {views}.", *notes),
    )


def _value(text: str, uncertain: Policy) -> int | None:
    """What a cell means; an observation that is not mentioned is 0."""
    number = int(float(text)) if text else 0
    return _POLICY[uncertain] if number < 0 else number


def _patient(path: str) -> str | None:
    return next((part for part in path.split("/") if part.startswith("patient")), None)


def _base(root: Path) -> Path:
    """The folder with the tables: the root or the only one below it that is CheXpert's."""
    names = [name for group in _TABLES.values() for name in group]
    for folder in (root, *sorted(root.glob("CheXpert-v1.0*"))):
        if any((folder / name).is_file() for name in names):
            return folder
    raise layout_error("chexpert", root, f"there is none of {', '.join(names)}")


def _read(file: Path, base: Path, wanted: tuple[str, ...]) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Paths relative to ``base`` and the labels as text."""
    facts = ("Sex", "Age", "Frontal/Lateral", "AP/PA")
    frame = read_table(file, required=("Path", *wanted), optional=facts)
    frame, notes = unique_rows(frame, "Path", file)
    for name in facts:
        if name not in frame:  # the study's copy and the published test labels carry fewer columns
            frame[name] = pd.Series([None] * len(frame), dtype="str")
    frame["path"] = pd.Series([_PREFIX.sub("", posix(path)) for path in frame["Path"].tolist()], dtype="str")
    # A stat a file would take minutes on a network share: a few tell whether the table fits the folder.
    tried = frame["path"].iloc[evenly_spaced(len(frame), min(16, len(frame)))].tolist()
    if not any((base / path).is_file() for path in tried):
        found = f"{file.name} names {frame['Path'].iloc[0]}, and neither that nor {len(tried) - 1} others are there"
        raise layout_error("chexpert", base, found)
    values = set(pd.unique(frame[list(wanted)].to_numpy(dtype=object, na_value="").ravel()))
    odd = sorted(map(str, values - {"", "0", "1", "-1", "0.0", "1.0", "-1.0"}))
    if odd:
        raise DatasetError(f"table {file}: labels {shown(odd)}", remedy="Expected 1, 0, -1 or nothing.")
    return frame[["path", *facts, *wanted]], notes
