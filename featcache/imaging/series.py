"""DICOM series: the files of a folder grouped and put in order by where their slices lie, never by their names."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydicom.dataset import Dataset

from featcache.errors import ImageError
from featcache.imaging.dicom import decode, load, modality, stack_values
from featcache.imaging.dicom_header import is_dicom, number, numbers, read_header
from featcache.imaging.dicom_values import to_values
from featcache.imaging.geometry import SAME_DIRECTION, NoVolumeError, Stack, canonical_shape, orientation_name
from featcache.imaging.multiframe import frame_header
from featcache.records import Image

__all__ = ["Series", "find_series", "load_series", "scan_series"]

_HEADER_TAGS = (
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "StudyInstanceUID",
    "PatientID",
    "Modality",
    "ImageType",
    "AcquisitionNumber",
    "InstanceNumber",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "BitsAllocated",
)


@dataclass(frozen=True, slots=True)
class Series:
    """One series of a folder, from headers alone."""

    uid: str
    """SeriesInstanceUID."""
    files: tuple[Path, ...]
    """The files that are decoded, in the order of their slices; by number and name where there is no geometry."""
    volume: bool
    """Whether :func:`load_series` can make a volume of them."""
    shape: tuple[int, int, int] | None
    """(X, Y, Z) of that volume in canonical RAS orientation; None without one."""
    spacing: tuple[float, float, float] | None
    """Its voxel size (x, y, z) in mm."""
    orientation: str | None
    """How it was acquired: ``axial``, ``coronal``, ``sagittal``, or one of these with ``oblique ``."""
    modality: str | None
    """``CT``, ``MR``, ..."""
    study: str
    """StudyInstanceUID."""
    patient: str = field(repr=False)
    """PatientID as stored, ``""`` if there is none: hash it before it is written anywhere."""
    notes: tuple[str, ...]
    """Gaps, duplicates, left-out localizers, tilt: in sentences without any value of a header but sizes."""

    @property
    def n(self) -> int:
        """Number of files."""
        return len(self.files)


@dataclass(frozen=True, slots=True)
class _Slice:
    path: Path
    header: Dataset


_lock = threading.Lock()
_scanned: dict[Path, tuple[int, list[Series]]] = {}


def scan_series(folder: Path) -> list[Series]:
    """Find the DICOM series among the files that lie directly in a folder.

    Only headers are read, and a folder once a process: again when its modification time has changed.

    Parameters
    ----------
    folder
        Files of other kinds in it are passed over.

    Returns
    -------
    list of Series
        In the order of their UIDs. A file that cannot be opened or parsed is in no series.

    Raises
    ------
    FileNotFoundError, NotADirectoryError, PermissionError
        If the folder cannot be listed.

    Examples
    --------
    >>> scan_series(Path("docs"))
    []
    """
    folder = folder.absolute()
    changed = folder.stat().st_mtime_ns
    with _lock:  # one scan at a time: the second thread that asks for a folder finds it here
        known = _scanned.get(folder)
        if known is None or known[0] != changed:
            known = _scanned[folder] = (changed, _scan(folder))
        return list(known[1])


def find_series(folder: Path, uid: str) -> Series:
    """The series of a folder with a SeriesInstanceUID.

    Raises
    ------
    ImageError
        If the folder is missing or has no such series.
    """
    try:
        found = [series for series in scan_series(folder) if series.uid == uid]
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
        In any order: their positions decide.

    Returns
    -------
    Image
        A volume in canonical RAS orientation (X, Y, Z) in modality units, with its affine; its notes are those of
        :class:`Series`.

    Raises
    ------
    ImageError
        If the slices are no volume, or one of them cannot be decoded: the message says which file.
    """
    if not files:
        raise ImageError("the series has no files", remedy="Scan the folder anew.")
    if len(files) == 1:
        return load(files[0])
    frames, values = [], []
    for path in files:
        try:
            header = read_header(path)
            frames.append(frame_header(header, 0))
            values.append(to_values(decode(header, 0), frames[-1]))
        except ImageError as error:
            raise ImageError(f"slice file {path.name!r}: {error.message}", remedy=error.remedy) from None
    try:
        stack = Stack.of(frames)
    except NoVolumeError as error:
        raise ImageError(
            f"the {len(files)} files of the series are no volume ({error})",
            remedy="Read the files one by one, as single images.",
        ) from None
    return stack_values([values[index] for index in stack.order], stack, frames[0])


