"""Writing ``masks.zarr``: immutable arrays of labels, a new table of rows a commit, one document that names it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.errors import ConfigurationError, StoreCorruptError, StoreError
from featcache.records import VolumeGeometry
from featcache.store.durable import sync_folder, write_durably
from featcache.store.lock import write_lock
from featcache.store.mask_documents import (
    MASKS_VERSION,
    folder_digest,
    masks_path,
    part_name,
    read_mask_attributes,
    sealed,
)
from featcache.store.masks import Masks
from featcache.store.zarr_layout import group_document, to_json

__all__ = ["MaskRow", "MaskWriter", "open_mask_writer"]

_CHUNK = 1 << 20
"""Pixels that are compressed together: a plane is in one or two of them, and label maps compress a hundredfold."""

_PART = 1 << 27
"""Pixels held in memory before they are committed as one array."""


@dataclass(frozen=True, slots=True)
class MaskRow:
    """One mask and what is known of its plane."""

    id: str
    """The sample's id."""
    digest: bytes
    """16 bytes: of everything that decides the labels."""
    selector: str
    """Canonical text of the part of the image that the sample is."""
    spacing: tuple[float, float] | None = None
    """(row, column) in mm."""
    volume: str | None = None
    """The volume that it was cut from, if its geometry is known."""
    geometry: VolumeGeometry | None = field(default=None, compare=False, repr=False)
    """Of the volume."""


