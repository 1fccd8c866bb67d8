"""TIFF and BigTIFF of every depth, written by tifffile, come back as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from featcache.errors import ImageError
from featcache.imaging import decoder_of, raster, read, select, unit_of
from featcache.records import Selector

tifffile = pytest.importorskip("tifffile")
RNG = np.random.default_rng(2)


def noise(dtype: str, shape: tuple[int, ...] = (20, 30)) -> np.ndarray:
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return RNG.standard_normal(shape).astype(kind)
    limits = np.iinfo(kind)
    return RNG.integers(limits.min, limits.max, shape, dtype=kind, endpoint=True)


@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "u4", "i4", "f2", "f4", "f8"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bigtiff": True},
        {"bigtiff": True, "byteorder": ">"},
        {"byteorder": ">"},
        {"compression": "zlib"},
        {"compression": "lzw", "tile": (16, 16)},
    ],
    ids=str,
)
def test_samples_of_every_depth_stay_what_they_are(tmp_path: Path, dtype: str, options: dict[str, Any]) -> None:
    pixels = noise(dtype)
    tifffile.imwrite(tmp_path / "a.TIF", pixels, **options)
    image = read(tmp_path / "a.TIF")
    assert image.array.dtype == (np.float32 if dtype == "f2" else np.dtype(dtype))
    np.testing.assert_array_equal(image.array, pixels)
    assert image.value_range == ((0, 255) if dtype == "u1" else (pixels.min(), pixels.max()))


@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_colour_keeps_its_depth(tmp_path: Path, dtype: str, planar: str) -> None:
    pixels = noise(dtype, (20, 30, 3))
    stored = pixels if planar == "contig" else np.moveaxis(pixels, -1, 0)
    tifffile.imwrite(tmp_path / "a.tif", np.ascontiguousarray(stored), photometric="rgb", planarconfig=planar)
    if dtype == "u1" and planar == "separate":
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.tif")), pixels)
    np.testing.assert_array_equal(read(tmp_path / "a.tif").array, pixels)


@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_white_is_zero_is_inverted_at_every_depth(tmp_path: Path, dtype: str) -> None:
    pixels = noise(dtype)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="miniswhite")
    np.testing.assert_array_equal(read(tmp_path / "a.tif").array, np.iinfo(dtype).max - pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_applied_to_deep_pictures_as_pillow_does_it(tmp_path: Path, orientation: int) -> None:
    pixels = noise("u1")
    for name, array in (("a.tif", pixels), ("b.tif", pixels.astype(np.uint16) * 257)):
        tifffile.imwrite(tmp_path / name, array, extratags=[(274, "H", 1, orientation, True)])
    np.testing.assert_array_equal(read(tmp_path / "b.tif").array // 257, read(tmp_path / "a.tif").array)


@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_pages_are_frames_and_must_be_named(tmp_path: Path, dtype: str) -> None:
    pixels = noise(dtype, (5, 20, 30))
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, pixels, photometric="minisblack")
    with pytest.raises(ImageError, match=r"5 pages and the sample names none.*\n.*frame from 0 to 4"):
        read(path)
    image = read(path, unit_of(path, Selector(frame=3)))
    assert image.kind == "stack"
    np.testing.assert_array_equal(select(image, Selector(frame=3)), pixels[3])
    with pytest.raises(ImageError, match=r"frame 5 is outside 0\.\.4"):
        select(image, Selector(frame=5))


def test_pages_of_different_sizes_are_refused(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as out:
        for size in (20, 10):
            out.write(noise("u1", (size, size)), photometric="minisblack")
    with pytest.raises(ImageError, match="differ in size") as caught:
        read(tmp_path / "a.tif", Selector(frame=0))
    assert caught.value.remedy


@pytest.mark.parametrize("dtype", ["u1", "u2"])
@pytest.mark.parametrize("keep", [6, 9, 200, -40])
def test_truncated_files_are_refused(tmp_path: Path, dtype: str, keep: int) -> None:
    tifffile.imwrite(tmp_path / "a.tif", noise(dtype))
    (tmp_path / "a.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:keep])
    with pytest.raises(ImageError) as caught:
        read(tmp_path / "a.tif")
    assert caught.value.remedy


def test_pages_that_are_too_large_together_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(tmp_path / "a.tif", noise("u2", (5, 20, 30)), photometric="minisblack")
    monkeypatch.setattr(raster, "MAX_PIXELS", 2999)
    with pytest.raises(ImageError, match="3,000 pixels are more than the limit"):
        read(tmp_path / "a.tif", Selector(frame=0))


def test_another_picture_under_the_name_of_a_tiff_is_read_as_what_it_is(tmp_path: Path) -> None:
    pixels = noise("u1")
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.tiff")
    np.testing.assert_array_equal(read(tmp_path / "a.tiff").array, pixels)
    assert decoder_of("x.tiff") == "tiff"