def _scan(folder: Path) -> list[Series]:
    groups: dict[str, list[_Slice]] = {}
    for path in sorted(folder.iterdir()):
        header = _header(path)
        if header is not None:
            groups.setdefault(str(header.get("SeriesInstanceUID") or ""), []).append(_Slice(path, header))
    return [_series(uid, groups[uid]) for uid in sorted(groups)]


def _header(path: Path) -> Dataset | None:
    """Header of a file with pixels; None for everything else."""
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            if not is_dicom(file.read(132)):
                return None
        header = read_header(path, _HEADER_TAGS, pixels=False)
        return frame_header(header, 0) if header.get("BitsAllocated") and header.get("Rows") else None
    except (ImageError, PermissionError):
        return None


def _series(uid: str, slices: list[_Slice]) -> Series:
    notes: list[str] = []
    slices = sorted(slices, key=_numbered)
    chosen = _without_localizers(slices, notes)
    chosen = _of_one_kind(chosen, notes)
    stack: Stack | None = None
    single = len(chosen) == 1 and (number(chosen[0].header, "NumberOfFrames") or 1) > 1
    if len(chosen) > 1:
        try:
            stack = Stack.of([item.header for item in chosen])
            chosen = [chosen[index] for index in stack.order]
            notes += stack.notes
        except NoVolumeError as error:
            notes.append(f"The files are no volume: {error}.")
    else:
        notes.append("It is one multi-frame file: read it as a file." if single else "There is one slice only.")
    first = chosen[0].header
    shape, spacing = None, None
    if stack is not None:
        counts = (int(first.Columns), int(first.Rows), len(chosen))
        shape, spacing = canonical_shape(counts, stack.affine)
    cosines = numbers(first, "ImageOrientationPatient")
    return Series(
        uid=uid,
        files=tuple(item.path for item in chosen),
        volume=stack is not None,
        shape=shape,
        spacing=spacing,
        orientation=orientation_name(cosines) if len(cosines) == 6 else None,
        modality=modality(first),
        study=str(first.get("StudyInstanceUID") or ""),
        patient=str(first.get("PatientID") or ""),
        notes=tuple(notes),
    )


def _numbered(item: _Slice) -> tuple[float, float, str]:
    """Which of several files at one position comes first."""
    numbers_of = (number(item.header, keyword) or 0.0 for keyword in ("AcquisitionNumber", "InstanceNumber"))
    return (*numbers_of, item.path.name)  # type: ignore[return-value]


def _without_localizers(slices: list[_Slice], notes: list[str]) -> list[_Slice]:
    others = [item for item in slices if not _is_localizer(item.header)]
    if not others:
        notes.append("All files are localizers.")
        return slices
    if len(others) < len(slices):
        notes.append(f"{len(slices) - len(others)} localizers are left out.")
    return others


def _is_localizer(header: Dataset) -> bool:
    kinds = header.get("ImageType")
    return kinds is not None and "LOCALIZER" in ([kinds] if isinstance(kinds, str) else list(kinds))


def _of_one_kind(slices: list[_Slice], notes: list[str]) -> list[_Slice]:
    """The largest group of files with one orientation and size."""
    kinds: list[list[_Slice]] = []
    for item in slices:
        for kind in kinds:
            if _alike(kind[0].header, item.header):
                kind.append(item)
                break
        else:
            kinds.append([item])
    kinds.sort(key=len, reverse=True)
    if len(kinds) == 1:
        return slices
    if len(kinds[0]) == len(kinds[1]):
        notes.append(f"The files have {len(kinds)} orientations or sizes, none of which is the most frequent.")
        return slices
    notes.append(
        f"The files have {len(kinds)} orientations or sizes: {len(slices) - len(kinds[0])} of {len(slices)} files, "
        "which differ from most, are left out."
    )
    return kinds[0]


def _alike(one: Dataset, other: Dataset) -> bool:
    first, second = (numbers(header, "ImageOrientationPatient") for header in (one, other))
    if len(first) != len(second) or any(abs(a - b) > SAME_DIRECTION for a, b in zip(first, second, strict=True)):
        return False
    return (one.get("Rows"), one.get("Columns")) == (other.get("Rows"), other.get("Columns"))
