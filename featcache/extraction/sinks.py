"""Rows to segments: what the encoder gave is checked, gathered, and committed while the next batches are computed."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.extraction.encoding import Fetched, Held
from featcache.extraction.jobs import Job, segments_of, volume_ends
from featcache.extraction.outcome import Outcome
from featcache.extraction.reading import Reading
from featcache.extraction.token_coding import finite_when_read
from featcache.records import Failure
from featcache.store import SCALES, Segment, StoreWriter

__all__ = ["Arrived", "Sink", "Target", "Writing"]

_QUEUED = 2
"""Batches of features that may wait: the encoder stops when the disk cannot follow."""


@dataclass(frozen=True, slots=True)
class Target:
    """One family of a store, and the jobs that it lacks."""

    writer: StoreWriter
    """Commits its segments."""
    features: Mapping[str, str]
    """The encoder's name of each of its arrays."""
    jobs: frozenset[int]
    """Numbers among the jobs of the run."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """The features of a batch, or what will be them, for the families of one encoder."""

    fetched: Fetched | Held
    """The features."""
    numbers: tuple[int, ...]
    """Of the jobs that were encoded."""
    places: tuple[int, ...]
    """Of these jobs in the batch."""
    readings: tuple[Reading, ...]
    """Of these jobs."""
    kind: int
    """Of input."""
    keeping: bool
    """These are pixels to be kept, not features: those that cannot be are no failures."""
    sinks: Sequence[Sink]
    """What takes the rows."""
    outcome: Outcome
    """Of this encoder."""
    slot: int | None
    """Of the ring, to be released with this; None if other encoders still need it."""


class Writing:
    """Two threads: one fetches and checks features, the other makes segments durable.

    Parameters
    ----------
    jobs
        Of the run.
    release
        Called with a slot of the ring whose pixels nobody needs any more.
    """

    def __init__(self, jobs: Sequence[Job], release: Any) -> None:
        self._jobs = jobs
        self._release = release
        self._arrived: queue.Queue[Arrived | None] = queue.Queue(_QUEUED)
        self._failed: BaseException | None = None
        self._committing = _Committing()
        self._seconds = 0.0
        self._thread = threading.Thread(target=self._work, name="featcache-check", daemon=True)
        self._thread.start()

    @property
    def seconds(self) -> float:
        """Time that the busier of the two threads worked."""
        return max(self._seconds - self._committing.waited, self._committing.seconds)

    def put(self, arrived: Arrived) -> None:
        """Hand over a batch; waits while too many are waiting. Raises what writing an earlier one raised."""
        if self._failed is not None:
            raise self._failed
        self._arrived.put(arrived)

    def close(self, sinks: Sequence[Sink]) -> None:
        """Take over all that was handed over, commit also the segments that are not full."""
        self._arrived.put(None)
        self._thread.join()
        try:
            if self._failed is not None:
                raise self._failed
            for sink in sinks:
                sink.close(self._committing)
            self._committing.wait()
        finally:
            self._committing.close()

    def _work(self) -> None:
        while (arrived := self._arrived.get()) is not None:
            if self._failed is None:
                try:
                    self._take(arrived)
                except BaseException as error:  # noqa: BLE001 - raised again in the thread that encodes
                    self._failed = error
            if arrived.slot is not None:
                self._release(arrived.slot)

    def _take(self, arrived: Arrived) -> None:
        features = arrived.fetched.rows(list(arrived.places))
        begin = time.perf_counter()
        arrived.outcome.busy["encode"] += arrived.fetched.device_seconds
        jobs = [self._jobs[number] for number in arrived.numbers]
        usable = _usable(arrived, jobs, features)
        for sink in arrived.sinks:
            sink.add(arrived.numbers, jobs, usable, features, self._committing)
        self._seconds += time.perf_counter() - begin


class _Committing:
    """One thread that writes; at most one segment waits for it."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="featcache-write")
        self._flying: Future[None] | None = None
        self.seconds = 0.0
        self.waited = 0.0
        """By whoever hands over segments."""

    def submit(self, commit: Any) -> None:
        """Commit a segment after the one before; raises what that one raised."""
        begin = time.perf_counter()
        self.wait()
        self.waited += time.perf_counter() - begin
        self._flying = self._pool.submit(self._timed, commit)

    def wait(self) -> None:
        """Until all is on disk."""
        flying, self._flying = self._flying, None
        if flying is not None:
            flying.result()

    def close(self) -> None:
        """End the thread."""
        self._pool.shutdown(wait=True)

    def _timed(self, commit: Any) -> None:
        begin = time.perf_counter()
        commit()
        self.seconds += time.perf_counter() - begin


