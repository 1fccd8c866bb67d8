"""Read, encode and write at the same time; the result does not depend on how many threads do it."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from featcache.extraction.reading import Job, Prepared, Reader
from featcache.imaging import Preprocess
from featcache.models import Encoder
from featcache.records import Failure, Progress
from featcache.store import StoreWriter

__all__ = ["Outcome", "Target", "run_pipeline"]


@dataclass(slots=True)
class Outcome:
    """What a run did; filled while it runs."""

    computed: int = 0
    """Rows committed."""
    failures: list[Failure] = field(default_factory=list)
    """Samples that gave no features."""
    constant: list[str] = field(default_factory=list)
    """Ids of two-dimensional images without any contrast."""
    seconds: float = 0.0
    """Wall time."""
    busy: dict[str, float] = field(default_factory=lambda: {"read": 0.0, "encode": 0.0, "write": 0.0})
    """Seconds that each stage worked; for ``read`` the mean of its threads."""


@dataclass(frozen=True, slots=True)
class Target:
    """One family of a store, and the jobs that it lacks."""

    writer: StoreWriter
    """Commits its segments."""
    features: Mapping[str, str]
    """The encoder's name of each of its arrays."""
    jobs: frozenset[int]
    """Places among the jobs of the run."""


def run_pipeline(
    jobs: Sequence[Job],
    encoder: Encoder,
    preprocess: Preprocess,
    targets: Sequence[Target],
    *,
    device: str,
    batch_size: int,
    workers: int,
    progress: Callable[[Progress], None] | None = None,
) -> Outcome:
    """Embed all jobs and commit them segment by segment, each to the families that lack it.

    A batch is always ``batch_size`` images, filled up with zeros at the end of a segment and in the places
    of unreadable images, and never straddles two segments of the family with the largest ones: a row's arithmetic
    is the same in every run, resumed or not. On KeyboardInterrupt the finished batches are committed before it is
    raised again.
    """
    outcome = Outcome()
    begin = time.perf_counter()
    unit = max(target.writer.chunk_rows for target in targets)
    batch_size = min(batch_size, unit)
    batches = [
        range(first, min(first + batch_size, end))
        for start in range(0, len(jobs), unit)
        for end in [min(start + unit, len(jobs))]
        for first in range(start, end, batch_size)
    ]
    reading = Reader(preprocess, workers=workers).read([jobs[batch.start : batch.stop] for batch in batches])
    wanted = {name for target in targets for name in target.features.values()}
    with _Committing(outcome) as committing:
        sinks = [_Sink(target, encoder, committing) for target in targets if target.jobs]
        try:
            for batch, prepared in zip(batches, reading, strict=True):
                features = _encode(
                    prepared, encoder, wanted, shape=(batch_size, preprocess.crop), device=device, outcome=outcome
                )
                usable = _usable(prepared, features, targets[0].writer.dtype, outcome)
                for sink in sinks:
                    sink.add(batch, prepared, usable, features)
                if progress is not None:
                    rate = batch.stop / (time.perf_counter() - begin)
                    progress(Progress(batch.stop, len(jobs), len(outcome.failures), rate))
        except KeyboardInterrupt:
            reading.close()  # type: ignore[attr-defined]  # a generator: cancels what is read ahead
            for sink in sinks:
                sink.close()
            raise
        for sink in sinks:
            sink.close()
    outcome.seconds = time.perf_counter() - begin
    outcome.busy["read"] /= workers
    return outcome


class _Committing:
    """One thread that writes while the next batches are computed; at most one segment waits for it."""

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="featcache-write")
        self._flying: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None or issubclass(kind, KeyboardInterrupt):
                self.wait()
        finally:
            self._pool.shutdown(wait=True)

    def submit(self, commit: Callable[[], None]) -> None:
        """Commit a segment after the one before; raises what that one raised."""
        self.wait()
        self._flying = self._pool.submit(self._timed, commit)

    def wait(self) -> None:
        """Until all is on disk."""
        flying, self._flying = self._flying, None
        if flying is not None:
            flying.result()

    def _timed(self, commit: Callable[[], None]) -> None:
        begin = time.perf_counter()
        commit()
        self._outcome.busy["write"] += time.perf_counter() - begin


