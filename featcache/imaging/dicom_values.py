"""Stored DICOM samples to values: modality LUT or rescale, MONOCHROME1, palettes, and what windows are recommended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut
from pydicom.uid import ExplicitVRBigEndian

from featcache.errors import ImageError
from featcache.imaging.dicom_header import damaged, number, numbers

__all__ = ["Values", "joined", "to_values"]

WindowFunction = Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"]

_UNITS = {"HU", "OD", "PCT", "MGML", "Z_EFF", "ED", "EDW", "HU_MOD"}
"""Defined terms of Rescale Type (PS3.3 C.11.1.1.2); anything else is free text and stays where it is."""
_PHOTOMETRIC = {"MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420"}
_PHOTOMETRIC |= {"YBR_PARTIAL_422", "YBR_ICT", "YBR_RCT", "XYB", "HSV", "ARGB", "CMYK"}


@dataclass(frozen=True, slots=True)
class Values:
    """One frame in modality units, and how its makers would display it."""

    array: NDArray[Any]
    """(H, W) or (H, W, 3)."""
    full_scale: tuple[float, float] | None
    """The range that the format defines: 8-bit grey and colour; None for measured values."""
    photometric: str | None
    """As stored."""
    unit: str | None
    """``HU`` and other defined terms."""
    windows: tuple[tuple[float, float], ...]
    """(centre, width) in the units of ``array``."""
    window_function: WindowFunction
    """How to apply them."""
    voi_lut: tuple[int, NDArray[Any]] | None
    """(first value, entries)."""


def to_values(stored: NDArray[Any], header: Dataset) -> Values:
    """Give stored samples their meaning.

    Integers stay integers where slope and intercept are integers; the smallest of the stored type, int16, uint16 and
    int32 that holds all values is taken. Otherwise the result is float32 (float64 for 32-bit samples).

    MONOCHROME1 is mirrored within the range of the stored bits, so that low values are dark as everywhere else;
    recommended windows and tables are mirrored with it.

    Parameters
    ----------
    stored
        (H, W) or (H, W, 3) from :func:`featcache.imaging.dicom.decode`; colour is RGB already.
    header
        Of the frame: attributes of functional groups are expected on the top level.

    Raises
    ------
    ImageError
        For a number of samples a pixel that is neither 1 nor 3, for a rescale slope of 0, for a damaged table.
    """
    try:
        return _values(stored, header)
    except (AttributeError, KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
        raise damaged("its lookup tables or rescaling make no sense", error) from None


def joined(values: Sequence[Values]) -> list[NDArray[Any]]:
    """Arrays of several frames in one dtype: for integers one of theirs, int16, uint16 or int32 that holds all values.

    The dtype of a single frame depends on its values (:func:`to_values`), that of a volume on all of them.
    """
    arrays = [item.array for item in values]
    dtypes = sorted({array.dtype for array in arrays}, key=lambda dtype: dtype.itemsize)
    if len(dtypes) == 1:
        return arrays
    common = np.result_type(*dtypes)
    if all(dtype.kind in "iu" for dtype in dtypes):
        filled = [array for array in arrays if array.size]
        ends = min(int(array.min()) for array in filled), max(int(array.max()) for array in filled)
        common = _holding(ends, dtypes) or common
    return [array.astype(common, copy=False) for array in arrays]


def _values(stored: NDArray[Any], header: Dataset) -> Values:
    photometric = str(header.get("PhotometricInterpretation") or "MONOCHROME2").strip()
    if photometric not in _PHOTOMETRIC:
        raise damaged("its photometric interpretation is none that the standard defines", ValueError())
    if photometric == "PALETTE COLOR":
        stored = apply_color_lut(stored, header)
    if stored.ndim == 3:
        if stored.shape[2] != 3:
            raise ImageError(f"{stored.shape[2]} samples a pixel, expected 1 or 3", remedy="Convert the file to RGB.")
        bits = 8 * stored.dtype.itemsize
        return Values(stored, (0.0, 2.0**bits - 1), photometric, None, (), "LINEAR", None)
    return _grey(stored, header, photometric)


def _grey(stored: NDArray[Any], header: Dataset, photometric: str) -> Values:
    invert = photometric == "MONOCHROME1"
    slope, intercept = number(header, "RescaleSlope"), number(header, "RescaleIntercept")
    if header.get("ModalityLUTSequence"):
        array = apply_modality_lut(stored, header)
        low, high = 0.0, 2.0 ** (8 * array.dtype.itemsize) - 1
        if invert:
            array = array.dtype.type(high) - array
        total, rescaled = low + high, True
    else:
        low, high = _stored_range(stored, header)
        array = _mirrored(stored, low, high) if invert else stored
        slope, intercept = 1.0 if slope is None else slope, intercept or 0.0
        if slope == 0.0:
            raise ImageError("the rescale slope is 0, which makes all pixels equal", remedy="Repair the header.")
        rescaled = (slope, intercept) != (1.0, 0.0)
        array = _rescaled(array, slope, intercept) if rescaled else array
        total = (low + high) * slope + 2 * intercept
    function = str(header.get("VOILUTFunction") or "LINEAR").strip()
    known = cast(WindowFunction, function if function in {"LINEAR_EXACT", "SIGMOID"} else "LINEAR")
    return Values(
        array=array,
        full_scale=(0.0, high) if array.dtype == np.uint8 and not rescaled else None,
        photometric=photometric,
        unit=_unit(header, declared=number(header, "RescaleIntercept") is not None),
        windows=_windows(header, known, total if invert else None),
        window_function=known,
        voi_lut=_voi_lut(header, total if invert else None),
    )


def _stored_range(stored: NDArray[Any], header: Dataset) -> tuple[float, float]:
    """Smallest and largest value of the stored bits; of the whole type if the samples exceed them."""
    if stored.dtype.kind == "f":
        return 0.0, 0.0
    bits = int(number(header, "BitsStored") or 8 * stored.dtype.itemsize)
    for width in (bits, 8 * stored.dtype.itemsize):
        signed = stored.dtype.kind == "i"
        low, high = (-(2 ** (width - 1)), 2 ** (width - 1) - 1) if signed else (0, 2**width - 1)
        if stored.size == 0 or (low <= int(stored.min()) and int(stored.max()) <= high):
            break
    return float(low), float(high)


def _mirrored(stored: NDArray[Any], low: float, high: float) -> NDArray[Any]:
    if stored.dtype.kind == "f":
        return -stored
    # Within the range of its bits no value overflows: unsigned is high - v, signed is -1 - v.
    return cast(NDArray[Any], np.asarray(int(low + high), dtype=stored.dtype) - stored)


def _rescaled(stored: NDArray[Any], slope: float, intercept: float) -> NDArray[Any]:
    if stored.dtype.kind == "f":
        return (stored.astype(np.float64) * slope + intercept).astype(stored.dtype)
    if slope.is_integer() and intercept.is_integer() and stored.size:
        ends = sorted(int(end) * int(slope) + int(intercept) for end in (stored.min(), stored.max()))
        dtype = _holding((ends[0], ends[1]), [stored.dtype])
        if dtype is not None:
            # Integers wrap around, so that what fits in the end may overflow on the way: no wider copy is needed.
            factor, offset = (np.array(int(term)).astype(dtype) for term in (slope, intercept))
            return cast(NDArray[Any], stored.astype(dtype) * factor + offset)
    wide = stored.astype(np.float64) * slope + intercept
    return wide if stored.dtype.itemsize > 2 else wide.astype(np.float32)


def _holding(ends: tuple[int, int], preferred: Sequence[np.dtype[Any]]) -> np.dtype[Any] | None:
    for candidate in (*preferred, np.dtype(np.int16), np.dtype(np.uint16), np.dtype(np.int32)):
        limits = np.iinfo(candidate)
        if limits.min <= ends[0] and ends[1] <= limits.max:
            return candidate
    return None


def _windows(header: Dataset, function: WindowFunction, total: float | None) -> tuple[tuple[float, float], ...]:
    pairs = zip(numbers(header, "WindowCenter"), numbers(header, "WindowWidth"), strict=False)
    found = tuple((centre, width) for centre, width in pairs if width > 0)
    if total is None:
        return found
    # LINEAR ramps around centre - 0.5, the others around the centre (PS3.3 C.11.2.1.2).
    shift = 1.0 if function == "LINEAR" else 0.0
    return tuple((total - centre + shift, width) for centre, width in found)


def _voi_lut(header: Dataset, total: float | None) -> tuple[int, NDArray[Any]] | None:
    sequence = header.get("VOILUTSequence")
    if not sequence:
        return None
    try:
        count, first, bits = (int(value) for value in sequence[0].LUTDescriptor)
        data = sequence[0].LUTData
        big = str(header.file_meta.TransferSyntaxUID) == ExplicitVRBigEndian
        dtype = np.dtype(np.uint8 if bits <= 8 and len(data) == count else ">u2" if big else "<u2")
        entries = np.frombuffer(data, dtype) if isinstance(data, bytes) else np.asarray(data)
        entries = entries.astype(np.uint8 if bits <= 8 else np.uint16)
    except (AttributeError, TypeError, ValueError, OverflowError):
        return None
    entries = entries[: count or 65536]
    if entries.size == 0:
        return None
    if total is None:
        return first, entries
    inverted: NDArray[Any] = np.asarray(2**bits - 1, entries.dtype) - entries
    return int(total) - (first + entries.size - 1), inverted[::-1]


def _unit(header: Dataset, *, declared: bool) -> str | None:
    term = str(header.get("RescaleType") or "").strip()
    if term in _UNITS:
        return term
    return "HU" if declared and not term and str(header.get("Modality")) == "CT" else None
