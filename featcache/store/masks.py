"""``masks.zarr``: the segmentation targets of a dataset at native size, shared by all models (``docs/format.md``)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.errors import StoreCorruptError, StoreNotFoundError, UnknownNameError
from featcache.records import Axis, Selector, VolumeGeometry
from featcache.registry import nearest
from featcache.store.mask_documents import DAMAGED, check_folder, masks_path, part_name, read_mask_attributes

__all__ = ["Masks", "open_masks"]

_CHUNKS_KEPT = 4
"""Chunks of labels (1 MB each) that stay in memory for neighbouring planes."""

_AXIS_OF: dict[Axis, int] = {"sagittal": 0, "coronal": 1, "axial": 2}
_REMEDY = "Write the masks of the dataset: featcache masks --dataset D, or extract with --patches."


class Masks:
    """Label values of the samples of one task, by sample id.

    ``masks[id]`` is (H, W) uint8 at the native grid of the plane, as :func:`featcache.imaging.select` gives it: row 0
    at the top. 0 is the background, ``n`` is ``class_names[n]``. Facts of the rows are in memory, labels are read.

    Parameters
    ----------
    path
        The group ``masks.zarr``.
    task
        Name of the task; None for the only one.

    Attributes
    ----------
    task : str
        Name of the task.
    class_names : tuple of str
        By label value, the background first.
    values : tuple of int or None
        What stands for each class in the dataset's own label maps; None where it has binary masks.
    ids : tuple of str
        Samples that have a mask, in the order of the samples table when they were written.
    """

    def __init__(self, path: Path, task: str | None = None) -> None:
        self.path = path
        attributes = read_mask_attributes(path)
        self.task = _chosen(task, list(attributes["tasks"]), path)
        facts = attributes["tasks"][self.task]
        self.class_names: tuple[str, ...] = tuple(facts["classes"])
        self.values: tuple[int, ...] | None = None if facts.get("values") is None else tuple(facts["values"])
        check_folder(path, facts["rows"], attributes)
        rows = _read_group(path, facts["rows"])
        self._attributes = attributes
        self.ids: tuple[str, ...] = tuple(rows["ids"].tolist())
        self.rows: dict[str, NDArray[Any]] = rows
        self._row = {name: row for row, name in enumerate(self.ids)}
        self._volumes = {name: row for row, name in enumerate(rows["volume_names"].tolist())}
        self._parts: dict[int, Any] = {}
        self._recent: list[tuple[tuple[int, int], NDArray[np.uint8]]] = []

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __contains__(self, sample: object) -> bool:
        return sample in self._row

    def __getitem__(self, sample: str) -> NDArray[np.uint8]:
        """(H, W) uint8 label values of a sample at its native grid.

        Raises
        ------
        UnknownNameError
            If the sample has no mask.
        StoreCorruptError
            If its bytes fail their checksum.
        """
        row = self._row_of(sample)
        height, width = self.rows["shape"][row].tolist()
        offset = int(self.rows["offset"][row])
        flat = self._labels(int(self.rows["part"][row]), offset, offset + height * width)
        return flat.reshape(height, width)

    def shape(self, sample: str) -> tuple[int, int]:
        """(H, W) of a sample's plane, without reading it."""
        height, width = self.rows["shape"][self._row_of(sample)].tolist()
        return int(height), int(width)

    def spacing(self, sample: str) -> tuple[float, float] | None:
        """(row, column) distance of pixels in mm; None where the image says none (PNG, ``.npy``, ``.mat``)."""
        row, column = self.rows["spacing"][self._row_of(sample)].tolist()
        return None if np.isnan(row) or np.isnan(column) else (row, column)

    def selector(self, sample: str) -> Selector:
        """Which part of its volume or file the plane is, on the grid of the image."""
        return Selector.from_text(self.rows["selectors"][self._row_of(sample)])

    def volume(self, sample: str) -> str | None:
        """The volume that the plane was cut from; None for a picture and where the file has no geometry."""
        row = int(self.rows["volume"][self._row_of(sample)])
        return None if row < 0 else str(self.rows["volume_names"][row])

    @property
    def volumes(self) -> tuple[str, ...]:
        """Volumes whose geometry is known."""
        return tuple(self._volumes)

    def members(self, volume: str) -> tuple[str, ...]:
        """Samples of a volume, ordered by axis and index; empty for an unknown one."""
        place = self._volumes.get(volume, -2)
        found = [(self.selector(self.ids[row]), self.ids[row]) for row in np.flatnonzero(self.rows["volume"] == place)]
        return tuple(name for _, name in sorted(found, key=lambda item: (item[0].axis or "", item[0].index or 0)))

    def geometry(self, volume: str) -> VolumeGeometry | None:
        """Shape and affine of a volume, here and in its file; None if they are unknown."""
        row = self._volumes.get(volume)
        return None if row is None else self.geometry_at(row)

    def geometry_at(self, row: int) -> VolumeGeometry:
        """As :meth:`geometry`, by the number of the volume in the table."""
        rows = self.rows
        return VolumeGeometry(
            _triple(rows["volume_shape"][row]),
            rows["volume_affine"][row],
            _triple(rows["file_shape"][row]),
            rows["file_affine"][row],
            float(rows["file_unit"][row]),
        )

    def affine(self, volume: str) -> NDArray[np.float64] | None:
        """(4, 4), indices of the canonical (X, Y, Z) array to RAS+ millimetres; None if unknown."""
        geometry = self.geometry(volume)
        return None if geometry is None else geometry.affine

    def thickness(self, volume: str) -> float | None:
        """Distance in mm of neighbouring slices along the axis that the volume was sliced on; None if unknown.

        It is the length of one step of the index, also where only every third slice is a sample.
        """
        geometry, members = self.geometry(volume), self.members(volume)
        axis = self.selector(members[0]).axis if members else None
        if geometry is None or axis is None:
            return None
        return float(np.linalg.norm(geometry.affine[:3, _AXIS_OF[axis]]))

    def _row_of(self, sample: str) -> int:
        try:
            return self._row[sample]
        except KeyError:
            raise UnknownNameError(
                f"sample {sample!r} has no mask for task {self.task!r} in {self.path}{nearest(sample, self.ids)}",
                remedy="Leave it out, or write its mask: featcache masks --dataset D.",
            ) from None

    def _labels(self, part: int, start: int, stop: int) -> NDArray[np.uint8]:
        """Label values of a range, from whole chunks: neighbouring planes share them."""
        path = self.path / part_name(part)
        try:
            size = int(self._part(part).chunks[0])
            pieces = [
                self._chunk(part, number, size)[max(start - number * size, 0) : stop - number * size]
                for number in range(start // size, -(-stop // size))
            ]
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise StoreCorruptError(
                f"{self.path / part_name(part)} cannot be read ({error})", remedy=DAMAGED
            ) from error
        labels: NDArray[np.uint8] = np.concatenate(pieces) if pieces else np.zeros(0, np.uint8)
        if len(labels) != stop - start:
            raise StoreCorruptError(f"{path} ends before {stop}", remedy=DAMAGED)
        return labels

    def _part(self, part: int) -> Any:
        import zarr

        if part not in self._parts:
            check_folder(self.path, part_name(part), self._attributes)
            self._parts[part] = zarr.open_array(self.path / part_name(part), mode="r")
        return self._parts[part]

    def _chunk(self, part: int, number: int, size: int) -> NDArray[np.uint8]:
        recent = self._recent  # replaced as a whole, so that threads may read at once
        for place, found in recent:
            if place == (part, number):
                return found
        chunk: NDArray[np.uint8] = np.asarray(self._part(part)[number * size : (number + 1) * size])
        self._recent = [((part, number), chunk), *recent[: _CHUNKS_KEPT - 1]]
        return chunk


def open_masks(home: Path, dataset: str, *, task: str | None = None) -> Masks:
    """Open the masks of a dataset.

    Parameters
    ----------
    home
        Folder of the stores.
    dataset
        The dataset's name in the home.
    task
        Name of the segmentation task; needed where there are several.

    Raises
    ------
    StoreNotFoundError
        If none were written, with the command that does.
    StoreVersionError
        If a newer featcache wrote them.
    StoreCorruptError
        If the group is damaged.
    UnknownNameError
        If the task is not among them, or none is named and there are several.
    """
    path = masks_path(home, dataset)
    if not (path / "zarr.json").is_file():
        raise StoreNotFoundError(
            f"no masks of dataset {dataset!r} in {home}", remedy=_REMEDY.replace(" D", f" {dataset}")
        )
    return Masks(path, task)


def _chosen(task: str | None, tasks: Sequence[str], path: Path) -> str:
    if task is None and len(tasks) == 1:
        return tasks[0]
    if task in tasks:
        return str(task)
    what = f"no masks of task {task!r} in {path}" if task is not None else f"{path} has masks of {len(tasks)} tasks"
    raise UnknownNameError(what, remedy=f"Name one with --task: {', '.join(tasks)}.")


def _read_group(path: Path, name: str) -> dict[str, NDArray[Any]]:
    """All arrays of a group of rows."""
    import zarr

    try:
        group = zarr.open_group(path / name, mode="r")
        return {array: np.asarray(group[array][:]) for array in group.array_keys()}
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise StoreCorruptError(f"{path / name} cannot be read ({error})", remedy=DAMAGED) from error


def _triple(values: NDArray[Any]) -> tuple[int, int, int]:
    x, y, z = values.tolist()
    return int(x), int(y), int(z)