def _usable(arrived: Arrived, jobs: Sequence[Job], features: Mapping[str, NDArray[np.float32]]) -> NDArray[np.bool_]:
    """Which images of a batch give rows; the others, and values that cannot be stored, become failures."""
    if arrived.keeping:
        return np.array([bool(reading.kept) and reading.kept[arrived.kind] for reading in arrived.readings], bool)
    dtype, outcome = arrived.sinks[0].dtype, arrived.outcome
    with np.errstate(over="ignore"):
        finite = [_finite(array) & _finite(array.astype(dtype)) for array in features.values()]
    if SCALES in features:
        finite.append(finite_when_read(features, dtype))
    usable: NDArray[np.bool_] = np.logical_and.reduce(finite)
    for place, (job, reading) in enumerate(zip(jobs, arrived.readings, strict=True)):
        failure = reading.failures[arrived.kind]
        if failure is None and not usable[place]:
            failure = _numeric_failure(job, features, place)
        if failure is not None:
            outcome.failures.append(failure)
            usable[place] = False
        elif reading.constant:
            outcome.constant.append(job.sample.id)
        outcome.decoded_anew += reading.decoded_anew
    outcome.computed += int(usable.sum())
    return usable


def _finite(rows: NDArray[np.floating]) -> NDArray[np.bool_]:
    finite: NDArray[np.bool_] = np.isfinite(rows.reshape(len(rows), -1)).all(axis=1)
    return finite


def _numeric_failure(job: Job, features: Mapping[str, NDArray[np.float32]], place: int) -> Failure:
    if not all(np.isfinite(array[place]).all() for array in features.values()):
        reason, remedy = "the encoder gave NaN or infinite features", "Try --precision fp32; look at the image."
    else:
        reason, remedy = "a feature is larger than float16 can hold", "Extract with --dtype float32."
    return Failure(job.sample.id, job.relative_path, reason, remedy)


class Sink:
    """Collects the rows of one family and hands over each segment that is full."""

    def __init__(self, target: Target, shapes: Mapping[str, tuple[int, ...]], jobs: Sequence[Job]) -> None:
        self._target = target
        self._writer = target.writer
        segments = segments_of([jobs[number] for number in sorted(target.jobs)], target.writer.chunk_rows)
        spanned = (len(segments) - 1) * target.writer.chunk_rows + sum(segments[-1])
        self._segments = iter(list(zip(target.writer.reserve(spanned), segments, strict=True)))
        self._arrays = {
            name: (shapes[feature], np.dtype(target.writer.layout(name).dtype))
            for name, feature in target.features.items()
        }
        self._ends = volume_ends([jobs[number] for number in sorted(target.jobs)])
        self._begin = self._length = 0
        self._unrecorded: list[Segment] = []
        self._next()

    @property
    def dtype(self) -> np.dtype[Any]:
        """In which features are given to readers."""
        dtype: np.dtype[Any] = self._writer.dtype
        return dtype

    def add(
        self,
        numbers: Sequence[int],
        jobs: Sequence[Job],
        usable: NDArray[np.bool_],
        features: Mapping[str, NDArray[np.float32]],
        committing: _Committing,
    ) -> None:
        """Take over the rows of a batch that this family lacks."""
        own = [place for place, number in enumerate(numbers) if number in self._target.jobs]
        while own:
            first = len(self._ids)
            taken, own = own[: self._length - first], own[self._length - first :]
            self._ids += [jobs[place].sample.id for place in taken]
            good = [place for place in taken if usable[place]]
            rows = [first + offset for offset, place in enumerate(taken) if usable[place]]
            if good:
                for name, feature in self._target.features.items():
                    self._rows[name][rows] = features[feature][good]
                # Last: what is interrupted before it leaves places without a row, not rows without features.
                self._digests[rows] = np.frombuffer(b"".join(jobs[place].digest for place in good), np.uint8).reshape(
                    -1, 16
                )
            if len(self._ids) == self._length:
                self._commit(committing)
                self._next()

    def close(self, committing: _Committing) -> None:
        """Commit what there is of the last segment, but no part of a volume."""
        ends = np.flatnonzero(self._ends[self._begin : self._begin + len(self._ids)])
        del self._ids[int(ends[-1]) + 1 if len(ends) else 0 :]
        if self._ids:
            self._commit(committing)
        committing.submit(self._discard)

    def _next(self) -> None:
        self._begin += self._length
        self._number, volumes = next(self._segments, (0, []))
        self._length = sum(volumes)
        self._ids: list[str] = []
        self._digests = np.zeros((self._length, 16), np.uint8)
        self._rows = {
            name: np.full((self._length, *shape), np.nan if dtype.kind == "f" else 0, dtype)
            for name, (shape, dtype) in self._arrays.items()
        }

    def _commit(self, committing: _Committing) -> None:
        """Hand over the rows there are."""
        count = len(self._ids)
        rows = {name: array[:count] for name, array in self._rows.items()}
        segment = (self._number, self._digests[:count], self._ids, rows)
        committing.submit(partial(self._write, segment, bool(self._ends[self._begin + count - 1])))

    def _write(self, segment: tuple[int, NDArray[np.uint8], list[str], dict[str, Any]], whole: bool) -> None:
        """Write a segment, unless it has no rows; record it when the volume at its end is ``whole``, with all of it."""
        has_rows = segment[1].any()
        if whole and not self._unrecorded:
            if has_rows:
                self._writer.commit(*segment)
            return
        if has_rows:
            self._unrecorded.append(self._writer.write(*segment))
        if whole and self._unrecorded:
            self._writer.record(self._unrecorded)
            self._unrecorded = []

    def _discard(self) -> None:
        """Remove what was written of a volume that did not become whole."""
        self._writer.discard(self._unrecorded)
