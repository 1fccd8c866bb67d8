"""NIfTI against nibabel: the same numbers, the same affine, whatever the header says; and headers that say nonsense."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from nibabel.testing import data_path

from featcache.errors import ImageError
from featcache.imaging import nifti, read, select, unit_of
from featcache.records import Selector

RNG = np.random.default_rng(0)
SHAPE = (5, 6, 7)
AFFINE = np.array([[0.1, -2.0, 0.1, 9.0], [0.0, 0.2, 3.0, -4.0], [-1.5, 0.0, 0.3, 2.0], [0, 0, 0, 1]])


def save(
    path: Path, voxels: np.ndarray, affine: Any = AFFINE, *, kind: Any = nibabel.Nifti1Image, **header: Any
) -> Path:
    image = kind(voxels, affine)
    for name, value in header.items():
        image.header[name] = value
    nibabel.save(image, path)
    return path


def expected(path: Path, time: int | None = None) -> Any:
    image = nibabel.as_closest_canonical(nibabel.load(path))
    voxels = np.asanyarray(image.dataobj)
    return (voxels if time is None else voxels[..., time]), image.affine


def agrees(path: Path, time: int | None = None) -> None:
    image = read(path, Selector(time=time))
    voxels, affine = expected(path, time)
    np.testing.assert_array_equal(image.array, voxels)
    assert image.array.dtype == voxels.dtype.newbyteorder("=")
    np.testing.assert_allclose(image.affine, affine, rtol=0, atol=1e-12)
    np.testing.assert_allclose(image.spacing, nibabel.affines.voxel_sizes(affine), rtol=1e-12)
    assert image.value_range == (voxels.min(), voxels.max())


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("dtype", ["<i2", ">i2", "uint8", "int8", "uint16", "<f4", ">f8", "int32"])
def test_numbers_and_affine_are_those_of_nibabel(tmp_path: Path, kind: Any, name: str, dtype: str) -> None:
    voxels = RNG.integers(0, 100, SHAPE).astype(dtype)
    image = kind(voxels, AFFINE, kind.header_class(endianness=">" if dtype[0] == ">" else "<"))
    image.set_data_dtype(np.dtype(dtype))
    nibabel.save(image, tmp_path / name)
    agrees(tmp_path / name)
    np.testing.assert_array_equal(np.sort(read(tmp_path / name).array, axis=None), np.sort(voxels, axis=None))


@pytest.mark.parametrize(("slope", "intercept"), [(2.5, -1024.0), (1.0, 7.0), (0.1, 0.0), (0.0, 5.0), (np.nan, 0.0)])
def test_scale_factors_are_applied_as_nibabel_does(tmp_path: Path, slope: float, intercept: float) -> None:
    path = save(tmp_path / "a.nii", RNG.integers(-100, 100, SHAPE).astype(np.int16))
    content = bytearray(path.read_bytes())
    content[112:120] = np.array([slope, intercept], "<f4").tobytes()  # scl_slope, scl_inter
    path.write_bytes(content)
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(content))
    agrees(path)
    agrees(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("codes", ["sform", "qform", "neither"])
def test_the_affine_comes_from_where_nibabel_takes_it(tmp_path: Path, codes: str) -> None:
    image = nibabel.Nifti1Image(RNG.integers(0, 9, SHAPE).astype(np.int16), np.diag([-1.0, 2.0, 3.0, 1.0]))
    image.set_sform(np.diag([-1.0, 2.0, 3.0, 1.0]), code=1 if codes == "sform" else 0)
    image.set_qform(np.diag([2.0, -2.0, 3.0, 1.0]), code=1 if codes == "qform" else 0)
    nibabel.save(image, tmp_path / "a.nii.gz")
    agrees(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("name", ["example4d.nii.gz", "example_nifti2.nii.gz", "anatomical.nii", "functional.nii"])
def test_the_files_that_ship_with_nibabel(name: str) -> None:
    path = Path(data_path) / name
    timed = len(nibabel.load(path).shape) == 4
    for time in (0, 1) if timed else (None,):
        agrees(path, time)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_each_time_point_is_its_own_unit(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / name, RNG.integers(0, 99, (*SHAPE, 3)).astype(np.int16))
    for time in range(3):
        agrees(path, time)
    voxels, _ = expected(path, 2)
    plane = select(read(path, Selector("axial", 1, time=2)), Selector("axial", 1, time=2))
    np.testing.assert_array_equal(plane, voxels[:, :, 1].T[::-1, ::-1])
    assert unit_of(path, Selector("axial", 1, time=2)) == Selector(time=2)
    with pytest.raises(ImageError, match="none of its 3 time points"):
        read(path)
    with pytest.raises(ImageError, match=r"time point 3 is outside 0\.\.2"):
        read(path, Selector(time=3))


def test_a_single_time_point_needs_no_name(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", np.ones((*SHAPE, 1, 1), np.int16))
    assert read(path).array.shape == read(path, Selector(time=0)).array.shape
    assert read(path).array.ndim == 3
    with pytest.raises(ImageError, match="expected three dimensions"):
        read(save(tmp_path / "b.nii.gz", np.ones((*SHAPE, 1, 3), np.int16)))
    with pytest.raises(ImageError, match="expected three dimensions"):
        read(save(tmp_path / "c.nii.gz", np.ones((5, 6), np.int16)))


def test_other_time_points_are_never_in_memory(tmp_path: Path) -> None:
    import tracemalloc

    path = save(tmp_path / "a.nii.gz", np.zeros((64, 64, 32, 30), np.int16), np.eye(4))
    one, every = 64 * 64 * 32 * 2, 64 * 64 * 32 * 2 * 30
    tracemalloc.start()
    try:
        nifti.load(path, Selector(time=3))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert one < peak < every / 3


def test_content_and_not_the_name_says_whether_it_is_compressed(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", RNG.integers(0, 99, SHAPE).astype(np.int16))
    voxels = read(path).array
    (tmp_path / "plain.nii.gz").write_bytes(path.read_bytes())
    (tmp_path / "packed.nii").write_bytes(gzip.compress(path.read_bytes()))
    content = path.read_bytes()
    (tmp_path / "members.nii.gz").write_bytes(gzip.compress(content[:400]) + gzip.compress(content[400:]))
    for name in ("plain.nii.gz", "packed.nii", "members.nii.gz"):
        np.testing.assert_array_equal(read(tmp_path / name).array, voxels)


def test_an_extension_of_the_header_is_passed_over(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(RNG.integers(0, 99, SHAPE).astype(np.int16), AFFINE)
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"x" * 1000))
    nibabel.save(image, tmp_path / "a.nii.gz")
    agrees(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("part", ["voxels", "checksum", "length", "deflate"])
def test_damage_of_a_compressed_file_is_found(tmp_path: Path, part: str) -> None:
    path = save(tmp_path / "a.nii.gz", RNG.integers(0, 2000, (16, 16, 16)).astype(np.int16))
    content = bytearray(path.read_bytes())
    if part == "voxels":
        raw = bytearray(gzip.decompress(content))
        path.write_bytes(gzip.compress(raw[:-10]))
    else:
        content[{"checksum": -6, "length": -2, "deflate": len(content) // 2}[part]] ^= 0x55
        path.write_bytes(content)
    with pytest.raises(ImageError, match="no readable NIfTI") as caught:
        read(path)
    assert caught.value.remedy


@pytest.mark.parametrize("kept", [1, 100, 347, 351, 352, 400])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_file_cut_anywhere_is_an_image_error(tmp_path: Path, name: str, kept: int) -> None:
    content = save(tmp_path / "whole.nii", RNG.integers(0, 99, SHAPE).astype(np.int16)).read_bytes()[:kept]
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    with pytest.raises(ImageError, match="no readable NIfTI"):
        read(tmp_path / name)


@pytest.mark.parametrize("affine", ["zero axis", "parallel axes", "nan"])
def test_an_affine_without_inverse_is_named(tmp_path: Path, affine: str) -> None:
    rows = {
        "zero axis": np.diag([1.0, 0.0, 1.0, 1.0]),
        "parallel axes": np.array([[1.0, 2, 0, 0], [1, 2, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
        "nan": np.diag([1.0, np.nan, 1.0, 1.0]),
    }[affine]
    path = save(tmp_path / "a.nii", np.ones(SHAPE, np.int16), np.eye(4))
    content = bytearray(path.read_bytes())
    content[252:256] = np.array([0, 2], "<i2").tobytes()  # qform_code, sform_code
    content[280:328] = rows[:3].astype("<f4").tobytes()  # srow_x, srow_y, srow_z
    path.write_bytes(content)
    with pytest.raises(ImageError, match="cannot be inverted") as caught:
        read(path)
    assert "geometry" in (caught.value.remedy or "")


def test_colour_and_complex_voxels_are_refused(tmp_path: Path) -> None:
    colour = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    for voxels in (colour, np.zeros(SHAPE, np.complex64)):
        with pytest.raises(ImageError, match="expected real numbers"):
            read(save(tmp_path / "a.nii.gz", voxels))


def test_infinite_voxels_are_refused(tmp_path: Path) -> None:
    voxels = np.ones(SHAPE, np.float32)
    voxels[0, 0, 0] = np.inf
    with pytest.raises(ImageError, match="1 values are NaN or infinite"):
        read(save(tmp_path / "a.nii.gz", voxels))


def test_a_pair_and_other_content_are_refused(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Pair(np.ones(SHAPE, np.int16), AFFINE), tmp_path / "a.hdr")
    (tmp_path / "pair.nii").write_bytes((tmp_path / "a.hdr").read_bytes())
    with pytest.raises(ImageError, match="second file"):
        read(tmp_path / "pair.nii")
    (tmp_path / "page.nii").write_bytes(b"<!DOCTYPE html>" + bytes(1000))
    with pytest.raises(ImageError, match="<!DO"):
        read(tmp_path / "page.nii")
