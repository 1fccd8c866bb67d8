"""``write_masks``: the segmentation targets of a dataset, decoded once, on the grid of their images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from featcache.datasets import Dataset
from featcache.errors import ConfigurationError, ImageError
from featcache.extraction.mask_reading import MaskReader, PlaneMask
from featcache.extraction.plan import record_samples
from featcache.records import Failure, Selector, Task
from featcache.store import MaskRow, StatIndex, find_home, masks_path, open_mask_writer

__all__ = ["MASK_READER_VERSION", "MaskReport", "write_masks"]

MASK_READER_VERSION = 1
"""Semantic version of how files become labels; part of each mask's digest."""


@dataclass(frozen=True, slots=True)
class MaskReport:
    """The outcome of :func:`write_masks` for one task."""

    path: Path
    """The group ``masks.zarr``."""
    task: str
    """The task's name."""
    classes: tuple[str, ...]
    """Class names by label value."""
    written: int
    """Samples whose mask was read in this run."""
    kept: int
    """Samples whose mask was there already."""
    without: int
    """Samples for which the dataset names no mask."""
    failures: tuple[Failure, ...]
    """Masks that cannot be used; their samples have none."""
    notes: tuple[str, ...]
    """What a user should know, in sentences."""


def write_masks(
    dataset: Dataset,
    *,
    home: Path | str | None = None,
    task: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[MaskReport, ...]:
    """Read the masks that a dataset names and keep them in ``<home>/<dataset>/masks.zarr``.

    What is there already and comes from the same bytes is not read again; a changed file replaces its mask. A mask
    on another grid than its image is resampled to it (nearest neighbour) where both say where their voxels lie. One
    that cannot be used is a failure of its samples, and the run goes on.

    Parameters
    ----------
    dataset
        A loaded dataset with a task of type ``segmentation``.
    home
        Folder of the stores; default FEATCACHE_HOME or the platform's data folder.
    task
        Name of one segmentation task; default all of them.
    progress
        Called with the samples done and their number.

    Returns
    -------
    tuple of MaskReport
        One for each task.

    Raises
    ------
    ConfigurationError
        If the dataset has no such task, or its classes do not fit its columns.
    StoreError
        If the masks cannot be written.
    """
    folder = find_home(home)
    known = [found for found in dataset.tasks if found.type == "segmentation"]
    chosen = [found for found in known if task in (None, found.name)]
    if not chosen:
        names = ", ".join(found.name for found in known) or "none"
        wanted = "segmentation task" if task is None else f"segmentation task {task!r}"
        raise ConfigurationError(
            f"dataset {dataset.name!r} has no {wanted}",
            remedy=f"Its segmentation tasks: {names}. Datasets with label files: featcache datasets.",
        )
    for found in chosen:
        _refuse_misfit(found, dataset.name)
    images, _ = record_samples(dataset, folder / dataset.name, dataset.name, write=False)
    return tuple(_write(dataset, found, folder, images, progress) for found in chosen)


def _write(
    dataset: Dataset,
    task: Task,
    home: Path,
    images: Sequence[bytes | None],
    progress: Callable[[int, int], None] | None,
) -> MaskReport:
    samples = dataset.samples
    named = samples[list(task.columns)].notna()
    rows = np.flatnonzero(named.all(axis=1))
    incomplete = np.flatnonzero(named.any(axis=1) & ~named.all(axis=1))
    digests, unreadable = _digests(dataset, task, rows, images)
    reader = MaskReader(task)
    failures: list[Failure] = []
    written = kept = 0
    ids, volumes, paths = (_texts(samples, column) for column in ("id", "volume", "path"))
    with open_mask_writer(home, dataset.name, task.name, task.classes, task.mask_values) as writer:
        for done, row in enumerate(rows.tolist()):
            volume = volumes[row] or paths[row]
            if row in unreadable:
                failures.append(_failure(dataset, task, row, unreadable[row]))
            elif writer.reuse(ids[row], digests[row], volume):
                kept += 1
            else:
                found = _read(reader, dataset, task, row)
                if isinstance(found, PlaneMask):
                    text = dataset.sample(row).selector.to_text()
                    whole = None if found.geometry is None else volume
                    place = MaskRow(ids[row], digests[row], text, found.spacing, whole, found.geometry)
                    writer.add(place, found.labels)
                    written += 1
                else:
                    failures.append(_failure(dataset, task, row, found))
            if progress is not None:
                progress(done + 1, len(rows))
        failed = {failure.id for failure in failures} - {ids[row] for row in unreadable}
        writer.commit([ids[row] for row in rows.tolist() if ids[row] not in failed])
    without = len(samples) - len(rows)
    notes = [*reader.notes, *_shortcomings(incomplete, ids, task)]
    path = masks_path(home, dataset.name)
    return MaskReport(path, task.name, task.classes, written, kept, without, tuple(failures), tuple(notes))


def _read(reader: MaskReader, dataset: Dataset, task: Task, row: int) -> PlaneMask | ImageError:
    """The mask of one sample, or why there is none."""
    samples = dataset.samples
    text = samples["mask_selector"][row] if "mask_selector" in samples else ""
    selector = Selector.from_text(text if isinstance(text, str) else "")
    files = tuple((dataset.root / str(samples[column][row]), selector) for column in task.columns)
    try:
        return reader.read(dataset.sample(row), files)
    except ImageError as error:
        return error
    except Exception as error:  # noqa: BLE001 - whatever a decoder raises, one file must not end the run
        return ImageError(f"{type(error).__name__}: {error}", remedy="Look at the file; if it opens, report this.")


def _failure(dataset: Dataset, task: Task, row: int, error: ImageError) -> Failure:
    place = " and ".join(str(dataset.samples[column][row]) for column in task.columns)
    return Failure(str(dataset.samples["id"][row]), place, error.message, error.remedy or "")


def _digests(
    dataset: Dataset, task: Task, rows: NDArray[np.int64], images: Sequence[bytes | None]
) -> tuple[dict[int, bytes], dict[int, ImageError]]:
    """Digest of each mask by row, and why those that have none cannot be read."""
    samples = dataset.samples
    places = rows.tolist()
    empty = [""] * len(samples)
    selectors = samples["mask_selector"].fillna("").tolist() if "mask_selector" in samples else empty
    meaning = json.dumps([MASK_READER_VERSION, task.mask_values, len(task.classes)]).encode()
    parts: dict[int, list[bytes]] = {row: [meaning, images[row] or bytes(16)] for row in places}
    remedy = "Restore the file or its permissions, or remove its row."
    problems = {row: ImageError("its image cannot be read", remedy=remedy) for row in places if images[row] is None}
    for column in task.columns:
        paths = samples[column].iloc[rows].tolist()
        found, errors = StatIndex().row_digests(dataset.root, paths, [selectors[row] for row in places])
        for row, path, digest in zip(places, paths, found, strict=True):
            if digest is None:
                why = errors[path].strerror if path in errors else "no reason is known"
                problems[row] = ImageError(f"the mask {path} cannot be read: {why}", remedy=remedy)
            parts[row].append(digest or bytes(16))
    return {row: hashlib.blake2b(b"".join(part), digest_size=16).digest() for row, part in parts.items()}, problems


def _refuse_misfit(task: Task, dataset: str) -> None:
    wanted = len(task.classes) - 1 if task.mask_values is None else len(task.mask_values)
    has = len(task.columns) if task.mask_values is None else len(task.classes)
    one_map = task.mask_values is None or len(task.columns) == 1
    if wanted == has and one_map and len(set(task.mask_values or ())) == len(task.mask_values or ()):
        return
    raise ConfigurationError(
        f"task {task.name!r} of dataset {dataset!r} has the classes {', '.join(task.classes)}, the mask columns "
        f"{', '.join(task.columns)} and the mask values {task.mask_values}",
        remedy="Give one binary mask a foreground class, or one label map and one value of mask_values a class.",
    )


def _texts(samples: pd.DataFrame, column: str) -> list[str]:
    return [value if isinstance(value, str) else "" for value in samples[column].tolist()]


def _shortcomings(incomplete: NDArray[np.int64], ids: Sequence[str], task: Task) -> list[str]:
    if not len(incomplete):
        return []
    shown = ", ".join(ids[row] for row in incomplete[:3])
    return [f"{len(incomplete)} samples lack one of {' and '.join(task.columns)} and have no mask: {shown}."]
