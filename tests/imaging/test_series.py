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

from featcache.errors import DatasetError, FeatcacheWarning, ImageError
from featcache.imaging import files_of, read, select, unit_of
from featcache.imaging.series import load_series, scan_series
from featcache.records import Selector
from tests.imaging.test_dicom import enhanced, make, save

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
    assert (series.axis, series.modality, series.patient_id, series.n) == ("sagittal", "CT", "P1", 2)
    assert series.shape == (2, COLUMNS, ROWS)
    assert series.spacing == (1, COLUMN_MM, ROW_MM)
    assert "P1" not in repr(series)


@pytest.mark.parametrize(
    ("orientation", "spacing", "origin"),
    [  # positions in LPS are (-20, 15, 40) + 2 k normal; worked out on paper
        (AXIAL, (0.5, 0.75, 2), (18, -19.5, 40)),
        (CORONAL, (0.5, 2, 0.75), (18, -21, 35.5)),
        (SAGITTAL, (2, 0.5, 0.75), (20, -17, 35.5)),
    ],
    ids=["axial", "coronal", "sagittal"],
)
def test_affines_are_those_worked_out_by_hand(
    tmp_path: Path, orientation: Sequence[float], spacing: Sequence[float], origin: Sequence[float]
) -> None:
    write_series(tmp_path, orientation, [4, 0, 6, 2])
    (series,) = scan_series(tmp_path)
    image = load_series(series.files)
    expected = np.diag([*spacing, 1.0])
    expected[:3, 3] = origin
    np.testing.assert_allclose(image.affine, expected, atol=1e-9)
    assert series.spacing == image.spacing == pytest.approx(spacing)


@pytest.mark.parametrize(
    "orientation", [AXIAL, CORONAL, SAGITTAL, TURNED], ids=["axial", "coronal", "sagittal", "turned"]
)
@pytest.mark.parametrize("sign", [1, -1])
def test_file_i_is_slice_i_along_the_axis_of_the_series(
    tmp_path: Path, orientation: Sequence[float], sign: int
) -> None:
    write_series(tmp_path, np.array(orientation) * sign, [2, 0, 6, 4])
    (series,) = scan_series(tmp_path)
    image = load_series(series.files)
    axis = ("sagittal", "coronal", "axial").index(series.axis)
    assert image.array.shape[axis] == len(series.files)
    for index, path in enumerate(series.files):
        np.testing.assert_array_equal(
            np.sort(image.array.take(index, axis), axis=None), np.sort(read(path).array, None)
        )


@pytest.mark.parametrize(
    ("depths", "said"),
    [
        ([0, 2, 4, 10, 12], "1 gaps: about 2 slices are missing"),
        ([0, 2, 4, 6.5], "differ by up to 25%"),
    ],
)
def test_irregular_positions_are_said(tmp_path: Path, depths: list[float], said: str) -> None:
    write_series(tmp_path, AXIAL, depths)
    (series,) = scan_series(tmp_path)
    assert series.volume
    assert said in " ".join(series.notes)
    assert series.n == len(depths)
    assert load_series(series.files).notes == series.notes


def test_slices_at_several_times_are_a_volume_each(tmp_path: Path) -> None:
    expected: dict[int, list[str]] = {1: [], 2: [], 3: []}
    for time, names in expected.items():
        for depth in (0.0, 2.0, 4.0):
            # Numbers run through all times of a slice before the next slice, as scanners do.
            number = int(depth) * 10 + time
            origin = np.array([0.0, 0.0, depth])
            save(slice_file(AXIAL, origin, "1.2", InstanceNumber=number), tmp_path / f"{9 - time}{depth}")
            names.append(f"{9 - time}{depth}")
    found = scan_series(tmp_path)
    assert [series.uid for series in found] == ["1.2", "1.2-2", "1.2-3"]
    for series, names in zip(found, expected.values(), strict=True):
        assert series.volume
        assert [path.name for path in series.files] == names
        assert "several images at one position" in series.notes[0]
    np.testing.assert_array_equal(
        read(tmp_path, Selector(series="1.2-3")).array, load_series(found[2].files[::-1]).array
    )


def test_of_two_files_at_one_position_the_lower_instance_number_comes_first(tmp_path: Path) -> None:
    write_series(tmp_path, AXIAL, [0])
    origin = np.array([-20.0, 15.0, 43.0])
    for name, number in (("a", 7), ("b", 4), ("c", 9)):
        save(slice_file(AXIAL, origin, "1.2.3.4", InstanceNumber=number, AcquisitionNumber=1), tmp_path / name)
    found = scan_series(tmp_path)
    assert [series.files[-1].name for series in found] == ["b", "a", "c"]
    assert [series.volume for series in found] == [True, False, False]
    with pytest.raises(ImageError, match="two slices lie at one position"):
        load_series([tmp_path / "a", tmp_path / "b"])


def test_a_file_that_lies_there_twice_is_used_once(tmp_path: Path) -> None:
    paths = write_series(tmp_path, AXIAL, [0, 2, 4])
    (tmp_path / "copy of 1.dcm").write_bytes(paths[1].read_bytes())
    (series,) = scan_series(tmp_path)
    assert series.n == 3
    assert series.notes == ("1 files are copies of others and are left out.",)


def test_gantry_tilt_is_said(tmp_path: Path) -> None:
    write_series(tmp_path, AXIAL, [0, 2, 4], shear=(0, np.tan(np.deg2rad(12)), 0))
    (series,) = scan_series(tmp_path)
    assert "tilted by 12.0 degrees" in " ".join(series.notes)
    image = load_series(series.files)
    indices = np.indices(image.array.shape).reshape(3, -1).T
    lps = nibabel.affines.apply_affine(image.affine, indices) * [-1, -1, 1]
    np.testing.assert_array_equal(signature(lps).reshape(image.array.shape), image.array)


