"""``Grid``: the size and place of the pixels of a file, from its header where that is enough."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from featcache.errors import ImageError
from featcache.imaging.planes import select
from featcache.imaging.reader import decoder_of, read
from featcache.records import Axis, Image, Selector, VolumeGeometry

__all__ = ["Grid", "comparable", "grid_of", "same_place"]

_PLANE_AXES: dict[Axis, tuple[int, int]] = {"axial": (1, 0), "coronal": (2, 0), "sagittal": (2, 1)}
"""Axes of the canonical volume along which a slice's rows and columns are counted."""

_TOLERANCE = 0.05
"""Corners of two grids may differ by this fraction of the shortest voxel edge: headers round."""


@dataclass(frozen=True, slots=True)
class Grid:
    """What is known of the pixels of a file without looking at their values."""

    shape: tuple[int, ...]
    """Of :attr:`featcache.records.Image.array`."""
    kind: Literal["plane", "volume", "stack"]
    """As in :attr:`featcache.records.Image.kind`."""
    geometry: VolumeGeometry | None
    """Of a volume; None for planes and stacks."""
    known: bool
    """Whether the file says where its voxels lie; False where a NIfTI header leaves it open."""
    pixel_spacing: tuple[float, float] | None = None
    """(row, column) of a plane in mm."""

    def plane_shape(self, selector: Selector) -> tuple[int, int]:
        """(H, W) of what :func:`featcache.imaging.select` cuts out.

        Raises
        ------
        ImageError
            If the selector lies outside.
        """
        image = Image(np.broadcast_to(np.uint8(0), self.shape), self.kind, (0.0, 0.0))
        height, width = select(image, selector).shape[:2]
        return height, width

    def spacing(self, selector: Selector) -> tuple[float, float] | None:
        """(row, column) distance of the pixels of a plane in mm; None if unknown."""
        if self.geometry is None or selector.axis is None:
            return self.pixel_spacing
        sizes = np.linalg.norm(self.geometry.affine[:3, :3], axis=0)
        row, column = _PLANE_AXES[selector.axis]
        return float(sizes[row]), float(sizes[column])


def grid_of(path: Path, selector: Selector) -> Grid:
    """The grid of a file: of NIfTI and raster files from the header, of others by decoding them.

    Raises
    ------
    ImageError
        If the file cannot be read.
    """
    decoder = decoder_of(path, selector)
    if decoder == "nifti":
        from featcache.imaging.nifti import read_geometry

        try:
            geometry, known = read_geometry(path)
        except OSError as error:
            raise ImageError(f"the file cannot be read ({error.strerror})", remedy="Restore it.") from error
        return Grid(geometry.shape, "volume", geometry, known)
    size = _raster_size(path) if decoder == "raster" else None
    if size is not None:
        return Grid(size, "plane", None, known=False)
    return _of_image(read(path, selector))


def _of_image(image: Image) -> Grid:
    if image.kind != "volume" or image.affine is None:
        spacing = (image.spacing[0], image.spacing[1]) if image.kind == "plane" and image.spacing else None
        return Grid(image.array.shape, image.kind, None, known=False, pixel_spacing=spacing)
    x, y, z = image.array.shape
    return Grid((x, y, z), "volume", VolumeGeometry((x, y, z), image.affine, (x, y, z), image.affine), known=True)


def _raster_size(path: Path) -> tuple[int, int] | None:
    """(H, W) upright, by Pillow; None if Pillow does not know the file: the decoder will say why."""
    from PIL import ExifTags
    from PIL import Image as PillowImage

    try:
        with PillowImage.open(path) as picture:
            width, height = picture.size
            turned = picture.getexif().get(ExifTags.Base.Orientation, 1) >= 5
    except (OSError, SyntaxError, ValueError):
        return None
    return (width, height) if turned else (height, width)


def same_place(one: VolumeGeometry, other: VolumeGeometry) -> bool:
    """Whether two canonical grids have the same size and their corners the same place."""
    if one.shape != other.shape:
        return False
    corners = np.array(np.meshgrid(*[(0, size - 1) for size in one.shape])).reshape(3, -1)
    corners = np.vstack([corners, np.ones(corners.shape[1])])
    distance = np.linalg.norm(((one.affine - other.affine) @ corners)[:3], axis=0).max()
    edge = np.linalg.norm(one.affine[:3, :3], axis=0).min()
    return bool(distance <= _TOLERANCE * edge)


def comparable(one: VolumeGeometry, other: VolumeGeometry) -> bool:
    """Whether one can be resampled to the other: not if they have the same affine and other sizes.

    Then slices or rows are missing in one of them, and nothing says which.
    """
    affines = np.allclose(one.affine, other.affine) or np.allclose(one.file_affine, other.file_affine)
    return one.shape == other.shape or not affines
