"""DICOM series: the files of a tree grouped and put in order by where their slices lie, never by their names."""

from __future__ import annotations

import os
import threading
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from featcache.errors import DatasetError, FeatcacheWarning, ImageError
from featcache.imaging.dicom import decode, load, volume_of
from featcache.imaging.dicom_header import only_image_errors, read_header
from featcache.imaging.dicom_padding import padded_pixels, without_padding
from featcache.imaging.dicom_privacy import header_text_kept_inside
from featcache.imaging.dicom_values import to_values
from featcache.imaging.geometry import NoVolumeError, Stack
from featcache.imaging.multiframe import frame_count, frame_header
from featcache.imaging.series_files import Folder, Group, Series, read_files, scan_folder, series_of
from featcache.records import Image

__all__ = ["Scan", "Series", "find_series", "load_series", "scan_series", "scan_tree"]


@dataclass(frozen=True, slots=True)
class Scan:
    """What :func:`scan_tree` found below a folder."""

    series: tuple[Series, ...]
    """In the order of folders and UIDs."""
    left_out: Mapping[str, int]
    """DICOM files that are no images (``RT dose``, ``report``, ``DICOMDIR`` …), and how many."""
    damaged: tuple[str, ...]
    """Files that should be DICOM and cannot be read, and folders that cannot be listed, relative to the folder."""
    links: int = 0
    """Links to folders, which are not followed: they may lead in circles or out of the folder."""


_State = tuple[int, int]

_lock = threading.RLock()
_folders: dict[Path, tuple[_State, Folder]] = {}
_spread: dict[tuple[Path, Group], tuple[dict[Path, _State], list[Series]]] = {}
"""Series that lie in several folders, by the folder that all of these are below, with the state of each."""
_complete: set[Path] = set()
"""Folders below which every spread series is known."""


def scan_series(folder: Path) -> list[Series]:
    """The series of :func:`scan_tree`, in its order.

    Warns
    -----
    FeatcacheWarning
        If files that should be DICOM by their extension or content cannot be read; they are in no series.

    Examples
    --------
    >>> scan_series(Path("docs"))
    []
    """
    scan = scan_tree(folder)
    if scan.damaged:
        more = " …" if len(scan.damaged) > 3 else ""
        warnings.warn(
            f"{len(scan.damaged)} files are damaged or no DICOM, and in no series: {', '.join(scan.damaged[:3])}{more}",
            FeatcacheWarning,
            stacklevel=2,
        )
    return list(scan.series)


def scan_tree(folder: Path, *, apart: bool = False) -> Scan:
    """Find the DICOM series in a folder and the folders below it, from headers alone.

    A series is what lies under one SeriesInstanceUID and can be one volume, or has no geometry at all; see
    :attr:`Series.uid` for what falls into parts. Where several folders hold files of one patient, study and series,
    they are put together if that makes a volume of them; time points or copies that are whole volumes, each in a folder
    of its own, stay apart. Files of other kinds, hidden files, and DICOM files that are no images are passed over;
    links to folders are not followed. A folder is read once a process, and again after its modification time or number
    of files has changed.

    Parameters
    ----------
    folder
        Any folder.
    apart
        Put nothing together across the folders at its top, because they are splits.

    Raises
    ------
    DatasetError
        If the folder itself cannot be listed.
    """
    folder = folder.absolute()
    found: list[Series] = []
    left_out: Counter[str] = Counter()
    damaged: list[str] = []
    with _lock:
        places = _Places(folder)
        for place in places:
            content = _scan_once(place)
            found += content.series
            left_out.update(content.left_out)
            damaged += [(place / name).relative_to(folder).as_posix() for name in content.damaged]
        tops: dict[str, list[Series]] = {}
        for series in found:
            below = series.folder.relative_to(folder).parts[:1] if apart else ()
            tops.setdefault("".join(below), []).append(series)
        found = [series for top in tops.values() for series in _put_together(top)]
        _complete.update(folder / top for top in tops)
    damaged += [place.relative_to(folder).as_posix() for place in places.unreadable]
    return Scan(tuple(found), left_out, tuple(damaged), places.links)


