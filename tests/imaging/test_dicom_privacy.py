"""No text of a header reaches a message, a warning, a log or a record, whatever element it was put into."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import ImplicitVRLittleEndian

from featcache.errors import ImageError
from featcache.imaging import read
from featcache.imaging.dicom_privacy import header_text_kept_inside
from featcache.imaging.series import scan_series
from featcache.records import Selector
from tests.imaging.test_dicom import make

# What pydicom says while it writes the files of these tests.
pytestmark = pytest.mark.filterwarnings("ignore:Unknown encoding")

NAME = "MUSTERMANN^ERIKA"
PLACES = [
    "Modality",
    "RescaleType",
    "RescaleSlope",
    "WindowCenter",
    "PhotometricInterpretation",
    "ImageType",
    "VOILUTFunction",
    "ImagePositionPatient",
    "PixelSpacing",
    "NumberOfFrames",
    "SeriesInstanceUID",
    "InstanceNumber",
    "PatientID",
    "SpecificCharacterSet",
]


def tainted(path: Path, keyword: str) -> Path:
    """A file with a patient's name where it does not belong."""
    file = make(np.arange(64, dtype=np.uint16).reshape(8, 8), SeriesInstanceUID="1.2.3", PatientID="77")
    file.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian  # types are not written, so that any text can be
    file.add_new(keyword, "UT", NAME)
    file.save_as(path, enforce_file_format=True)
    return path


def attempt(action: Callable[[], object]) -> str:
    try:
        return repr(action())
    except ImageError as error:
        return str(error)


@pytest.mark.parametrize("keyword", PLACES)
def test_a_name_in_the_wrong_place_stays_there(
    tmp_path: Path, keyword: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tainted(tmp_path / "a.dcm", keyword)
    assert NAME.encode() in path.read_bytes()
    caplog.clear()  # of what pydicom says while it writes the file
    capfd.readouterr()
    caplog.set_level(logging.DEBUG)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        texts = [
            attempt(lambda: read(path)),
            attempt(lambda: read(path, Selector(frame=0))),
            attempt(lambda: scan_series(tmp_path)),
            attempt(lambda: read(tmp_path, Selector(series="1.2.3"))),
        ]
    output = capfd.readouterr()
    everything = [*texts, caplog.text, output.out, output.err, *(str(warning.message) for warning in said)]
    assert not any("MUSTERMANN" in text for text in everything)


def test_pydicom_itself_would_say_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tainted(tmp_path / "a.dcm", "SeriesInstanceUID")
    caplog.clear()
    with pytest.warns(UserWarning, match="MUSTERMANN"):
        str(pydicom.dcmread(path).SeriesInstanceUID)
    assert "MUSTERMANN" in caplog.text


def test_warnings_and_logs_of_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    def elsewhere() -> None:
        logging.getLogger("pydicom").warning("from another thread")

    before = list(warnings.filters)
    with header_text_kept_inside(), header_text_kept_inside():
        with pytest.warns(UserWarning, match="ours"):
            warnings.warn("ours", stacklevel=1)
        logging.getLogger("pydicom").warning("from this thread")
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    logging.getLogger("pydicom").warning("from this thread, later")
    assert [record.message for record in caplog.records] == ["from another thread", "from this thread, later"]
    assert warnings.filters == before
