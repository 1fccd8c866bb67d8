"""Rows of volumes: which slices, in which order, against nibabel's own reorientation."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from featcache.datasets import load_dataset
from featcache.datasets.volumes import Volume, chosen_slices, read_shape, slice_table
from featcache.errors import ConfigurationError, DatasetError
from featcache.records import Selector
from tests.datasets.miniatures import volumes
from tests.datasets.miniatures.files import write_volume

AXES = {"sagittal": 0, "coronal": 1, "axial": 2}


def oriented(path: Path, codes: str, data: np.ndarray[tuple[int, ...], np.dtype[np.int16]]) -> None:
    """Write a canonical RAS array so that its file has another order and direction of axes."""
    image = nibabel.Nifti1Image(data, np.eye(4))
    to = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt(codes)
    )
    nibabel.save(image.as_reoriented(to), path)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR", "SAL", "ILP"])
@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
def test_slices_are_counted_and_found_in_canonical_order(tmp_path: Path, codes: str, axis: str) -> None:
    labels = np.zeros((5, 6, 7), np.int16)
    labels[1, 2:4, 5] = 1
    oriented(tmp_path / "image.nii.gz", codes, np.arange(210, dtype=np.int16).reshape(5, 6, 7))
    oriented(tmp_path / "mask.nii.gz", codes, labels)
    assert read_shape(tmp_path / "image.nii.gz") == ((5, 6, 7), 1)
    volume = Volume("v", "image.nii.gz", "mask.nii.gz", "train", "p")
    samples, notes = slice_table(tmp_path, [volume], axis=axis)  # type: ignore[arg-type]
    assert notes == ()
    assert samples["index"].tolist() == list(range(labels.shape[AXES[axis]]))
    inside, _ = slice_table(tmp_path, [volume], axis=axis, slices="foreground")  # type: ignore[arg-type]
    canonical = np.asanyarray(nibabel.as_closest_canonical(nibabel.load(tmp_path / "mask.nii.gz")).dataobj)
    others = tuple(other for other in range(3) if other != AXES[axis])
    assert inside["index"].tolist() == np.flatnonzero(canonical.any(axis=others)).tolist()


@pytest.mark.parametrize(
    ("slices", "expected"),
    [("all", list(range(9))), ("every:4", [0, 4, 8]), ("every:1", list(range(9))), ("n:3", [1, 4, 7]), ("n:1", [4])],
)
def test_a_choice_of_slices(slices: str, expected: list[int]) -> None:
    assert chosen_slices(slices, 9).tolist() == expected
    assert chosen_slices("n:50", 9).tolist() == list(range(9))


@pytest.mark.parametrize("slices", ["", "some", "n:0", "every:-1", "n", "n:x"])
def test_an_unknown_choice_is_explained(slices: str) -> None:
    with pytest.raises(ConfigurationError, match="every:N, n:K"):
        chosen_slices(slices, 9)


def test_selectors_and_ids_name_volume_axis_and_index(tmp_path: Path) -> None:
    root = volumes.make_heart(tmp_path)
    samples = load_dataset("msd_heart", root=root, slices="n:2", axis="coronal").samples
    assert samples["id"].tolist()[:2] == ["la_001_coronal_001", "la_001_coronal_005"]
    assert samples["selector"][1] == Selector("coronal", 5).to_text()
    assert samples["mask_selector"][1] == samples["selector"][1]


def test_a_damaged_volume_keeps_one_row_and_is_named(tmp_path: Path) -> None:
    root = volumes.make_heart(tmp_path)
    (root / "Task02_Heart" / "imagesTr" / "la_004.nii.gz").write_bytes(b"<html>not found</html>")
    dataset = load_dataset("msd_heart", root=root)
    assert (dataset.samples["volume"] == "la_004").sum() == 1
    assert any("la_004.nii.gz" in note and "cannot be read" in note for note in dataset.notes)


def test_a_mask_with_another_number_of_slices_is_left_out_and_named(tmp_path: Path) -> None:
    root = volumes.make_heart(tmp_path)
    write_volume(root / "Task02_Heart" / "labelsTr" / "la_002.nii.gz", (8, 7, 3), values=1)
    dataset = load_dataset("msd_heart", root=root)
    own = dataset.samples["volume"] == "la_002"
    assert dataset.samples["mask"].isna().equals(own)
    assert any("(8, 7, 3), its image (8, 7, 6)" in note for note in dataset.notes)


def test_an_affine_that_cannot_be_inverted_is_named(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((3, 3, 3), np.int16), None)
    image.header.set_sform(np.diag([1.0, 1.0, 0.0, 1.0]), code=1)
    image.header.set_qform(None, code=0)
    nibabel.save(image, tmp_path / "flat.nii")
    with pytest.raises(DatasetError, match="cannot be inverted"):
        read_shape(tmp_path / "flat.nii")


def test_of_several_time_points_the_first_is_selected(tmp_path: Path) -> None:
    write_volume(tmp_path / "bold.nii.gz", (4, 4, 3, 5))
    samples, notes = slice_table(tmp_path, [Volume("bold", "bold.nii.gz")])
    assert samples["selector"].tolist() == [f'{{"axis":"axial","index":{n},"time":0}}' for n in range(3)]
    assert "several time points" in notes[0]


def test_foreground_without_label_volumes_is_refused(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.nii.gz")
    with pytest.raises(ConfigurationError, match="needs label volumes"):
        slice_table(tmp_path, [Volume("a", "a.nii.gz")], slices="foreground")


def test_class_names_may_be_one_text_with_commas_as_the_command_line_gives_them(tmp_path: Path) -> None:
    volume = nibabel.Nifti1Image(np.zeros((4, 4, 2), np.uint8), np.eye(4))
    for name in ("a", "a_seg"):
        nibabel.save(volume, tmp_path / f"{name}.nii.gz")
    for classes in ("background, liver,spleen", ["background", "liver", "spleen"]):
        (task,) = load_dataset("nifti", root=tmp_path, classes=classes).tasks
        assert (task.classes, task.mask_values) == (("background", "liver", "spleen"), (0, 1, 2))
