"""``preview`` of DICOM series and NIfTI volumes of real scanners, against pydicom and nibabel."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from nibabel.testing import data_path
from PIL import Image
from pydicom.data import get_testdata_file

from featcache.datasets import load_dataset
from featcache.errors import ConfigurationError
from featcache.extraction import preview
from featcache.imaging import Preprocess, reader
from tests.imaging.test_series import AXIAL, write_series

PLAIN = Preprocess("squash", 16, 16, (0.5,) * 3, (0.5,) * 3)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def scanners() -> Path:
    """Three patients of pydicom's test files: 24 series parts of 16 x 16 pixels in 9 folders, with a DICOMDIR."""
    found = get_testdata_file("DICOMDIR")
    assert found is not None
    return Path(str(found)).parent


def test_slices_of_a_real_series_are_shown_in_their_order_with_the_range_of_the_volume(scanners: Path) -> None:
    root = scanners / "98892001" / "CT5N"
    files = [pydicom.dcmread(path) for path in root.iterdir()]
    files.sort(key=lambda file: file.ImagePositionPatient[2])
    volume = np.stack([file.pixel_array * float(file.RescaleSlope) + float(file.RescaleIntercept) for file in files])
    expected = np.rint((volume - volume.min()) / (volume.max() - volume.min()) * 255)
    tiles = preview("dicom", root=root, n=5, preprocess=PLAIN).tiles
    for tile in tiles:
        assert tile.pixels is not None
        shown = tile.pixels[:, :, 0].astype(int)
        assert np.abs(shown - expected[int(tile.id[-3:])]).max() <= 1
    assert len({tile.id for tile in tiles}) == 5


def test_every_image_of_three_patients_is_a_tile(scanners: Path) -> None:
    tiles = preview("dicom", root=scanners, n=99).tiles
    assert sum(tile.pixels is not None for tile in tiles) == 31
    # These lack all that follows their series' number, as an image does whose file was cut there.
    assert {tile.id.split("/")[0] for tile in tiles if tile.pixels is None} == {"TINY_ALPHA"}


def test_the_recipe_auto_goes_by_the_modality_in_the_headers(scanners: Path) -> None:
    assert preview("dicom", root=scanners / "98892001", n=1, preprocess="auto").preprocess.clip == "window"
    assert preview("dicom", root=scanners / "98892003", n=1, preprocess="auto").preprocess.clip == "percentile"
    assert preview("dicom", root=scanners / "77654033" / "CR1", n=1, preprocess="auto").preprocess.clip == "none"
    with pytest.raises(ConfigurationError, match="CR, CT, MR") as caught:
        preview("dicom", root=scanners, preprocess="auto")
    assert "window=soft-tissue" in (caught.value.remedy or "")


def test_series_that_share_a_folder_are_decoded_once_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for uid in ("1.2.3.4", "1.2.3.5"):
        write_series(tmp_path, AXIAL, [0, 2, 4, 6], uid=uid)
    decoded = []
    original = reader._read
    monkeypatch.setattr(reader, "_read", lambda path, unit, kind: decoded.append(unit) or original(path, unit, kind))
    tiles = preview("dicom", root=tmp_path, n=8).tiles
    assert all(tile.pixels is not None for tile in tiles)
    assert sorted(unit.series or "" for unit in decoded) == ["1.2.3.4", "1.2.3.5"]


@pytest.mark.parametrize("name", ["anatomical.nii", "example4d.nii.gz", "example_nifti2.nii.gz"])
def test_a_slice_of_a_real_volume_is_shown_as_radiologists_look_at_it(tmp_path: Path, name: str) -> None:
    """Anterior above, the patient's right on the left; of four dimensions the first time point."""
    (tmp_path / name).write_bytes((Path(data_path) / name).read_bytes())
    dataset = load_dataset("nifti", root=tmp_path, slices="n:3")
    volume = nibabel.as_closest_canonical(nibabel.load(tmp_path / name)).get_fdata()
    volume = volume[..., 0] if volume.ndim == 4 else volume
    for tile in preview(dataset, registry_name="nifti", preprocess=PLAIN).tiles:
        plane = volume[::-1, ::-1, int(tile.id[-3:])].T
        scaled = (plane - volume.min()) / (volume.max() - volume.min())
        expected = Image.fromarray(scaled.astype(np.float32)).resize((16, 16), Image.Resampling.BICUBIC)
        assert tile.pixels is not None
        assert np.abs(tile.pixels[:, :, 0] - np.clip(np.asarray(expected), 0, 1) * 255).max() <= 1.5
