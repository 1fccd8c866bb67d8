"""Read, encode and write at the same time; the result does not depend on how many threads do it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.extraction.reading import Job, Prepared, Reader
from featcache.imaging import Preprocess
from featcache.models import Encoder
from featcache.records import Failure, Progress
from featcache.store import StoreWriter

__all__ = ["Outcome", "run_pipeline"]


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


def run_pipeline(
    jobs: Sequence[Job],
    encoder: Encoder,
    preprocess: Preprocess,
    writer: StoreWriter,
    *,
    device: str,
    batch_size: int,
    workers: int,
    progress: Callable[[Progress], None] | None = None,
) -> Outcome:
    """Embed all jobs and commit them segment by segment.

    A batch is always ``batch_size`` images, filled up with zeros at the end of a segment and in the places
    of unreadable images, and never straddles two segments: a row's arithmetic is the same in every run,
    resumed or not. On KeyboardInterrupt the finished batches are committed before it is raised again.
    """
    outcome = Outcome()
    begin = time.perf_counter()
    batch_size = min(batch_size, writer.chunk_rows)
    segments = [jobs[first : first + writer.chunk_rows] for first in range(0, len(jobs), writer.chunk_rows)]
    batches = [
        segment[first : first + batch_size] for segment in segments for first in range(0, len(segment), batch_size)
    ]
    reading = Reader(preprocess, workers=workers).read(batches)
    writing: Future[None] | None = None
    done = 0
    with ThreadPoolExecutor(1, thread_name_prefix="featcache-write") as pool:
        for number, segment in zip(writer.reserve(len(jobs)), segments, strict=True):
            rows = _SegmentRows(len(segment), encoder.arrays, writer.dtype)
            try:
                while not rows.full:
                    prepared = next(reading)
                    features = _encode(prepared, encoder, (batch_size, preprocess.crop), device, outcome)
                    rows.add(prepared, features, outcome)
                    done += len(prepared)
                    if progress is not None:
                        rate = done / (time.perf_counter() - begin)
                        progress(Progress(done, len(jobs), len(outcome.failures), rate))
            except KeyboardInterrupt:
                reading.close()  # type: ignore[attr-defined]  # a generator: cancels what is read ahead
                _wait(writing)
                rows.commit(writer, number, outcome)
                raise
            _wait(writing)
            writing = pool.submit(rows.commit, writer, number, outcome)
        _wait(writing)
    outcome.seconds = time.perf_counter() - begin
    outcome.busy["read"] /= workers
    return outcome


def _wait(writing: Future[None] | None) -> None:
    """Wait for the previous segment, and raise what its commit raised."""
    if writing is not None:
        writing.result()


def _encode(
    prepared: Sequence[Prepared],
    encoder: Encoder,
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
    features = encoder.encode(pixels.to(device))
    rows = {name: array[: len(prepared)].float().cpu().numpy() for name, array in features.items()}
    outcome.busy["encode"] += time.perf_counter() - begin
    return rows


class _SegmentRows:
    """The rows of one segment while they are computed."""

    def __init__(self, capacity: int, arrays: dict[str, tuple[int, ...]], dtype: np.dtype[Any]) -> None:
        self._capacity = capacity
        self._ids: list[str] = []
        self._digests = np.zeros((capacity, 16), np.uint8)
        self._features = {name: np.full((capacity, *shape), np.nan, dtype) for name, shape in arrays.items()}
        self._dtype = dtype

    @property
    def full(self) -> bool:
        return len(self._ids) == self._capacity

    def add(self, prepared: Sequence[Prepared], features: dict[str, NDArray[np.float32]], outcome: Outcome) -> None:
        """Take over a batch; images that failed, and rows that cannot be stored, become failures."""
        with np.errstate(over="ignore"):
            stored = {name: array.astype(self._dtype) for name, array in features.items()}
        first = len(self._ids)
        for place, image in enumerate(prepared):
            self._ids.append(image.job.sample.id)
            failure = image.failure or _numeric_failure(image.job, features, stored, place)
            if failure is not None:
                outcome.failures.append(failure)
                continue
            if image.constant:
                outcome.constant.append(image.job.sample.id)
            self._digests[first + place] = np.frombuffer(image.job.digest, np.uint8)
            for name, array in stored.items():
                self._features[name][first + place] = array[place]

    def commit(self, writer: StoreWriter, number: int, outcome: Outcome) -> None:
        """Write the rows there are; a segment without any is not written."""
        begin = time.perf_counter()
        count = len(self._ids)
        valid = int(self._digests.any(axis=1).sum())
        if valid:
            features = {name: array[:count] for name, array in self._features.items()}
            writer.commit(number, self._digests[:count], self._ids, features)
        outcome.computed += valid
        outcome.busy["write"] += time.perf_counter() - begin


def _numeric_failure(
    job: Job, features: dict[str, NDArray[np.float32]], stored: dict[str, NDArray[np.floating]], place: int
) -> Failure | None:
    if not all(np.isfinite(array[place]).all() for array in features.values()):
        reason, remedy = (
            "the encoder gave NaN or infinite features",
            "Try --precision fp32; look at the image.",
        )
    elif not all(np.isfinite(array[place]).all() for array in stored.values()):
        reason, remedy = "a feature is larger than float16 can hold", "Extract with --dtype float32."
    else:
        return None
    return Failure(job.sample.id, job.relative_path, reason, remedy)