def _encode(
    prepared: Sequence[Prepared],
    encoder: Encoder,
    wanted: Container[str],
    *,
    shape: tuple[int, int],
    device: str,
    outcome: Outcome,
) -> dict[str, NDArray[np.float32]]:
    """(n, …) float32 features of n images, in a batch of ``shape`` (images, pixels); failed ones give nonsense."""
    import torch

    begin = time.perf_counter()
    batch_size, size = shape
    pixels = torch.zeros(batch_size, 3, size, size)
    for place, image in enumerate(prepared):
        outcome.busy["read"] += image.seconds
        if image.tensor is not None:
            pixels[place] = image.tensor
    features = encoder.encode(pixels.to(device), patches="patches" in wanted)
    rows = {name: array[: len(prepared)].cpu().numpy() for name, array in features.items() if name in wanted}
    outcome.busy["encode"] += time.perf_counter() - begin
    return rows


def _usable(
    prepared: Sequence[Prepared], features: dict[str, NDArray[np.float32]], dtype: np.dtype[Any], outcome: Outcome
) -> NDArray[np.bool_]:
    """Which images of a batch give rows; the others, and values that cannot be stored, become failures."""
    with np.errstate(over="ignore"):
        finite = {name: _finite(array) & _finite(array.astype(dtype)) for name, array in features.items()}
    usable = np.ones(len(prepared), bool)
    for place, image in enumerate(prepared):
        failure = image.failure
        if failure is None and not all(rows[place] for rows in finite.values()):
            failure = _numeric_failure(image.job, features, place)
        if failure is not None:
            outcome.failures.append(failure)
            usable[place] = False
        elif image.constant:
            outcome.constant.append(image.job.sample.id)
    outcome.computed += int(usable.sum())
    return usable


def _finite(rows: NDArray[np.floating]) -> NDArray[np.bool_]:
    finite: NDArray[np.bool_] = np.isfinite(rows.reshape(len(rows), -1)).all(axis=1)
    return finite


class _Sink:
    """Collects the rows of one family and hands over each segment that is full."""

    def __init__(self, target: Target, encoder: Encoder, committing: _Committing) -> None:
        self._target = target
        self._committing = committing
        self._writer = target.writer
        self._left = len(target.jobs)
        self._numbers = iter(target.writer.reserve(self._left))
        offered = {**encoder.arrays, **({"patches": encoder.patches} if encoder.patches is not None else {})}
        self._shapes = {name: offered[feature] for name, feature in target.features.items()}
        self._begin()

    def add(
        self,
        batch: range,
        prepared: Sequence[Prepared],
        usable: NDArray[np.bool_],
        features: Mapping[str, NDArray[np.float32]],
    ) -> None:
        """Take over the rows of a batch that this family lacks."""
        for place, job in enumerate(batch):
            if job not in self._target.jobs:
                continue
            row = len(self._ids)
            self._ids.append(prepared[place].job.sample.id)
            if usable[place]:
                for name, feature in self._target.features.items():
                    self._rows[name][row] = features[feature][place]
                # Last: an interrupt before it leaves a place without a row, not a row without features.
                self._digests[row] = np.frombuffer(prepared[place].job.digest, np.uint8)
            if len(self._ids) == len(self._digests):
                self._commit()
                self._begin()

    def close(self) -> None:
        """Commit what there is of the last segment."""
        if self._ids:
            self._commit()

    def _begin(self) -> None:
        count = min(self._left, self._writer.chunk_rows)
        self._left -= count
        self._ids: list[str] = []
        self._digests = np.zeros((count, 16), np.uint8)
        self._rows = {
            name: np.full((count, *shape), np.nan, self._writer.dtype) for name, shape in self._shapes.items()
        }

    def _commit(self) -> None:
        """Hand over the rows there are; a segment without any is not written."""
        number, count = next(self._numbers), len(self._ids)
        if self._digests.any():
            rows = {name: array[:count] for name, array in self._rows.items()}
            self._committing.submit(partial(self._writer.commit, number, self._digests[:count], self._ids, rows))


def _numeric_failure(job: Job, features: dict[str, NDArray[np.float32]], place: int) -> Failure:
    if not all(np.isfinite(array[place]).all() for array in features.values()):
        reason, remedy = "the encoder gave NaN or infinite features", "Try --precision fp32; look at the image."
    else:
        reason, remedy = "a feature is larger than float16 can hold", "Extract with --dtype float32."
    return Failure(job.sample.id, job.relative_path, reason, remedy)
