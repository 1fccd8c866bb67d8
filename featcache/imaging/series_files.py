"""The DICOM files of one folder, grouped into series from their headers, and what is left out of them."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from featcache.errors import ImageError
from featcache.imaging.dicom import modality
from featcache.imaging.dicom_header import damaged, is_dicom, only_image_errors, read_header
from featcache.imaging.dicom_kinds import is_image_class, is_secondary_capture, no_image
from featcache.imaging.dicom_privacy import header_text_kept_inside
from featcache.imaging.multiframe import frame_count, frame_header
from featcache.imaging.orientation import canonical_shape
from featcache.imaging.series_parts import File, Part, parts_of
from featcache.records import Axis

__all__ = ["Folder", "Group", "Series", "read_files", "scan_folder", "series_of"]

_HEADER_TAGS = (
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "PatientID",
    "Modality",
    "ImageType",
    "TemporalPositionIdentifier",
    "AcquisitionNumber",
    "InstanceNumber",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SamplesPerPixel",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "BitsAllocated",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)
_UID = re.compile(r"[0-9.]{0,64}")
_EXTENSIONS = (".dcm", ".dicom", ".ima")

Group = tuple[str, str, str]
"""PatientID, StudyInstanceUID and SeriesInstanceUID, in the clear: for comparison only."""


@dataclass(frozen=True, slots=True)
class Series:
    """The files of one series that belong together, from headers alone."""

    uid: str
    """SeriesInstanceUID. Where a series falls into parts (a localizer before the slices, several time points), the
    first has the UID itself, the others ``UID-2``, ``UID-3`` …. What is no UID is hashed; ``""`` is none."""
    folder: Path
    """Where its files lie, themselves or in folders below it."""
    files: tuple[Path, ...]
    """File ``i`` is slice ``i`` along ``axis`` of the volume; by their numbers where there is no volume."""
    frames: tuple[int, ...]
    """How many frames each file has."""
    modality: str | None
    """``CT``, ``MR``, …"""
    axis: Axis | None
    """The axis of the canonical volume nearest to the slices' normal; None if the files are no volume."""
    shape: tuple[int, int, int] | None
    """(X, Y, Z) of the canonical volume; None if the files are no volume: read each by itself."""
    spacing: tuple[float, float, float] | None
    """Its voxel size (x, y, z) in mm."""
    notes: tuple[str, ...]
    """Gaps, copies, mixed orientations, localizers, tilt: in sentences without any text of a header."""
    secondary_captures: int
    """How many of its files were converted to DICOM: screenshots, scanned films, photographs."""
    patient_id: str = field(repr=False)
    """PatientID as stored, ``""`` if there is none: hash it before it is written anywhere."""
    group: Group = field(repr=False)
    """What series in other folders must share to be one with this; also to be kept out of every file and log."""

    @property
    def n(self) -> int:
        """Number of files, which is that of slices."""
        return len(self.files)

    @property
    def volume(self) -> bool:
        """Whether the files are slices of one volume, which ``load_series`` gives."""
        return self.shape is not None


@dataclass(frozen=True, slots=True)
class Folder:
    """What lies directly in one folder."""

    series: tuple[Series, ...]
    """By UID."""
    left_out: Mapping[str, int]
    """DICOM files that are no images: what they are, and how many."""
    damaged: tuple[str, ...]
    """Names of files that should be DICOM by their extension or content and cannot be read."""


def scan_folder(folder: Path) -> Folder:
    """Read the headers of all files that lie directly in a folder; hidden and foreign files are passed over.

    Raises
    ------
    OSError
        If the folder cannot be listed.
    """
    paths = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".") and _is_listed(path)]
    files, left_out, unreadable = read_files(paths)
    groups: dict[str, list[File]] = {}
    for file in files:
        groups.setdefault(_uid(file), []).append(file)
    series = [found for uid in sorted(groups) for found in series_of(folder, groups[uid])]
    return Folder(tuple(series), left_out, unreadable)


def _is_listed(path: Path) -> bool:
    """Whether it is a file, or a link to a DICOM file that is gone; no pipe, to open which may wait for ever."""
    return path.is_file() or (path.suffix.lower() in _EXTENSIONS and path.is_symlink() and not path.exists())


def read_files(paths: Iterable[Path]) -> tuple[list[File], Mapping[str, int], tuple[str, ...]]:
    """Headers of images; what the other DICOM files are and how many; the names of damaged ones."""
    files: list[File] = []
    left_out: Counter[str] = Counter()
    unreadable = []
    with header_text_kept_inside():
        for path in paths:
            try:
                found = _file(path)
            except (ImageError, OSError):
                unreadable.append(path.name)
                continue
            if isinstance(found, File):
                files.append(found)
            elif found is not None:
                left_out[found] += 1
    return files, left_out, tuple(unreadable)


def series_of(folder: Path, files: Sequence[File]) -> list[Series]:
    """The parts of the files of one SeriesInstanceUID."""
    uid = _uid(files[0])
    with header_text_kept_inside():
        return [_series(folder, uid, place, part) for place, part in enumerate(parts_of(files))]


def _file(path: Path) -> File | str | None:
    """A file with a picture; what it is, for DICOM that is no image; None for one of another kind."""
    if path.name.upper() == "DICOMDIR":
        return "DICOMDIR"
    with path.open("rb") as file:
        if not is_dicom(file.read(132)) and path.suffix.lower() not in _EXTENSIONS:
            return None
    with only_image_errors():
        header = read_header(path, _HEADER_TAGS, pixels=False)
        other = no_image(header)
        if other == "no pixels" and (not header.get("SOPInstanceUID") or is_image_class(header)):
            raise damaged("its header ends before it says what its pixels are", EOFError())
        if other is not None:
            return other
        if min(int(header.Rows), int(header.Columns)) < 1:
            raise damaged("its size is not positive", ValueError())
        return File(path, frame_header(header, 0), frame_count(header))


def _uid(file: File) -> str:
    """The UID if it is one; what is none may be any text and is hashed."""
    uid = str(file.header.get("SeriesInstanceUID") or "")
    return uid if _UID.fullmatch(uid) else f"x{hashlib.sha256(uid.encode()).hexdigest()[:16]}"


def _series(folder: Path, uid: str, place: int, part: Part) -> Series:
    first = part.files[0].header
    shape, spacing = None, None
    if part.stack is not None:
        counts = (int(first.Columns), int(first.Rows), len(part.files))
        shape, spacing = canonical_shape(counts, part.stack.affine)
    patient = str(first.get("PatientID") or "")
    return Series(
        uid=uid if place == 0 else f"{uid}-{place + 1}",
        folder=folder,
        files=tuple(file.path for file in part.files),
        frames=tuple(file.frames for file in part.files),
        modality=modality(first),
        axis=None if part.stack is None else part.stack.axis,
        shape=shape,
        spacing=spacing,
        notes=part.notes,
        secondary_captures=sum(is_secondary_capture(file.header) for file in part.files),
        patient_id=patient,
        group=(patient.strip(), str(first.get("StudyInstanceUID") or ""), uid),
    )