def find_series(folder: Path, uid: str) -> Series:
    """The series with this :attr:`Series.uid` and :attr:`Series.folder`.

    Raises
    ------
    ImageError
        If the folder is missing or has no such series.
    """
    folder = folder.absolute()
    try:
        with _lock:
            if not _complete.intersection((folder, *folder.parents)):
                scan_tree(folder)
            found = [series for series in (*_known_spread(folder), *_scan_once(folder).series) if series.uid == uid]
    except (DatasetError, FileNotFoundError, NotADirectoryError):
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
        headers, values, padding = [], [], []
        for path in files:
            try:
                with only_image_errors():
                    header = read_header(path)
                    if frame_count(header) > 1:
                        raise ImageError("it has several frames, expected one", remedy="Read the files one by one.")
                    headers.append(frame_header(header, 0))
                    stored = decode(header)
                    padding.append(padded_pixels(stored, headers[-1]))
                    values.append(to_values(stored, headers[-1]))
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
        values = without_padding(values, padding)
        return volume_of([values[index] for index in stack.order], stack, headers[0])


class _Places:
    """A folder and all below it; counts the links to folders, which are passed over."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.links = 0
        self.unreadable: list[Path] = []

    def __iter__(self) -> Iterator[Path]:
        for place, subfolders, _ in os.walk(self.folder, onerror=self._unreadable):
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            self.links += sum((Path(place) / name).is_symlink() for name in subfolders)
            yield Path(place)

    def _unreadable(self, error: OSError) -> None:
        if Path(error.filename) == self.folder:
            raise DatasetError(
                f"a folder cannot be read: {error.filename}: {error.strerror}", remedy="Give this user access."
            )
        self.unreadable.append(Path(error.filename))


def _state(folder: Path) -> _State:
    return folder.stat().st_mtime_ns, len(os.listdir(folder))  # noqa: PTH208 - ten times faster


def _scan_once(folder: Path) -> Folder:
    """What lies in one folder, remembered; the second thread that asks for a folder finds it here."""
    with _lock:
        state = _state(folder)
        known = _folders.get(folder)
        if known is None or known[0] != state:
            known = _folders[folder] = (state, scan_folder(folder))
        return known[1]


def _put_together(found: Sequence[Series]) -> list[Series]:
    """Replace the pieces of series that lie in several folders by their whole, where that is a volume."""
    pieces: dict[Group, list[Series]] = {}
    for series in found:
        if all(series.group):
            pieces.setdefault(series.group, []).append(series)
    whole: dict[Group, list[Series]] = {}
    taken = {(series.folder, series.uid) for series in found}
    for group, parts in pieces.items():
        if len({part.folder for part in parts}) > 1:
            made = _whole(group, parts)
            own = {(part.folder, part.uid) for part in parts}
            if made and not {(series.folder, series.uid) for series in made} & (taken - own):
                whole[group] = made
    if not whole:
        return list(found)
    kept = [series for series in found if series.group not in whole]
    kept += [series for made in whole.values() for series in made]
    return sorted(kept, key=lambda series: (series.folder.parts, series.uid))


def _whole(group: Group, pieces: Sequence[Series]) -> list[Series]:
    """The files of all pieces as one series; nothing if that makes no volume out of them."""
    folders = sorted({file.parent for piece in pieces for file in piece.files})
    common = Path(os.path.commonpath(folders))
    states = {folder: _state(folder) for folder in folders}
    known = _spread.get((common, group))
    if known is None or known[0] != states:
        files, _, _ = read_files(sorted({file for piece in pieces for file in piece.files}))
        made = series_of(common, files) if files else []
        across = any(series.volume and len({file.parent for file in series.files}) > 1 for series in made)
        if len(made) >= len(pieces) or not across:
            made = []
        known = _spread[common, group] = states, made
    return known[1]


def _known_spread(folder: Path) -> list[Series]:
    """Series that are spread over folders below this one, and nothing higher up; scanned anew where they changed."""
    entries = [entry for (common, _), entry in _spread.items() if common == folder]
    if any(_state(place) != state for states, _ in entries for place, state in states.items()):
        scan_tree(folder)
        entries = [entry for (common, _), entry in _spread.items() if common == folder]
        entries = [entry for entry in entries if all(_state(place) == state for place, state in entry[0].items())]
    return [series for _, made in entries for series in made]
