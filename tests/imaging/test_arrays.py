"""Arrays of NumPy and MATLAB files: the picture that the publisher sees, or an error that says what is there."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from featcache.datasets import load_dataset
from featcache.errors import ImageError
from featcache.imaging import read, select, unit_of
from featcache.records import Selector
from tests.datasets.miniatures import brain_tumor, medmnist

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 4000, (6, 9)).astype(np.int16)


@pytest.mark.parametrize("dtype", ["uint8", "<u2", ">u2", "int32", "float16", "float32", ">f8"])
def test_an_npy_picture_keeps_its_numbers(tmp_path: Path, dtype: str) -> None:
    pixels = RNG.integers(0, 200, (6, 9)).astype(dtype)
    np.save(tmp_path / "a.npy", pixels)
    image = read(tmp_path / "a.npy")
    np.testing.assert_array_equal(image.array, pixels)
    assert image.array.dtype == np.dtype(dtype).newbyteorder("=")
    assert image.kind == "plane"
    assert image.value_range == ((0, 255) if dtype == "uint8" else (pixels.min(), pixels.max()))


@pytest.mark.parametrize(
    ("shape", "kind", "kept"),
    [
        ((5, 7), "plane", (5, 7)),
        ((5, 7, 3), "plane", (5, 7, 3)),
        ((5, 7, 1), "plane", (5, 7)),
        ((4, 5, 7), "stack", (4, 5, 7)),
        ((4, 5, 7, 3), "stack", (4, 5, 7, 3)),
        ((4, 5, 7, 1), "stack", (4, 5, 7)),
    ],
)
def test_the_shape_says_picture_or_stack(tmp_path: Path, shape: tuple[int, ...], kind: str, kept: object) -> None:
    np.save(tmp_path / "a.npy", np.asfortranarray(np.ones(shape)))
    image = read(tmp_path / "a.npy")
    assert (image.kind, image.array.shape) == (kind, kept)


def test_a_row_of_a_stack_is_one_picture(tmp_path: Path) -> None:
    stack = RNG.integers(0, 99, (4, 5, 7))
    np.save(tmp_path / "a.npy", stack)
    image = read(tmp_path / "a.npy")
    np.testing.assert_array_equal(select(image, Selector(index=2)), stack[2])
    np.testing.assert_array_equal(select(image, Selector(index=2, crop=(1, 2, 3, 4))), stack[2, 1:4, 2:6])
    for selector, message in [
        (Selector(), "names none"),
        (Selector(index=4), r"outside 0\.\.3"),
        (Selector("axial", 1), "slice along axial"),
    ]:
        with pytest.raises(ImageError, match=message):
            select(image, selector)


def test_medmnist_rows_are_the_published_images(tmp_path: Path) -> None:
    root = medmnist.make(tmp_path)
    with np.load(root / "breastmnist.npz") as published:
        dataset = load_dataset("medmnist", root=root)
        for row in (0, 7, 9, 15):
            sample = dataset.sample(row)
            split, _, number = sample.id.rpartition("_")
            plane = select(read(sample.path, sample.selector), sample.selector)
            np.testing.assert_array_equal(plane, published[f"{split}_images"][int(number)])
    units = {unit_of(s.path, s.selector) for s in map(dataset.sample, range(len(dataset.samples)))}
    assert units == {Selector(array=f"{split}_images") for split in ("train", "val", "test")}


def test_an_npz_with_one_array_needs_no_name_and_with_several_lists_them(tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", pixels=GREY)
    np.testing.assert_array_equal(read(tmp_path / "one.npz").array, GREY)
    np.savez(tmp_path / "two.npz", b=GREY, a=GREY)
    with pytest.raises(ImageError, match=r"names none of its arrays: it holds b, a") as caught:
        read(tmp_path / "two.npz")
    assert "array" in (caught.value.remedy or "")
    with pytest.raises(ImageError, match="no array 'c'"):
        read(tmp_path / "two.npz", Selector(array="c"))


def test_brain_tumor_is_turned_as_matlab_shows_it(tmp_path: Path) -> None:
    brain_tumor.write_mat(tmp_path / "1.mat", 1, "100360")
    with h5py.File(tmp_path / "1.mat") as file:
        stored, outline = file["cjdata/image"][()], file["cjdata/tumorMask"][()]
    image = read(tmp_path / "1.mat")
    np.testing.assert_array_equal(image.array, stored.T)
    assert (image.kind, image.array.dtype) == ("plane", np.int16)
    for name in ("tumorMask", "cjdata/tumorMask"):
        np.testing.assert_array_equal(read(tmp_path / "1.mat", Selector(array=name)).array, outline.T)


def matlab_file(path: Path, **variables: np.ndarray) -> Path:
    """HDF5 as MATLAB writes it: the column-major memory of each matrix, under its dimensions in reverse."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, matrix in variables.items():
            data = file.create_dataset(name, data=matrix.ravel(order="F").reshape(matrix.shape[::-1]))
            if matrix.dtype == bool:
                del file[name]
                data = file.create_dataset(name, data=matrix.T.astype(np.uint8))
                data.attrs["MATLAB_class"] = np.bytes_("logical")
    return path


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 3), (4, 6, 5)])
def test_a_matlab_matrix_comes_back_with_its_rows_and_columns(tmp_path: Path, shape: tuple[int, ...]) -> None:
    matrix = RNG.integers(0, 999, shape).astype(np.uint16)
    text = np.array([[72, 105]], np.uint16)
    image = read(matlab_file(tmp_path / "a.mat", image=matrix, name=text, age=np.array([[61.0]])))
    if shape == (4, 6, 5):
        assert image.kind == "stack"
        for slice_number in range(5):
            plane = select(image, Selector(index=slice_number))
            np.testing.assert_array_equal(plane, matrix[:, :, slice_number])
    else:
        assert image.kind == "plane"
        np.testing.assert_array_equal(image.array, matrix)


