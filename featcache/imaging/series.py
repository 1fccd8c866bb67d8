"""DICOM series: the files of a folder grouped and put in order by where their slices lie, never by their names."""

from __future__ import annotations

import hashlib
import os
import re
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from featcache.errors import DatasetError, FeatcacheWarning, ImageError
from featcache.imaging.dicom import decode, load, modality, volume_of
from featcache.imaging.dicom_header import damaged, is_dicom, only_image_errors, read_header
from featcache.imaging.dicom_privacy import header_text_kept_inside
from featcache.imaging.dicom_values import to_values
from featcache.imaging.geometry import NoVolumeError, Stack
from featcache.imaging.multiframe import frame_count, frame_header
from featcache.imaging.orientation import canonical_shape
from featcache.imaging.series_parts import File, Part, parts_of
from featcache.records import Axis, Image

__all__ = ["Series", "find_series", "load_series", "scan_series"]

_HEADER_TAGS = (
    "SOPInstanceUID",
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


@dataclass(frozen=True, slots=True)
class Series:
    """The files of one series in one folder that belong together, from headers alone."""

    uid: str
    """SeriesInstanceUID. Where a series falls into parts (a localizer before the slices, several time points), the
    first has the UID itself, the others ``UID-2``, ``UID-3`` …. What is no UID is hashed; ``""`` is none."""
    files: tuple[Path, ...]
    """File ``i`` is slice ``i`` along ``axis`` of the volume; by their numbers where there is no volume."""
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
    patient_id: str = field(repr=False)
    """PatientID as stored, ``""`` if there is none: hash it before it is written anywhere."""

    @property
    def n(self) -> int:
        """Number of files, which is that of slices."""
        return len(self.files)

    @property
    def volume(self) -> bool:
        """Whether the files are slices of one volume, which :func:`load_series` gives."""
        return self.shape is not None


_lock = threading.Lock()
_scanned: dict[Path, tuple[tuple[int, int], tuple[Series, ...], tuple[str, ...]]] = {}


def scan_series(folder: Path) -> list[Series]:
    """Find the DICOM series in a folder and the folders below it, from headers alone.

    A series is what lies in one folder under one SeriesInstanceUID and can be one volume, or has no geometry at all;
    see :attr:`Series.uid` for what falls into parts. Files without pixels and files of other kinds are passed over,
    hidden files too; links to folders are not followed. A folder is read once a process, and again after its
    modification time or number of files has changed.

    Parameters
    ----------
    folder
        Any folder.

    Returns
    -------
    list of Series
        In the order of folders and UIDs.

    Raises
    ------
    DatasetError
        If the folder or one below it cannot be listed.

    Warns
    -----
    FeatcacheWarning
        If files that should be DICOM by their extension or content cannot be read; they are in no series.

    Examples
    --------
    >>> scan_series(Path("docs"))
    []
    """
    folder = folder.absolute()
    found: list[Series] = []
    damaged: list[str] = []
    for place, subfolders, _ in os.walk(folder, onerror=_refuse_unreadable):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        series, unreadable = _scan_once(Path(place))
        found += series
        damaged += [os.path.relpath(f"{place}/{name}", folder) for name in unreadable]
    if damaged:
        more = " …" if len(damaged) > 3 else ""
        warnings.warn(
            f"{len(damaged)} files are damaged or no DICOM, and in no series: {', '.join(damaged[:3])}{more}",
            FeatcacheWarning,
            stacklevel=2,
        )
    return found


def find_series(folder: Path, uid: str) -> Series:
    """The series with this :attr:`Series.uid` among the files that lie directly in a folder.

    Raises
    ------
    ImageError
        If the folder is missing or has no such series.
    """
    try:
        found = [series for series in _scan_once(folder.absolute())[0] if series.uid == uid]
    except (FileNotFoundError, NotADirectoryError):
        raise ImageError("the folder of the series does not exist", remedy="Restore it, or scan anew.") from None
    if not found:
        raise ImageError(
            "the folder has no series with the UID that the sample names",
            remedy="Scan the folder anew: its files were changed or moved.",
        )
    return found[0]


def load_series(files: Sequence[Path]) -> Image:
    """Decode the files of one series to a volume.

    Parameters
    ----------
    files
        In any order: their positions decide. A single file is read as :func:`featcache.imaging.read` reads it.

    Returns
    -------
    Image
        A volume in canonical RAS orientation (X, Y, Z) in modality units, with its affine and spacing in mm; its
        notes say where slices are missing or tilted.

    Raises
    ------
    ImageError
        If the slices are no volume, or one of them cannot be decoded: the message says which file.
    """
    if not files:
        raise ImageError("the series has no files", remedy="Scan the folder anew.")
    if len(files) == 1:
        return load(files[0])
    with header_text_kept_inside():
        headers, values = [], []
        for path in files:
            try:
                with only_image_errors():
                    header = read_header(path)
                    if frame_count(header) > 1:
                        raise ImageError("it has several frames, expected one", remedy="Read the files one by one.")
                    headers.append(frame_header(header, 0))
                    values.append(to_values(decode(header), headers[-1]))
            except ImageError as error:
                raise ImageError(f"slice file {path.name!r}: {error.message}", remedy=error.remedy) from None
            except OSError as error:
                raise ImageError(
                    f"slice file {path.name!r} cannot be opened ({type(error).__name__})",
                    remedy="Restore it, or scan the folder anew.",
                ) from None
        try:
            stack = Stack.of(headers)
        except NoVolumeError as error:
            raise ImageError(
                f"the {len(files)} files of the series are no volume: {error}",
                remedy="Read the files one by one, as single images.",
            ) from None
        return volume_of([values[index] for index in stack.order], stack, headers[0])


def _refuse_unreadable(error: OSError) -> None:
    raise DatasetError(f"a folder cannot be read: {error.filename}: {error.strerror}", remedy="Give this user access.")


def _scan_once(folder: Path) -> tuple[tuple[Series, ...], tuple[str, ...]]:
    """Series and unreadable files of one folder, remembered."""
    with _lock:  # one scan at a time: the second thread that asks for a folder finds it here
        state = (folder.stat().st_mtime_ns, len(os.listdir(folder)))  # noqa: PTH208 - ten times faster
        known = _scanned.get(folder)
        if known is None or known[0] != state:
            known = _scanned[folder] = (state, *_scan(folder))
        return known[1], known[2]


def _scan(folder: Path) -> tuple[tuple[Series, ...], tuple[str, ...]]:
    groups: dict[str, list[File]] = {}
    unreadable = []
    with header_text_kept_inside():
        for path in sorted(folder.iterdir()):
            if path.name.startswith(".") or not path.is_file():
                continue
            try:
                file = _file(path)
            except (ImageError, OSError):
                unreadable.append(path.name)
                continue
            if file is not None:
                groups.setdefault(_uid(file), []).append(file)
        series = [
            _series(uid, place, part) for uid in sorted(groups) for place, part in enumerate(parts_of(groups[uid]))
        ]
    return tuple(series), tuple(unreadable)


def _file(path: Path) -> File | None:
    """A file with pixels; None for one of another kind, and for DICOM without pixels."""
    with path.open("rb") as file:
        if not is_dicom(file.read(132)) and path.suffix.lower() not in _EXTENSIONS:
            return None
    with only_image_errors():
        header = read_header(path, _HEADER_TAGS, pixels=False)
        if not header.get("BitsAllocated") or not header.get("Rows"):
            return None
        if min(int(header.Rows), int(header.Columns)) < 1:
            raise damaged("its size is not positive", ValueError())
        return File(path, frame_header(header, 0), frame_count(header))


def _uid(file: File) -> str:
    """The UID if it is one; what is none may be any text and is hashed."""
    uid = str(file.header.get("SeriesInstanceUID") or "")
    return uid if _UID.fullmatch(uid) else f"x{hashlib.sha256(uid.encode()).hexdigest()[:16]}"


def _series(uid: str, place: int, part: Part) -> Series:
    first = part.files[0].header
    shape, spacing = None, None
    if part.stack is not None:
        counts = (int(first.Columns), int(first.Rows), len(part.files))
        shape, spacing = canonical_shape(counts, part.stack.affine)
    return Series(
        uid=uid if place == 0 else f"{uid}-{place + 1}",
        files=tuple(file.path for file in part.files),
        modality=modality(first),
        axis=None if part.stack is None else part.stack.axis,
        shape=shape,
        spacing=spacing,
        notes=part.notes,
        patient_id=str(first.get("PatientID") or ""),
    )
