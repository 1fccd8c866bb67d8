"""DICOM series: order, orientation and warnings, against positions worked out pixel by pixel from PS3.3 C.7.6.2.1.1."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from featcache.errors import ImageError
from featcache.imaging import files_of, read, select, unit_of
from featcache.imaging.series import load_series, scan_series
from featcache.records import Selector
from tests.imaging.test_dicom import make, save

RNG = np.random.default_rng(3)
AXIAL, CORONAL, SAGITTAL = (1, 0, 0, 0, 1, 0), (1, 0, 0, 0, 0, -1), (0, 1, 0, 0, 0, -1)
TURNED = (np.cos(0.3), np.sin(0.3), 0, -np.sin(0.3) * np.cos(0.2), np.cos(0.3) * np.cos(0.2), np.sin(0.2))
ROWS, COLUMNS, ROW_MM, COLUMN_MM = 7, 5, 0.75, 0.5


def signature(lps: np.ndarray) -> np.ndarray:
    """A number that tells every voxel of the phantoms from every other, by where it lies in the patient."""
    return np.rint(lps @ np.array([16.0, 240.0, 1200.0])).astype(np.int32)


def slice_file(orientation: Sequence[float], origin: np.ndarray, uid: str, **attributes: object) -> Dataset:
    """One slice whose pixels hold the signature of their own position."""
    along_row, along_column = np.array(orientation[:3]), np.array(orientation[3:])
    rows, columns = np.mgrid[:ROWS, :COLUMNS][..., None]
    lps = origin + along_row * COLUMN_MM * columns + along_column * ROW_MM * rows
    return make(
        signature(lps).astype(np.int32),
        SeriesInstanceUID=uid,
        StudyInstanceUID="1.2.3",
        PatientID="P1",
        ImageOrientationPatient=[float(f"{value:.6f}") for value in orientation],
        ImagePositionPatient=[float(value) for value in origin],
        PixelSpacing=[ROW_MM, COLUMN_MM],
        **attributes,
    )


def write_series(
    folder: Path,
    orientation: Sequence[float],
    depths: Sequence[float],
    uid: str = "1.2.3.4",
    shear: Sequence[float] = (0, 0, 0),
    **attributes: object,
) -> list[Path]:
    """Slices at some depths along the normal, under names and instance numbers that say nothing."""
    normal = np.cross(orientation[:3], orientation[3:])
    names = RNG.permutation(len(depths))
    paths = []
    for number, depth in enumerate(depths):
        origin = np.array([-20.0, 15.0, 40.0]) + depth * (normal + np.array(shear))
        file = slice_file(orientation, origin, uid, InstanceNumber=int(names[number]) + 1, **attributes)
        paths.append(save(file, folder / f"{uid[-1]}_{names[number]:04}.dcm"))
    return paths


@pytest.mark.parametrize(
    "orientation", [AXIAL, CORONAL, SAGITTAL, TURNED], ids=["axial", "coronal", "sagittal", "turned"]
)
@pytest.mark.parametrize("sign", [1, -1])
def test_every_voxel_lands_where_its_position_says(tmp_path: Path, orientation: Sequence[float], sign: int) -> None:
    write_series(tmp_path, orientation, [sign * 2.0 * k for k in (3, 0, 2, 1)])
    (series,) = scan_series(tmp_path)
    image = load_series([series.files[index] for index in (2, 0, 3, 1)])
    assert image.kind == "volume"
    assert nibabel.aff2axcodes(image.affine) == ("R", "A", "S")
    indices = np.indices(image.array.shape).reshape(3, -1).T
    lps = nibabel.affines.apply_affine(image.affine, indices) * [-1, -1, 1]
    expected = signature(lps).reshape(image.array.shape)
    assert np.abs(expected - image.array).max() <= 1  # six digits of a direction cosine
    np.testing.assert_allclose(image.spacing, nibabel.affines.voxel_sizes(image.affine))
    assert sorted(image.spacing) == pytest.approx([0.5, 0.75, 2.0], rel=1e-5)
    assert series.volume
    assert series.notes == ()
    assert series.shape == image.array.shape
    assert series.spacing == pytest.approx(image.spacing)


def test_an_axial_slice_is_shown_as_it_was_stored(tmp_path: Path) -> None:
    paths = write_series(tmp_path, AXIAL, [0, 3, 6])
    image = read(tmp_path, Selector(series="1.2.3.4"))
    for index, path in enumerate(paths):
        np.testing.assert_array_equal(select(image, Selector("axial", index)), read(path).array)


def test_a_sample_of_a_series_names_its_folder_and_all_its_files(tmp_path: Path) -> None:
    paths = write_series(tmp_path, AXIAL, [0, 3, 6])
    write_series(tmp_path, CORONAL, [0, 3], uid="1.2.3.5")
    (tmp_path / "notes.txt").write_text("no image")
    sample = Selector("axial", 1, series="1.2.3.4")
    assert files_of(tmp_path, sample) == tuple(paths)
    assert unit_of(tmp_path, sample) == Selector(series="1.2.3.4")
    assert [(series.uid, series.n) for series in scan_series(tmp_path)] == [("1.2.3.4", 3), ("1.2.3.5", 2)]
    with pytest.raises(ImageError, match="no series with the UID"):
        read(tmp_path, Selector(series="9.9"))
    with pytest.raises(ImageError, match="names no series"):
        read(tmp_path)


def test_facts_of_a_series(tmp_path: Path) -> None:
    write_series(tmp_path, SAGITTAL, [0, 1])
    (series,) = scan_series(tmp_path)
    assert (series.orientation, series.modality, series.study, series.patient) == ("sagittal", "CT", "1.2.3", "P1")
    assert "P1" not in repr(series)


@pytest.mark.parametrize(
    ("depths", "said"),
    [
        ([0, 2, 4, 10, 12], "1 gaps: about 2 slices are missing"),
        ([0, 2, 4, 6.5], "differ by up to 25%"),
        ([0, 2, 2, 4], "1 of 4 slices lie at a position that another slice has"),
    ],
)
def test_irregular_positions_are_said(tmp_path: Path, depths: list[float], said: str) -> None:
    write_series(tmp_path, AXIAL, depths)
    (series,) = scan_series(tmp_path)
    assert series.volume
    assert said in " ".join(series.notes)
    assert series.n == len(set(depths))


def test_of_two_files_at_one_position_the_lower_instance_number_is_used(tmp_path: Path) -> None:
    write_series(tmp_path, AXIAL, [0])
    origin = np.array([-20.0, 15.0, 43.0])
    for name, number in (("a", 7), ("b", 4), ("c", 9)):
        save(slice_file(AXIAL, origin, "1.2.3.4", InstanceNumber=number, AcquisitionNumber=1), tmp_path / name)
    (series,) = scan_series(tmp_path)
    assert series.files[-1].name == "b"


def test_gantry_tilt_is_said(tmp_path: Path) -> None:
    write_series(tmp_path, AXIAL, [0, 2, 4], shear=(0, np.tan(np.deg2rad(12)), 0))
    (series,) = scan_series(tmp_path)
    assert "tilted by 12.0 degrees" in " ".join(series.notes)
    image = load_series(series.files)
    indices = np.indices(image.array.shape).reshape(3, -1).T
    lps = nibabel.affines.apply_affine(image.affine, indices) * [-1, -1, 1]
    np.testing.assert_array_equal(signature(lps).reshape(image.array.shape), image.array)


def test_localizers_and_other_orientations_are_left_out(tmp_path: Path) -> None:
    write_series(tmp_path, AXIAL, [0, 2, 4])
    save(
        slice_file(CORONAL, np.zeros(3), "1.2.3.4", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), tmp_path / "scout"
    )
    save(slice_file(SAGITTAL, np.zeros(3), "1.2.3.4"), tmp_path / "other")
    (series,) = scan_series(tmp_path)
    assert series.n == 3
    assert "1 localizers are left out." in series.notes
    assert any("2 orientations or sizes: 1 of 4 files" in note for note in series.notes)
    assert load_series(series.files).array.shape == (5, 7, 3)


def test_three_plane_localizers_are_no_volume(tmp_path: Path) -> None:
    for name, orientation in (("a", AXIAL), ("b", CORONAL), ("c", SAGITTAL)):
        save(
            slice_file(orientation, np.zeros(3), "1.2", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), tmp_path / name
        )
    (series,) = scan_series(tmp_path)
    assert not series.volume
    assert "All files are localizers." in series.notes
    with pytest.raises(ImageError, match="their orientations differ"):
        load_series(series.files)


def test_a_damaged_slice_is_named(tmp_path: Path) -> None:
    paths = write_series(tmp_path, AXIAL, [0, 2, 4])
    content = paths[1].read_bytes()
    paths[1].write_bytes(content[:-20])
    with pytest.raises(ImageError, match=paths[1].name):
        read(tmp_path, Selector(series="1.2.3.4"))


def test_files_without_geometry_are_listed_and_are_no_volume(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(make(np.zeros((4, 4), np.uint8), SeriesInstanceUID="1.2"), tmp_path / name)
    (series,) = scan_series(tmp_path)
    assert not series.volume
    assert series.shape is None
    assert "2 of them have no position" in " ".join(series.notes)


def test_a_folder_is_scanned_again_only_when_it_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from featcache.imaging import series as module

    write_series(tmp_path, AXIAL, [0, 2])
    scans = []
    scan = module._scan
    monkeypatch.setattr(module, "_scan", lambda folder: scans.append(folder) or scan(folder))
    first = scan_series(tmp_path)
    assert scan_series(tmp_path) == first
    assert len(scans) == 1
    save(slice_file(AXIAL, np.zeros(3), generate_uid()), tmp_path / "new.dcm")
    os.utime(tmp_path, ns=(1, 1))
    assert len(scan_series(tmp_path)) == 2


def test_slices_with_different_rescaling_share_one_dtype(tmp_path: Path) -> None:
    for depth, slope in ((0, "1"), (2, "0.5")):
        origin = np.array([0, 0, float(depth)])
        save(slice_file(AXIAL, origin, "1.2", RescaleSlope=slope, RescaleIntercept=0), tmp_path / f"{depth}")
    image = read(tmp_path, Selector(series="1.2"))
    assert image.array.dtype.kind == "f"
    np.testing.assert_allclose(select(image, Selector("axial", 1)), read(tmp_path / "2").array)