class MaskWriter:
    """Appends masks of one task; :func:`open_mask_writer` makes it.

    Parameters
    ----------
    path
        The group.
    task
        Name of the task.
    classes
        Class names, the background first.
    values
        The value of each class in the files that the masks come from, if they are label maps.
    """

    def __init__(self, path: Path, task: str, classes: Sequence[str], values: Sequence[int] | None = None) -> None:
        self.path = path
        self.task = task
        self.classes = tuple(classes)
        self.values = None if values is None else [int(value) for value in values]
        found = _attributes_of(path)
        folders = {name: digest for name, digest in found["folders"].items() if (path / name).is_dir()}
        self._attributes = {**found, "folders": folders}
        self._rows: dict[str, MaskRow] = {}
        self._known: dict[bytes, MaskRow] = {}
        self._places: dict[bytes, tuple[int, int, tuple[int, int]]] = {}
        self._held: list[NDArray[np.uint8]] = []
        self._held_size = 0
        self._committed: list[MaskRow] = []
        self._unseen = True  # something is to be written, whatever the rows
        if task in self._attributes["tasks"]:
            self._take_over(Masks(path, task))

    def add(self, row: MaskRow, labels: NDArray[np.uint8]) -> None:
        """Append a mask, or replace that of the same id; commits when enough is held.

        Parameters
        ----------
        row
            What it is.
        labels
            (H, W) uint8 label values.

        Raises
        ------
        ConfigurationError
            If the labels are not (H, W) uint8 values of the class list.
        """
        if labels.ndim != 2 or labels.dtype != np.uint8 or (labels.size and labels.max() >= len(self.classes)):
            raise ConfigurationError(
                f"the mask of {row.id!r} is {labels.dtype} of shape {labels.shape} with values up to "
                f"{labels.max() if labels.size else 0}, expected (H, W) uint8 below {len(self.classes)}",
                remedy="Turn the file's values into class numbers first: featcache.extraction.write_masks does.",
            )
        if row.digest not in self._places:
            height, width = labels.shape
            self._places[row.digest] = (self._attributes["next"], self._held_size, (height, width))
            self._held.append(np.ascontiguousarray(labels).reshape(-1))
            self._held_size += labels.size
        self.keep(row)
        if self._held_size >= _PART:
            self.commit()

    def keep(self, row: MaskRow) -> None:
        """Note a sample whose labels are there already under the same digest."""
        if row.volume is not None and row.geometry is None:
            raise ConfigurationError(
                f"the mask of {row.id!r} names the volume {row.volume!r}, whose geometry is unknown",
                remedy="Give the geometry, or no volume.",
            )
        self._rows[row.id] = self._known[row.digest] = row

    def reuse(self, name: str, digest: bytes, volume: str) -> bool:
        """Note a sample under its id if the labels of its digest are there, with what is known of them.

        Parameters
        ----------
        name
            The sample's id, which may be new.
        digest
            Of its mask.
        volume
            The name of its volume, which may be new.

        Returns
        -------
        bool
            Whether they are there.
        """
        known = self._known.get(digest)
        if known is None:
            return False
        self.keep(replace(known, id=name, volume=None if known.geometry is None else volume))
        return True

    def commit(self, ids: Sequence[str] | None = None) -> None:
        """Write what is held and make it visible, all at once; nothing is written where nothing changed.

        Parameters
        ----------
        ids
            The samples that stay, in their order; None for all.
        """
        if self._held:
            self._write_part()
        rows = list(self._rows.values()) if ids is None else [self._rows[name] for name in ids if name in self._rows]
        if not self._unseen and rows == self._committed:
            return
        number = self._attributes["next"]
        name = f"rows-{number:08}"
        self._replace(name, lambda group: _fill(group, rows, self._places))
        tasks = {
            **self._attributes["tasks"],
            self.task: {"classes": list(self.classes), "values": self.values, "rows": name},
        }
        named = {facts["rows"] for facts in tasks.values()}
        folders = {
            name: digest for name, digest in self._attributes["folders"].items() if name in named or "labels-" in name
        }
        self._attributes = sealed({**self._attributes, "tasks": tasks, "folders": folders, "next": number + 1})
        write_durably(self.path / "zarr.json", to_json(group_document({"featcache": self._attributes})))
        self._rows = {row.id: row for row in rows}
        self._committed, self._unseen = rows, False

    def _write_part(self) -> None:
        number = int(self._attributes["next"])
        flat = np.concatenate(self._held)

        def fill(target: Path) -> None:
            import zarr

            whole = -(-len(flat) // _CHUNK) * _CHUNK
            codecs = [zarr.codecs.ZstdCodec(level=3), zarr.codecs.Crc32cCodec()]
            shape: dict[str, Any] = {"shape": flat.shape, "chunks": (_CHUNK,), "shards": (whole,), "dtype": "uint8"}
            everything = {"write_empty_chunks": True}  # what is missing is then known to be lost
            array = zarr.create_array(target, compressors=codecs, zarr_format=3, config=everything, **shape)
            array[:] = flat

        self._replace(part_name(number), fill)
        self._attributes = {**self._attributes, "next": number + 1}
        self._held, self._held_size = [], 0

    def _replace(self, name: str, fill: Any) -> None:
        """Fill a folder to the side, flush it, and give it its name: it is there wholly or not at all."""
        partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            fill(partial)
            _sync_tree(partial)
            self.path.mkdir(exist_ok=True)
            partial.rename(self.path / name)
            folders = {**self._attributes["folders"], name: folder_digest(self.path / name)}
            self._attributes = {**self._attributes, "folders": folders}
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        sync_folder(self.path)
        sync_folder(self.path.parent)

    def _take_over(self, masks: Masks) -> None:
        """Rows of before; class numbers of another list are not reused, other names of them are."""
        facts = self._attributes["tasks"][self.task]
        if len(masks.class_names) != len(self.classes) or masks.values != (self.values and tuple(self.values)):
            return
        self._unseen = facts["classes"] != list(self.classes)
        rows = masks.rows
        geometries = [masks.geometry_at(number) for number in range(len(rows["volume_names"]))]
        parts, offsets, shapes = rows["part"].tolist(), rows["offset"].tolist(), rows["shape"].tolist()
        for place, name in enumerate(masks.ids):
            digest = rows["digests"][place].tobytes()
            self._places[digest] = (parts[place], offsets[place], (shapes[place][0], shapes[place][1]))
            number = int(rows["volume"][place])
            known = str(rows["selectors"][place]), masks.spacing(name), masks.volume(name)
            geometry = None if number < 0 else geometries[number]
            self._rows[name] = self._known[digest] = MaskRow(name, digest, *known, geometry)
        self._committed = list(self._rows.values())


@contextlib.contextmanager
def open_mask_writer(
    home: Path, dataset: str, task: str, classes: Sequence[str], values: Sequence[int] | None = None
) -> Iterator[MaskWriter]:
    """Open the masks of a dataset for writing, under their lock; nothing is visible before ``commit``.

    Parameters
    ----------
    home
        Folder of the stores.
    dataset
        The dataset's name in the home.
    task
        Name of the segmentation task.
    classes
        Class names, the background first.
    values
        The value of each class in the dataset's files, if they are label maps.

    Raises
    ------
    StoreLockedError
        If another process writes them.
    StoreError
        If the folder cannot be written.
    ConfigurationError
        If there are fewer than 2 or more than 256 classes.
    """
    if not 2 <= len(classes) <= 256:
        raise ConfigurationError(
            f"task {task!r} has {len(classes)} classes, expected 2 to 256 with the background",
            remedy="Masks are kept as bytes. Name the background and at least one class.",
        )
    path = masks_path(home, dataset)
    with write_lock(path):
        try:
            _remove_leftovers(path)
            yield MaskWriter(path, task, classes, values)
            _remove_leftovers(path)
        except OSError as error:
            if isinstance(error, StoreError):
                raise
            raise StoreError(
                f"cannot write to {path}: {error.strerror or error}",
                remedy="Free some space or make the home writable; what was committed stays.",
            ) from error


def _attributes_of(path: Path) -> dict[str, Any]:
    if not (path / "zarr.json").is_file():
        return {"masks_version": MASKS_VERSION, "tasks": {}, "folders": {}, "next": 0}
    return read_mask_attributes(path)


def _fill(target: Path, rows: Sequence[MaskRow], places: Mapping[bytes, tuple[int, int, tuple[int, int]]]) -> None:
    """Write the table of rows and volumes as arrays of one group."""
    import zarr

    known: dict[tuple[str, bytes], tuple[int, VolumeGeometry]] = {}  # by content: a name may pass to another volume
    number = []
    for row in rows:
        if row.volume is None or row.geometry is None:
            number.append(-1)
        else:
            content = row.geometry.affine.tobytes() + row.geometry.file_affine.tobytes()
            number.append(known.setdefault((row.volume, content), (len(known), row.geometry))[0])
    names = [name for name, _ in known]
    volumes = [geometry for _, geometry in known.values()]
    found = [places[row.digest] for row in rows]
    group = zarr.open_group(target, mode="w", zarr_format=3)
    nothing = (np.nan, np.nan)
    table: dict[str, NDArray[Any]] = {
        "ids": np.array([row.id for row in rows], dtype=object),
        "digests": np.frombuffer(b"".join(row.digest for row in rows), np.uint8).reshape(-1, 16),
        "part": np.array([part for part, _, _ in found], np.int32),
        "offset": np.array([offset for _, offset, _ in found], np.int64),
        "shape": np.array([shape for _, _, shape in found], np.int32).reshape(-1, 2),
        "spacing": np.array([row.spacing or nothing for row in rows], np.float64).reshape(-1, 2),
        "selectors": np.array([row.selector for row in rows], dtype=object),
        "volume": np.array(number, np.int32),
        "volume_names": np.array(names, dtype=object),
        "volume_shape": np.array([volume.shape for volume in volumes], np.int32).reshape(-1, 3),
        "volume_affine": np.array([volume.affine for volume in volumes], np.float64).reshape(-1, 4, 4),
        "file_shape": np.array([volume.file_shape for volume in volumes], np.int32).reshape(-1, 3),
        "file_affine": np.array([volume.file_affine for volume in volumes], np.float64).reshape(-1, 4, 4),
        "file_unit": np.array([volume.file_unit for volume in volumes], np.float64),
    }
    for name, values in table.items():
        chunks = (max(1, len(values)), *values.shape[1:])
        dtype = "string" if values.dtype == object else values.dtype
        checked = [zarr.codecs.Crc32cCodec()]
        facts: dict[str, Any] = {"shape": values.shape, "chunks": chunks, "dtype": dtype, "compressors": checked}
        array = group.create_array(name, config={"write_empty_chunks": True}, **facts)
        if len(values):
            array[:] = values


def _remove_leftovers(path: Path) -> None:
    """Folders that no table and no task names any more, and what a crash left beside the group."""
    for partial in path.parent.glob(f".{path.name}.*.partial"):
        shutil.rmtree(partial, ignore_errors=True)
    if not path.is_dir():
        return
    attributes = _attributes_of(path)
    used = {facts["rows"] for facts in attributes["tasks"].values()}
    try:
        for task in attributes["tasks"]:
            used |= {part_name(part) for part in np.unique(Masks(path, task).rows["part"]).tolist()}
    except StoreCorruptError:
        return  # what is damaged is for the user to remove
    for folder in [folder for folder in path.iterdir() if folder.is_dir() and folder.name not in used]:
        shutil.rmtree(folder)


def _sync_tree(folder: Path) -> None:
    """Flush every file below a folder, then the folders."""
    for parent, _, files in os.walk(folder, topdown=False):
        for name in files:
            with (Path(parent) / name).open("rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(parent))
