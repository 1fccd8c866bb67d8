"""What one reading process does: files to tensors, one job after the other."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from featcache.errors import ImageError, StoreError
from featcache.extraction.buffers import Buffers
from featcache.extraction.interrupts import let_through
from featcache.extraction.jobs import Job, Unit
from featcache.extraction.kept_pixels import KeptPixels, pixel_recipe
from featcache.imaging import Preprocess, cropped, files_of, normalised, read, select
from featcache.records import Failure, Image, Selector
from featcache.store import content_digest, row_digest

__all__ = ["NO_JOB", "Answer", "JobReader", "Reading", "Recipe", "Space", "Task", "read_tasks"]

NO_JOB = -1
"""In place of a job's number: the process has nothing to do."""

_LOOK_AROUND = 2.0
"""Seconds after which an idle process looks whether its parent lives."""


@dataclass(frozen=True, slots=True)
class Task:
    """Jobs for one process, and where their tensors go."""

    slot: int
    """Of the ring."""
    numbers: tuple[int, ...]
    """Of the jobs."""
    places: tuple[int, ...]
    """Of the jobs in the batch."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What became of a job: its pixels are in the buffers, or here is why not."""

    failures: tuple[Failure | None, ...]
    """By kind of input; None where the pixels are there."""
    constant: bool = False
    """A two-dimensional file all of whose pixels are equal: valid, and worth a warning."""
    kept: tuple[bool, ...] = ()
    """By kind of input, whether its 8-bit pixels are in the buffers too; empty if it was not read at all."""
    decoded_anew: bool = False
    """Its kept pixels are damaged."""


@dataclass(slots=True)
class Answer:
    """A task's readings."""

    readings: list[Reading] = field(default_factory=list)
    """In the order of the task's jobs."""
    seconds: dict[str, float] = field(default_factory=lambda: {"read": 0.0, "decode": 0.0, "preprocess": 0.0})
    """Time spent, by stage."""


def read_tasks(
    connection: Connection,
    jobs: Sequence[Job],
    recipes: Sequence[Recipe],
    buffers: Buffers,
    *,
    current: Any,
    process: int,
    parent: int,
) -> None:
    """Answer tasks until the connection closes or the parent is gone.

    Parameters
    ----------
    connection
        Gives :class:`Task`, takes :class:`Answer`.
    jobs
        Of the run, by number.
    recipes
        One for each kind of input.
    buffers
        Takes the tensors.
    current
        Shared (processes, 2) float64, flat: the number of each process's job and when it began, so that the
        parent knows which file a process died of or hangs in.
    process
        The number of this one.
    parent
        Process id.
    """
    # Ctrl-C reaches the whole group; the parent decides what happens. Its handlers are not for this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    let_through()
    gc.freeze()  # the jobs are shared with the parent: looking for garbage among them would copy them
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)
    slots = range(buffers.depth)
    kinds = [[buffers.batch(kind, slot) for slot in slots] for kind in range(len(recipes))]
    kept = [
        [buffers.kept(kind, slot) for slot in slots] if recipe.keep else None for kind, recipe in enumerate(recipes)
    ]
    reader = JobReader(recipes)
    while True:
        while not connection.poll(_LOOK_AROUND):
            if os.getppid() != parent:
                return
        try:
            task = connection.recv()
        except (EOFError, OSError):
            return
        if task is None:
            return
        answer = Answer()
        for number, place in zip(task.numbers, task.places, strict=True):
            if os.getppid() != parent:
                return
            # The time first: an old one beside a new number would look like a file that takes very long.
            current[2 * process + 1], current[2 * process] = time.monotonic(), number
            targets = [
                Space(kind[task.slot][place], None if own is None else own[task.slot][place])
                for kind, own in zip(kinds, kept, strict=True)
            ]
            answer.readings.append(reader.read(jobs[number], number, targets, answer.seconds))
        current[2 * process] = NO_JOB
        connection.send(answer)


@dataclass(frozen=True, slots=True)
class Recipe:
    """One kind of input."""

    preprocess: Preprocess
    """Pixels to tensor."""
    kept: KeptPixels | None = None
    """Pixels that need not be decoded."""
    keep: bool = False
    """Whether decoded 8-bit pixels are handed over too."""


@dataclass(frozen=True, slots=True)
class Space:
    """Where a job's pixels of one kind go."""

    tensor: Any
    """(3, S, S) float32."""
    pixels: Any = None
    """(3, S, S) uint8, if they are to be kept."""


