"""Samples to tensors: many threads read ahead, results come in the order of the samples."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from featcache.errors import ImageError
from featcache.imaging import Preprocess, files_of, prepare, read, select, unit_of
from featcache.records import Failure, Image, Sample, Selector
from featcache.store import content_digest, row_digest

if TYPE_CHECKING:
    import torch

__all__ = ["Job", "Prepared", "Reader"]


@dataclass(frozen=True, slots=True)
class Job:
    """One sample to embed."""

    sample: Sample
    """What to read."""
    relative_path: str
    """Its file for messages, relative to the dataset's root."""
    digest: bytes
    """16 bytes."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A job's pixels, or why there are none."""

    job: Job
    """The sample."""
    tensor: torch.Tensor | None
    """(3, S, S) float32; None if the image cannot be used."""
    failure: Failure | None
    """Set exactly if ``tensor`` is None."""
    constant: bool
    """A two-dimensional file all of whose pixels are equal: valid, and worth a warning."""
    seconds: float
    """Time spent reading, decoding and preprocessing."""


class Reader:
    """Reads batches of jobs ahead of their use with a pool of threads.

    Parameters
    ----------
    preprocess
        Pixels to tensor.
    workers
        Threads. Decoders and resizing release the interpreter lock.
    ahead
        Batches in flight: the memory bound is ``ahead`` batches of tensors and ``workers`` open volumes.
    """

    def __init__(self, preprocess: Preprocess, *, workers: int, ahead: int = 3) -> None:
        self._preprocess = preprocess
        self._workers = workers
        self._ahead = ahead
        self._volumes = _Volumes(capacity=workers)

    def read(self, batches: Iterable[Sequence[Job]]) -> Iterator[list[Prepared]]:
        """Yield the prepared jobs of each batch, in order."""
        import torch

        # One thread of arithmetic in each reader: nested pools spin against each other. The setting is per
        # thread, but the last one is also what new threads begin with, so it is put back at the end.
        arithmetic_threads = torch.get_num_threads()
        pool = ThreadPoolExecutor(self._workers, "featcache-read", initializer=torch.set_num_threads, initargs=(1,))
        flying: deque[list[Future[Prepared]]] = deque()
        try:
            for batch in batches:
                flying.append([pool.submit(self._prepare, job) for job in batch])
                if len(flying) > self._ahead:
                    yield [future.result() for future in flying.popleft()]
            while flying:
                yield [future.result() for future in flying.popleft()]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            torch.set_num_threads(arithmetic_threads)

    def _prepare(self, job: Job) -> Prepared:
        begin = time.perf_counter()
        tensor, failure, constant = None, None, False
        try:
            image, content = self._volumes.read(job.sample.path, job.sample.selector)
            if row_digest(content, job.sample.selector.to_text()) != job.digest:
                raise ImageError("the file changed while it was being extracted", remedy="Extract again.")
            plane = select(image, job.sample.selector)
            constant = image.kind == "plane" and plane.size > 0 and bool(plane.min() == plane.max())
            tensor = prepare(image, job.sample.selector, self._preprocess)
        except ImageError as error:
            failure = Failure(job.sample.id, job.relative_path, error.message, error.remedy or "")
        except Exception as error:  # noqa: BLE001 - whatever a decoder raises, one file must not end the run
            reason = f"{type(error).__name__}: {error}"
            failure = Failure(job.sample.id, job.relative_path, reason, "Look at the file; if it opens, report this.")
        return Prepared(job, tensor, failure, constant, time.perf_counter() - begin)


def _read_unchanged(path: Path, unit: Selector) -> tuple[Image, bytes]:
    """Decode and hash a file, or the files of a series, that do not change in between."""
    files = files_of(path, unit)
    before = [_stamp(file) for file in files]
    image = read(path, unit)
    content = content_digest(files)
    if [_stamp(file) for file in files] != before:
        raise ImageError("the file changed while it was being read", remedy="Extract again.")
    return image, content


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


class _Volumes:
    """The files being read: a volume is decoded once for its neighbouring slices, by the thread that asks first."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._images: OrderedDict[tuple[Path, Selector], Future[tuple[Image, bytes]]] = OrderedDict()

    def read(self, path: Path, selector: Selector) -> tuple[Image, bytes]:
        """The image and the digest of the files that it was decoded from."""
        unit = unit_of(path, selector)
        place = (path, unit)
        with self._lock:
            future = self._images.get(place)
            first = future is None
            if future is None:
                future = self._images[place] = Future()
            self._images.move_to_end(place)
            while len(self._images) > self._capacity:
                self._images.popitem(last=False)
        if first:
            try:
                future.set_result(_read_unchanged(path, unit))
            except BaseException as error:
                future.set_exception(error)
                raise
        return future.result()