def test_a_logical_matrix_is_black_and_white(tmp_path: Path) -> None:
    path = matlab_file(tmp_path / "a.mat", mask=np.eye(4, 6) > 0, image=np.ones((4, 6)))
    image = read(path, Selector(array="mask"))
    np.testing.assert_array_equal(image.array, np.eye(4, 6) * 255)
    assert image.value_range == (0, 255)


def test_the_only_picture_needs_no_name_and_several_are_listed(tmp_path: Path) -> None:
    one, two = np.ones((4, 6)), np.ones((5, 6))
    np.testing.assert_array_equal(read(matlab_file(tmp_path / "a.mat", scan=one, age=np.ones((1, 1)))).array, one)
    with pytest.raises(ImageError, match=r"2 arrays that could be the image; it holds a, b"):
        read(matlab_file(tmp_path / "b.mat", a=one, b=two))


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    bomb = np.array([{"a": 1}], dtype=object)
    np.save(tmp_path / "a.npy", bomb, allow_pickle=True)
    np.savez(tmp_path / "a.npz", bomb)
    for name in ("a.npy", "a.npz"):
        with pytest.raises(ImageError, match="pickled"):
            read(tmp_path / name)


@pytest.mark.parametrize(
    "array",
    [np.zeros(5), np.zeros((2, 3, 4, 5, 6)), np.zeros((3, 4), complex), np.array([["a", "b"]]), np.zeros((0, 4))],
    ids=["one axis", "five axes", "complex", "text", "empty"],
)
def test_an_array_that_is_no_picture_is_refused(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ImageError, match="array") as caught:
        read(tmp_path / "a.npy")
    assert caught.value.remedy


def test_nan_in_an_array_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[1.0, np.nan], [0.0, 1.0]]))
    with pytest.raises(ImageError, match="NaN"):
        read(tmp_path / "a.npy")


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.mat"])
@pytest.mark.parametrize("harm", ["empty", "cut", "html", "other"])
def test_a_damaged_file_is_an_image_error(tmp_path: Path, name: str, harm: str) -> None:
    np.save(tmp_path / "good.npy", GREY)
    np.savez(tmp_path / "good.npz", GREY)
    matlab_file(tmp_path / "good.mat", image=GREY)
    good = (tmp_path / f"good.{name[2:]}").read_bytes()
    other = (tmp_path / ("good.npz" if name == "a.mat" else "good.mat")).read_bytes()
    content = {"empty": b"", "cut": good[: len(good) // 2], "html": b"<!DOCTYPE html><html>", "other": other}[harm]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError) as caught:
        read(tmp_path / name)
    assert caught.value.remedy


def test_a_flipped_byte_in_an_npz_is_found_by_its_checksum(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", GREY)
    damaged = bytearray((tmp_path / "a.npz").read_bytes())
    at = damaged.index(GREY.tobytes())
    damaged[at + 5] ^= 1
    (tmp_path / "a.npz").write_bytes(damaged)
    with pytest.raises(ImageError, match="CRC"):
        read(tmp_path / "a.npz")


def test_an_old_matlab_file_says_how_to_save_it(tmp_path: Path) -> None:
    (tmp_path / "old.mat").write_bytes(b"MATLAB 5.0 MAT-file, Platform: GLNXA64".ljust(600))
    with pytest.raises(ImageError, match=r"MATLAB 7\.3") as caught:
        read(tmp_path / "old.mat")
    assert "-v7.3" in (caught.value.remedy or "")


def test_a_header_that_claims_more_than_there_is_is_an_image_error(tmp_path: Path) -> None:
    with (tmp_path / "a.npy").open("wb") as file:
        header = {"descr": "<f8", "fortran_order": False, "shape": (10**7, 10**7)}
        np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(ImageError):
        read(tmp_path / "a.npy")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.write(tmp_path / "a.npy", "a.npy")
    with pytest.raises(ImageError):
        read(tmp_path / "a.npz")


def header_of(shape: tuple[int, ...]) -> bytes:
    """A .npy file that promises an array and has none of it."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.getvalue()


@pytest.mark.parametrize("shape", [(50_000, 50_000), (50_000, 50_000, 3), (2, 50_000, 50_000)])
@pytest.mark.parametrize("ending", ["npy", "npz", "mat"])
def test_pictures_beyond_the_limit_are_refused_by_the_header_alone(
    tmp_path: Path, shape: tuple[int, ...], ending: str
) -> None:
    path = tmp_path / f"x.{ending}"
    if ending == "npy":
        path.write_bytes(header_of(shape))
    elif ending == "npz":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("image.npy", header_of(shape))
    else:
        stored = (3, 50_000, 50_000) if shape[-1] == 3 else shape  # MATLAB's order
        with h5py.File(path, "w") as file:
            file.create_dataset("image", shape=stored, dtype="u1", chunks=(1,) * (len(shape) - 2) + (1000, 1000))
    with pytest.raises(ImageError, match="more than the limit"):
        read(path)
