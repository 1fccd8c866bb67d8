"""DICOM files that are refused: truncated, senseless, too large, or none at all; no error quotes a header."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import DeflatedExplicitVRLittleEndian

from featcache.errors import ImageError
from featcache.imaging import dicom, dicom_header, read
from featcache.imaging.dicom_header import is_dicom, read_header
from tests.imaging.test_dicom import make, save

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom", "ignore::UserWarning:featcache")


@pytest.mark.parametrize(
    "name",
    [
        "MR_small.dcm",
        "MR_small_RLE.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
        "MR_small_jp2klossless.dcm",
        "SC_rgb_jpeg_dcmtk.dcm",
        "SC_rgb_jpeg_gdcm.dcm",
        "JPGExtended.dcm",
        "image_dfl.dcm",
    ],
)
@pytest.mark.parametrize("keep", [0.5, 0.9])
def test_truncated_files_are_refused(tmp_path: Path, name: str, keep: float) -> None:
    content = Path(get_testdata_file(name)).read_bytes()
    path = tmp_path / "short.dcm"
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(ImageError) as caught:
        read(path)
    assert caught.value.remedy


HTML = b"<!DOCTYPE html><html>not found</html>" * 9


@pytest.mark.parametrize("content", [HTML, b"\x89PNG\r\n\x1a\n" + bytes(300), b"D"])
def test_other_content_is_no_dicom(tmp_path: Path, content: bytes) -> None:
    assert not is_dicom(content)
    (tmp_path / "page.dcm").write_bytes(content)
    with pytest.raises(ImageError, match="not DICOM"):
        read(tmp_path / "page.dcm")


def test_files_without_pixels_say_so(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"no pixels \(modality RTPLAN\)"):
        read(Path(get_testdata_file("rtplan.dcm")))


@pytest.mark.parametrize(
    "attributes",
    [
        {"BitsAllocated": 13},
        {"Rows": 4000},
        {"RescaleSlope": 0},
        {"SamplesPerPixel": 4},
        {"NumberOfFrames": 0},
        {"Rows": 60000, "Columns": 60000},
    ],
)
def test_senseless_headers_are_errors_that_quote_nothing_private(
    tmp_path: Path, attributes: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    file = make(np.zeros((8, 8), np.uint16), **attributes)
    path = tmp_path / "bad.dcm"
    file.save_as(path, enforce_file_format=True)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with pytest.raises(ImageError) as caught:
            read(path)
    everything = [str(caught.value), caplog.text, *(str(warning.message) for warning in said)]
    assert not any("SECRET" in text for text in everything)


def test_names_are_never_parsed(tmp_path: Path) -> None:
    path = save(make(np.zeros((8, 8), np.uint16), PatientComments="SECRET", InstitutionName="SECRET"), tmp_path / "a")
    assert "SECRET" not in str(read_header(path))
    assert "SECRET" not in repr(read(path))


def test_a_deflated_file_that_grows_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = make(np.zeros((3000, 3000), np.uint16))
    file.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    path = save(file, tmp_path / "bomb.dcm")
    assert read(path).array.shape == (3000, 3000)
    monkeypatch.setattr(dicom_header, "MAX_INFLATED", 17_000_000)
    assert path.stat().st_size < 40_000
    with pytest.raises(ImageError, match="more than 17,000,000 bytes"):
        read(path)
    monkeypatch.setattr(dicom_header, "MAX_INFLATED", 18_100_000)
    assert read(path).array.shape == (3000, 3000)


def test_frames_that_take_too_much_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(make(np.zeros((5, 8, 8), np.uint16)), tmp_path / "a.dcm")
    monkeypatch.setattr(dicom, "MAX_BYTES", 600)
    with pytest.raises(ImageError, match="GiB") as caught:
        read(path)
    assert caught.value.remedy
