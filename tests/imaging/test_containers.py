"""Array files, MATLAB 7.3, MetaImage and NRRD: what is written by numpy, h5py and SimpleITK comes back."""

from __future__ import annotations

import sys
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest

from featcache.errors import ImageError, MissingDependencyError
from featcache.imaging import files_of, read, select, unit_of
from featcache.records import Selector

RNG = np.random.default_rng(4)


@pytest.mark.parametrize(
    ("shape", "dtype", "kind"),
    [
        ((6, 5), np.uint8, "plane"),
        ((6, 5), ">i2", "plane"),
        ((6, 5, 3), np.uint8, "plane"),
        ((6, 5, 1), np.float32, "plane"),
        ((4, 6, 5), np.uint16, "stack"),
        ((4, 6, 5, 3), np.uint8, "stack"),
        ((4, 7, 6, 5), np.uint8, "stack"),
    ],
)
def test_npy_files_are_planes_or_stacks(tmp_path: Path, shape: tuple[int, ...], dtype: object, kind: str) -> None:
    values = RNG.integers(0, 200, shape).astype(dtype)
    np.save(tmp_path / "a.npy", values)
    image = read(tmp_path / "a.npy")
    np.testing.assert_array_equal(image.array, values[..., 0] if shape[-1] == 1 else values)
    assert image.kind == kind
    assert image.array.dtype == np.dtype(dtype).newbyteorder("=")


def medmnist(folder: Path) -> dict[str, np.ndarray]:
    sizes = {"train": 9, "test": 4}
    arrays = {f"{split}_images": RNG.integers(0, 256, (n, 28, 28), dtype=np.uint8) for split, n in sizes.items()}
    arrays |= {f"{split}_labels": np.zeros((n, 1), np.uint8) for split, n in sizes.items()}
    np.savez_compressed(folder / "pneumoniamnist.npz", **arrays)
    return arrays


def test_an_image_of_a_medmnist_split(tmp_path: Path) -> None:
    arrays = medmnist(tmp_path)
    path = tmp_path / "pneumoniamnist.npz"
    for index in (0, 3):
        sample = Selector(array="test_images", frame=index)
        assert unit_of(path, sample) == Selector(array="test_images")
        np.testing.assert_array_equal(select(read(path, sample), sample), arrays["test_images"][index])
    with pytest.raises(ImageError, match="names none of its arrays: it holds train_images, test_images"):
        read(path)
    with pytest.raises(ImageError, match="has no array 'val_images'"):
        read(path, Selector(array="val_images"))


def test_a_slice_of_a_medmnist_volume(tmp_path: Path) -> None:
    values = RNG.integers(0, 256, (3, 7, 6, 5), dtype=np.uint8)
    np.savez(tmp_path / "organ.npz", train_images=values)
    image = read(tmp_path / "organ.npz")
    np.testing.assert_array_equal(select(image, Selector(frame=2, index=4)), values[2, 4])
    np.testing.assert_array_equal(select(image, Selector(frame=2, index=4, crop=(1, 1, 2, 3))), values[2, 4, 1:3, 1:4])


@pytest.mark.parametrize(
    ("shape", "selector", "message"),
    [
        ((3, 4, 5), Selector(), "stack of 3 images and the sample names none"),
        ((3, 4, 5), Selector(frame=3), r"frame 3 is outside 0\.\.2"),
        ((3, 4, 5, 6), Selector(frame=0), "names no slice"),
        ((3, 4, 5, 6), Selector(frame=0, index=4), r"slice 4 is outside 0\.\.3"),
    ],
)
def test_a_selector_outside_the_stack_is_an_error(
    tmp_path: Path, shape: tuple[int, ...], selector: Selector, message: str
) -> None:
    np.save(tmp_path / "a.npy", np.zeros(shape, np.uint8))
    with pytest.raises(ImageError, match=message) as caught:
        select(read(tmp_path / "a.npy"), selector)
    assert caught.value.remedy


