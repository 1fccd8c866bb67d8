"""``sars_cov_2``: SARS-CoV-2 CT-scan, axial CT slices of patients with and without COVID-19 from São Paulo."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from featcache.datasets.base import Dataset, SplitOrigin, layout_error, sample_table
from featcache.datasets.files import left_out_notes, natural_key, shown, walk
from featcache.datasets.splits import SPLITS, mapped_split, normalized_split, seeded_split, study_split
from featcache.errors import DatasetError
from featcache.records import Task

__all__ = ["CLASSES", "load"]

CLASSES = ("Negative", "Positive")

LAST_POSITIVE = 79
"""In the study's numbering of the patients, 0 to 79 have COVID-19."""

_EXTENSIONS = (".png", ".jpg", ".jpeg")
_NO_PATIENTS = "This copy carries no patient ids: no split by patient is possible."
_IMAGE_LEVEL = {"covid": "Positive", "non-covid": "Negative"}
_PATIENT_LEVEL = {"covid": "Positive", "healthy": "Negative", "others": "Negative"}


@dataclass(frozen=True, slots=True)
class _Slices:
    paths: list[str]
    labels: list[str]
    patients: pd.Series[str]
    split: pd.Series[str]
    origin: SplitOrigin
    notes: tuple[str, ...]


def load(root: Path, *, seed: int = 0) -> Dataset:
    """Read one of three layouts.

    - ``COVID/*.png`` and ``non-COVID/*.png``, as first published: no patient ids, so no split by patient is possible.
    - ``Covid/<patient>/*.png``, ``Healthy/<patient>/*.png``, ``Others/<patient>/*.png``, the publisher's copy with
      patients: the study's split, 70 for test and 50 of the rest for val, evenly spaced. The study numbered the
      patients as its file system listed them; here they are in natural order of their names.
    - ``{train,val,test}/<patient number>/*.png``, as the study rearranged it: up to 79 are positive.

    Slices are in the order of the numbers in their names.

    Parameters
    ----------
    root
        The folder.
    seed
        Of the split where there are no patients.

    Raises
    ------
    DatasetError
        If the folders are none of these.
    """
    tree = walk(root)
    images = sorted(tree.ending(*_EXTENSIONS), key=natural_key)
    found = _numbered(images) or _with_patients(images) or _without_patients(images, seed)
    if found is None:
        raise layout_error("sars_cov_2", root, f"{len(images)} images in folders that are not expected")
    paths = pd.Series(found.paths, dtype="str")
    patients = found.patients
    samples = sample_table(paths, paths, split=found.split, patient=patients)
    if patients.notna().all():
        samples["volume"] = patients
        samples["axis"] = "axial"
        samples["index"] = samples.groupby("volume").cumcount().astype("Int64")
    level = "patient" if patients.notna().all() else "sample"
    surplus = sorted(set(images) - set(found.paths))
    return Dataset(
        name="sars_cov_2",
        root=root,
        samples=samples.assign(covid=pd.Series(found.labels, dtype="str")),
        tasks=(Task("covid", "binary", ("covid",), CLASSES, level=level),),  # type: ignore[arg-type, unused-ignore]
        split_origin=found.origin,
        notes=(
            *((_NO_PATIENTS,) if patients.isna().all() else ()),
            *found.notes,
            *((f"{len(surplus)} images lie elsewhere and were left out: {shown(surplus)}.",) if surplus else ()),
            *left_out_notes(tree),
        ),
        surplus=tuple(surplus),
        split_notes=found.notes,
    )


def _numbered(images: list[str]) -> _Slices | None:
    """The study's folders."""
    parts = [path.split("/") for path in images]
    own = [part for part in parts if len(part) == 3 and normalized_split(part[0]) in SPLITS]
    if not own:
        return None
    odd = [part[1] for part in own if not part[1].isdecimal()]
    if odd:
        raise DatasetError(
            f"dataset 'sars_cov_2': the patient folder {odd[0]!r} is no number",
            remedy="Expected {train,val,test}/<patient number>/*.png, patients 0 to 79 being positive.",
        )
    return _Slices(
        paths=["/".join(part) for part in own],
        labels=[CLASSES[int(part[1]) <= LAST_POSITIVE] for part in own],
        patients=pd.Series([part[1] for part in own], dtype="str"),
        split=pd.Series([normalized_split(part[0]) for part in own], dtype="str"),
        origin="folder",
        notes=(),
    )


def _with_patients(images: list[str]) -> _Slices | None:
    """The publisher's folders with one folder a patient."""
    order = list(_PATIENT_LEVEL)
    own = [path for path in images if path.count("/") == 2 and path.split("/")[0].lower() in _PATIENT_LEVEL]
    if not own:
        return None
    own.sort(key=lambda path: (order.index(path.split("/")[0].lower()), natural_key(path)))
    patients = pd.Series([path.rsplit("/", 1)[0] for path in own], dtype="str")
    of, notes = study_split(patients.unique().tolist(), test=70, val=50, of=210)
    labels = [_PATIENT_LEVEL[path.split("/")[0].lower()] for path in own]
    return _Slices(own, labels, patients, mapped_split(patients, of), "study", notes)


def _without_patients(images: list[str], seed: int) -> _Slices | None:
    """The publisher's two folders."""
    own = [path for path in images if path.count("/") == 1 and path.split("/")[0].lower() in _IMAGE_LEVEL]
    labels = [_IMAGE_LEVEL[path.split("/")[0].lower()] for path in own]
    if set(labels) != set(CLASSES):
        return None
    none = pd.Series([None] * len(own), dtype="str")
    split = seeded_split(pd.Series(labels, dtype="str"), none, seed=seed)
    if split.isna().all():
        return _Slices(
            own, labels, none, split, "none", ("There is no split, and there are too few images to make one.",)
        )
    notes = (
        f"No split is given: 60/20/20 by image, stratified, seed {seed}; slices of one patient are on both sides, so "
        "the numbers are too good.",
    )
    return _Slices(own, labels, none, split, "seeded", notes)
