"""What a DICOM file is that is no image: doses, segmentations, reports, documents, directories."""

from __future__ import annotations

from pydicom.dataset import Dataset
from pydicom.uid import UID

__all__ = ["is_image_class", "is_secondary_capture", "no_image"]

_STORAGE = "1.2.840.10008.5.1.4.1.1."
_CLASSES = {
    "1.2.840.10008.1.3.10": "DICOMDIR",
    f"{_STORAGE}481.1": None,  # RT Image: a radiograph
    f"{_STORAGE}481.2": "RT dose",
    f"{_STORAGE}481.3": "RT structure set",
    f"{_STORAGE}30": "parametric map",
    f"{_STORAGE}67": "real world value map",
}
_FAMILIES = {
    f"{_STORAGE}481.": "RT plan or record",
    f"{_STORAGE}66.": "segmentation, registration or fiducials",
    f"{_STORAGE}88.": "report",
    f"{_STORAGE}104.": "encapsulated document",
    f"{_STORAGE}11.": "presentation state",
    f"{_STORAGE}9.": "waveform",
}
"""By the beginning of the SOP class UID (PS3.4 table B.5-1)."""
_MODALITIES = {
    "AU": "waveform",
    "DOC": "encapsulated document",
    "ECG": "waveform",
    "FID": "segmentation, registration or fiducials",
    "HD": "waveform",
    "KO": "report",
    "PR": "presentation state",
    "REG": "segmentation, registration or fiducials",
    "RTDOSE": "RT dose",
    "RTPLAN": "RT plan or record",
    "RTRECORD": "RT plan or record",
    "RTSTRUCT": "RT structure set",
    "RWV": "real world value map",
    "SEG": "segmentation, registration or fiducials",
    "SR": "report",
}
"""For files without a SOP class."""
_SECONDARY = f"{_STORAGE}7"


def no_image(header: Dataset) -> str | None:
    """What a file holds instead of a picture of a patient; None for an image.

    RT doses, segmentations and parametric maps have pixels, but those are computed from images: as rows of a dataset
    they would be the answer among the questions.

    Parameters
    ----------
    header
        With SOPClassUID, Modality, BitsAllocated and Rows, as far as the file has them.

    Examples
    --------
    >>> header = Dataset()
    >>> header.Modality = "RTDOSE"
    >>> no_image(header)
    'RT dose'
    """
    uid = _class(header)
    if uid in _CLASSES:
        found = _CLASSES[uid]
    elif uid:
        found = next((what for family, what in _FAMILIES.items() if uid.startswith(family)), None)
    else:
        found = _MODALITIES.get(str(header.get("Modality") or "").strip())
    if found is None and not (header.get("BitsAllocated") and header.get("Rows")):
        return "no pixels"
    return found


def is_secondary_capture(header: Dataset) -> bool:
    """Whether a picture was converted to DICOM: a screenshot, a scanned film, a photograph."""
    uid = _class(header)
    return uid == _SECONDARY or uid.startswith(f"{_SECONDARY}.")


def is_image_class(header: Dataset) -> bool:
    """Whether the SOP class is one of images, which have rows and columns (PS3.4 table B.5-1).

    Examples
    --------
    >>> header = Dataset()
    >>> header.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    >>> is_image_class(header)
    True
    """
    return "Image Storage" in UID(_class(header)).name


def _class(header: Dataset) -> str:
    meta = getattr(header, "file_meta", None)
    return str(header.get("SOPClassUID") or (meta.get("MediaStorageSOPClassUID") if meta is not None else "") or "")
