"""``msd_heart``, ``msd_hippocampus``, ``msd_spleen``: tasks of the Medical Segmentation Decathlon, as slices."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from featcache.datasets.base import Dataset, layout_error, sample_table
from featcache.datasets.files import Tree, left_out_notes, shown, walk
from featcache.datasets.splits import SPLITS, normalized_split, study_split
from featcache.datasets.volumes import VOLUME_EXTENSIONS, Volume, slice_table, volume_name
from featcache.records import Axis, Task

__all__ = ["load_heart", "load_hippocampus", "load_spleen", "plane_table"]


@dataclass(frozen=True, slots=True)
class _Part:
    name: str
    folder: str
    prefix: str
    classes: tuple[str, ...]
    volumes: int
    test: int
    val: int
    notes: tuple[str, ...] = ()


_HEART = _Part("msd_heart", "Task02_Heart", "la_", ("background", "left atrium"), 20, 4, 4)
_HIPPOCAMPUS = _Part(
    "msd_hippocampus",
    "Task04_Hippocampus",
    "hippocampus_",
    ("background", "anterior", "posterior"),
    260,
    80,
    60,
    (
        "The volumes are left and right hippocampi of 195 people; the files do not say which two belong together, so "
        "a person may be in two splits.",
    ),
)
_SPLEEN = _Part("msd_spleen", "Task09_Spleen", "spleen_", ("background", "spleen"), 41, 15, 10)


def load_heart(root: Path, *, axis: Axis = "axial", slices: str = "all", unlabelled: bool = False) -> Dataset:
    """Read ``Task02_Heart``: mono-modal MRI, the left atrium; 4 of 20 volumes for test, 4 for val.

    Parameters
    ----------
    root
        The task's folder or the one that holds it; or the study's ``{train,val,test}/`` of ``.npy`` slices.
    axis, slices
        See :func:`featcache.datasets.volumes.slice_table`.
    unlabelled
        Also the volumes of ``imagesTs``, without split and masks.

    Raises
    ------
    DatasetError
        If there are no such volumes.
    """
    return _load(root, _HEART, axis=axis, slices=slices, unlabelled=unlabelled)


def load_hippocampus(root: Path, *, axis: Axis = "axial", slices: str = "all", unlabelled: bool = False) -> Dataset:
    """Read ``Task04_Hippocampus``: MRI, anterior and posterior; 80 of 260 volumes for test, 60 for val.

    Parameters and errors are those of :func:`load_heart`.
    """
    return _load(root, _HIPPOCAMPUS, axis=axis, slices=slices, unlabelled=unlabelled)


def load_spleen(root: Path, *, axis: Axis = "axial", slices: str = "all", unlabelled: bool = False) -> Dataset:
    """Read ``Task09_Spleen``: portal venous CT; 15 of 41 volumes for test, 10 for val.

    Parameters and errors are those of :func:`load_heart`.
    """
    return _load(root, _SPLEEN, axis=axis, slices=slices, unlabelled=unlabelled)


def _load(root: Path, part: _Part, *, axis: Axis, slices: str, unlabelled: bool) -> Dataset:
    tree = walk(root)
    task = Task("organs", "segmentation", ("mask",), part.classes, mask_values=tuple(range(len(part.classes))))
    planes = plane_table(tree)
    if planes is not None:
        return Dataset(part.name, root, planes, (task,), "folder", (*part.notes, *left_out_notes(tree)))
    images = _volumes(tree, part, "imagesTr")
    if not images:
        raise layout_error(part.name, root, f"there is no imagesTr/{part.prefix}*.nii.gz")
    labels = {volume_name(path): path for path in _volumes(tree, part, "labelsTr")}
    volumes = [
        Volume(volume_name(path), path, labels.get(volume_name(path)), patient=volume_name(path)) for path in images
    ]
    of, notes = study_split([volume.name for volume in volumes], test=part.test, val=part.val, of=part.volumes)
    volumes = [replace(volume, split=of[volume.name]) for volume in volumes]
    without = [volume.name for volume in volumes if volume.mask is None]
    surplus = sorted(path for name, path in labels.items() if name not in of)
    if unlabelled:
        volumes += [
            Volume(volume_name(path), path, patient=volume_name(path)) for path in _volumes(tree, part, "imagesTs")
        ]
    samples, slice_notes = slice_table(root, volumes, axis=axis, slices=slices)
    return Dataset(
        name=part.name,
        root=root,
        samples=samples,
        tasks=(task,),
        split_origin="study",
        notes=(
            *part.notes,
            *notes,
            *slice_notes,
            *((f"{len(without)} volumes have no file in labelsTr: {shown(without)}.",) if without else ()),
            *((f"{len(surplus)} files in labelsTr have no image: {shown(surplus)}.",) if surplus else ()),
            *left_out_notes(tree),
        ),
        surplus=tuple(surplus),
        split_notes=notes,
    )


def _volumes(tree: Tree, part: _Part, folder: str) -> list[str]:
    """Volumes of a folder at the root or in the task's folder, sorted by name."""
    found = []
    for path in tree.ending(*VOLUME_EXTENSIONS):
        above = path.split("/")[:-1]
        own = above in ([folder], [part.folder, folder])
        if own and path.rsplit("/", 1)[-1].startswith(part.prefix):
            found.append(path)
    return sorted(found, key=volume_name)


def plane_table(tree: Tree) -> pd.DataFrame | None:
    """The study's rearranged layout, or None if it is not that.

    ``<split>/[images/]<volume>_<slice>.npy``, with masks of the same names in ``<split>/labels/`` or
    ``labels/<split>/`` or ``labels/``. Such a slice is a file of its own.
    """
    paths = tree.ending(".npy")
    parts = {path: path.split("/") for path in paths}
    is_label = {path: any(name.lower().startswith("label") for name in part[:-1]) for path, part in parts.items()}
    images = [path for path in paths if normalized_split(parts[path][0]) in SPLITS and not is_label[path]]
    if not images:
        return None
    masks: dict[tuple[str | None, str], str] = {}
    for path in (path for path in paths if is_label[path]):
        split = next((name for name in map(normalized_split, parts[path][:-1]) if name in SPLITS), None)
        masks[split, parts[path][-1]] = path
    stems = [parts[path][-1].rsplit(".", 1)[0] for path in images]
    splits = [normalized_split(parts[path][0]) for path in images]
    volume = pd.Series([stem.rpartition("_")[0] or stem for stem in stems], dtype="str")
    samples = sample_table(
        pd.Series(stems, dtype="str"),
        pd.Series(images, dtype="str"),
        split=pd.Series(splits, dtype="str"),
        patient=volume,
    )
    numbers = [stem.rpartition("_")[2] for stem in stems]
    found = [
        masks.get((split, parts[path][-1]), masks.get((None, parts[path][-1])))
        for path, split in zip(images, splits, strict=True)
    ]
    return samples.assign(
        volume=volume,
        axis="axial",
        index=pd.Series([int(number) if number.isdecimal() else None for number in numbers], dtype="Int64"),
        mask=pd.Series(found, dtype="str"),
        mask_selector="",
    )
