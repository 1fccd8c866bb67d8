"""NIfTI volumes against nibabel: compressed or not, scaled or not, with time points, and damaged."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest

from featcache.errors import ImageError
from featcache.imaging import read, unit_of
from featcache.records import Selector

RNG = np.random.default_rng(1)
AFFINE = np.array([[0, -1.5, 0, 10], [2, 0, 0, -20], [0, 0, -3, 30], [0, 0, 0, 1.0]])
KINDS = {"nifti1": nibabel.Nifti1Image, "nifti2": nibabel.Nifti2Image}


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE, kind: str = "nifti1", **scale: float) -> Path:
    image = KINDS[kind](array, affine)
    if scale:
        image.header.set_slope_inter(scale["slope"], scale["inter"])
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("extension", ["nii", "nii.gz"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("scale", [{}, {"slope": 0.5, "inter": -3.0}], ids=["plain", "scaled"])
def test_arrays_affines_and_types_are_those_of_nibabel(
    tmp_path: Path, extension: str, kind: str, dtype: type, scale: dict[str, float]
) -> None:
    path = save(tmp_path / f"a.{extension}", RNG.integers(0, 200, (5, 6, 7)).astype(dtype), kind=kind, **scale)
    expected = nibabel.as_closest_canonical(nibabel.load(path))
    values = np.asanyarray(expected.dataobj)
    image = read(path)
    np.testing.assert_array_equal(image.array, values)
    assert image.array.dtype == values.dtype
    np.testing.assert_allclose(image.affine, expected.affine)
    assert image.spacing == tuple(expected.header.get_zooms())
    assert image.value_range == (values.min(), values.max())


def test_big_endian_files_come_out_in_native_order(tmp_path: Path) -> None:
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(np.int16)
    values = RNG.integers(-500, 500, (3, 4, 5)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4), header), tmp_path / "a.nii.gz")
    image = read(tmp_path / "a.nii.gz")
    assert image.array.dtype == np.dtype(np.int16)
    assert image.array.dtype.isnative
    np.testing.assert_array_equal(image.array, values)


@pytest.mark.parametrize("extension", ["nii", "nii.gz"])
def test_a_time_point_of_a_4d_file(tmp_path: Path, extension: str) -> None:
    values = RNG.integers(0, 99, (3, 4, 5, 6)).astype(np.int16)
    path = save(tmp_path / f"a.{extension}", values, np.eye(4))
    np.testing.assert_array_equal(read(path, Selector("axial", 2, time=4)).array, values[..., 4])
    assert unit_of(path, Selector("axial", 2, time=4)) == Selector(time=4)
    with pytest.raises(ImageError, match=r"(?s)none of its 6 time points.*time from 0 to 5"):
        read(path)
    with pytest.raises(ImageError, match=r"time point 6 is outside 0\.\.5"):
        read(path, Selector(time=6))


@pytest.mark.parametrize("shape", [(3, 4, 5, 1), (3, 4, 5, 1, 1)])
def test_a_single_time_point_needs_no_choice(tmp_path: Path, shape: tuple[int, ...]) -> None:
    values = RNG.integers(0, 99, shape).astype(np.int16)
    np.testing.assert_array_equal(read(save(tmp_path / "a.nii.gz", values, np.eye(4))).array, values.reshape(3, 4, 5))


def test_header_extensions_do_not_shift_the_voxels(tmp_path: Path) -> None:
    values = RNG.integers(0, 99, (3, 4, 5)).astype(np.int16)
    image = nibabel.Nifti1Image(values, np.eye(4))
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"x" * 5000))
    nibabel.save(image, tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read(tmp_path / "a.nii.gz").array, values)


def test_gzip_files_of_several_members_are_read_whole(tmp_path: Path) -> None:
    values = RNG.integers(0, 99, (30, 40, 5)).astype(np.int16)
    content = save(tmp_path / "a.nii", values, np.eye(4)).read_bytes()
    parts = [content[:500], content[500:3000], content[3000:]]
    (tmp_path / "b.nii.gz").write_bytes(b"".join(gzip.compress(part) for part in parts))
    np.testing.assert_array_equal(read(tmp_path / "b.nii.gz").array, values)


def test_a_compressed_file_without_the_extension_is_recognised_by_its_content(tmp_path: Path) -> None:
    values = RNG.integers(0, 99, (3, 4, 5)).astype(np.int16)
    content = save(tmp_path / "a.nii.gz", values, np.eye(4)).read_bytes()
    (tmp_path / "b.nii").write_bytes(content)
    np.testing.assert_array_equal(read(tmp_path / "b.nii").array, values)


@pytest.mark.parametrize("where", ["data", "checksum", "length"])
def test_damage_in_a_gzip_file_is_noticed(tmp_path: Path, where: str) -> None:
    path = save(tmp_path / "a.nii.gz", RNG.integers(0, 30000, (20, 20, 20)).astype(np.int16))
    content = bytearray(path.read_bytes())
    content[{"data": len(content) // 2, "checksum": -8, "length": -4}[where]] ^= 0x55
    path.write_bytes(content)
    with pytest.raises(ImageError) as caught:
        read(path)
    assert caught.value.remedy


@pytest.mark.parametrize("keep", [20, 400, 3000, -9, -1])
@pytest.mark.parametrize("extension", ["nii", "nii.gz"])
def test_truncated_files_are_refused(tmp_path: Path, keep: int, extension: str) -> None:
    path = save(tmp_path / f"a.{extension}", RNG.integers(0, 30000, (20, 20, 20)).astype(np.int16))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ImageError, match="no readable NIfTI"):
        read(path)


@pytest.mark.parametrize("affine", [np.diag([1, 0, 1, 1.0]), np.diag([1, np.nan, 1, 1.0])], ids=["flat", "nan"])
def test_an_affine_without_an_inverse_is_an_error(tmp_path: Path, affine: np.ndarray) -> None:
    content = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4)).to_bytes()
    raw = nibabel.Nifti1Header(content[:348])
    raw["srow_x"], raw["srow_y"], raw["srow_z"], raw["sform_code"] = *affine[:3], 1
    (tmp_path / "a.nii").write_bytes(raw.binaryblock + content[348:])
    with pytest.raises(ImageError, match=r"affine cannot be inverted|no readable NIfTI"):
        read(tmp_path / "a.nii")


def test_colour_and_complex_voxels_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", np.zeros((2, 2, 2), np.complex64))
    with pytest.raises(ImageError, match="expected real numbers"):
        read(path)


def test_units_other_than_millimetres_are_converted(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.diag([500, 500, 2000, 1.0]))
    image.header.set_xyzt_units("micron")
    nibabel.save(image, tmp_path / "a.nii")
    found = read(tmp_path / "a.nii")
    assert found.spacing == pytest.approx((0.5, 0.5, 2.0))
    np.testing.assert_allclose(found.affine, np.diag([0.5, 0.5, 2, 1]))


def test_a_missing_orientation_is_said(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), None)
    nibabel.save(image, tmp_path / "a.nii")
    assert "no orientation" in read(tmp_path / "a.nii").notes[0]
