"""``brain_tumor``: figshare brain tumor, 3,064 T1-weighted contrast-enhanced MRI slices of 233 patients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from featcache.datasets.base import Dataset, SplitOrigin, layout_error, sample_table
from featcache.datasets.files import left_out_notes, natural_key, shown, walk
from featcache.datasets.splits import SPLITS, mapped_split, normalized_split, study_split
from featcache.records import Selector, Task

__all__ = ["CLASSES", "load"]

CLASSES = ("meningioma", "glioma", "pituitary")
"""The publisher's labels 1, 2 and 3."""


def load(root: Path) -> Dataset:
    """Read ``1.mat`` … ``3064.mat`` (MATLAB 7.3), in one folder, in the publisher's four, or in ``train/ val/ test/``.

    Of each file only ``cjdata/label`` and ``cjdata/PID`` are read. Where the folders give no split it is the study's:
    patients in the order of their first appearance, evenly spaced 70 for test, then 50 of the rest for val. The
    tumor's outline is in the same file: the mask's selector names the array ``tumorMask``.

    Parameters
    ----------
    root
        The folder.

    Raises
    ------
    DatasetError
        If there are no such files, or none can be read.
    """
    tree = walk(root)
    paths = sorted(
        (path for path in tree.ending(".mat") if _stem(path).isdecimal()), key=lambda path: natural_key(_stem(path))
    )
    if not paths:
        raise layout_error("brain_tumor", root, "there is no 1.mat … 3064.mat")
    facts, unreadable = _read_facts(root, paths)
    if len(unreadable) == len(paths):
        raise layout_error("brain_tumor", root, f"none of {len(paths)} files is what is expected; {unreadable[0]}")
    labels = pd.Series([label for label, _ in facts], dtype="str")
    patient = pd.Series([patient for _, patient in facts], dtype="str")
    split, origin, notes = _split(paths, patient)
    names = pd.Series(paths, dtype="str")
    ids = pd.Series([_stem(path) for path in paths], dtype="str")
    samples = sample_table(ids, names, split=split, patient=patient).assign(
        tumor=labels, mask=names, mask_selector=Selector(array="tumorMask").to_text()
    )
    return Dataset(
        name="brain_tumor",
        root=root,
        samples=samples,
        tasks=(
            Task("tumor", "multiclass", ("tumor",), CLASSES),
            Task("outline", "segmentation", ("mask",), ("background", "tumor")),
        ),
        split_origin=origin,
        notes=(
            "Slices of one patient are alike: several of each are here, and patients are kept in one split.",
            *notes,
            *(
                (f"{len(unreadable)} files cannot be read and have no label: {shown(unreadable)}.",)
                if unreadable
                else ()
            ),
            *left_out_notes(tree),
        ),
        split_notes=notes,
    )


def _stem(path: str) -> str:
    return path.rsplit("/", 1)[-1].rsplit(".", 1)[0]


def _read_facts(root: Path, paths: list[str]) -> tuple[list[tuple[str | None, str | None]], list[str]]:
    """(label, patient) of each file, and what is wrong with those that have none."""
    import h5py

    facts: list[tuple[str | None, str | None]] = []
    unreadable = []
    for path in paths:
        try:
            with h5py.File(root / path, "r") as file:
                label = int(np.ravel(file["cjdata/label"][()])[0])
                patient = "".join(map(chr, np.ravel(file["cjdata/PID"][()]).tolist())).strip()
            if not 1 <= label <= len(CLASSES):
                raise ValueError(f"label {label}")
            facts.append((CLASSES[label - 1], patient or None))
        except (OSError, KeyError, ValueError, TypeError, IndexError) as error:
            unreadable.append(f"{path} ({error})")
            facts.append((None, None))
    return facts, unreadable


def _split(paths: list[str], patient: pd.Series[str]) -> tuple[pd.Series[str], SplitOrigin, tuple[str, ...]]:
    top = pd.Series([normalized_split(path.split("/")[0]) for path in paths], dtype="str")
    if set(top) <= set(SPLITS):
        return top, "folder", ()
    of, notes = study_split(patient.dropna().unique().tolist(), test=70, val=50, of=233)
    return mapped_split(patient, of), "study", notes
