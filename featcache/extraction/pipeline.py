"""Read, encode and write at the same time; the result does not depend on how many processes read."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from featcache.extraction.encoding import Encoding, Held
from featcache.extraction.jobs import Job, batches_of
from featcache.extraction.kept_pixels import KeptPixels
from featcache.extraction.outcome import Outcome
from featcache.extraction.readers import ReadBatch, Readers
from featcache.extraction.reading import Recipe
from featcache.extraction.sinks import Arrived, Sink, Target, Writing
from featcache.extraction.token_coding import TokenCoding
from featcache.imaging import Preprocess
from featcache.models import Encoder
from featcache.records import Progress

__all__ = ["Stream", "run_pipeline"]


@dataclass(slots=True)
class Stream:
    """One encoder of a run, and where its features go."""

    encoder: Encoder
    """On its device."""
    preprocess: Preprocess
    """What it sees of an image."""
    targets: Sequence[Target]
    """The families of its store."""
    coding: TokenCoding | None = None
    """What is stored of its patch tokens, if a target is of them."""
    outcome: Outcome = field(default_factory=Outcome)
    """What became of it."""

    @property
    def jobs(self) -> frozenset[int]:
        """Numbers of the jobs that any family lacks."""
        return frozenset().union(*(target.jobs for target in self.targets))


def run_pipeline(
    jobs: Sequence[Job],
    streams: Sequence[Stream],
    *,
    device: str,
    batch_size: int,
    workers: int,
    kept: Mapping[Preprocess, KeptPixels] | None = None,
    keeping: Mapping[Preprocess, Target] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> None:
    """Embed all jobs by all encoders; commit segment by segment, each to the families that lack it.

    Every image is read and decoded once, whatever the number of encoders, and preprocessed once for those that see
    the same. A batch is always ``batch_size`` images, with zeros in the places of those that are not wanted or not
    readable: a row's arithmetic is the same in every run, resumed or not. On KeyboardInterrupt the finished batches
    are committed before it is raised again.

    Parameters
    ----------
    jobs
        In the order of their ranks.
    streams
        The encoders; their outcomes are filled.
    device
        On which they compute.
    batch_size
        Images a batch.
    workers
        Reading processes.
    kept
        By recipe, pixels that need not be decoded.
    keeping
        By recipe, where decoded pixels are to be kept, and which jobs' are not yet.
    progress
        Called after each batch.

    Notes
    -----
    Bound on memory, whatever the number of jobs: the ring of :class:`Readers`, two batches of features, and for each
    family two segments, besides the decoded files that the readers hold.
    """
    recipes = list(dict.fromkeys(stream.preprocess for stream in streams))
    batches = batches_of(jobs, batch_size)
    encodings = [
        Encoding(
            stream.encoder,
            device,
            {name for target in stream.targets for name in target.features.values()},
            stream.coding,
        )
        for stream in streams
    ]
    begin = time.perf_counter()
    kinds = [Recipe(recipe, (kept or {}).get(recipe), recipe in (keeping or {})) for recipe in recipes]
    with (
        contextlib.ExitStack() as encoding_ends,
        Readers(jobs, batches, kinds, batch_size=batch_size, workers=workers) as readers,
        readers.buffers.pinned(device),
    ):
        for encoding in encodings:
            encoding_ends.callback(encoding.close)
        sinks = [
            [Sink(target, _shapes(stream), jobs) for target in stream.targets if target.jobs] for stream in streams
        ]
        keepers = {
            recipes.index(recipe): Sink(target, {"pixels": (3, recipe.crop, recipe.crop)}, jobs)
            for recipe, target in (keeping or {}).items()
            if target.jobs
        }
        everything = [*(sink for own in sinks for sink in own), *keepers.values()]
        writing = Writing(jobs, readers.release)
        run = _Run(streams, encodings, sinks, recipes=recipes, keepers=keepers, readers=readers, writing=writing)
        try:
            run.work(len(jobs), progress)
        except KeyboardInterrupt:
            writing.close(everything)
            raise
        except BaseException:
            writing.close([])
            raise
        writing.close(everything)
    run.account(time.perf_counter() - begin)


class _Run:
    """The thread that encodes, and what it waited for."""

    def __init__(
        self,
        streams: Sequence[Stream],
        encodings: Sequence[Encoding],
        sinks: Sequence[Sequence[Sink]],
        *,
        recipes: Sequence[Preprocess],
        keepers: Mapping[int, Sink],
        readers: Readers,
        writing: Writing,
    ) -> None:
        self._streams = [
            (stream, encoding, own) for stream, encoding, own in zip(streams, encodings, sinks, strict=True)
        ]
        self._wanted = [stream.jobs for stream in streams]
        self._kinds = [recipes.index(stream.preprocess) for stream in streams]
        self._keepers = keepers
        self._unused = Outcome()
        self._readers = readers
        self._writing = writing
        self._waited_for_input = 0.0
        self._waited_for_output = 0.0

    def work(self, total: int, progress: Callable[[Progress], None] | None) -> None:
        """Encode each batch by each encoder that wants any of it."""
        begin = before = time.perf_counter()
        done = 0
        for ready in self._readers:
            self._waited_for_input += time.perf_counter() - before
            self._keep(ready)
            self._encode(ready)
            done += len(ready.batch.jobs)
            if progress is not None:
                failed = max(len(stream.outcome.failures) for stream, _, _ in self._streams)
                rate = done / (time.perf_counter() - begin)
                progress(Progress(done, total, failed, rate, self._slowest()))
            before = time.perf_counter()

    def _encode(self, ready: ReadBatch) -> None:
        numbers = ready.batch.jobs
        takers = [
            index for index in range(len(self._streams)) if any(number in self._wanted[index] for number in numbers)
        ]
        for index in takers:
            stream, encoding, sinks = self._streams[index]
            kind = self._kinds[index]
            chosen = [offset for offset, number in enumerate(numbers) if number in self._wanted[index]]
            pixels = self._readers.buffers.batch(kind, ready.slot)
            good = {
                place
                for place, reading in zip(ready.batch.places, ready.readings, strict=True)
                if reading.failures[kind] is None
            }
            for place in set(range(len(pixels))) - good:
                pixels[place] = 0.0
            fetched = encoding.start(pixels)
            begin = time.perf_counter()
            self._writing.put(
                Arrived(
                    fetched,
                    tuple(numbers[offset] for offset in chosen),
                    tuple(ready.batch.places[offset] for offset in chosen),
                    tuple(ready.readings[offset] for offset in chosen),
                    kind,
                    False,
                    sinks,
                    stream.outcome,
                    ready.slot if index == takers[-1] else None,
                )
            )
            self._waited_for_output += time.perf_counter() - begin

    def _keep(self, ready: ReadBatch) -> None:
        """Hand over the pixels that are to be kept, before their place in the ring is given back."""
        for kind, sink in self._keepers.items():
            pixels = Held("pixels", self._readers.buffers.kept(kind, ready.slot).numpy().copy())
            numbers, places, readings = tuple(ready.batch.jobs), ready.batch.places, tuple(ready.readings)
            self._writing.put(Arrived(pixels, numbers, places, readings, kind, True, [sink], self._unused, None))

    def _slowest(self) -> str:
        """The stage that the others have waited for so far."""
        reading = self._readers.seconds
        encoding = sum(encoding.seconds + encoding.transfer_seconds for _, encoding, _ in self._streams)
        device = sum(stream.outcome.busy["encode"] for stream, _, _ in self._streams)
        # Behind a device that computes by itself, a full queue means that the device is slow, not the disk.
        writing = max(0.0, self._waited_for_output - device)
        waits = {"encode": encoding + device, "write": writing, "input": self._waited_for_input}
        longest = max(waits, key=lambda stage: waits[stage])
        if longest == "input":
            return max(("read", "decode", "preprocess"), key=lambda stage: reading[stage])
        return longest

    def account(self, seconds: float) -> None:
        """Write down what each stage did."""
        slowest = self._slowest()
        for stream, encoding, _ in self._streams:
            outcome = stream.outcome
            outcome.seconds = seconds
            outcome.bottleneck = slowest
            outcome.workers = self._readers.workers
            outcome.halved = encoding.part is not None
            outcome.batch_size = encoding.part or self._readers.buffers.batch_size
            for stage in ("read", "decode", "preprocess"):
                outcome.busy[stage] = self._readers.seconds[stage] / self._readers.workers
            if not outcome.busy["encode"]:
                outcome.busy["encode"] = encoding.seconds
            outcome.busy["transfer"] = encoding.transfer_seconds
            outcome.busy["write"] = self._writing.seconds


def _shapes(stream: Stream) -> dict[str, tuple[int, ...]]:
    """Shape of one row of each feature that an encoder gives."""
    patches = stream.encoder.patches
    if stream.coding is None or patches is None:
        return stream.encoder.arrays
    return stream.encoder.arrays | stream.coding.form.arrays(patches)
