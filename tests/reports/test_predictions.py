"""Predictions as files: the truth written as a prediction is the dataset's own label file again."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from PIL import Image as PillowImage

from featcache.datasets import Dataset, load_dataset
from featcache.errors import ConfigurationError
from featcache.extraction import write_masks
from featcache.imaging import select
from featcache.records import Image, Selector, Task, VolumeGeometry
from featcache.reports.predictions import class_colours, fill_volume, save_predictions
from featcache.store.masks import open_masks
from tests.datasets.miniatures.tuberculosis import make_montgomery
from tests.datasets.miniatures.volumes import make_spleen

VALUES = (0, 2, 7)


def oblique(angles: tuple[float, float, float], sizes: tuple[float, float, float]) -> np.ndarray:
    """An affine with rotations about all axes (degrees) and voxels of three sizes."""
    affine = np.eye(4)
    for axis, angle in enumerate(np.deg2rad(angles)):
        turn = np.eye(4)
        one, two = [other for other in range(3) if other != axis]
        turn[one, one] = turn[two, two] = np.cos(angle)
        turn[one, two], turn[two, one] = -np.sin(angle), np.sin(angle)
        affine = affine @ turn
    affine[:3, :3] *= sizes
    affine[:3, 3] = (-31.5, 22.25, 107.75)
    return affine


def scan(root: Path, affine: np.ndarray, axis: str, *, codes: str, unit: str = "mm", slices: str = "all") -> Dataset:
    """A volume in some order of its axes with labels, all slices along an axis as samples."""
    rng = np.random.default_rng(5)
    turns = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt(codes)
    )
    for name, data in (
        ("image", rng.integers(0, 900, (7, 6, 5)).astype(np.int16)),
        ("labels", rng.choice(np.array(VALUES, np.uint8), (7, 6, 5))),
    ):
        image = nibabel.Nifti1Image(data, affine).as_reoriented(turns)
        image.header.set_xyzt_units(unit)
        image.to_filename(root / f"{name}.nii.gz")
    canonical = nibabel.as_closest_canonical(nibabel.load(root / "image.nii.gz"))
    count = canonical.shape[{"sagittal": 0, "coronal": 1, "axial": 2}[axis]]
    index = list(range(0, count, 1 if slices == "all" else 2))
    texts = [Selector(axis, place).to_text() for place in index]  # type: ignore[arg-type]
    frame = pd.DataFrame(
        {
            "id": [f"s/{place}" for place in index],
            "path": "image.nii.gz",
            "selector": texts,
            "patient": "p",
            "volume": "scan",
            "axis": axis,
            "index": pd.Series(index, dtype="Int64"),
            "split": "test",
            "mask": "labels.nii.gz",
            "mask_selector": texts,
        }
    )
    task = Task("organs", "segmentation", ("mask",), ("background", "liver", "spleen"), mask_values=VALUES)
    return Dataset("scan", root, frame, (task,), "none")


@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("codes", ["RAS", "LPS", "SLA", "PIR", "ASL"])
@pytest.mark.parametrize("angles", [(0.0, 0.0, 0.0), (12.0, -7.0, 20.0)])
def test_the_truth_written_as_prediction_is_the_label_file_again(
    tmp_path: Path, home: Path, axis: str, codes: str, angles: tuple[float, float, float]
) -> None:
    write_masks(scan(tmp_path, oblique(angles, (0.7, 0.8, 2.5)), axis, codes=codes))
    masks = open_masks(home, "scan")
    saved = save_predictions(tmp_path / "out", masks, {name: masks[name] for name in masks})
    label, image = nibabel.load(tmp_path / "labels.nii.gz"), nibabel.load(tmp_path / "image.nii.gz")
    found = nibabel.load(saved.volumes["scan"])
    np.testing.assert_array_equal(np.asarray(found.dataobj), np.asarray(label.dataobj))
    np.testing.assert_allclose(found.affine, image.affine, rtol=1e-6, atol=1e-6)
    assert found.header["sform_code"] == 1
    assert found.header.get_zooms() == pytest.approx(image.header.get_zooms())
    assert found.get_data_dtype() == np.uint8
    assert saved.notes == ()
    assert saved.pictures == {}


def test_simpleitk_sees_the_same_place(tmp_path: Path, home: Path) -> None:
    sitk = pytest.importorskip("SimpleITK")
    write_masks(scan(tmp_path, oblique((5.0, 3.0, -8.0), (0.7, 0.8, 2.5)), "coronal", codes="LSP"))
    masks = open_masks(home, "scan")
    saved = save_predictions(tmp_path / "out", masks, {name: masks[name] for name in masks})
    image, found = (sitk.ReadImage(str(path)) for path in (tmp_path / "image.nii.gz", saved.volumes["scan"]))
    assert found.GetSize() == image.GetSize()
    for index in ((0, 0, 0), (3, 2, 1), tuple(size - 1 for size in image.GetSize())):
        expected = image.TransformIndexToPhysicalPoint(index)
        assert found.TransformIndexToPhysicalPoint(index) == pytest.approx(expected, abs=1e-4)


def test_units_of_the_header_are_kept(tmp_path: Path, home: Path) -> None:
    write_masks(scan(tmp_path, oblique((0, 0, 0), (0.0007, 0.0008, 0.0025)), "axial", codes="LPS", unit="meter"))
    masks = open_masks(home, "scan")
    assert masks.thickness("scan") == pytest.approx(2.5)
    saved = save_predictions(tmp_path / "out", masks, {name: masks[name] for name in masks})
    found, image = nibabel.load(saved.volumes["scan"]), nibabel.load(tmp_path / "image.nii.gz")
    assert found.header.get_xyzt_units()[0] == "meter"
    np.testing.assert_allclose(found.affine, image.affine, rtol=1e-6, atol=1e-9)


def test_slices_without_a_prediction_are_background_and_said(tmp_path: Path, home: Path) -> None:
    write_masks(scan(tmp_path, np.diag([1.0, 1, 1, 1]), "axial", codes="RAS", slices="half"))
    masks = open_masks(home, "scan")
    saved = save_predictions(tmp_path / "out", masks, {name: masks[name] for name in masks})
    found = np.asarray(nibabel.load(saved.volumes["scan"]).dataobj)
    label = np.asarray(nibabel.load(tmp_path / "labels.nii.gz").dataobj)
    np.testing.assert_array_equal(found[:, :, ::2], label[:, :, ::2])
    assert not found[:, :, 1::2].any()
    assert "some slices have no prediction" in saved.notes[0]


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
def test_filling_a_volume_undoes_select(axis: str, mirror: bool) -> None:
    volume = np.random.default_rng(0).integers(1, 200, (7, 6, 5)).astype(np.uint8)
    selector = Selector(axis, 2, crop=(1, 2, 3, 2), mirror=mirror)  # type: ignore[arg-type]
    plane = select(Image(volume, "volume", (0.0, 255.0)), selector)
    filled = fill_volume(VolumeGeometry((7, 6, 5), np.eye(4), (7, 6, 5), np.eye(4)), [(selector, plane)])
    assert np.count_nonzero(filled) == 6
    np.testing.assert_array_equal(filled[filled > 0], volume[filled > 0])


def test_a_decathlon_volume_round_trips(tmp_path: Path, home: Path) -> None:
    dataset = load_dataset("msd_spleen", root=make_spleen(tmp_path))
    write_masks(dataset)
    masks = open_masks(home, dataset.name)
    saved = save_predictions(tmp_path / "out", masks, {name: masks[name] for name in masks})
    assert set(saved.volumes) == set(masks.volumes)
    for name, path in saved.volumes.items():
        label = nibabel.load(next(tmp_path.rglob(f"labelsTr/{name}.nii.gz")))
        np.testing.assert_array_equal(np.asarray(nibabel.load(path).dataobj), np.asarray(label.dataobj))
        np.testing.assert_array_equal(nibabel.load(path).affine, label.affine)


def test_pictures_hold_class_numbers_and_show_colours(tmp_path: Path, home: Path) -> None:
    dataset = load_dataset("montgomery", root=make_montgomery(tmp_path))
    write_masks(dataset)
    masks = open_masks(home, dataset.name)
    saved = save_predictions(tmp_path / "out", masks, {name: masks[name] for name in masks.ids[:2]})
    assert set(saved.pictures) == set(masks.ids[:2])
    assert saved.volumes == {}
    for name, path in saved.pictures.items():
        picture = PillowImage.open(path)
        np.testing.assert_array_equal(np.asarray(picture), masks[name])
        colours = class_colours(3)[masks[name]]
        np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), colours)


def test_label_descriptions_name_the_classes_by_the_values_in_the_files(tmp_path: Path, home: Path) -> None:
    write_masks(scan(tmp_path, np.eye(4), "axial", codes="RAS"))
    masks = open_masks(home, "scan")
    saved = save_predictions(tmp_path / "out", masks, {name: masks[name] for name in masks})
    lines = [line for line in saved.labels.read_text().splitlines() if not line.startswith("#")]
    assert [(int(line.split()[0]), line.split('"')[1]) for line in lines] == [
        (0, "background"),
        (2, "liver"),
        (7, "spleen"),
    ]
    assert len({tuple(line.split()[1:4]) for line in lines}) == 3


def test_colours_of_many_classes_differ() -> None:
    assert len({tuple(colour) for colour in class_colours(64).tolist()}) == 64


def test_wrong_sizes_and_nothing_are_refused(tmp_path: Path, home: Path) -> None:
    write_masks(scan(tmp_path, np.eye(4), "axial", codes="RAS"))
    masks = open_masks(home, "scan")
    with pytest.raises(ConfigurationError, match="to_native"):
        save_predictions(tmp_path / "out", masks, {masks.ids[0]: np.zeros((2, 2), np.uint8)})
    with pytest.raises(ConfigurationError, match="values up to 3"):
        save_predictions(tmp_path / "out", masks, {masks.ids[0]: np.full((6, 7), 3, np.uint8)})
    with pytest.raises(ConfigurationError, match="no predictions"):
        save_predictions(tmp_path / "out", masks, {})


def test_ids_with_slashes_and_twins_get_files_of_their_own(tmp_path: Path, home: Path) -> None:
    from featcache.store import row_digest
    from featcache.store.mask_writer import MaskRow, open_mask_writer

    with open_mask_writer(home, "pictures", "t", ("background", "x")) as writer:
        for name in ("a/b", "a_b", "A_B"):
            writer.add(MaskRow(name, row_digest(b"0" * 16, name), ""), np.zeros((3, 3), np.uint8))
        writer.commit()
    masks = open_masks(home, "pictures")
    saved = save_predictions(tmp_path / "out", masks, {name: masks[name] for name in masks})
    assert len({path.name.lower() for path in saved.pictures.values()}) == 3
    assert all(path.parent == tmp_path / "out" for path in saved.pictures.values())
