"""Where slices lie: order along the normal, gaps, tilt, the affine, and canonical RAS orientation.

DICOM's patient axes run left, posterior, superior (LPS); those of NIfTI and of every volume here run right, anterior,
superior (RAS). Equation numbers are those of DICOM PS3.3 C.7.6.2.1.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import nibabel.orientations
import numpy as np
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from featcache.imaging.dicom_header import number, numbers

__all__ = ["NoVolumeError", "Stack", "canonical", "canonical_shape", "orientation_name"]

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

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


class NoVolumeError(ValueError):
    """These frames do not lie in a row; the text says why, without any value of a header."""


@dataclass(frozen=True, slots=True)
class Stack:
    """Parallel slices in a row."""

    order: tuple[int, ...]
    """Indices of the given headers, along the slice normal; of several at one position the first."""
    affine: NDArray[np.float64]
    """(4, 4), (column, row, slice) indices to RAS+ millimetres."""
    notes: tuple[str, ...]
    """Gaps, duplicate positions, uneven distances, gantry tilt: in sentences."""

    @classmethod
    def of(cls, headers: Sequence[Dataset]) -> Stack:
        """Find the order and geometry of slices from their position, orientation and pixel spacing.

        Raises
        ------
        NoVolumeError
            If positions or orientations are missing, orientations or spacings differ, or all positions are equal.
        """
        rows = [_plane(header) for header in headers]
        planes = np.array([row for row in rows if row is not None])
        if len(planes) < len(rows):
            raise NoVolumeError(f"{len(rows) - len(planes)} of them have no position, orientation or pixel spacing")
        orientation, spacing, positions = planes[0, :6], planes[0, 6:8], planes[:, 8:]
        if np.abs(planes[:, :6] - orientation).max() > SAME_DIRECTION:
            raise NoVolumeError("their orientations differ")
        if np.abs(planes[:, 6:8] / spacing - 1).max() > SAME_DIRECTION:
            raise NoVolumeError("their pixel spacings differ")
        normal = np.cross(orientation[:3], orientation[3:])
        depth = positions @ normal
        order = np.argsort(depth, kind="stable")
        fresh = np.concatenate([[True], np.diff(depth[order]) > SAME_POSITION_MM])
        notes = []
        if not fresh.all():
            notes.append(
                f"{np.count_nonzero(~fresh)} of {len(order)} slices lie at a position that another slice has already: "
                "the first file of each position is used."
            )
            order = order[fresh]
        if len(order) < 2:
            if len(rows) > 1:
                raise NoVolumeError("all of them lie at one position")
            step = normal * (number(headers[0], "SliceThickness") or 1.0)
        else:
            step = (positions[order[-1]] - positions[order[0]]) / (len(order) - 1)
            notes += _spacing_notes(np.diff(depth[order])) + _tilt_notes(step, normal)
        affine = np.eye(4)
        affine[:3, 0] = orientation[:3] * spacing[1]  # a column further: along the row, by the column spacing
        affine[:3, 1] = orientation[3:] * spacing[0]
        affine[:3, 2] = step
        affine[:3, 3] = positions[order[0]]
        return cls(tuple(order.tolist()), _LPS_TO_RAS @ affine, tuple(notes))


def canonical(
    array: NDArray[Any], affine: NDArray[np.float64]
) -> tuple[NDArray[Any], NDArray[np.float64], tuple[float, float, float]]:
    """Flip and permute axes so that they point right, anterior, superior; nothing is interpolated.

    Parameters
    ----------
    array
        (I, J, K).
    affine
        (4, 4), indices to RAS+ millimetres, invertible.

    Returns
    -------
    tuple
        The array as a view, its affine, and its voxel size (x, y, z) in mm.
    """
    turns = nibabel.orientations.io_orientation(affine)
    turned: NDArray[Any] = nibabel.orientations.apply_orientation(array, turns)
    moved: NDArray[np.float64] = affine @ nibabel.orientations.inv_ornt_aff(turns, array.shape)
    x, y, z = (float(size) for size in voxel_sizes(moved))
    return turned, moved, (x, y, z)


def canonical_shape(
    shape: tuple[int, int, int], affine: NDArray[np.float64]
) -> tuple[tuple[int, int, int], tuple[float, float, float]]:
    """Shape and voxel size in mm that :func:`canonical` would give, without any data."""
    turned, _, spacing = canonical(np.broadcast_to(np.uint8(0), shape), affine)
    return (turned.shape[0], turned.shape[1], turned.shape[2]), spacing


def orientation_name(orientation: Sequence[float]) -> str:
    """``axial``, ``coronal`` or ``sagittal`` (the nearest), with ``oblique `` before it beyond 10 degrees.

    Parameters
    ----------
    orientation
        Six direction cosines of ImageOrientationPatient.

    Examples
    --------
    >>> orientation_name((1, 0, 0, 0, 1, 0)), orientation_name((0, 1, 0, 0, 0, -1))
    ('axial', 'sagittal')
    """
    normal = np.abs(np.cross(orientation[:3], orientation[3:]))
    name = ("sagittal", "coronal", "axial")[int(normal.argmax())]
    return name if normal.max() > np.cos(np.deg2rad(10)) else f"oblique {name}"


def _plane(header: Dataset) -> list[float] | None:
    """Six direction cosines, row and column spacing, position; None if any of it is missing or impossible."""
    orientation = numbers(header, "ImageOrientationPatient")
    spacing = numbers(header, "PixelSpacing")
    position = numbers(header, "ImagePositionPatient")
    if len(orientation) != 6 or len(spacing) != 2 or len(position) != 3 or min(spacing) <= 0:
        return None
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if not all(0.9 < length < 1.1 for length in lengths) or abs(row @ column) > 0.1:
        return None
    return [*(row / lengths[0]), *(column / lengths[1]), *spacing, *position]


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


def _tilt_notes(step: NDArray[np.float64], normal: NDArray[np.float64]) -> list[str]:
    cosine = min(1.0, abs(float(step @ normal)) / float(np.linalg.norm(step)))
    angle = float(np.rad2deg(np.arccos(cosine)))
    if angle <= TILT_DEGREES:
        return []
    return [f"The gantry is tilted by {angle:.1f} degrees: slices are stacked as they are, the affine has the shear."]
