"""``nih``: NIH ChestX-ray14, 112,120 frontal chest X-rays of 30,805 patients with 14 findings mined from reports."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from featcache.datasets.base import Dataset, SplitOrigin, layout_error, sample_table
from featcache.datasets.files import base_names, left_out_notes, shown, walk
from featcache.datasets.label_files import by_value, numbers_in, read_list, read_table, unique_rows
from featcache.datasets.splits import SPLITS, normalized_split, seeded_split
from featcache.errors import DatasetError
from featcache.records import Task

__all__ = ["FINDINGS", "load"]

FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Effusion",
    "Emphysema",
    "Fibrosis",
    "Hernia",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pleural_Thickening",
    "Pneumonia",
    "Pneumothorax",
)
NO_FINDING = "No Finding"

_TABLES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv", "labels.csv")
_SEX = ("Patient Gender", "Patient Sex")


def load(
    root: Path,
    *,
    no_finding: bool = False,
    val_images: int = 10_002,
    whole_patients: bool = False,
    seed: int = 0,
) -> Dataset:
    """Read the publisher's folders ``images_001`` … ``images_012``, one folder ``images``, or ``train/ val/ test``.

    Parameters
    ----------
    root
        Folder with ``Data_Entry_2017.csv`` (or ``Data_Entry_2017_v2020.csv``, ``labels.csv``), the two lists and
        the images, in whatever folders they lie.
    no_finding
        Count "No Finding" as a 15th label, as the study does; otherwise it is the absence of all 14.
    val_images
        val is the last so many lines of ``train_val_list.txt``.
    whole_patients
        Move val images of a patient who also has train images to train.
    seed
        Of the split by patient, where there are neither lists nor folders of splits.

    Raises
    ------
    DatasetError
        If there is no label table or none of its images, or a finding is none of the 14.
    """
    file = next((root / name for name in _TABLES if (root / name).is_file()), None)
    if file is None:
        raise layout_error("nih", root, f"there is none of {', '.join(_TABLES)}")
    required = ("Image Index", "Finding Labels", "Patient ID")
    frame = read_table(file, required=required, optional=("Patient Age", "View Position", "Follow-up #", *_SEX))
    frame, notes = unique_rows(frame, "Image Index", file)
    frame["Image Index"] = base_names(frame["Image Index"])
    tree = walk(root)
    found, doubled = tree.find(frame["Image Index"], ".png")
    absent = frame["Image Index"][found.isna()].tolist()
    if len(absent) == len(frame):
        raise layout_error("nih", root, f"none of the {len(frame)} images of {file.name} lies below it")
    split, origin, split_notes = _split(root, frame, found, val_images=val_images, seed=seed)
    if whole_patients:
        with_train = set(frame["Patient ID"][split == "train"])
        split = split.mask((split == "val") & frame["Patient ID"].isin(with_train), "train")
    samples = sample_table(frame["Image Index"], found, split=split, patient=frame["Patient ID"])
    classes = (*FINDINGS, NO_FINDING) if no_finding else FINDINGS
    samples[list(classes)] = _labels(frame["Finding Labels"], file)[:, : len(classes)]
    samples = samples.assign(**_facts(frame))[found.notna()].reset_index(drop=True)
    images = tree.ending(".png")
    surplus = sorted(set(images) - set(found.dropna())) if len(images) > len(samples) else []
    return Dataset(
        name="nih",
        root=root,
        samples=samples,
        tasks=(Task("findings", "multilabel", classes, classes),),
        split_origin=origin,
        notes=(
            "The labels were mined from radiology reports by a program; their makers expect over 90 % to be right.",
            *notes,
            *split_notes,
            *((f"{len(absent)} images of {file.name} are not there: {shown(absent)}.",) if absent else ()),
            *((f"{len(surplus)} images are not in {file.name}: {shown(surplus)}.",) if surplus else ()),
            *left_out_notes(tree, doubled=doubled),
        ),
        missing=tuple(absent),
        surplus=tuple(surplus),
        split_notes=split_notes,
    )


def _split(
    root: Path, frame: pd.DataFrame, found: pd.Series[str], *, val_images: int, seed: int
) -> tuple[pd.Series[str], SplitOrigin, tuple[str, ...]]:
    lists = root / "train_val_list.txt", root / "test_list.txt"
    names = frame["Image Index"]
    if all(file.is_file() for file in lists):
        learn, test = (read_list(file) for file in lists)
        if not 0 < val_images < len(learn):
            raise DatasetError(
                f"dataset 'nih': {lists[0]} has {len(learn)} lines, val would be the last {val_images}",
                remedy="Use the publisher's list, or pass another number with val_images.",
            )
        of = {
            **dict.fromkeys(test, "test"),
            **dict.fromkeys(learn[:-val_images], "train"),
            **dict.fromkeys(learn[-val_images:], "val"),
        }
        both, unknown = set(test) & set(learn), set(of) - set(names)
        if both or unknown:
            what = "are in both lists" if both else "are in the lists and not in the label table"
            raise DatasetError(
                f"dataset 'nih' at {root}: {len(both or unknown)} images {what}: {shown(sorted(both or unknown))}",
                remedy="Use the label table and the lists as the publisher ships them.",
            )
        split = pd.Series([of.get(name) for name in names.tolist()], dtype="str")
        unlisted = int(split.isna().sum())
        return split, "official", (f"{unlisted} images are in neither list: no split.",) if unlisted else ()
    top = by_value(found, lambda path: normalized_split(path.split("/")[0]), "str")
    if set(top.dropna()) <= set(SPLITS):
        return top, "folder", ()
    healthy = (frame["Finding Labels"] == NO_FINDING).astype("str")
    split = seeded_split(healthy, frame["Patient ID"], seed=seed)
    note = (
        f"train_val_list.txt and test_list.txt are not there: 60/20/20 by patient, seed {seed}, not the official split."
    )
    return split, "seeded", (note,)


def _labels(column: pd.Series[str], file: Path) -> np.ndarray[tuple[int, int], np.dtype[np.int8]]:
    """(n, 15) of 0 and 1: the 14 findings, then "No Finding"."""
    codes, texts = pd.factorize(column)
    if (codes < 0).any():
        raise DatasetError(f"table {file}: {(codes < 0).sum()} rows have no 'Finding Labels'", remedy="Fill them in.")
    place = {name: number for number, name in enumerate((*FINDINGS, NO_FINDING))}
    table = np.zeros((len(texts), len(place)), np.int8)
    for row, text in enumerate(texts):
        for name in str(text).split("|"):
            if name.strip() not in place:
                raise DatasetError(
                    f"table {file}: unknown finding {name.strip()!r} in {str(text)!r}",
                    remedy=f"Known: {', '.join(place)}.",
                )
            table[row, place[name.strip()]] = 1
    return table[codes]


def _facts(frame: pd.DataFrame) -> dict[str, pd.Series[str]]:
    facts = {"age": numbers_in(frame["Patient Age"])} if "Patient Age" in frame else {}
    sex = next((name for name in _SEX if name in frame), None)
    if sex is not None:
        facts["sex"] = frame[sex]
    if "View Position" in frame:
        facts["view"] = frame["View Position"]
    if "Follow-up #" in frame:
        facts["follow_up"] = numbers_in(frame["Follow-up #"])
    return facts
