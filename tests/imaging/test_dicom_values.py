"""DICOM samples to values against pydicom: rescaling, tables, windows, palettes, inversion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_windowing

from featcache.errors import ImageError
from featcache.imaging import read
from tests.imaging.test_dicom import FILES, RNG, make, save

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom", "ignore::UserWarning:featcache")


@pytest.mark.parametrize(
    ("dtype", "slope", "intercept", "expected"),
    [
        (np.uint16, 1, -1024, np.int16),
        (np.int16, 1, -1024, np.int16),
        (np.uint16, 2, 0, np.uint16),
        (np.uint8, 1, 0, np.uint8),
        (np.uint8, 1, -1000, np.int16),
        (np.int16, 40, 0, np.int32),
        (np.int16, "0.5", -3, np.float32),
        (np.uint16, "1.25", "0.125", np.float32),
    ],
)
def test_rescaling_keeps_integers_where_it_can(
    tmp_path: Path, dtype: type, slope: object, intercept: object, expected: type
) -> None:
    stored = RNG.integers(0, 250 if dtype is np.uint8 else 4000, (12, 9)).astype(dtype)
    file = make(stored, RescaleSlope=slope, RescaleIntercept=intercept)
    image = read(save(file, tmp_path / "a.dcm"))
    assert image.array.dtype == expected
    np.testing.assert_allclose(image.array, apply_modality_lut(stored, file), rtol=1e-6)
    assert image.unit == "HU"
    if dtype is not np.uint8 or intercept:
        assert image.value_range == (image.array.min(), image.array.max())


def test_a_modality_lut_is_applied() -> None:
    path = next((path for path in FILES if path.name == "mlut_18.dcm"), None)
    if path is None:
        pytest.skip("pydicom-data is not installed")
    file = pydicom.dcmread(path)
    np.testing.assert_array_equal(read(path).array, apply_modality_lut(file.pixel_array, file))


def displayed(values: np.ndarray, centre: float, width: float, function: str) -> np.ndarray:
    """PS3.3 C.11.2.1.2 for an output range of 0 to 1."""
    if function == "LINEAR":
        return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)
    if function == "LINEAR_EXACT":
        return np.clip((values - centre) / width + 0.5, 0, 1)
    return 1 / (1 + np.exp(-4 * (values - centre) / width))


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("dtype", "bits"), [(np.uint16, 12), (np.int16, 16), (np.uint8, 8), (np.uint16, 10)])
def test_monochrome1_is_inverted_and_its_windows_still_show_the_same_picture(
    tmp_path: Path, dtype: type, bits: int, function: str
) -> None:
    low, high = (-300, 300) if dtype is np.int16 else (0, 2**bits)
    stored = RNG.integers(low, high, (40, 30)).astype(dtype)
    file = make(
        stored,
        PhotometricInterpretation="MONOCHROME1",
        BitsStored=bits,
        HighBit=bits - 1,
        RescaleSlope=2,
        RescaleIntercept=-10,
        WindowCenter=150,
        WindowWidth=171,
        VOILUTFunction=function,
    )
    image = read(save(file, tmp_path / "a.dcm"))
    units = apply_modality_lut(stored, file)
    assert np.all(np.diff(image.array.ravel()[np.argsort(units.ravel())].astype(float)) <= 0)
    shown = apply_windowing(units, file)
    shown = (shown - shown.min()) / np.ptp(shown) if function != "SIGMOID" else displayed(units, 150, 171, function)
    assert image.window_function == function
    (centre, width) = image.windows[0]
    np.testing.assert_allclose(displayed(image.array.astype(float), centre, width, function), 1 - shown, atol=1e-9)
    assert image.photometric == "MONOCHROME1"


@pytest.mark.parametrize("representation", ["US", "OW"])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_a_voi_lut_is_handed_on_and_not_applied(tmp_path: Path, photometric: str, representation: str) -> None:
    stored = RNG.integers(0, 256, (16, 16)).astype(np.uint16)
    table = Dataset()
    table.LUTDescriptor = [256, 0, 12]
    curve = (np.linspace(0, 1, 256) ** 2 * 4095).astype(np.uint16)
    table.add_new("LUTData", representation, curve.tolist() if representation == "US" else curve.tobytes())
    file = make(stored, BitsStored=8, HighBit=7, PhotometricInterpretation=photometric, VOILUTSequence=[table])
    image = read(save(file, tmp_path / "a.dcm"))
    assert image.voi_lut is not None
    first, entries = image.voi_lut
    shown = curve[stored].astype(int)
    expected = 4095 - shown if photometric == "MONOCHROME1" else shown
    np.testing.assert_array_equal(entries[image.array.astype(int) - first], expected)


def test_palettes_become_rgb() -> None:
    path = Path(get_testdata_file("examples_palette.dcm"))
    file = pydicom.dcmread(path)
    image = read(path)
    np.testing.assert_array_equal(image.array, apply_color_lut(file.pixel_array, file))
    assert image.value_range == (0, 65535)


@pytest.mark.parametrize(("keyword", "dtype"), [("FloatPixelData", np.float32), ("DoubleFloatPixelData", np.float64)])
def test_float_pixels_are_read(tmp_path: Path, keyword: str, dtype: type) -> None:
    pixels = RNG.standard_normal((6, 5)).astype(dtype)
    file = make(pixels, RescaleSlope=2, RescaleIntercept=1)
    del file.PixelData, file.BitsStored, file.HighBit, file.PixelRepresentation
    setattr(file, keyword, pixels.tobytes())
    image = read(save(file, tmp_path / "a.dcm"))
    assert image.array.dtype == dtype
    np.testing.assert_allclose(image.array, pixels * 2 + 1, rtol=1e-6)
    pixels[0, 0] = np.nan
    setattr(file, keyword, pixels.tobytes())
    with pytest.raises(ImageError, match="NaN"):
        read(save(file, tmp_path / "a.dcm"))
