"""``read`` against Pillow and nibabel, and every kind of bad file."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from featcache.errors import ImageError
from featcache.imaging import decoder_of, raster, read, select
from featcache.records import Selector

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (20, 30), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)


@pytest.mark.parametrize("extension", ["png", "bmp", "tiff", "webp"])
@pytest.mark.parametrize("pixels", [GREY, COLOUR], ids=["grey", "colour"])
def test_lossless_rasters_come_back_exactly(tmp_path: Path, extension: str, pixels: np.ndarray) -> None:
    path = tmp_path / f"image.{extension}"
    Image.fromarray(pixels).save(path, **({"lossless": True} if extension == "webp" else {}))
    array = read(path).array
    expected = np.stack([pixels] * 3, axis=-1) if extension == "webp" and pixels.ndim == 2 else pixels
    np.testing.assert_array_equal(array, expected)
    assert array.dtype == np.uint8


def test_deep_grey_keeps_its_depth(tmp_path: Path) -> None:
    pixels = RNG.integers(100, 4096, (9, 7), dtype=np.uint16)
    Image.fromarray(pixels).save(tmp_path / "deep.png")
    image = read(tmp_path / "deep.png")
    np.testing.assert_array_equal(image.array, pixels)
    assert image.array.dtype == np.uint16
    assert image.value_range == (pixels.min(), pixels.max())


def test_alpha_is_dropped_and_a_palette_is_resolved(tmp_path: Path) -> None:
    rgba = np.dstack([COLOUR, np.full(COLOUR.shape[:2], 7, np.uint8)])
    Image.fromarray(rgba, "RGBA").save(tmp_path / "alpha.png")
    np.testing.assert_array_equal(read(tmp_path / "alpha.png").array, COLOUR)
    palette = Image.fromarray(COLOUR).quantize(16)
    palette.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read(tmp_path / "palette.png").array, np.asarray(palette.convert("RGB")))


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by 90 degrees
    Image.fromarray(GREY).save(tmp_path / "turned.jpg", exif=exif)
    upright = np.asarray(Image.open(tmp_path / "turned.jpg").transpose(Image.Transpose.ROTATE_270))
    np.testing.assert_array_equal(read(tmp_path / "turned.jpg").array, upright)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR", "SAL"])
def test_nifti_is_reoriented_to_ras(tmp_path: Path, codes: str) -> None:
    volume = RNG.integers(-100, 1000, (4, 5, 6)).astype(np.int16)
    image = nibabel.Nifti1Image(volume, np.diag([1.0, 2.0, 3.0, 1.0]))
    turned = image.as_reoriented(
        nibabel.orientations.ornt_transform(
            nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt(codes)
        )
    )
    nibabel.save(turned, tmp_path / "scan.nii.gz")
    found = read(tmp_path / "scan.nii.gz")
    np.testing.assert_array_equal(found.array, volume)
    assert found.spacing == (1.0, 2.0, 3.0)
    assert found.kind == "volume"


def test_slices_are_shown_as_dicom_shows_them() -> None:
    from featcache.records import Image as Volume

    volume = RNG.integers(0, 99, (4, 5, 6))
    image = Volume(volume, "volume", (0, 99))
    axial = select(image, Selector("axial", 2))
    assert axial.shape == (5, 4)
    assert axial[0, 0] == volume[3, 4, 2]  # top left: anterior and the patient's right
    coronal = select(image, Selector("coronal", 1))
    assert coronal[0, 0] == volume[3, 1, 5]  # superior, right
    sagittal = select(image, Selector("sagittal", 0))
    assert sagittal[0, 0] == volume[0, 4, 5]  # superior, anterior
    np.testing.assert_array_equal(select(image, Selector("axial", 2, (1, 1, 3, 2))), axial[1:4, 1:3])
    np.testing.assert_array_equal(select(image, Selector("axial", 2, mirror=True)), axial[:, ::-1])


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        (Selector(), "names no slice"),
        (Selector("axial", 6), r"outside 0\.\.5"),
        (Selector("axial", 0, (3, 0, 3, 2)), "leaves the plane"),
    ],
)
def test_a_selector_outside_the_volume_is_an_error(selector: Selector, message: str) -> None:
    from featcache.records import Image as Volume

    with pytest.raises(ImageError, match=message):
        select(Volume(np.zeros((4, 5, 6)), "volume", (0, 0)), selector)


def bad_files(folder: Path) -> dict[str, bytes]:
    Image.fromarray(GREY).save(folder / "good.png")
    good = (folder / "good.png").read_bytes()
    Image.fromarray(GREY).save(folder / "good.jpg")
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)), folder / "good.nii.gz")
    volume = (folder / "good.nii.gz").read_bytes()
    return {
        "empty.png": b"",
        "cut.png": good[: len(good) // 2],
        "cut.jpg": (folder / "good.jpg").read_bytes()[:100],
        "page.png": b"<!DOCTYPE html><html>not found</html>",
        "page.nii.gz": b"<!DOCTYPE html><html>not found</html>",
        "cut.nii.gz": volume[: len(volume) // 2],
        "notes.txt": b"text",
        "noextension": good,
    }


@pytest.mark.parametrize(
    "name",
    ["empty.png", "cut.png", "cut.jpg", "page.png", "page.nii.gz", "cut.nii.gz", "notes.txt", "noextension"],
)
def test_a_bad_file_is_an_image_error_with_a_remedy(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(bad_files(tmp_path)[name])
    with pytest.raises(ImageError) as caught:
        read(tmp_path / name)
    assert caught.value.remedy


def test_a_missing_file_is_an_image_error(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="does not exist"):
        read(tmp_path / "nowhere.png")


def test_non_finite_voxels_are_refused(tmp_path: Path) -> None:
    volume = np.ones((3, 3, 3), np.float32)
    volume[1, 1, 1] = np.nan
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "nan.nii")
    with pytest.raises(ImageError, match="NaN"):
        read(tmp_path / "nan.nii")


def test_a_picture_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(GREY).save(tmp_path / "bomb.png")
    monkeypatch.setattr(raster, "MAX_PIXELS", 100)
    with pytest.raises(ImageError, match="limit of 100"):
        read(tmp_path / "bomb.png")


def test_decoders_are_chosen_by_extension_in_any_case() -> None:
    assert decoder_of("a/B.JPG") == "raster"
    assert decoder_of("scan.T1.nii.gz") == "nifti"
    assert decoder_of("x.dcm.txt") is None