@pytest.mark.parametrize("values", [np.array([[{}]]), np.zeros(5), np.zeros((0, 4)), np.zeros((2, 2), complex)])
def test_arrays_that_are_no_images_are_refused(tmp_path: Path, values: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", values, allow_pickle=True)
    with pytest.raises(ImageError) as caught:
        read(tmp_path / "a.npy")
    assert caught.value.remedy


def test_figshare_images_stand_as_matlab_shows_them(tmp_path: Path) -> None:
    shown = RNG.integers(-50, 3000, (12, 10)).astype(np.int16)  # rows x columns in MATLAB
    path = tmp_path / "1.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        file["cjdata/image"] = shown.T  # MATLAB writes columns first
        file["cjdata/PID"] = np.frombuffer("100360".encode("utf-16-le"), np.uint16)[:, None]
        file["cjdata/label"] = [[1.0]]
        file["cjdata/tumorMask"] = (shown > 0).T.astype(np.uint8)
    with path.open("r+b") as target:
        target.write(b"MATLAB 7.3 MAT-file".ljust(128, b" "))
    image = read(path)
    np.testing.assert_array_equal(image.array, shown)
    assert image.value_range == (shown.min(), shown.max())
    np.testing.assert_array_equal(read(path, Selector(array="cjdata/tumorMask")).array, shown > 0)
    with pytest.raises(ImageError, match=r"no array nothing.*cjdata"):
        read(path, Selector(array="nothing"))


ORIENTATIONS = {
    "identity": np.eye(3),
    "flipped": np.diag([-1.0, 1.0, -1.0]),
    "permuted": np.array([[0, 0, 1.0], [1.0, 0, 0], [0, -1.0, 0]]),
}


@pytest.mark.parametrize("extension", ["mha", "mhd", "nrrd"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_volumes_are_where_simpleitk_says(tmp_path: Path, extension: str, orientation: str) -> None:
    sitk = pytest.importorskip("SimpleITK")
    values = RNG.integers(-1000, 1000, (4, 5, 6)).astype(np.int16)
    image = sitk.GetImageFromArray(values)
    image.SetSpacing((0.5, 0.75, 2.0))
    image.SetOrigin((1.0, -2.0, 3.0))
    image.SetDirection(ORIENTATIONS[orientation].ravel().tolist())
    path = tmp_path / f"a.{extension}"
    sitk.WriteImage(image, str(path))
    found = read(path)
    assert nibabel.aff2axcodes(found.affine) == ("R", "A", "S")
    assert found.array.dtype == np.int16
    for index in np.ndindex(*found.array.shape):
        lps = nibabel.affines.apply_affine(found.affine, index) * [-1, -1, 1]
        assert found.array[index] == image[image.TransformPhysicalPointToIndex(lps.tolist())]
    np.testing.assert_allclose(found.spacing, nibabel.affines.voxel_sizes(found.affine))
    expected = {"mhd": (path, tmp_path / "a.raw")}.get(extension, (path,))
    assert files_of(path, Selector()) == expected


def test_a_flat_metaimage_is_a_plane(tmp_path: Path) -> None:
    sitk = pytest.importorskip("SimpleITK")
    values = RNG.integers(0, 256, (4, 5), dtype=np.uint8)
    image = sitk.GetImageFromArray(values)
    image.SetSpacing((0.5, 0.75))
    sitk.WriteImage(image, str(tmp_path / "a.mha"))
    found = read(tmp_path / "a.mha")
    np.testing.assert_array_equal(found.array, values)
    assert (found.kind, found.spacing) == ("plane", (0.75, 0.5))


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.mat", "a.mha", "a.nrrd"])
@pytest.mark.parametrize("content", [b"<!DOCTYPE html><html>not found</html>", b"\x93NUMPY", b"PK\x03\x04" + bytes(50)])
def test_damaged_files_are_errors_with_a_remedy(tmp_path: Path, name: str, content: bytes) -> None:
    if name.endswith(("mha", "nrrd")):
        pytest.importorskip("SimpleITK")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError) as caught:
        read(tmp_path / name)
    assert caught.value.remedy


@pytest.mark.parametrize("extension", ["npy", "npz", "mat", "mha", "nrrd"])
@pytest.mark.parametrize("keep", [0.3, 0.8])
def test_truncated_files_are_errors(tmp_path: Path, extension: str, keep: float) -> None:
    path = tmp_path / f"a.{extension}"
    values = RNG.integers(0, 60000, (10, 20, 30)).astype(np.uint16)
    if extension == "npy":
        np.save(path, values)
    elif extension == "npz":
        np.savez_compressed(path, values)
    elif extension == "mat":
        with h5py.File(path, "w") as file:
            file["image"] = values[0]
    else:
        sitk = pytest.importorskip("SimpleITK")
        sitk.WriteImage(sitk.GetImageFromArray(values), str(path))
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(ImageError):
        read(path)


def test_without_simpleitk_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    (tmp_path / "a.nrrd").write_bytes(b"NRRD0004")
    with pytest.raises(MissingDependencyError, match=r"featcache\[formats\]"):
        read(tmp_path / "a.nrrd")
