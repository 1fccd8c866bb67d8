"""Enhanced multi-frame DICOM: the attributes of one frame, gathered from the functional groups."""

from __future__ import annotations

from pydicom.dataset import Dataset

from featcache.errors import ImageError
from featcache.imaging.dicom_header import damaged, number

__all__ = ["frame_count", "frame_header"]

_MACROS = (
    "PixelMeasuresSequence",
    "PlanePositionSequence",
    "PlaneOrientationSequence",
    "PixelValueTransformationSequence",
    "FrameVOILUTSequence",
)
"""Functional groups whose attributes classic files have on the top level (PS3.3 C.7.6.16.2)."""
_HEAVY = {"PixelData", "FloatPixelData", "DoubleFloatPixelData"}
_GROUPS = {"SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"}


def frame_count(header: Dataset) -> int:
    """Number of frames, at least 1.

    Raises
    ------
    ImageError
        If the header says something that is no count.
    """
    if header.get("NumberOfFrames") in (None, ""):  # no set: several values have no hash
        return 1
    count = number(header, "NumberOfFrames")
    if count is None or count < 1 or not count.is_integer():
        raise ImageError("the number of frames is no positive number", remedy="Repair the header.")
    return int(count)


def frame_header(header: Dataset, index: int) -> Dataset:
    """The header of one frame as if it were a file of its own, without pixels.

    Attributes of the shared functional groups replace those of the top level, those of the frame replace both.

    Raises
    ------
    ImageError
        If an element cannot be parsed.
    """
    try:
        return _flat(header, index)
    except Exception as error:  # noqa: BLE001 - pydicom raises what the bytes lead to
        raise damaged("its header cannot be parsed", error) from None


def _flat(header: Dataset, index: int) -> Dataset:
    flat = Dataset()
    for element in header:
        if element.keyword not in _HEAVY | _GROUPS:
            flat.add(element)
    flat.file_meta = header.file_meta  # palettes are bytes in the file's byte order
    shared = header.get("SharedFunctionalGroupsSequence") or []
    frames = header.get("PerFrameFunctionalGroupsSequence") or []
    for groups in [*shared[:1], *frames[index : index + 1]]:
        for macro in _MACROS:
            for item in (groups.get(macro) or [])[:1]:
                for element in item:
                    flat.add(element)
    return flat
