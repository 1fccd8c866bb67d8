"""``--pixels keep``: decoded pixels serve models that come later."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from PIL import Image

import featcache
from featcache.extraction import reading
from featcache.imaging import read
from featcache.store import store_paths, verify_store
from tests.conftest import WriteImages

SMALL: dict[str, Any] = {"image_size": 64, "batch_size": 8}
MODEL, LATER = "efficientnet_lite0", "efficientnet_lite0_random"


def kept_store(home: Path) -> Path:
    (path,) = [path for path in store_paths(home) if path.name.startswith("kept_pixels")]
    return path


def refuse(*_: Any) -> Any:
    raise AssertionError("an image file was opened")


def test_a_later_model_opens_no_image_and_gives_the_same_bits(
    image_folder: WriteImages, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = image_folder(4)
    direct = featcache.extract(LATER, "folder", root=root, home=tmp_path / "direct", **SMALL)
    first = featcache.extract(MODEL, "folder", root=root, pixels="keep", **SMALL)
    plain = featcache.extract(MODEL, "folder", root=root, home=tmp_path / "plain", **SMALL)
    monkeypatch.setattr(reading, "read", refuse)
    later = featcache.extract(LATER, "folder", root=root, **SMALL)
    assert (later.computed, later.failed) == (24, 0)
    for one, other in ((later, direct), (first, plain)):
        opened, expected = featcache.open(one.store), featcache.open(other.store)
        for name in opened.names:
            assert opened[name][:].tobytes() == expected[name][:].tobytes()
    assert verify_store(kept_store(home)) == []


def test_kept_pixels_are_what_pillow_makes_of_the_image(image_folder: WriteImages, home: Path) -> None:
    root = image_folder(2)
    featcache.extract(MODEL, "folder", root=root, pixels="keep", **SMALL)
    store = featcache.open(kept_store(home))
    for row, name in enumerate(store.samples["path"]):
        picture = Image.open(root / name).resize((73, 73), Image.Resampling.BICUBIC)
        expected = np.asarray(picture)[4:68, 4:68]  # round((73 - 64) / 2) = 4
        np.testing.assert_array_equal(store["pixels"][row], np.broadcast_to(expected, (3, 64, 64)))
    assert zarr.open_group(store.path)["pixels"].dtype == np.uint8


def test_only_new_images_are_decoded_and_kept(
    image_folder: WriteImages, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = image_folder(3)
    featcache.extract(MODEL, "folder", root=root, pixels="keep", **SMALL)
    Image.fromarray(np.arange(1600, dtype=np.uint8).reshape(40, 40)).save(root / "train/dark/new.png")
    decoded = multiprocessing.get_context("fork").SimpleQueue()

    def noted(path: Path, unit: Any) -> Any:
        decoded.put(path.name)
        return read(path, unit)

    monkeypatch.setattr(reading, "read", noted)
    report = featcache.extract(LATER, "folder", root=root, pixels="keep", **SMALL)
    assert report.computed == 19
    assert decoded.get() == "new.png"
    assert decoded.empty()
    assert len(featcache.open(kept_store(home))) == 19


def test_deep_images_are_decoded_anew(image_folder: WriteImages, home: Path) -> None:
    """Their resized pixels are no 8-bit numbers; rounding them would change features."""
    root = image_folder(2)
    deep = root / "train/dark/000.png"
    Image.fromarray((np.arange(1600).reshape(40, 40) * 40).astype(np.uint16)).save(deep)
    report = featcache.extract(MODEL, "folder", root=root, pixels="keep", **SMALL)
    assert (report.computed, report.failed) == (12, 0)
    assert len(featcache.open(kept_store(home)).digests) == 11
    later = featcache.extract(LATER, "folder", root=root, **SMALL)
    assert (later.computed, later.failed) == (12, 0)


def test_another_size_is_another_set_of_pixels(image_folder: WriteImages, home: Path) -> None:
    root = image_folder(1)
    featcache.extract(MODEL, "folder", root=root, pixels="keep", image_size=64)
    report = featcache.extract(LATER, "folder", root=root, pixels="keep", image_size=96)
    assert report.computed == 6
    assert len([path for path in store_paths(home) if path.name.startswith("kept_pixels")]) == 2


def test_kept_pixels_are_never_meant_where_no_model_is_named(image_folder: WriteImages) -> None:
    root = image_folder(1)
    report = featcache.extract(MODEL, "folder", root=root, pixels="keep", dataset_name="d", **SMALL)
    assert featcache.open("d").path == report.store


def test_a_file_that_kills_its_reader_ends_no_run_that_keeps_pixels(
    image_folder: WriteImages, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deadly(path: Path, unit: Any) -> Any:
        if path.parts[-2:] == ("dark", "002.png"):
            os.kill(os.getpid(), signal.SIGKILL)
        return read(path, unit)

    monkeypatch.setattr(reading, "read", deadly)
    report = featcache.extract(MODEL, "folder", root=image_folder(3, splits=("train",)), pixels="keep", **SMALL)
    assert (report.computed, [failure.path for failure in report.failures]) == (5, ["train/dark/002.png"])
    assert len(featcache.open(kept_store(home)).digests) == 5


def test_damaged_kept_pixels_are_decoded_anew(image_folder: WriteImages, home: Path, tmp_path: Path) -> None:
    """The images are sound: nothing is quarantined, and the features are those of the files."""
    root = image_folder(2)
    direct = featcache.extract(LATER, "folder", root=root, home=tmp_path / "direct", **SMALL)
    featcache.extract(MODEL, "folder", root=root, pixels="keep", **SMALL)
    (chunk,) = (path for path in (kept_store(home) / "pixels" / "c").rglob("*") if path.is_file())
    content = bytearray(chunk.read_bytes())
    content[100] ^= 1  # of the first image
    chunk.write_bytes(content)
    later = featcache.extract(LATER, "folder", root=root, **SMALL)
    assert (later.computed, later.failed) == (12, 0)
    assert featcache.open(later.store)["cls"][:].tobytes() == featcache.open(direct.store)["cls"][:].tobytes()
    assert any("kept pixels" in note for note in later.notes)
