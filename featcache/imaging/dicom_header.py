"""DICOM headers: only the elements that say what the pixels are, so that a name is never even parsed.

Errors from here name no value of a header: their text goes into quarantine lists and logs.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from featcache.errors import ImageError

__all__ = [
    "IMAGE_TAGS",
    "MAX_INFLATED",
    "damaged",
    "is_dicom",
    "number",
    "numbers",
    "only_image_errors",
    "read_header",
    "transfer_syntax",
]

IMAGE_TAGS = (
    "SOPClassUID",
    "Modality",
    "ImageType",
    "SliceThickness",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "SmallestImagePixelValue",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "VOILUTSequence",
    "RescaleIntercept",
    "RescaleSlope",
    "RescaleType",
    "ModalityLUTSequence",
    "RedPaletteColorLookupTableDescriptor",
    "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor",
    "RedPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData",
    "SegmentedRedPaletteColorLookupTableData",
    "SegmentedGreenPaletteColorLookupTableData",
    "SegmentedBluePaletteColorLookupTableData",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "FloatPixelData",
    "DoubleFloatPixelData",
    "PixelData",
)
"""Keywords of everything that :mod:`featcache.imaging.dicom` looks at: no patient, no physician, no comment."""

MAX_INFLATED = 2**31
"""Deflated files that hold more bytes are refused."""

_PREAMBLE = 128
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_LARGEST_RATIO = 1032  # of deflate
_FIRST_GROUPS = {0x0002, 0x0008}


def is_dicom(head: bytes) -> bool:
    """Whether a file begins like DICOM: with the preamble, or at once with an element of group 2 or 8.

    Examples
    --------
    >>> is_dicom(bytes(128) + b"DICM"), is_dicom(b"<!DOCTYPE html>")
    (True, False)
    """
    if head[_PREAMBLE : _PREAMBLE + 4] == b"DICM":
        return True
    if len(head) < 8:
        return False
    if int.from_bytes(head[:2], "little") in _FIRST_GROUPS:
        return int.from_bytes(head[2:4], "little") <= 0x0100
    return int.from_bytes(head[:2], "big") in _FIRST_GROUPS and int.from_bytes(head[2:4], "big") <= 0x0100


def read_header(path: Path, tags: Sequence[str] = IMAGE_TAGS, *, pixels: bool = True) -> Dataset:
    """Parse the named elements of a DICOM file, with or without its preamble.

    Parameters
    ----------
    path
        The file.
    tags
        Keywords; all other elements are skipped unparsed.
    pixels
        Stop before the pixel data if False.

    Returns
    -------
    pydicom.Dataset
        With a transfer syntax in its ``file_meta``, guessed from the encoding where the file says none.

    Raises
    ------
    ImageError
        If the file is not DICOM or breaks off in the header.
    """
    with path.open("rb") as file:
        head = file.read(2048)
        if _DEFLATED in head and file.seek(0, os.SEEK_END) * _LARGEST_RATIO > MAX_INFLATED:
            _refuse_inflating(file, head)
    if not is_dicom(head):
        raise ImageError(
            "the content is not DICOM: no 'DICM' at byte 128, no element of group 2 or 8 at the start",
            remedy="Check that the download is complete and that the extension is right.",
        )
    try:
        header = pydicom.dcmread(path, specific_tags=list(tags), stop_before_pixels=not pixels, force=True)
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # noqa: BLE001 - pydicom raises what the bytes lead to: KeyError, struct.error, ...
        raise damaged("its header cannot be parsed", error) from None
    _complete_meta(header)
    return header


def _refuse_inflating(file: BinaryIO, head: bytes) -> None:
    """Inflate piece by piece, keeping nothing: pydicom takes all of it into memory at once."""
    start = head.find(b"DICM") + 4
    if head[start : start + 8] != b"\x02\x00\x00\x00UL\x04\x00":
        return  # without the length of group 2 the file cannot be parsed anyway
    file.seek(start + 12 + int.from_bytes(head[start + 8 : start + 12], "little"))
    inflater, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
    piece = file.read(2**20)
    while piece and not inflater.eof:
        try:
            size += len(inflater.decompress(piece, 2**24))
        except zlib.error as error:
            raise damaged("it cannot be inflated", error) from None
        if size > MAX_INFLATED:
            raise ImageError(
                f"the deflated file holds more than {MAX_INFLATED:,} bytes", remedy="Write it without compression."
            )
        piece = inflater.unconsumed_tail or file.read(2**20)


def transfer_syntax(header: Dataset) -> str:
    """The transfer syntax UID of a header from :func:`read_header`."""
    return str(header.file_meta.TransferSyntaxUID)


def damaged(what: str, error: Exception) -> ImageError:
    """An error that names the kind of exception and not its text, which may quote the header."""
    return ImageError(
        f"the DICOM file is damaged: {what} ({type(error).__name__})", remedy="Copy it again from its source."
    )


@contextmanager
def only_image_errors() -> Iterator[None]:
    """Turn whatever a damaged header leads pydicom to raise, at any access to it, into an ImageError."""
    try:
        yield
    except (ImageError, OSError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - KeyError, struct.error, NotImplementedError, TypeError, ...
        raise damaged("its header makes no sense", error) from None


def numbers(dataset: Dataset, keyword: str) -> tuple[float, ...]:
    """The values of a numeric element as floats; empty where it is missing, empty or no number."""
    try:
        value: Any = dataset.get(keyword)
        if value is None or value == "":
            return ()
        values = [value] if isinstance(value, int | float | str) else list(value)
        return tuple(float(item) for item in values)
    except (TypeError, ValueError, OverflowError):
        return ()


def number(dataset: Dataset, keyword: str) -> float | None:
    """The first value of a numeric element; None where there is none."""
    found = numbers(dataset, keyword)
    return found[0] if found else None


def _complete_meta(header: Dataset) -> None:
    if not isinstance(getattr(header, "file_meta", None), FileMetaDataset):
        header.file_meta = FileMetaDataset()
    if header.file_meta.get("TransferSyntaxUID"):
        return
    implicit, little = header.original_encoding
    syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    header.file_meta.TransferSyntaxUID = syntax
