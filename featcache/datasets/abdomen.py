"""``amos`` and ``btcv``: abdominal CT (and MRI) with many organs, as slices."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Literal

from featcache.datasets.base import Dataset, SplitOrigin, layout_error
from featcache.datasets.decathlon import plane_table
from featcache.datasets.files import Tree, left_out_notes, shown, walk
from featcache.datasets.splits import SPLITS, evenly_spaced, normalized_split, study_split
from featcache.datasets.volumes import VOLUME_EXTENSIONS, Volume, slice_table, volume_name
from featcache.errors import ConfigurationError, DatasetError
from featcache.records import Axis, Task

__all__ = ["AMOS_ORGANS", "BTCV_ORGANS", "load_amos", "load_btcv"]

AMOS_ORGANS = (
    "background",
    "spleen",
    "right kidney",
    "left kidney",
    "gall bladder",
    "esophagus",
    "liver",
    "stomach",
    "aorta",
    "postcava",
    "pancreas",
    "right adrenal gland",
    "left adrenal gland",
    "duodenum",
    "bladder",
    "prostate/uterus",
)
BTCV_ORGANS = (
    "background",
    "spleen",
    "right kidney",
    "left kidney",
    "gallbladder",
    "esophagus",
    "liver",
    "stomach",
    "aorta",
    "inferior vena cava",
    "portal and splenic veins",
    "pancreas",
    "right adrenal gland",
    "left adrenal gland",
)

LAST_CT = 500
"""AMOS ids above this are MRI."""


def load_amos(
    root: Path,
    *,
    modality: Literal["ct", "mri", "all"] = "ct",
    axis: Axis = "axial",
    slices: str = "all",
    unlabelled: bool = False,
) -> Dataset:
    """Read AMOS22: ``imagesTr imagesVa imagesTs`` with ``labelsTr labelsVa``.

    The publisher's validation volumes (labelled) are the test split; every fifth of its training volumes, evenly
    spaced over the sorted names, is val. That gives the study's shares of 80 / 20 / 50, which it took from an earlier
    and smaller release.

    Parameters
    ----------
    root
        The folder ``amos22`` or the one that holds it; or the study's ``{train,val,test}/`` of ``.npy`` slices.
    modality
        ``ct`` (ids up to 500), ``mri``, or ``all``.
    axis, slices
        See :func:`featcache.datasets.volumes.slice_table`.
    unlabelled
        Also volumes without labels, ``imagesTs`` above all: without split and masks.

    Raises
    ------
    DatasetError
        If there are no such volumes.
    """
    if modality not in ("ct", "mri", "all"):
        raise ConfigurationError(f"amos: modality is {modality!r}", remedy="Known: ct, mri, all.")
    tree = walk(root)
    task = Task("organs", "segmentation", ("mask",), AMOS_ORGANS, mask_values=tuple(range(len(AMOS_ORGANS))))
    planes = plane_table(tree)
    if planes is not None:
        return Dataset("amos", root, planes, (task,), "folder", left_out_notes(tree))
    labels = {volume_name(path): path for path in _in_folders(tree, "labelstr", "labelsva", "labelsts")}
    parts = {}
    for folder in ("imagestr", "imagesva", "imagests"):
        volumes = [
            Volume(volume_name(path), path, labels.get(volume_name(path)), patient=volume_name(path))
            for path in _in_folders(tree, folder)
        ]
        parts[folder] = [volume for volume in volumes if _is(modality, volume.name)]
    learn = [volume for volume in parts["imagestr"] if volume.mask]
    if not learn:
        raise layout_error("amos", root, f"there is no {modality} volume in imagesTr with one in labelsTr")
    val = {learn[place].name for place in evenly_spaced(len(learn), round(len(learn) / 5))}
    chosen = [replace(volume, split="val" if volume.name in val else "train") for volume in learn]
    chosen += [replace(volume, split="test") for volume in parts["imagesva"] if volume.mask]
    known = {volume.name for volume in chosen}
    rest = [volume for volumes in parts.values() for volume in volumes if volume.name not in known]
    samples, notes = slice_table(root, [*chosen, *(rest if unlabelled else ())], axis=axis, slices=slices)
    about_split = "Test is the publisher's validation set, val every fifth of its training volumes."
    return Dataset(
        name="amos",
        root=root,
        samples=samples,
        tasks=(task,),
        split_origin="official",
        notes=(
            about_split,
            *notes,
            *((f"{len(rest)} volumes have no labels and were left out.",) if rest and not unlabelled else ()),
            *left_out_notes(tree),
        ),
        split_notes=(about_split,),
    )


def _is(modality: str, name: str) -> bool:
    number = re.search(r"(\d+)$", name)
    if number is None:
        raise DatasetError(f"dataset 'amos': the volume {name!r} has no number", remedy="Expected amos_0001.nii.gz.")
    return modality == "all" or (modality == "ct") == (int(number[1]) <= LAST_CT)


def load_btcv(root: Path, *, axis: Axis = "axial", slices: str = "all") -> Dataset:
    """Read BTCV, "Beyond the cranial vault" (Synapse syn3193805), in one of its two layouts.

    ``RawData/Training/{img,label}/{img,label}0001.nii.gz`` with ``RawData/Testing/img``, or
    ``averaged-{training,testing}-images`` with ``averaged-training-labels``. 15 of the 30 labelled volumes, evenly
    spaced, are val; the publisher's 20 test volumes have no labels.

    Parameters
    ----------
    root
        The folder with one of these, at any depth; or the study's ``{train,val,test}/{img,label}``.
    axis, slices
        See :func:`featcache.datasets.volumes.slice_table`.

    Raises
    ------
    DatasetError
        If there are no such volumes.
    """
    tree = walk(root)
    labels = {_number(path): path for path in _in_folders(tree, "label", "averaged-training-labels")}
    images = _in_folders(tree, "img", "averaged-training-images", "averaged-testing-images")
    if not images:
        raise layout_error("btcv", root, "there is neither img/img*.nii.gz nor averaged-training-images/*.nii.gz")
    volumes = [
        Volume(
            volume_name(path), path, None if _is_test(path) else labels.get(_number(path)), patient=volume_name(path)
        )
        for path in images
    ]
    learn = [volume for volume in volumes if not _is_test(volume.path)]
    origin: SplitOrigin = "study"
    notes: tuple[str, ...] = ("The test volumes have no labels: score val, or give a split file.",)
    given = {volume.name: _folder_split(volume.path) for volume in learn}
    if learn and all(given.values()):
        origin, of = "folder", {name: split or "" for name, split in given.items()}
    else:
        of, of_study = study_split([volume.name for volume in learn], test=0, val=15, of=30)
        notes = (*notes, *of_study)
    volumes = [replace(volume, split=of.get(volume.name, "test")) for volume in volumes]
    without = [volume.name for volume in volumes if volume.mask is None and volume.split != "test"]
    samples, slice_notes = slice_table(root, volumes, axis=axis, slices=slices)
    return Dataset(
        name="btcv",
        root=root,
        samples=samples,
        tasks=(Task("organs", "segmentation", ("mask",), BTCV_ORGANS, mask_values=tuple(range(len(BTCV_ORGANS)))),),
        split_origin=origin,
        notes=(
            *notes,
            *slice_notes,
            *((f"{len(without)} volumes have no label file: {shown(without)}.",) if without else ()),
            *left_out_notes(tree),
        ),
        split_notes=notes,
    )


def _in_folders(tree: Tree, *folders: str) -> list[str]:
    """Volumes that lie in (or, as Synapse unpacks them, in a folder of their own in) these folders, by name."""
    found = [
        path
        for path in tree.ending(*VOLUME_EXTENSIONS)
        if any(name.lower() in folders for name in path.split("/")[-3:-1])
    ]
    return sorted(found, key=volume_name)


def _number(path: str) -> str:
    """What an image and its labels have in common: ``0001`` of ``label0001``, ``0000101`` of ``DET0000101_avg_seg``."""
    number = re.search(r"\d+", volume_name(path))
    return number[0] if number else volume_name(path)


def _is_test(path: str) -> bool:
    return any(name.lower() in ("testing", "test", "averaged-testing-images") for name in path.split("/")[:-1])


def _folder_split(path: str) -> str | None:
    """The study's rearranged folders ``train`` and ``val``; the publisher's ``Training`` says nothing of val."""
    return next(
        (normalized_split(name) for name in path.split("/")[:-1] if name in SPLITS),
        None,
    )
