"""A DICOM series taken apart: files that can be one volume stay together, all others are parts of their own.

Scanners and archives put into one series what one examination made: a localizer before the slices, the same slices at
several times or with several diffusion weights, a screenshot with the dose report. No file is lost here: each is in
exactly one part, but for copies of a file that is there already.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset

from featcache.imaging.dicom_header import number
from featcache.imaging.geometry import SAME_POSITION_MM, NoVolumeError, Plane, Stack, plane_of

__all__ = ["File", "Part", "parts_of"]


@dataclass(frozen=True, slots=True)
class File:
    """One file of a series."""

    path: Path
    """The file."""
    header: Dataset
    """Of its first frame."""
    frames: int
    """How many it has."""

    @property
    def number(self) -> tuple[float, float, float, str]:
        """Which of several files at one position comes first."""
        temporal, acquisition, instance = (
            number(self.header, keyword) or 0.0
            for keyword in ("TemporalPositionIdentifier", "AcquisitionNumber", "InstanceNumber")
        )
        return temporal, acquisition, instance, self.path.name

    @property
    def localizer(self) -> bool:
        """Whether ImageType says so."""
        kinds = self.header.get("ImageType")
        return kinds is not None and "LOCALIZER" in ([kinds] if isinstance(kinds, str) else list(kinds))


@dataclass(frozen=True, slots=True)
class Part:
    """Files that belong together."""

    files: tuple[File, ...]
    """In the order of the volume's slices; by their numbers where they are no volume."""
    stack: Stack | None
    """Where they lie; None if they are no volume."""
    notes: tuple[str, ...]
    """What is odd about them, in sentences without any text of a header."""


def parts_of(files: Sequence[File]) -> list[Part]:
    """Take a series apart.

    Parameters
    ----------
    files
        All files of one series in one folder, in any order.

    Returns
    -------
    list of Part
        Volumes first, localizers last, larger before smaller ones.
    """
    ordered, copies = _without_copies(sorted(files, key=lambda file: file.number))
    groups: list[tuple[Plane | None, list[File]]] = []
    reasons: set[str] = set()
    for file in ordered:
        plane = plane_of(file.header) if file.frames == 1 else None
        for known, members in groups:
            different = _differences(plane, known, file, members[0])
            if not different:
                members.append(file)
                break
            reasons |= different
        else:
            groups.append((plane, [file]))
    found = []
    for plane, members in groups:
        layers = [members] if plane is None else _layers(plane, members)
        reasons |= {"several images at one position"} if len(layers) > 1 else set()
        found += [_part(layer) for layer in layers]
    found.sort(key=lambda part: (part.files[0].localizer, part.stack is None, -len(part.files)))
    shared = [f"{copies} files are copies of others and are left out."] if copies else []
    if len(found) == 1:
        return [Part(found[0].files, found[0].stack, (*shared, *found[0].notes))]
    said = ", ".join(sorted(reasons))
    return [
        Part(part.files, part.stack, (f"Part {place} of {len(found)} of a series with {said}.", *shared, *part.notes))
        for place, part in enumerate(found, 1)
    ]


def _without_copies(files: Sequence[File]) -> tuple[list[File], int]:
    """A SOPInstanceUID names one image in the world; files without it are all kept."""
    seen: set[str] = set()
    kept = []
    for file in files:
        uid = str(file.header.get("SOPInstanceUID") or "")
        if not uid or uid not in seen:
            kept.append(file)
        seen.add(uid)
    return kept, len(files) - len(kept)


def _differences(plane: Plane | None, other: Plane | None, file: File, member: File) -> set[str]:
    """Why two files cannot be slices of one volume; empty if they can, or if neither has any geometry."""
    if file.frames > 1 or member.frames > 1:
        return {"files with several frames"}
    found = set()
    if file.localizer != member.localizer:
        found.add("localizers")
    if any(file.header.get(name) != member.header.get(name) for name in ("Rows", "Columns", "SamplesPerPixel")):
        found.add("different sizes or spacings")
    if (plane is None) != (other is None):
        found.add("files without a position")
    elif plane is not None and other is not None:
        if not plane.parallel(other):
            found.add("mixed orientations")
        if not plane.same_spacing(other):
            found.add("different sizes or spacings")
    return found


def _layers(plane: Plane, files: Sequence[File]) -> list[list[File]]:
    """The n-th file of every position is in layer n: time points, echoes, diffusion weights."""
    depths = [(plane.depth(own), file) for file in files if (own := plane_of(file.header)) is not None]
    layers: list[list[File]] = []
    begin, height = -float("inf"), 0
    for depth, file in sorted(depths, key=lambda item: item[0]):  # stable: files stay in the order of their numbers
        if depth - begin > SAME_POSITION_MM:
            begin, height = depth, 0
        if height == len(layers):
            layers.append([])
        layers[height].append(file)
        height += 1
    return layers


def _part(files: list[File]) -> Part:
    files = sorted(files, key=lambda file: file.number)
    try:
        stack = Stack.of([file.header for file in files])
    except NoVolumeError as error:
        notes = (f"The files are no volume: {error}.",) if len(files) > 1 else ()
        return Part(tuple(files), None, notes)
    return Part(tuple(files[index] for index in stack.order), stack, stack.notes)
