"""Pictures for people: eight bits, native size, the same orientation as what is embedded."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from featcache.imaging import pictures, select
from featcache.imaging.pictures import picture_of, picture_reader
from featcache.records import Image, Selector


def test_deep_planes_run_from_black_to_white_between_percentiles() -> None:
    plane = np.random.default_rng(0).normal(0, 300, (80, 70)).astype(np.int16)
    plane[3, 3] = 30_000
    found = picture_of(Image(plane, "plane", (float(plane.min()), 30_000.0)), Selector())
    low, high = np.percentile(plane, (0.5, 99.5))
    np.testing.assert_allclose(found, np.clip((plane - low) / (high - low) * 255, 0, 255), atol=0.51)


def test_eight_bits_and_constant_planes() -> None:
    plane = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    np.testing.assert_array_equal(picture_of(Image(plane, "plane", (0, 255)), Selector()), plane)
    assert not picture_of(Image(np.full((3, 3), 7.0), "plane", (7, 7)), Selector()).any()


def test_a_volume_is_decoded_once_for_its_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "scan.nii.gz"
    data = np.random.default_rng(1).integers(0, 200, (6, 5, 4)).astype(np.uint8)
    nibabel.Nifti1Image(data, np.diag([-1.0, -1, 1, 1])).to_filename(path)
    real, opened = pictures.read, []
    monkeypatch.setattr(pictures, "read", lambda *place: (opened.append(place), real(*place))[1])
    picture = picture_reader()
    for index in range(4):
        selector = Selector("axial", index)
        np.testing.assert_array_equal(picture(path, selector), select(real(path, selector), selector))
    assert len(opened) == 1
