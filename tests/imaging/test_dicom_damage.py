"""Bytes that were changed at random: a file is read or refused, and a folder of such files is scanned to the end."""

from __future__ import annotations

import contextlib
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.data import get_testdata_file

from featcache.errors import FeatcacheWarning, ImageError
from featcache.imaging import read
from featcache.imaging.series import scan_series
from tests.imaging.test_dicom import make, save

NAMES = [
    "MR_small.dcm",
    "MR_small_RLE.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "MR_small_jp2klossless.dcm",
    "SC_rgb_jpeg_dcmtk.dcm",
    "JPGExtended.dcm",
    "image_dfl.dcm",
    "examples_palette.dcm",
    "emri_small.dcm",
    "MR_small_bigendian.dcm",
]


@pytest.mark.parametrize("name", NAMES)
def test_random_damage_is_an_image_error_or_is_read(tmp_path: Path, name: str) -> None:
    rng = np.random.default_rng(NAMES.index(name))
    content = Path(get_testdata_file(name)).read_bytes()
    for attempt in range(30):
        damaged = bytearray(content)
        end = min(len(damaged), 4000) if attempt % 3 else len(damaged)  # the header more often
        for place in rng.integers(132, end, rng.integers(1, 8)):
            damaged[place] = rng.integers(256)
        (tmp_path / f"{attempt}.dcm").write_bytes(damaged)
        try:
            read(tmp_path / f"{attempt}.dcm")
        except ImageError as error:
            assert error.remedy  # noqa: PT017 - either outcome is right, but not any other
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FeatcacheWarning)
        scan_series(tmp_path)


def test_damaged_rle_frames_do_not_end_the_process(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    pixels = (np.indices((64, 64)).sum(0) // 9 * 300).astype(np.uint16)
    file = make(pixels)
    file.compress(uid.RLELossless, encoding_plugin="pydicom")
    content = save(file, tmp_path / "whole.dcm").read_bytes()
    start = content.rindex(pydicom.encaps.get_frame(file.PixelData, 0, number_of_frames=1))
    refused = 0
    for _ in range(150):
        damaged = bytearray(content)
        # Lengths and positions of runs and segments, where a decoder may leave its buffers.
        for place in rng.integers(start, start + 120 if rng.random() < 0.5 else len(content) - 8, 3):
            damaged[place] = rng.integers(256)
        (tmp_path / "a.dcm").write_bytes(damaged)
        try:
            assert read(tmp_path / "a.dcm").array.shape == (64, 64)
        except ImageError:
            refused += 1
    assert refused > 10


@pytest.mark.parametrize("value", [["2", "3"], "many", "", "-1"])
def test_senseless_counts_are_no_crash(tmp_path: Path, value: object) -> None:
    file = make(np.zeros((4, 4), np.uint8), SeriesInstanceUID="1.2")
    file.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian
    file.add_new("NumberOfFrames", "LO", value)
    save(file, tmp_path / "a.dcm")
    with contextlib.suppress(ImageError):
        assert read(tmp_path / "a.dcm").array.shape == (4, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FeatcacheWarning)
        assert len(scan_series(tmp_path)) <= 1
