"""Canonical orientation: the axes of every volume run right, anterior, superior (RAS), whatever the file's order."""

from __future__ import annotations

from typing import Any

import nibabel.orientations
import numpy as np
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray

from featcache.errors import ImageError

__all__ = ["canonical", "canonical_shape", "invertible"]


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


def invertible(affine: NDArray[Any]) -> NDArray[np.float64]:
    """The affine in float64, if it gives every voxel a place of its own.

    Raises
    ------
    ImageError
        If it holds NaN or infinite numbers, an axis has no length, or two axes run the same way.
    """
    affine = np.asarray(affine, dtype=np.float64)
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    finite = np.isfinite(affine).all()
    # The volume of a voxel in units of its edges' product: 1 for right angles, 0 for edges in one plane.
    if not finite or sizes.min() == 0 or abs(np.linalg.det(affine[:3, :3] / sizes)) < 1e-6:
        rows = "; ".join(" ".join(f"{value:g}" for value in row) for row in affine[:3])
        raise ImageError(
            f"the affine cannot be inverted, so that voxels have no place or no direction: [{rows}]",
            remedy="Write the file again with its true geometry, from its source.",
        )
    return affine
