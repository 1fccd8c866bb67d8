"""Masks of datasets: the right labels on the image's grid, read once, with an error that says what to do."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from PIL import Image as PillowImage

import featcache
from featcache.datasets import Dataset, load_dataset
from featcache.errors import ConfigurationError
from featcache.extraction import mask_reading, write_masks
from featcache.records import Selector, Task
from featcache.store.masks import open_masks
from tests.datasets.miniatures.brain_tumor import make as make_brain_tumor
from tests.datasets.miniatures.files import write_volume
from tests.datasets.miniatures.tuberculosis import make_montgomery
from tests.datasets.miniatures.volumes import make_spleen


def oriented(path: Path, data: np.ndarray, orientation: str, sizes: tuple[float, float, float]) -> None:
    """Write RAS data in another order of axes, with the affine that says so."""
    affine = np.diag([*sizes, 1.0])
    affine[:3, 3] = (-20, 30, 5)
    codes = nibabel.orientations.axcodes2ornt(orientation)
    turns = nibabel.orientations.ornt_transform(nibabel.orientations.axcodes2ornt("RAS"), codes)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.Nifti1Image(data, affine).as_reoriented(turns).to_filename(path)


def volumes_of(
    root: Path, *, axis: str = "axial", shape: tuple[int, int, int] = (5, 6, 4), selector: str = "", **columns: object
) -> Dataset:
    """A dataset of all slices of ``image.nii.gz`` with the labels of ``labels.nii.gz``."""
    count = shape[{"sagittal": 0, "coronal": 1, "axial": 2}[axis]]
    texts = [Selector(axis, index).to_text() for index in range(count)]  # type: ignore[arg-type]
    frame = pd.DataFrame(
        {
            "id": [f"v_{axis}_{index:03}" for index in range(count)],
            "path": "image.nii.gz",
            "selector": texts,
            "patient": "p",
            "volume": "v",
            "axis": axis,
            "index": pd.Series(range(count), dtype="Int64"),
            "split": "train",
            "mask": "labels.nii.gz",
            "mask_selector": texts,
        }
    )
    task = Task("organs", "segmentation", ("mask",), ("background", "liver", "spleen"), mask_values=(0, 1, 5))
    return Dataset("scan", root, frame.assign(**columns), (task,), "none")


def random_labels(shape: tuple[int, int, int] = (5, 6, 4)) -> np.ndarray:
    return np.random.default_rng(3).choice(np.array([0, 1, 5], np.int16), shape)


@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("orientation", ["RAS", "LPS", "SAR", "IPL"])
def test_slices_of_a_label_volume_are_those_that_a_viewer_shows(
    tmp_path: Path, home: Path, axis: str, orientation: str
) -> None:
    labels = random_labels()
    oriented(tmp_path / "image.nii.gz", np.zeros((5, 6, 4), np.int16), orientation, (0.7, 0.8, 3.0))
    oriented(tmp_path / "labels.nii.gz", labels, orientation, (0.7, 0.8, 3.0))
    (report,) = write_masks(volumes_of(tmp_path, axis=axis))
    assert (report.written, report.kept, report.failures, report.notes) == (len(open_masks(home, "scan")), 0, (), ())
    masks = open_masks(home, "scan")
    assert masks.values == (0, 1, 5)
    numbers = np.select([labels == 1, labels == 5], [1, 2], 0)
    for index, name in enumerate(masks.ids):
        # Radiological display: the patient's right on the left, anterior or superior at the top.
        expected = {
            "axial": lambda index=index: np.rot90(numbers[:, :, index])[:, ::-1],
            "coronal": lambda index=index: np.rot90(numbers[:, index])[:, ::-1],
            "sagittal": lambda index=index: np.rot90(numbers[index])[:, ::-1],
        }[axis]()
        np.testing.assert_array_equal(masks[name], expected)
    assert masks.spacing(masks.ids[0]) == pytest.approx(
        {"axial": (0.8, 0.7), "coronal": (3.0, 0.7), "sagittal": (3.0, 0.8)}[axis]
    )
    assert masks.thickness("v") == pytest.approx({"axial": 3.0, "coronal": 0.8, "sagittal": 0.7}[axis])
    geometry = masks.geometry("v")
    assert geometry is not None
    np.testing.assert_allclose(geometry.file_affine, nibabel.load(tmp_path / "image.nii.gz").affine)
    canonical = nibabel.as_closest_canonical(nibabel.load(tmp_path / "image.nii.gz"))
    np.testing.assert_allclose(geometry.affine, canonical.affine, atol=1e-6)


def test_left_and_right_lung_become_one_label_map(tmp_path: Path, home: Path) -> None:
    dataset = load_dataset("montgomery", root=make_montgomery(tmp_path))
    (report,) = write_masks(dataset)
    masks = open_masks(home, dataset.name)
    assert masks.class_names == ("background", "left lung", "right lung")
    assert report.written == len(masks)
    for row, name in enumerate(dataset.samples["id"]):
        left, right = (
            np.asarray(PillowImage.open(dataset.root / dataset.samples[column][row]).convert("L"))
            for column in ("mask", "mask_right")
        )
        np.testing.assert_array_equal(masks[name], np.where(right > 0, 2, np.where(left > 0, 1, 0)))
        assert masks.spacing(name) is None
        assert masks.volume(name) is None


def test_a_mask_inside_a_matlab_file_is_found(tmp_path: Path, home: Path) -> None:
    dataset = load_dataset("brain_tumor", root=make_brain_tumor(tmp_path))
    (report,) = write_masks(dataset)
    assert report.written == len(dataset.samples)
    masks = open_masks(home, dataset.name)
    assert masks.task == "outline"
    assert {int(value) for name in masks for value in np.unique(masks[name])} <= {0, 1}


def test_a_decathlon_task_is_read_once(tmp_path: Path, home: Path) -> None:
    dataset = load_dataset("msd_spleen", root=make_spleen(tmp_path))
    (first,) = write_masks(dataset)
    (second,) = write_masks(dataset)
    assert (first.written, first.kept) == (second.kept, second.written)
    assert first.written > 0
    assert first.failures == ()


def test_nothing_is_decoded_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    oriented(tmp_path / "image.nii.gz", np.zeros((5, 6, 4), np.int16), "LPS", (1, 1, 1))
    oriented(tmp_path / "labels.nii.gz", random_labels(), "LPS", (1, 1, 1))
    opened: list[Path] = []
    real = mask_reading.read
    monkeypatch.setattr(mask_reading, "read", lambda path, selector: (opened.append(path), real(path, selector))[1])
    write_masks(volumes_of(tmp_path))
    assert opened == [tmp_path / "labels.nii.gz"]
    write_masks(volumes_of(tmp_path))
    renamed = volumes_of(tmp_path, volume="other", id=[f"other{index}" for index in range(4)])
    (report,) = write_masks(renamed)
    assert opened == [tmp_path / "labels.nii.gz"]
    assert report.kept == 4


def test_a_renamed_volume_keeps_its_geometry(tmp_path: Path, home: Path) -> None:
    oriented(tmp_path / "image.nii.gz", np.zeros((5, 6, 4), np.int16), "LPS", (1, 1, 2))
    oriented(tmp_path / "labels.nii.gz", random_labels(), "LPS", (1, 1, 2))
    write_masks(volumes_of(tmp_path))
    write_masks(volumes_of(tmp_path, volume="other", id=[f"other{index}" for index in range(4)]))
    masks = open_masks(home, "scan")
    assert masks.ids == ("other0", "other1", "other2", "other3")
    assert masks.volumes == ("other",)
    assert masks.thickness("other") == 2.0


def test_a_changed_file_replaces_its_masks(tmp_path: Path, home: Path) -> None:
    oriented(tmp_path / "image.nii.gz", np.zeros((5, 6, 4), np.int16), "RAS", (1, 1, 1))
    oriented(tmp_path / "labels.nii.gz", random_labels(), "RAS", (1, 1, 1))
    write_masks(volumes_of(tmp_path))
    oriented(tmp_path / "labels.nii.gz", np.ones((5, 6, 4), np.int16), "RAS", (1, 1, 1))
    (report,) = write_masks(volumes_of(tmp_path))
    assert report.written == 4
    masks = open_masks(home, "scan")
    assert all((masks[name] == 1).all() for name in masks)


def test_values_without_a_class_are_named_and_the_other_volume_is_written(tmp_path: Path, home: Path) -> None:
    for name in ("image", "other"):
        oriented(tmp_path / f"{name}.nii.gz", np.zeros((5, 6, 4), np.int16), "RAS", (1, 1, 1))
    labels = random_labels()
    oriented(tmp_path / "labels.nii.gz", labels, "RAS", (1, 1, 1))
    labels = labels.copy()
    labels[0, 0, 0], labels[1, 1, 1] = 7, -3
    oriented(tmp_path / "wrong.nii.gz", labels, "RAS", (1, 1, 1))
    dataset = volumes_of(tmp_path, path=["image.nii.gz"] * 2 + ["other.nii.gz"] * 2)
    dataset.samples["mask"] = ["labels.nii.gz"] * 2 + ["wrong.nii.gz"] * 2
    (report,) = write_masks(dataset)
    assert [failure.id for failure in report.failures] == ["v_axial_002", "v_axial_003"]
    failure = report.failures[0]
    assert failure.path == "wrong.nii.gz"
    assert "wrong.nii.gz has values that stand for no class: -3, 7; known: 0 (background), 1 (liver)" in failure.reason
    assert "mask_values" in failure.remedy
    assert open_masks(home, "scan").ids == ("v_axial_000", "v_axial_001")


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int32, np.float32, np.float64])
def test_label_volumes_of_any_type_that_holds_whole_numbers(tmp_path: Path, home: Path, dtype: type) -> None:
    oriented(tmp_path / "image.nii.gz", np.zeros((5, 6, 4), np.int16), "LAS", (1, 1, 1))
    oriented(tmp_path / "labels.nii.gz", random_labels().astype(dtype), "LAS", (1, 1, 1))
    (report,) = write_masks(volumes_of(tmp_path))
    assert report.failures == ()
    total = sum(int((open_masks(home, "scan")[name] == 2).sum()) for name in open_masks(home, "scan"))
    assert total == int((random_labels() == 5).sum())


def test_labels_between_whole_numbers_are_refused(tmp_path: Path) -> None:
    oriented(tmp_path / "image.nii.gz", np.zeros((5, 6, 4), np.int16), "RAS", (1, 1, 1))
    oriented(tmp_path / "labels.nii.gz", random_labels().astype(np.float32) / 2, "RAS", (1, 1, 1))
    (report,) = write_masks(volumes_of(tmp_path))
    assert "no whole numbers" in report.failures[0].reason
    assert "nearest" in report.failures[0].remedy


def test_a_mask_on_another_grid_is_resampled_as_simpleitk_does(tmp_path: Path, home: Path) -> None:
    sitk = pytest.importorskip("SimpleITK")
    rng = np.random.default_rng(1)
    coarse = rng.choice(np.array([0, 1, 5], np.uint8), (7, 9, 5))
    affine = np.diag([1.9, 1.7, 2.3, 1.0])
    affine[:3, 3] = (-18.3, 31.1, 4.2)
    nibabel.Nifti1Image(coarse, affine).to_filename(tmp_path / "labels.nii.gz")
    oriented(tmp_path / "image.nii.gz", np.zeros((11, 8, 6), np.int16), "LPS", (0.9, 1.1, 1.6))
    (report,) = write_masks(volumes_of(tmp_path, shape=(11, 8, 6)))
    assert report.failures == ()
    assert "were resampled" in report.notes[0]
    image = sitk.ReadImage(str(tmp_path / "image.nii.gz"))
    moved = sitk.Resample(
        sitk.ReadImage(str(tmp_path / "labels.nii.gz")), image, sitk.Transform(), sitk.sitkNearestNeighbor, 0
    )
    sitk.WriteImage(moved, str(tmp_path / "moved.nii.gz"))
    ras = np.asarray(nibabel.as_closest_canonical(nibabel.load(tmp_path / "moved.nii.gz")).dataobj)
    assert (ras > 0).mean() > 0.2
    masks = open_masks(home, "scan")
    for index, name in enumerate(masks.ids):
        plane = np.rot90(np.select([ras[:, :, index] == 1, ras[:, :, index] == 5], [1, 2], 0))[:, ::-1]
        np.testing.assert_array_equal(masks[name], plane)


def test_a_label_volume_of_half_the_resolution_is_resampled_slice_by_slice(tmp_path: Path, home: Path) -> None:
    coarse = np.random.default_rng(2).integers(0, 2, (4, 3, 5)).astype(np.uint8)
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = 0.5  # each coarse voxel covers two fine ones a side
    nibabel.Nifti1Image(np.zeros((8, 6, 10), np.int16), np.eye(4)).to_filename(tmp_path / "a.nii.gz")
    nibabel.Nifti1Image(coarse, affine).to_filename(tmp_path / "a_seg.nii.gz")
    dataset = load_dataset("nifti", root=tmp_path, slices="n:5")
    (report,) = write_masks(dataset)
    assert (report.written, report.without, report.failures) == (5, 0, ())
    assert "were resampled" in report.notes[0]
    fine = coarse.repeat(2, axis=0).repeat(2, axis=1).repeat(2, axis=2)
    masks = open_masks(home, dataset.name)
    for row, name in enumerate(masks.ids):
        index = int(dataset.samples["index"][row])
        np.testing.assert_array_equal(masks[name], np.rot90(fine[:, :, index])[:, ::-1])
    with_foreground = load_dataset("nifti", root=tmp_path, slices="all")
    assert with_foreground.samples["mask"].notna().all()


def test_affines_that_differ_by_rounding_are_one_grid(tmp_path: Path) -> None:
    nibabel.Nifti1Image(np.zeros((5, 6, 4), np.int16), np.diag([0.7, 0.7, 3, 1])).to_filename(tmp_path / "image.nii.gz")
    rounded = np.diag([0.7002, 0.6999, 3, 1])
    nibabel.Nifti1Image(random_labels(), rounded).to_filename(tmp_path / "labels.nii.gz")
    (report,) = write_masks(volumes_of(tmp_path))
    assert (report.notes, report.failures) == ((), ())


def test_a_mask_somewhere_else_is_refused(tmp_path: Path) -> None:
    oriented(tmp_path / "image.nii.gz", np.zeros((5, 6, 4), np.int16), "RAS", (1, 1, 1))
    far = np.eye(4)
    far[:3, 3] = 500
    nibabel.Nifti1Image(random_labels(), far).to_filename(tmp_path / "labels.nii.gz")
    (report,) = write_masks(volumes_of(tmp_path))
    assert "lies somewhere else" in report.failures[0].reason


def test_a_mask_without_orientation_is_not_laid_over_an_image_with_one(tmp_path: Path) -> None:
    oriented(tmp_path / "image.nii.gz", np.zeros((5, 6, 4), np.int16), "RAS", (1, 1, 1))
    bare = nibabel.Nifti1Image(random_labels(), None)
    assert int(bare.header["sform_code"]) == int(bare.header["qform_code"]) == 0
    bare.to_filename(tmp_path / "labels.nii.gz")
    (report,) = write_masks(volumes_of(tmp_path))
    assert "does not say where its voxels lie" in report.failures[0].reason
    assert "5 x 6 x 4" in report.failures[0].reason


def test_a_truncated_label_volume_is_refused_with_both_sizes(tmp_path: Path) -> None:
    oriented(tmp_path / "image.nii.gz", np.zeros((5, 6, 4), np.int16), "RAS", (1, 1, 2))
    oriented(tmp_path / "labels.nii.gz", random_labels()[:, :, :3], "RAS", (1, 1, 2))
    (report,) = write_masks(volumes_of(tmp_path))
    assert "has 5 x 6 x 3 voxels, its image 5 x 6 x 4, and their affines are the same" in report.failures[0].reason


def test_pictures_of_other_sizes_are_refused_with_both(tmp_path: Path) -> None:
    root = make_montgomery(tmp_path)
    dataset = load_dataset("montgomery", root=root)
    path = dataset.root / dataset.samples["mask"][0]
    width, height = PillowImage.open(path).size
    PillowImage.open(path).resize((width + 3, height)).save(path)
    (report,) = write_masks(dataset)
    assert [failure.id for failure in report.failures] == [dataset.samples["id"][0]]
    assert f"{height} x {width + 3} pixels, its image {height} x {width}" in report.failures[0].reason


@pytest.mark.parametrize("gone", ["labels", "image"])
def test_a_share_that_is_not_mounted_takes_no_masks_away(tmp_path: Path, home: Path, gone: str) -> None:
    oriented(tmp_path / "image.nii.gz", np.zeros((5, 6, 4), np.int16), "RAS", (1, 1, 1))
    oriented(tmp_path / "labels.nii.gz", random_labels(), "RAS", (1, 1, 1))
    write_masks(volumes_of(tmp_path))
    (tmp_path / f"{gone}.nii.gz").rename(tmp_path / "elsewhere.nii.gz")
    (report,) = write_masks(volumes_of(tmp_path))
    assert len(report.failures) == 4
    assert "cannot be read" in report.failures[0].reason
    assert len(open_masks(home, "scan")) == 4


def test_samples_without_a_mask_are_counted(tmp_path: Path, home: Path) -> None:
    oriented(tmp_path / "image.nii.gz", np.zeros((5, 6, 4), np.int16), "RAS", (1, 1, 1))
    oriented(tmp_path / "labels.nii.gz", random_labels(), "RAS", (1, 1, 1))
    dataset = volumes_of(tmp_path, mask=pd.Series(["labels.nii.gz", None, "labels.nii.gz", None], dtype="str"))
    (report,) = write_masks(dataset)
    assert (report.written, report.without) == (2, 2)
    assert "v_axial_001" not in open_masks(home, "scan")


def test_a_dataset_without_such_a_task_is_refused(tmp_path: Path) -> None:
    write_volume(tmp_path / "image.nii.gz", (5, 6, 4))
    dataset = volumes_of(tmp_path)
    with pytest.raises(ConfigurationError, match="Its segmentation tasks: organs"):
        write_masks(dataset, task="lungs")
    misfit = Task("organs", "segmentation", ("mask",), ("background", "a", "b"))
    with pytest.raises(ConfigurationError, match="one binary mask a foreground class"):
        write_masks(Dataset("scan", tmp_path, dataset.samples, (misfit,), "none"))


def test_progress_ends_at_the_number_of_masks(tmp_path: Path) -> None:
    oriented(tmp_path / "image.nii.gz", np.zeros((5, 6, 4), np.int16), "RAS", (1, 1, 1))
    oriented(tmp_path / "labels.nii.gz", random_labels(), "RAS", (1, 1, 1))
    seen: list[tuple[int, int]] = []
    write_masks(volumes_of(tmp_path), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_extracting_patches_keeps_the_masks(tmp_path: Path) -> None:
    """On a miniature of the Montgomery set, with two masks an image."""
    root = make_montgomery(tmp_path / "montgomery")
    report = featcache.extract(
        "efficientnet_lite0", "montgomery", root=root, image_size=64, patches=True, preprocess="radiology-seg"
    )
    masks = open_masks(report.store.parent.parent, "montgomery")
    assert set(masks.ids) == set(featcache.open(report.store).samples["id"])