def test_localizers_and_other_orientations_are_parts_of_their_own(tmp_path: Path) -> None:
    paths = write_series(tmp_path, AXIAL, [0, 2, 4])
    scout = slice_file(CORONAL, np.zeros(3), "1.2.3.4", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    save(scout, tmp_path / "0 scout")
    save(slice_file(SAGITTAL, np.zeros(3), "1.2.3.4"), tmp_path / "0 other")
    save(make(np.zeros((4, 4), np.uint8), SeriesInstanceUID="1.2.3.4"), tmp_path / "0 report")
    found = scan_series(tmp_path)
    assert [series.uid for series in found] == ["1.2.3.4", "1.2.3.4-2", "1.2.3.4-3", "1.2.3.4-4"]
    assert found[0].files == tuple(paths)
    assert found[3].files == (tmp_path / "0 scout",)
    reasons = "different sizes or spacings, files without a position, localizers, mixed orientations"
    assert found[0].notes == (f"Part 1 of 4 of a series with {reasons}.",)
    assert load_series(found[0].files).array.shape == (5, 7, 3)


def test_three_plane_localizers_are_single_images(tmp_path: Path) -> None:
    for name, orientation in (("a", AXIAL), ("b", CORONAL), ("c", SAGITTAL)):
        localizer = slice_file(orientation, np.zeros(3), "1.2", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
        save(localizer, tmp_path / name)
    found = scan_series(tmp_path)
    assert [(series.n, series.volume) for series in found] == [(1, False)] * 3
    with pytest.raises(ImageError, match="the orientations differ"):
        load_series([path for series in found for path in series.files])


def test_a_multi_frame_file_is_a_series_of_its_own(tmp_path: Path) -> None:
    write_series(tmp_path, AXIAL, [0, 2])
    save(make(np.zeros((3, 4, 4), np.uint8), SeriesInstanceUID="1.2.3.4"), tmp_path / "loop")
    found = scan_series(tmp_path)
    assert [series.n for series in found] == [2, 1]
    assert "files with several frames" in found[1].notes[0]
    with pytest.raises(ImageError, match="several frames"):
        load_series([*found[0].files, *found[1].files])


def test_a_tree_is_scanned_folder_by_folder(tmp_path: Path) -> None:
    for name in ("b/2", "b/10", "a", ".hidden"):
        (tmp_path / name).mkdir(parents=True)
        write_series(tmp_path / name, AXIAL, [0, 2])
    (tmp_path / "a" / "loop").symlink_to(tmp_path, target_is_directory=True)
    found = scan_series(tmp_path)
    assert [series.files[0].parent.relative_to(tmp_path).as_posix() for series in found] == ["a", "b/10", "b/2"]
    assert read(tmp_path / "b" / "2", Selector(series="1.2.3.4")).kind == "volume"


def test_files_that_cannot_be_read_are_said_and_leave_the_rest_alone(tmp_path: Path) -> None:
    paths = write_series(tmp_path, AXIAL, [0, 2])
    (tmp_path / "empty.dcm").write_bytes(b"")
    (tmp_path / "page.dcm").write_bytes(b"<!DOCTYPE html>")
    (tmp_path / "notes.txt").write_bytes(b"nothing")
    with pytest.warns(FeatcacheWarning, match=r"2 files are damaged or no DICOM.*: empty\.dcm, page\.dcm"):
        (series,) = scan_series(tmp_path)
    assert series.files == tuple(paths)


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="cannot be read"):
        scan_series(tmp_path / "nowhere")
    with pytest.raises(ImageError, match="does not exist"):
        read(tmp_path / "nowhere", Selector(series="1.2"))


def test_a_damaged_slice_is_named(tmp_path: Path) -> None:
    paths = write_series(tmp_path, AXIAL, [0, 2, 4])
    content = paths[1].read_bytes()
    paths[1].write_bytes(content[:-20])
    with pytest.raises(ImageError, match=paths[1].name):
        read(tmp_path, Selector(series="1.2.3.4"))


def test_a_slice_that_is_gone_is_named(tmp_path: Path) -> None:
    paths = write_series(tmp_path, AXIAL, [0, 2, 4])
    paths[1].unlink()
    with pytest.raises(ImageError, match=rf"{paths[1].name}.* cannot be opened"):
        load_series(paths)


def test_enhanced_files_of_one_frame_are_slices(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 2000, (3, 6, 5)).astype(np.uint16)
    for place, depth in enumerate((9.0, 3.0, 6.0)):
        file = enhanced(pixels[[place]], [depth])
        file.SeriesInstanceUID = "1.2"
        save(file, tmp_path / f"{place}")
    (series,) = scan_series(tmp_path)
    assert [path.name for path in series.files] == ["1", "2", "0"]
    assert series.spacing == (0.25, 0.5, 3)
    np.testing.assert_array_equal(
        load_series(series.files).array, pixels[[1, 2, 0]].transpose(2, 1, 0)[::-1, ::-1].astype(int) - 1000
    )


def test_files_without_geometry_are_listed_and_are_no_volume(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(make(np.zeros((4, 4), np.uint8), SeriesInstanceUID="1.2"), tmp_path / name)
    (series,) = scan_series(tmp_path)
    assert not series.volume
    assert series.shape is None
    assert "2 slices have no position" in " ".join(series.notes)


def test_a_folder_is_scanned_again_only_when_it_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from featcache.imaging import series as module

    write_series(tmp_path, AXIAL, [0, 2])
    scans = []
    scan = module.scan_folder
    monkeypatch.setattr(module, "scan_folder", lambda folder: scans.append(folder) or scan(folder))
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
