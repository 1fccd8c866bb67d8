"""The reading processes: who reads what, in which order the batches come, and what happens when one dies."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import queue
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from featcache.errors import FeatcacheError
from featcache.extraction.buffers import Buffers, ring_depth
from featcache.extraction.interrupts import held_back
from featcache.extraction.jobs import Batch, Job, Unit
from featcache.extraction.reading import NO_JOB, Answer, Reading, Recipe, Task, read_tasks
from featcache.records import Failure

__all__ = ["ReadBatch", "Readers"]

_LOG = logging.getLogger(__name__)

_OUTSTANDING = 2
"""Tasks of a process: the one that it works on, and the next."""

_ONE_READER = 1024
"""A unit of up to so many jobs (a volume) is decoded by one process; more (an archive of pictures) by several."""

_PATIENCE = 900.0
"""Seconds after which a process that still reads the same file is taken for hung."""

_IDLE = 5.0
"""Seconds without a message after which the processes are looked at."""

_ATTEMPTS = 2
"""Processes that may die of a file before it is left out."""

_DYING = 10.0
"""Seconds in which a process that is dead or was killed should be gone."""

_STARTS = 5
"""Processes that may die one after the other without having read anything."""


@dataclass(frozen=True, slots=True)
class ReadBatch:
    """A batch whose pixels are in the buffers."""

    batch: Batch
    """Which jobs, and where."""
    slot: int
    """Of the ring."""
    readings: list[Reading]
    """Of each job."""


@dataclass(slots=True)
class _Process:
    """One reading process and what it was told to do."""

    number: int
    process: BaseProcess
    connection: Connection
    tasks: deque[tuple[int, Task]] = field(default_factory=deque)
    """(batch number, task), the one in work first."""


class Readers:
    """Processes that read batches ahead of their use; iterate over it once, in a ``with`` block.

    Parameters
    ----------
    jobs
        Of the run.
    batches
        Of the jobs, in the order in which they come back.
    recipes
        One for each kind of input that the encoders take.
    batch_size
        Images a batch.
    workers
        Processes. Each decodes one file at a time and computes with one thread.
    method
        How processes are started; default: fork on Linux (nothing is imported again), else spawn.

    Notes
    -----
    Bound on memory: a ring of batches (:func:`ring_depth`, at most 1 GiB or two batches) and one decoded file for
    each process. A process that dies or hangs is replaced; the file that it was reading is tried once more, by
    itself, and then reported.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        batches: Sequence[Batch],
        recipes: Sequence[Recipe],
        *,
        batch_size: int,
        workers: int,
        method: str | None = None,
    ) -> None:
        self._jobs = jobs
        self._batches = batches
        self._recipes = recipes
        self._context: Any = multiprocessing.get_context(method or ("fork" if sys.platform == "linux" else "spawn"))
        sizes = [recipe.preprocess.crop for recipe in recipes]
        self.buffers = Buffers(
            sizes,
            depth=ring_depth(sizes, batch_size, workers),
            batch_size=batch_size,
            keep=[recipe.keep for recipe in recipes],
            context=self._context,
        )
        self.seconds = dict.fromkeys(("read", "decode", "preprocess"), 0.0)
        self.workers = min(workers, len(jobs))
        self._task_jobs = max(1, min(16, batch_size // (2 * self.workers)))
        self._sizes = Counter(job.unit for job in jobs)
        self._owners: dict[Unit, int] = {}
        self._current = self._context.RawArray("d", 2 * self.workers)
        self._processes: dict[int, _Process] = {}
        self._waiting: deque[tuple[int, Task]] = deque()
        self._readings: dict[int, dict[int, Reading]] = {}
        self._slots: dict[int, int] = {}
        self._deaths: Counter[int] = Counter()
        self._starts = 0
        self._free: deque[int] = deque(range(self.buffers.depth))
        self._bell, self._button = multiprocessing.Pipe(duplex=False)
        self._pressing = threading.Lock()
        self._ready: queue.SimpleQueue[ReadBatch | BaseException] = queue.SimpleQueue()
        self._stopping = False
        self._thread = threading.Thread(target=self._feed, name="featcache-feed", daemon=True)

    def __enter__(self) -> Readers:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        self._wake()
        self._thread.join()
        self._bell.close()
        self._button.close()

    def __iter__(self) -> Iterator[ReadBatch]:
        for _ in self._batches:
            ready = self._ready.get()
            if isinstance(ready, BaseException):
                raise ready
            yield ready

    def release(self, slot: int) -> None:
        """Give a slot of the ring back: its pixels have been used."""
        self._free.append(slot)
        self._wake()

    def _wake(self) -> None:
        with self._pressing, contextlib.suppress(OSError):  # closed, after a second Ctrl-C
            self._button.send_bytes(b".")

    def _feed(self) -> None:
        """The feeding thread: starts the processes, hands out tasks, collects answers."""
        try:
            self._start_all()
            issued = delivered = 0
            while delivered < len(self._batches) and not self._stopping:
                while self._free and issued < len(self._batches):
                    self._issue(issued, self._free.popleft())
                    issued += 1
                self._assign()
                self._listen()
                while delivered in self._readings and self._is_complete(delivered):
                    self._deliver(delivered)
                    delivered += 1
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits for batches
            self._ready.put(error)
        finally:
            for one in self._processes.values():
                one.process.kill()
            for one in self._processes.values():
                one.process.join(_DYING)
                one.connection.close()

    def _start_all(self) -> None:
        for number in range(self.workers):
            if not self._start(number):
                self.workers = number
                break

    def _start(self, number: int) -> bool:
        """Start a process; False if the system has no room for it, but there are others."""
        try:
            self._processes[number] = self._started(number)
        except OSError as error:
            if not self._processes:
                raise FeatcacheError(
                    f"no reading process can be started: {error.strerror or error}",
                    remedy="The machine is out of memory or of processes. Nothing that was committed is lost.",
                ) from error
            _LOG.warning("reading goes on with %d processes: %s", len(self._processes), error.strerror or error)
            return False
        return True

    def _started(self, number: int) -> _Process:
        ours, theirs = self._context.Pipe()
        self._current[2 * number] = NO_JOB
        process = self._context.Process(
            target=read_tasks,
            args=(theirs, self._jobs, self._recipes, self.buffers),
            kwargs={"current": self._current, "process": number, "parent": os.getpid()},
            name=f"featcache-read-{number}",
            daemon=True,
        )
        try:
            with held_back(spawning=self._context.get_start_method() != "fork"):
                process.start()
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        return _Process(number, process, ours)

    def _issue(self, number: int, slot: int) -> None:
        """Cut a batch into tasks: neighbours of one volume together, other files a few at a time."""
        self._readings[number], self._slots[number] = {}, slot
        batch = self._batches[number]
        placed = list(zip(batch.jobs, batch.places, strict=True))
        for _, run in groupby(placed, key=lambda pair: self._is_volume(pair[0]) and self._jobs[pair[0]].unit):
            pairs = list(run)
            step = len(pairs) if self._is_volume(pairs[0][0]) else self._task_jobs
            for first in range(0, len(pairs), step):
                numbers, places = zip(*pairs[first : first + step], strict=True)
                self._waiting.append((number, Task(slot, numbers, places)))

    def _is_volume(self, job: int) -> bool:
        return 1 < self._sizes[self._jobs[job].unit] <= _ONE_READER

    def _assign(self) -> None:
        """Give every process something to do; slices of a volume to the one that has it open."""
        for one in self._processes.values():
            kept: deque[tuple[int, Task]] = deque()
            while self._waiting and len(one.tasks) < _OUTSTANDING:
                batch, task = self._waiting.popleft()
                unit = self._jobs[task.numbers[0]].unit
                volume = self._is_volume(task.numbers[0])
                if volume and self._owners.setdefault(unit, one.number) != one.number:
                    kept.append((batch, task))
                    continue
                one.tasks.append((batch, task))
                self._send(one, task)
            self._waiting.extendleft(reversed(kept))

    def _send(self, one: _Process, task: Task) -> None:
        # If it has died, its end of the connection says so when we listen, and its tasks are kept.
        with contextlib.suppress(OSError):
            one.connection.send(task)

    def _listen(self) -> None:
        """Take answers, or notice who died, until something can go on."""
        places: dict[Any, _Process] = {one.connection: one for one in self._processes.values()}
        ready = wait([*places, self._bell], timeout=_IDLE)
        if self._bell in ready:
            self._bell.recv_bytes()
        for connection in ready:
            one = places.get(connection)
            if one is None:
                continue
            try:
                answer: Answer = one.connection.recv()
            except (EOFError, OSError):
                self._replace(one, None)
                continue
            self._starts = 0
            batch, task = one.tasks.popleft()
            for stage, spent in answer.seconds.items():
                self.seconds[stage] += spent
            self._readings[batch].update(zip(task.numbers, answer.readings, strict=True))
        if not ready:
            for one in list(self._processes.values()):
                if not one.process.is_alive():  # and somebody else holds its end of the connection
                    self._replace(one, None)
                    continue
                began = self._current[2 * one.number + 1]
                if self._current[2 * one.number] != NO_JOB and time.monotonic() - began > _PATIENCE:
                    one.process.kill()
                    self._replace(one, f"reading it took longer than {_PATIENCE / 60:.0f} minutes")

    def _replace(self, one: _Process, why: str | None) -> None:
        """Start another process in place of one that died; what it had to do is done again."""
        one.process.join(_DYING)
        if one.process.is_alive():
            one.process.kill()
            one.process.join(_DYING)
        one.connection.close()
        number = int(self._current[2 * one.number])
        if number == NO_JOB:
            self._starts += 1
            if self._starts > _STARTS:
                raise FeatcacheError(
                    f"{self._starts} reading processes died before they read anything ({_cause(one.process)})",
                    remedy="The machine may be out of memory: try --workers 1. Nothing that was committed is lost.",
                )
        else:
            self._deaths[number] += 1
        again: list[tuple[int, Task]] = []
        for batch, task in one.tasks:
            pairs = list(zip(task.numbers, task.places, strict=True))
            alone = [pair for pair in pairs if pair[0] == number]
            others = [pair for pair in pairs if pair[0] != number]
            if alone and self._deaths[number] >= _ATTEMPTS:
                self._readings[batch][number] = self._given_up(number, why or _cause(one.process))
                alone = []
            for part in (others, alone):
                if part:
                    numbers, places = zip(*part, strict=True)
                    again.append((batch, Task(task.slot, numbers, places)))
        self._waiting.extendleft(reversed(again))
        del self._processes[one.number]
        if not self._start(one.number):
            self._owners = {unit: owner for unit, owner in self._owners.items() if owner != one.number}

    def _given_up(self, number: int, why: str) -> Reading:
        job = self._jobs[number]
        failure = Failure(
            job.sample.id,
            job.relative_path,
            f"the reading process did not survive it, {_ATTEMPTS} times: {why}",
            "Look at the file; if the machine was out of memory, use fewer --workers.",
        )
        return Reading((failure,) * len(self._recipes))

    def _is_complete(self, batch: int) -> bool:
        return len(self._readings[batch]) == len(self._batches[batch].jobs)

    def _deliver(self, number: int) -> None:
        batch, found = self._batches[number], self._readings.pop(number)
        self._ready.put(ReadBatch(batch, self._slots.pop(number), [found[job] for job in batch.jobs]))


def _cause(process: BaseProcess) -> str:
    code = process.exitcode
    if code is not None and code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"
