"""Where slices lie: order along the normal, gaps, tilt and the affine.

DICOM's patient axes run left, posterior, superior (LPS); those of NIfTI and of every volume here run right, anterior,
superior (RAS). Equation numbers are those of DICOM PS3.3 C.7.6.2.1.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import nibabel.orientations
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from featcache.imaging.dicom_header import numbers
from featcache.records import Axis

__all__ = ["SAME_POSITION_MM", "NoVolumeError", "Plane", "Stack", "plane_of"]

SAME_DIRECTION = 1e-3
"""Largest difference of a direction cosine within one orientation; files carry 3 to 6 digits."""
SAME_POSITION_MM = 1e-2
"""Slices closer than this are at the same position."""
GAP = 1.5
"""A distance of more than this many median distances is a gap."""
UNEVEN = 0.05
"""Distances that differ by more than this fraction of the median are said."""
TILT_DEGREES = 0.5
"""A larger angle between the slice normal and the direction of the stack is said."""

_AXES: tuple[Axis, Axis, Axis] = ("sagittal", "coronal", "axial")
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


class NoVolumeError(ValueError):
    """These frames do not lie in a row; the text says why, without any value of a header."""


@dataclass(frozen=True, slots=True)
class Stack:
    """Parallel slices in a row, one at each position."""

    order: tuple[int, ...]
    """Indices of the given headers in the order of the volume: from left to right, back to front or foot to head."""
    affine: NDArray[np.float64]
    """(4, 4), (column, row, slice) indices to RAS+ millimetres."""
    axis: Axis
    """The axis of the canonical volume that the slices are counted along."""
    notes: tuple[str, ...]
    """Gaps, uneven distances, gantry tilt: in sentences."""

    @classmethod
    def of(cls, headers: Sequence[Dataset]) -> Stack:
        """Find the order and geometry of slices from their position, orientation and pixel spacing.

        Raises
        ------
        NoVolumeError
            If there is one slice only, if positions or orientations are missing, orientations or spacings differ, or
            two slices lie at one position.
        """
        planes = [plane_of(header) for header in headers]
        known = [plane for plane in planes if plane is not None]
        if len(known) < len(planes):
            raise NoVolumeError(f"{len(planes) - len(known)} slices have no position, orientation or pixel spacing")
        if len(known) < 2:
            raise NoVolumeError("there is one slice only")
        first = known[0]
        if not all(first.parallel(other) for other in known):
            raise NoVolumeError("the orientations differ")
        if not all(first.same_spacing(other) for other in known):
            raise NoVolumeError("the pixel spacings differ")
        depth = np.array([first.depth(other) for other in known])
        order = np.argsort(depth, kind="stable")
        distances = np.diff(depth[order])
        if distances.min() <= SAME_POSITION_MM:
            raise NoVolumeError("two slices lie at one position")
        affine = _affine(first, known[order[0]].position, known[order[-1]].position, len(order))
        axis, sense = nibabel.orientations.io_orientation(affine)[2]
        if sense < 0:  # count the slices as the canonical volume does
            order = order[::-1]
            affine = _affine(first, known[order[0]].position, known[order[-1]].position, len(order))
        notes = (*_spacing_notes(distances), *_tilt_notes(affine))
        return cls(tuple(order.tolist()), affine, _AXES[int(axis)], notes)


@dataclass(frozen=True, slots=True)
class Plane:
    """Where one slice lies, in the patient's LPS axes."""

    row: NDArray[np.float64]
    """(3,) direction of growing column numbers, length 1."""
    column: NDArray[np.float64]
    """(3,) direction of growing row numbers, length 1."""
    spacing: tuple[float, float]
    """Between rows, between columns, in mm."""
    position: NDArray[np.float64]
    """(3,) centre of the first pixel in mm."""

    def parallel(self, other: Plane) -> bool:
        """Whether rows and columns run the same way."""
        return bool(max(np.abs(self.row - other.row).max(), np.abs(self.column - other.column).max()) <= SAME_DIRECTION)

    def same_spacing(self, other: Plane) -> bool:
        """Whether the pixels have the same size."""
        return all(abs(a / b - 1) <= SAME_DIRECTION for a, b in zip(self.spacing, other.spacing, strict=True))

    def depth(self, other: Plane) -> float:
        """Position of another slice along the normal of this one, in mm."""
        return float(np.cross(self.row, self.column) @ other.position)


def plane_of(header: Dataset) -> Plane | None:
    """Where a slice lies; None if position, orientation or pixel spacing are missing or impossible."""
    orientation = numbers(header, "ImageOrientationPatient")
    spacing = numbers(header, "PixelSpacing")
    position = numbers(header, "ImagePositionPatient")
    if len(orientation) != 6 or len(spacing) != 2 or len(position) != 3:
        return None
    if not np.isfinite([*orientation, *spacing, *position]).all() or min(spacing) <= 0:
        return None
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if not all(0.9 < length < 1.1 for length in lengths) or abs(row @ column) > 0.1:
        return None
    return Plane(row / lengths[0], column / lengths[1], (spacing[0], spacing[1]), np.array(position))


def _affine(plane: Plane, first: NDArray[np.float64], last: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Equation C.7.6.2.1-1 with the mean step from slice to slice as the third column."""
    affine = np.eye(4)
    affine[:3, 0] = plane.row * plane.spacing[1]  # a column further: along the row, by the distance of columns
    affine[:3, 1] = plane.column * plane.spacing[0]
    affine[:3, 2] = (last - first) / (count - 1)
    affine[:3, 3] = first
    ras: NDArray[np.float64] = _LPS_TO_RAS @ affine
    return ras


def _spacing_notes(distances: NDArray[np.float64]) -> list[str]:
    median = float(np.median(distances))
    gaps = distances > GAP * median
    if gaps.any():
        missing = int(np.rint(distances[gaps] / median - 1).sum())
        return [
            f"{np.count_nonzero(gaps)} gaps: about {missing} slices are missing at the usual distance of {median:g} mm."
        ]
    uneven = float(np.abs(distances / median - 1).max())
    if uneven > UNEVEN:
        return [f"The distances of neighbouring slices differ by up to {uneven:.0%} of their median, {median:g} mm."]
    return []


def _tilt_notes(affine: NDArray[np.float64]) -> list[str]:
    normal = np.cross(affine[:3, 0], affine[:3, 1])
    step = affine[:3, 2]
    cosine = min(1.0, abs(float(step @ normal)) / float(np.linalg.norm(step) * np.linalg.norm(normal)))
    angle = float(np.rad2deg(np.arccos(cosine)))
    if angle <= TILT_DEGREES:
        return []
    return [f"The gantry is tilted by {angle:.1f} degrees: slices are stacked as they are, the affine has the shear."]
