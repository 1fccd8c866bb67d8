"""DICOM files against pydicom: stored samples of all its test files, frames, and files without a preamble."""

from __future__ import annotations

import contextlib
import importlib.util
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomIO
from pydicom.filewriter import write_dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEGExtended12Bit, generate_uid

from featcache.errors import ImageError
from featcache.imaging import files_of, read, select, unit_of
from featcache.imaging.dicom import decode
from featcache.imaging.dicom_codecs import is_available
from featcache.imaging.dicom_header import read_header, transfer_syntax
from featcache.records import Selector

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom", "ignore::UserWarning:featcache")


def packaged_files() -> list[Path]:
    """Every file that comes with pydicom and pydicom-data."""
    roots = [Path(pydicom.data.__file__).parent]
    store = importlib.util.find_spec("data_store")
    if store is not None and store.submodule_search_locations:
        roots.append(Path(store.submodule_search_locations[0]))
    code = {".py", ".pyc", ".md", ".json"}
    return [path for root in roots for path in sorted(root.rglob("*")) if path.is_file() and path.suffix not in code]


FILES = packaged_files()


def reference(path: Path) -> np.ndarray | None:
    """What pydicom decodes by itself; None where it cannot."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return pydicom.dcmread(path).pixel_array
        except Exception:  # noqa: BLE001 - the test is about the files that pydicom reads
            return None


@pytest.mark.parametrize("path", FILES, ids=[f"{path.parent.name}/{path.name}" for path in FILES])
def test_stored_samples_are_those_of_pydicom(path: Path) -> None:
    expected = reference(path)
    if expected is not None:
        array = decode(read_header(path))
        assert array.dtype == expected.dtype.newbyteorder("=")
        np.testing.assert_array_equal(array, expected)
        return
    try:
        header = read_header(path)
        decode(header)
    except ImageError as error:
        assert error.remedy  # noqa: PT017 - either outcome is right, but not any other
    else:
        # We read more: files without a preamble, 12-bit JPEG (both below), and what pydicom lacks a plugin for here.
        compressed = is_available(transfer_syntax(header))
        assert compressed or path.name == "OT-PAL-8-face.dcm"
        if compressed:
            pytest.skip("this pydicom has no plugin that reads the file: install python-gdcm, pylibjpeg-openjpeg")


def test_the_packaged_files_have_every_kind_of_compression() -> None:
    syntaxes = set()
    for path in FILES:
        with contextlib.suppress(ImageError):
            syntaxes.add(UID(transfer_syntax(read_header(path))).name.split(" (")[0].split(",")[0])
    assert syntaxes >= {
        "Implicit VR Little Endian",
        "Explicit VR Little Endian",
        "Explicit VR Big Endian",
        "Deflated Explicit VR Little Endian",
        "RLE Lossless",
        "JPEG Baseline",
        "JPEG Extended",
        "JPEG Lossless",
        "JPEG-LS Lossless Image Compression",
        "JPEG-LS Lossy",
        "JPEG 2000 Image Compression",
    }


@pytest.mark.parametrize("name", ["JPGExtended.dcm", "JPEG-lossy.dcm"])
def test_twelve_bit_jpeg_is_read_where_pydicom_has_no_free_decoder(name: str) -> None:
    lossless = next((path for path in FILES if path.name == "JPEG-LL.dcm"), None)
    if lossless is None:
        pytest.skip("pydicom-data is not installed")
    expected = decode(read_header(lossless)).astype(float)  # the same scan
    header = read_header(Path(get_testdata_file(name)))
    assert header.file_meta.TransferSyntaxUID == JPEGExtended12Bit
    array = decode(header)
    assert array.shape == expected.shape
    assert np.median(np.abs(array - expected)) <= 1
    assert np.corrcoef(array.ravel(), expected.ravel())[0, 1] > 0.98


def make(pixels: np.ndarray, **attributes: object) -> Dataset:
    """A minimal file around some pixels."""
    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    file.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    file.SOPClassUID, file.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", file.file_meta.MediaStorageSOPInstanceUID
    file.Modality = "CT"
    file.PatientName = "SECRET^NAME"
    file.Rows, file.Columns = pixels.shape[-2:] if pixels.ndim < 3 or pixels.shape[-1] != 3 else pixels.shape[-3:-1]
    if pixels.ndim == 3 and pixels.shape[-1] != 3:
        file.NumberOfFrames = len(pixels)
    file.SamplesPerPixel = 3 if pixels.shape[-1] == 3 else 1
    file.PhotometricInterpretation = "RGB" if file.SamplesPerPixel == 3 else "MONOCHROME2"
    if file.SamplesPerPixel == 3:
        file.PlanarConfiguration = 0
    file.BitsAllocated = file.BitsStored = 8 * pixels.dtype.itemsize
    file.HighBit = file.BitsStored - 1
    file.PixelRepresentation = int(pixels.dtype.kind == "i")
    file.PixelData = pixels.tobytes()
    for name, value in attributes.items():
        setattr(file, name, value)
    return file


def save(file: Dataset, path: Path) -> Path:
    file.save_as(path, enforce_file_format=True)
    return path


RNG = np.random.default_rng(0)


@pytest.mark.parametrize("index", [0, 3, 29])
def test_a_frame_of_a_colour_loop_is_a_plane(index: int) -> None:
    path = Path(get_testdata_file("examples_ybr_color.dcm"))
    image = read(path, unit_of(path, Selector(frame=index)))
    plane = select(image, Selector(frame=index, crop=(1, 2, 30, 40)))
    np.testing.assert_array_equal(plane, pydicom.dcmread(path).pixel_array[index, 1:31, 2:42])
    assert (image.kind, image.value_range) == ("stack", (0, 255))


def test_frames_without_geometry_must_be_named() -> None:
    path = Path(get_testdata_file("examples_ybr_color.dcm"))
    image = read(path)
    assert image.kind == "stack"
    with pytest.raises(ImageError, match=r"stack of 30 images.*\n.*frame from 0 to 29"):
        select(image, Selector())
    with pytest.raises(ImageError, match=r"frame 30 is outside 0\.\.29"):
        select(image, Selector(frame=30))


def test_a_file_with_one_picture_has_the_frame_0_only() -> None:
    image = read(Path(get_testdata_file("CT_small.dcm")), Selector(frame=0))
    np.testing.assert_array_equal(select(image, Selector(frame=0)), image.array)
    with pytest.raises(ImageError, match=r"frame 1 is outside 0\.\.0"):
        select(image, Selector(frame=1))


def enhanced(pixels: np.ndarray, depths: list[float]) -> Dataset:
    """An enhanced CT whose frames lie at the given heights, each with its own intercept."""
    shared, frames = Dataset(), []
    measures, orientation = Dataset(), Dataset()
    measures.PixelSpacing = [0.5, 0.25]
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    for number, depth in enumerate(depths):
        frame, position, transform = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = [10, 20, depth]
        transform.RescaleSlope, transform.RescaleIntercept, transform.RescaleType = 1, -1000 - number, "HU"
        frame.PlanePositionSequence, frame.PixelValueTransformationSequence = [position], [transform]
        frames.append(frame)
    return make(pixels, SharedFunctionalGroupsSequence=[shared], PerFrameFunctionalGroupsSequence=frames)


def test_an_enhanced_file_is_a_volume_in_the_order_of_its_positions(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 2000, (4, 6, 5)).astype(np.uint16)
    path = save(enhanced(pixels, [9, 3, 6, 0]), tmp_path / "enhanced.dcm")
    image = read(path)
    assert image.kind == "volume"
    assert image.array.shape == (5, 6, 4)
    assert image.spacing == (0.25, 0.5, 3)
    values = pixels.astype(int) - 1000 - np.arange(4)[:, None, None]
    # Right is the last column of an axial slice read from left to right: x and y of LPS run against RAS.
    expected = values[[3, 1, 2, 0]].transpose(2, 1, 0)[::-1, ::-1]
    np.testing.assert_array_equal(image.array, expected)
    frames = read(path, Selector(frame=1))
    np.testing.assert_array_equal(select(frames, Selector(frame=1)), values[1])
    assert frames.array.dtype == image.array.dtype == np.int16


def test_enhanced_frames_at_one_position_are_no_volume(tmp_path: Path) -> None:
    path = save(enhanced(np.zeros((2, 4, 4), np.uint16), [1, 1]), tmp_path / "times.dcm")
    assert read(path).kind == "stack"


def test_files_without_preamble_or_extension_are_read(tmp_path: Path) -> None:
    content = Path(get_testdata_file("CT_small.dcm")).read_bytes()
    expected = read(Path(get_testdata_file("CT_small.dcm"))).array
    for name, start in (("IM0001", 0), ("1.2.840.113619.2", 0), ("bare.IMA", 132)):
        (tmp_path / name).write_bytes(content[start:])
        np.testing.assert_array_equal(read(tmp_path / name).array, expected)
    data_only = tmp_path / "data_only"
    file = pydicom.dcmread(get_testdata_file("MR_small_implicit.dcm"))
    with data_only.open("wb") as target:
        out = DicomIO(target)
        out.is_implicit_VR, out.is_little_endian = True, True
        write_dataset(out, file)
    np.testing.assert_array_equal(read(data_only).array, file.pixel_array)


def test_frames_of_a_file_are_decoded_together() -> None:
    assert unit_of(Path("a.dcm"), Selector(frame=3, crop=(0, 0, 1, 1))) == Selector(frame=0)
    assert unit_of(Path("a.dcm"), Selector(crop=(0, 0, 1, 1))) == Selector()
    assert files_of(Path("a.dcm"), Selector(frame=3)) == (Path("a.dcm"),)
