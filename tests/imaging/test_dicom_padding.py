"""Pixel padding and overlays: neither is a value of the patient."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from featcache.imaging import read
from featcache.imaging.series import load_series
from featcache.records import Selector
from tests.imaging.test_dicom import make, save
from tests.imaging.test_series import AXIAL, write_series

RNG = np.random.default_rng(5)


@pytest.mark.parametrize("dtype", [np.int16, np.uint16])
def test_padding_becomes_the_smallest_value_beside_it(tmp_path: Path, dtype: type) -> None:
    stored = RNG.integers(24, 2000, (9, 8)).astype(dtype)
    padding = np.zeros((9, 8), bool)
    padding[:, :2] = True
    stored[padding] = np.array(-2000).astype(dtype)
    file = make(stored, PixelPaddingValue=-2000 if dtype is np.int16 else 63536, RescaleSlope=1, RescaleIntercept=-1024)
    image = read(save(file, tmp_path / "a.dcm"))
    expected = stored.astype(int) - 1024
    expected[padding] = expected[~padding].min()
    np.testing.assert_array_equal(image.array, expected)
    assert image.value_range == (expected.min(), expected.max())


def test_a_range_of_padding_values_is_padding(tmp_path: Path) -> None:
    stored = np.array([[0, 1, 2, 3, 900, 40]], np.uint16)
    file = make(stored, PixelPaddingValue=0, PixelPaddingRangeLimit=2)
    np.testing.assert_array_equal(read(save(file, tmp_path / "a.dcm")).array, [[3, 3, 3, 3, 900, 40]])


def test_padding_of_an_inverted_picture_is_dark_too(tmp_path: Path) -> None:
    stored = np.array([[0, 100, 200, 65000]], np.uint16)
    file = make(stored, PixelPaddingValue=0, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(read(save(file, tmp_path / "a.dcm")).array, [[535, 65435, 65335, 535]])


def test_a_picture_of_padding_alone_and_one_without_any_stay_as_they_are(tmp_path: Path) -> None:
    for stored in (np.full((3, 4), 7, np.uint16), np.arange(12, dtype=np.uint16).reshape(3, 4) + 8):
        file = make(stored, PixelPaddingValue=7)
        np.testing.assert_array_equal(read(save(file, tmp_path / "a.dcm")).array, stored)


def test_a_volume_has_one_value_for_padding(tmp_path: Path) -> None:
    """The smallest of all slices, so that the background does not flicker from slice to slice."""
    paths = write_series(tmp_path, AXIAL, [0, 2, 4])
    files = [pydicom.dcmread(path) for path in paths]
    arrays = [file.pixel_array.copy() for file in files]
    smallest = min(array[1:].min() for array in arrays)
    for path, file, array in zip(paths, files, arrays, strict=True):
        array[0] = -30000
        file.PixelData = array.tobytes()
        file.add_new("PixelPaddingValue", "SS", -30000)
        file.save_as(path)
    image = load_series(paths)
    assert image.array.min() == smallest
    background = np.concatenate([read(path).array[0] for path in paths])
    assert len(set(background.tolist())) == 3  # by itself each slice has its own
    assert np.count_nonzero(image.array == smallest) > 3 * 4


@pytest.mark.parametrize("name", ["examples_overlay.dcm", "MR-SIEMENS-DICOM-WithOverlays.dcm"])
def test_overlays_are_not_drawn(name: str) -> None:
    found = get_testdata_file(name, download=False)
    if found is None:
        pytest.skip("pydicom-data is not installed")
    file = pydicom.dcmread(str(found))
    overlay = file.overlay_array(0x6000)
    assert overlay.any()
    np.testing.assert_array_equal(read(Path(str(found)), Selector()).array, file.pixel_array)
