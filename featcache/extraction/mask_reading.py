"""One mask file to class numbers on the grid of its image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.errors import ImageError
from featcache.imaging import read, select, unit_of
from featcache.imaging.grids import Grid, comparable, grid_of, same_place
from featcache.records import Image, Sample, Selector, Task, VolumeGeometry

__all__ = ["MaskReader", "PlaneMask"]

_SHOWN = 8
"""Values that an error names."""

_MOST_VALUES = 1 << 20
"""A wider range of values is no label map."""


@dataclass(frozen=True, slots=True)
class PlaneMask:
    """The target of one sample."""

    labels: NDArray[np.uint8]
    """(H, W) class numbers, on the grid of the sample's plane."""
    spacing: tuple[float, float] | None
    """(row, column) in mm."""
    geometry: VolumeGeometry | None
    """Of the image's volume, where it is known."""


class MaskReader:
    """Reads the masks of a task; the files of the last sample stay open for its neighbouring slices.

    Parameters
    ----------
    task
        Classes and the values that stand for them.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._grids: dict[tuple[Path, Selector], Grid] = {}
        self._images: dict[tuple[Path, Selector, Path], Image | ImageError] = {}
        self._resampled: list[str] = []
        self._overlaps = 0

    def read(self, sample: Sample, masks: Sequence[tuple[Path, Selector]]) -> PlaneMask:
        """Class numbers of one sample.

        Parameters
        ----------
        sample
            The image.
        masks
            File and part of it, one a column of the task.

        Raises
        ------
        ImageError
            If a file cannot be read, has values that stand for no class, or lies on a grid that cannot be compared
            with that of the image.
        """
        place = (sample.path, unit_of(sample.path, sample.selector))
        if place not in self._grids:
            self._grids = {place: grid_of(sample.path, sample.selector)}
            self._images = {}
        grid = self._grids[place]
        wanted = grid.plane_shape(sample.selector)
        planes = [self._plane(path, selector, grid, sample) for path, selector in masks]
        for plane, (path, _) in zip(planes, masks, strict=True):
            if plane.shape != wanted:
                raise ImageError(
                    f"the mask {path.name} has {_size(plane.shape)} pixels, its image {_size(wanted)}, and they do "
                    "not both say where their pixels lie",
                    remedy="Resample one to the grid of the other, or give both as NIfTI with their affines.",
                )
        return PlaneMask(self._merged(planes), grid.spacing(sample.selector), grid.geometry)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of the masks that were read."""
        notes = []
        if self._resampled:
            shown = ", ".join(self._resampled[:3])
            notes.append(
                f"{len(self._resampled)} masks lie on another grid than their image and were resampled to it (nearest "
                f"neighbour): {shown}."
            )
        if self._overlaps:
            notes.append(f"{self._overlaps:,} pixels are inside several masks: the last class in the list has them.")
        return tuple(notes)

    def _plane(self, path: Path, selector: Selector, grid: Grid, sample: Sample) -> NDArray[np.uint8]:
        unit = unit_of(path, selector)
        key = (path, unit, sample.path)
        if key not in self._images:
            others = len(self._task.columns) - 1
            self._images = dict(list(self._images.items())[-others:]) if others else {}
            try:
                self._images[key] = self._on_grid(path, unit, grid)
            except ImageError as error:
                self._images[key] = error
        found = self._images[key]
        if isinstance(found, ImageError):  # once for all slices of a volume
            raise found
        return np.ascontiguousarray(select(found, selector))

    def _on_grid(self, path: Path, unit: Selector, grid: Grid) -> Image:
        """The file's class numbers; of a volume on the grid of the image."""
        image = read(path, unit)
        labels = self._class_numbers(image.array, path)
        if image.kind != "volume" or grid.geometry is None:
            return Image(labels, image.kind, (0.0, 255.0))
        own = grid_of(path, unit)
        if own.geometry is None or own.known != grid.known:
            raise ImageError(
                f"{path.name} {'says' if own.known else 'does not say'} where its voxels lie and its image "
                f"{'does' if grid.known else 'does not'}; they have {_size(own.shape)} and {_size(grid.shape)} voxels",
                remedy="Write the mask again with the affine of its image (the header's sform).",
            )
        if own.known and comparable(own.geometry, grid.geometry) and not same_place(own.geometry, grid.geometry):
            labels = _resampled(labels, own.geometry, grid.geometry, path)
            self._resampled.append(path.name)
        elif labels.shape != grid.shape:
            raise ImageError(
                f"the mask {path.name} has {_size(labels.shape)} voxels, its image {_size(grid.shape)}, and their "
                f"affines {'are the same' if own.known else 'are unknown'}",
                remedy="Copy both again if one is truncated; else resample the mask to the image's grid.",
            )
        return Image(labels, "volume", (0.0, 255.0))

    def _class_numbers(self, values: NDArray[Any], path: Path) -> NDArray[np.uint8]:
        """Label map: class numbers; binary mask: 0 and 1."""
        if values.ndim == 3 and values.shape[-1] == 3 and (values == values[..., :1]).all():
            values = values[..., 0]  # grey, written in colour
        if self._task.mask_values is None:
            inside: NDArray[np.uint8] = (values != 0).astype(np.uint8)
            return inside
        numbers, found = _looked_up(values, self._task.mask_values, path)
        strange = np.setdiff1d(found, np.array(self._task.mask_values))
        if len(strange):
            pairs = zip(self._task.classes, self._task.mask_values, strict=True)
            known = ", ".join(f"{value} ({name})" for name, value in pairs)
            more = " …" if len(strange) > _SHOWN else ""
            raise ImageError(
                f"the label map {path.name} has values that stand for no class: "
                f"{', '.join(map(str, strange[:_SHOWN]))}{more}; known: {known[:400]}",
                remedy="Add a class for each value (mask_values in dataset.toml, or the dataset's classes), or set "
                "them to the background in the file.",
            )
        return numbers

    def _merged(self, planes: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        if self._task.mask_values is not None:
            return planes[0]
        labels = np.zeros(planes[0].shape, np.uint8)
        for number, plane in enumerate(planes, start=1):
            self._overlaps += int(np.count_nonzero(labels[plane != 0]))
            labels[plane != 0] = number
        return labels


def _looked_up(values: NDArray[Any], listed: Sequence[int], path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Place of each value in the list (anything where it is not there), and all values that occur."""
    if values.dtype.kind == "f" and not np.array_equal(values, np.rint(values)):
        raise ImageError(
            f"the label map {path.name} has values that are no whole numbers",
            remedy="Resample label maps with nearest neighbour, and write them as whole numbers.",
        )
    low, high = int(values.min()), int(values.max())
    if high - low >= _MOST_VALUES:
        raise ImageError(
            f"the label map {path.name} has values from {low} to {high}",
            remedy="Check that it is the label map and not the image.",
        )
    table = np.zeros(high - low + 1, np.uint8)
    for place, value in enumerate(listed):
        if low <= value <= high:
            table[value - low] = place
    counts = np.zeros(len(table), np.int64)
    numbers = np.empty_like(values, dtype=np.uint8)
    slowest = int(np.argmax(np.abs(values.strides)))  # in the order of memory, a slab at a time
    for slab, target in zip(np.moveaxis(values, slowest, 0), np.moveaxis(numbers, slowest, 0), strict=True):
        index = slab.astype(np.intp) - low
        counts += np.bincount(index.ravel(order="K"), minlength=len(table))
        np.take(table, index, out=target)
    return numbers, np.flatnonzero(counts) + low


def _resampled(
    labels: NDArray[np.uint8], source: VolumeGeometry, target: VolumeGeometry, path: Path
) -> NDArray[np.uint8]:
    """Each voxel of the target grid takes the label of the nearest voxel of the source; beyond it is background."""
    from scipy.ndimage import affine_transform

    step = np.linalg.inv(source.affine) @ target.affine
    moved: NDArray[np.uint8] = affine_transform(
        labels, step[:3, :3], step[:3, 3], output_shape=target.shape, order=0, mode="grid-constant", cval=0
    )
    if labels.any() and not moved.any():
        raise ImageError(
            f"the mask {path.name} lies somewhere else than its image: nothing of it is inside",
            remedy="Look at both in a viewer; one of the two affines is wrong.",
        )
    return moved


def _size(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