class JobReader:
    """Reads jobs in this process; the file of the last one is held, since its neighbours are slices of it.

    Parameters
    ----------
    recipes
        One for each kind of input.
    """

    def __init__(self, recipes: Sequence[Recipe]) -> None:
        self._recipes = recipes
        self._unit: Unit | None = None
        self._opened: tuple[Image, bytes] | Exception | None = None
        self._damaged = False
        self._shared = [pixel_recipe(recipe.preprocess) for recipe in recipes]

    def read(self, job: Job, number: int, spaces: Sequence[Space], seconds: dict[str, float]) -> Reading:
        """Fill the spaces, one for each recipe; add the seconds of each stage."""
        import torch

        decoded: dict[Preprocess, tuple[Any, bool]] = {}
        failures: list[Failure | None] = []
        kept: list[bool] = []
        constant = False
        self._damaged = False
        for kind, (recipe, space) in enumerate(zip(self._recipes, spaces, strict=True)):
            try:
                pixels, equal = self._pixels(job, number, kind, seconds, decoded)
                begin = time.perf_counter()
                space.tensor.copy_(normalised(pixels, recipe.preprocess))
                handed = space.pixels is not None and pixels.dtype == torch.uint8
                if handed:
                    space.pixels.copy_(pixels)
                seconds["preprocess"] += time.perf_counter() - begin
            except Exception as error:  # noqa: BLE001 - whatever a decoder raises, one file must not end the run
                failures.append(_failure(job, error))
                kept.append(False)
            else:
                constant |= equal
                failures.append(None)
                kept.append(handed)
        return Reading(tuple(failures), constant, tuple(kept), self._damaged)

    def _pixels(
        self,
        job: Job,
        number: int,
        kind: int,
        seconds: dict[str, float],
        decoded: dict[Preprocess, tuple[Any, bool]],
    ) -> tuple[Any, bool]:
        """The cropped pixels, and whether they are a picture without contrast.

        Recipes that differ only in a model's mean and deviation share what is ``decoded`` of this job.
        """
        import torch

        recipe, shared = self._recipes[kind], self._shared[kind]
        found = None
        if recipe.kept is not None:
            try:
                found = recipe.kept.get(number)
            except StoreError:  # said in the report: the image itself may be sound
                self._damaged = True
        if found is not None:
            return torch.from_numpy(found), bool(found.min() == found.max())
        if shared not in decoded:
            decoded[shared] = self._decode(job, recipe.preprocess, seconds)
        return decoded[shared]

    def _decode(self, job: Job, recipe: Preprocess, seconds: dict[str, float]) -> tuple[Any, bool]:
        """The cropped pixels, and whether the image is a picture without contrast."""
        image, content = self._open(job, seconds)
        if row_digest(content, job.sample.selector.to_text()) != job.digest:
            raise ImageError("the file changed while it was being extracted", remedy="Extract again.")
        begin = time.perf_counter()
        plane = select(image, job.sample.selector)
        constant = image.kind == "plane" and plane.size > 0 and bool(plane.min() == plane.max())
        pixels = cropped(image, job.sample.selector, recipe)
        seconds["preprocess"] += time.perf_counter() - begin
        return pixels, constant

    def _open(self, job: Job, seconds: dict[str, float]) -> tuple[Image, bytes]:
        if job.unit != self._unit:
            self._unit, self._opened = job.unit, None  # before the next is decoded: one volume in memory, not two
            try:
                self._opened = _read_unchanged(*job.unit, seconds)
            except Exception as error:  # noqa: BLE001 - told again for each of its slices, decoded once
                self._opened = error
        if isinstance(self._opened, Exception) or self._opened is None:
            raise self._opened or ImageError("the file was not decoded")
        return self._opened


def _failure(job: Job, error: Exception) -> Failure:
    if isinstance(error, ImageError):
        return Failure(job.sample.id, job.relative_path, error.message, error.remedy or "")
    if isinstance(error, MemoryError):
        remedy = "Extract again with fewer --workers: each holds one decoded file and its copies."
        return Failure(job.sample.id, job.relative_path, "there was not enough memory to decode it", remedy)
    reason = f"{type(error).__name__}: {error}"
    return Failure(job.sample.id, job.relative_path, reason, "Look at the file; if it opens, report this.")


def _read_unchanged(path: Path, unit: Selector, seconds: dict[str, float]) -> tuple[Image, bytes]:
    """Hash and decode a file, or the files of a series, that do not change in between."""
    begin = time.perf_counter()
    files = files_of(path, unit)
    before = [_stamp(file) for file in files]
    try:
        content = content_digest(files)
    except OSError as error:
        raise ImageError(
            f"the file cannot be read: {error.strerror or error}", remedy="Restore the file or its permissions."
        ) from error
    middle = time.perf_counter()
    seconds["read"] += middle - begin
    image = read(path, unit)
    seconds["decode"] += time.perf_counter() - middle
    if [_stamp(file) for file in files] != before:
        raise ImageError("the file changed while it was being read", remedy="Extract again.")
    return image, content


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns
