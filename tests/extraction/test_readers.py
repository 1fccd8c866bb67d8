"""The reading processes: order, back-pressure, death."""

from __future__ import annotations

import errno
import multiprocessing
import os
import select
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from featcache.errors import FeatcacheError
from featcache.extraction import readers as module
from featcache.extraction import reading
from featcache.extraction.buffers import ring_depth
from featcache.extraction.jobs import Job, batches_of
from featcache.extraction.readers import Readers
from featcache.extraction.reading import Recipe
from featcache.imaging import Preprocess, read, to_tensor
from featcache.records import Sample, Selector
from featcache.store import content_digest, row_digest

RECIPE = Preprocess("squash", 16, 16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.fixture
def jobs(tmp_path: Path) -> list[Job]:
    """Twenty-four small pictures, each with another grey level."""
    found = []
    for number in range(24):
        path = tmp_path / f"{number:02}.png"
        pixels = np.full((20, 20), 10 * number, np.uint8)
        pixels[0, 0] = 1
        Image.fromarray(pixels).save(path)
        digest = row_digest(content_digest([path]), "")
        found.append(Job(Sample(path.stem, path), path.name, digest, number))
    return found


def stacks(folder: Path) -> list[Job]:
    """Three files of thirty small pictures each."""
    found: list[Job] = []
    for volume in range(3):
        path = folder / f"{volume}.npy"
        np.save(path, np.random.default_rng(volume).integers(0, 255, (30, 8, 8), np.uint8))
        for index in range(30):
            selector = Selector(frame=index)
            digest = row_digest(content_digest([path]), selector.to_text())
            found.append(Job(Sample(f"{volume}/{index}", path, selector), path.name, digest, len(found)))
    return found


def collect(jobs: list[Job], **options: Any) -> tuple[list[torch.Tensor], list[list[Any]]]:
    """All batches: copies of their pixels, and their readings."""
    pixels, readings = [], []
    batches = batches_of(jobs, 8)
    with Readers(jobs, batches, [Recipe(RECIPE)], batch_size=8, **options) as reader:
        for ready in reader:
            pixels.append(reader.buffers.batch(0, ready.slot).clone())
            readings.append(ready.readings)
            reader.release(ready.slot)
    return pixels, readings


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_batches_come_in_order_with_the_pixels_of_each_job(jobs: list[Job], method: str) -> None:
    pixels, readings = collect(jobs, workers=3 if method == "fork" else 1, method=method)
    assert [len(batch) for batch in readings] == [8, 8, 8]
    for job in jobs:
        expected = to_tensor(np.asarray(Image.open(job.sample.path)), (0, 255), RECIPE)
        assert torch.equal(pixels[job.rank // 8][job.rank % 8], expected)


def test_no_more_is_read_than_the_ring_holds(jobs: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is released: reading stops by itself after the ring is full, and goes on when a batch is given back."""
    begun = multiprocessing.get_context("fork").Value("i", 0)

    def counted(*arguments: Any) -> Any:
        with begun.get_lock():
            begun.value += 1
        return read(*arguments)

    monkeypatch.setattr(reading, "read", counted)
    monkeypatch.setattr(module, "ring_depth", lambda *_: 2)
    batches = batches_of(jobs, 4)
    with Readers(jobs, batches, [Recipe(RECIPE)], batch_size=4, workers=2) as reader:
        arriving = iter(reader)
        held = [next(arriving), next(arriving)]
        assert begun.value == 8
        reader.release(held[0].slot)
        assert next(arriving).slot == held[0].slot
        assert begun.value == 12


def test_the_ring_is_bounded_whatever_the_batch() -> None:
    for size, batch in ((224, 32), (224, 1024), (1024, 128), (518, 64)):
        depth = ring_depth([size], batch, 16)
        assert depth == 2 or depth * batch * 3 * size * size * 4 <= 1 << 30


def test_a_file_that_kills_its_reader_is_left_out_and_the_others_are_read(
    jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    def deadly(path: Path, unit: Selector) -> Any:
        if path.stem == "05":
            os.kill(os.getpid(), signal.SIGKILL)
        return read(path, unit)

    monkeypatch.setattr(reading, "read", deadly)
    _, readings = collect(jobs, workers=2)
    failures = [found.failures[0] for batch in readings for found in batch]
    assert [failure.id for failure in failures if failure] == ["05"]
    assert "SIGKILL" in failures[5].reason
    assert "--workers" in failures[5].remedy


def test_a_reader_that_dies_once_costs_nothing(
    jobs: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the system is short of memory for a moment."""

    def deadly_once(path: Path, unit: Selector) -> Any:
        if path.stem == "05" and not (tmp_path / "died").exists():
            (tmp_path / "died").touch()
            os._exit(3)
        return read(path, unit)

    monkeypatch.setattr(reading, "read", deadly_once)
    pixels, readings = collect(jobs, workers=2)
    assert (tmp_path / "died").exists()
    assert not any(found.failures[0] for batch in readings for found in batch)
    expected = to_tensor(np.asarray(Image.open(jobs[5].sample.path)), (0, 255), RECIPE)
    assert torch.equal(pixels[0][5], expected)


def test_readers_that_cannot_start_end_the_run(jobs: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "read_tasks", lambda *_, **__: os._exit(7))
    with pytest.raises(FeatcacheError, match="exit code 7"):
        collect(jobs, workers=1)


def test_a_hung_reader_is_replaced(jobs: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    def hanging(path: Path, unit: Selector) -> Any:
        if path.stem == "05":
            signal.pause()
        return read(path, unit)

    monkeypatch.setattr(reading, "read", hanging)
    monkeypatch.setattr(module, "_PATIENCE", 0.0)
    monkeypatch.setattr(module, "_IDLE", 0.2)
    _, readings = collect(jobs, workers=1)
    failures = [found.failures[0] for batch in readings for found in batch]
    assert [failure.id for failure in failures if failure] == ["05"]
    assert "longer than" in failures[5].reason


def test_a_volume_is_decoded_once_however_many_batches_its_slices_fill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = multiprocessing.get_context("fork").SimpleQueue()

    def noted(path: Path, unit: Selector) -> Any:
        decoded.put(path.name)
        return read(path, unit)

    monkeypatch.setattr(reading, "read", noted)
    _, readings = collect(stacks(tmp_path), workers=2)
    assert not [found for batch in readings for found in batch if found.failures[0]]
    names = Counter()
    while not decoded.empty():
        names[decoded.get()] += 1
    assert names == {"0.npy": 1, "1.npy": 1, "2.npy": 1}


def test_leaving_early_leaves_no_process(jobs: list[Job]) -> None:
    before = len(multiprocessing.active_children())
    with Readers(jobs, batches_of(jobs, 8), [Recipe(RECIPE)], batch_size=8, workers=2) as reader:
        next(iter(reader))
    assert len(multiprocessing.active_children()) == before


def test_an_interrupt_that_comes_while_a_reader_starts_does_not_concern_it(
    jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A terminal sends it to all processes; the parent decides what happens."""
    real = module.read_tasks

    def interrupted(*arguments: Any, **options: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        real(*arguments, **options)

    monkeypatch.setattr(module, "read_tasks", interrupted)
    _, readings = collect(jobs, workers=2)
    assert not any(found.failures[0] for batch in readings for found in batch)


def test_a_system_without_room_for_more_processes_reads_with_those_there_are(
    jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Readers._started

    def full(self: Readers, number: int) -> Any:
        if len(self._processes) == most:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        return real(self, number)

    monkeypatch.setattr(Readers, "_started", full)
    most = 2
    _, readings = collect(jobs, workers=4)
    assert not any(found.failures[0] for batch in readings for found in batch)
    most = 0
    with pytest.raises(FeatcacheError, match="Resource temporarily unavailable"):
        collect(jobs, workers=4)
    assert not multiprocessing.active_children()


def test_a_volume_whose_reader_died_and_cannot_be_replaced_is_read_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, starts = Readers._started, []

    def once(self: Readers, number: int) -> Any:
        starts.append(number)
        if len(starts) > 2:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        return real(self, number)

    def deadly_once(path: Path, unit: Selector) -> Any:
        if path.name == "0.npy" and not (tmp_path / "died").exists():
            (tmp_path / "died").touch()
            os._exit(3)
        return read(path, unit)

    monkeypatch.setattr(Readers, "_started", once)
    monkeypatch.setattr(reading, "read", deadly_once)
    _, readings = collect(stacks(tmp_path), workers=2)
    assert len(starts) == 3
    assert not any(found.failures[0] for batch in readings for found in batch)


def test_a_death_is_noticed_although_a_process_that_the_decoder_started_lives_on(
    jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a process has inherited the reader's end of the connection, which therefore does not close."""
    waits, ends = os.pipe()

    def deadly(path: Path, unit: Selector) -> Any:
        if path.stem == "05":
            if os.fork() == 0:
                os.close(ends)
                select.select([waits], [], [])
                os._exit(0)
            os._exit(3)
        return read(path, unit)

    monkeypatch.setattr(reading, "read", deadly)
    monkeypatch.setattr(module, "_IDLE", 0.2)
    try:
        _, readings = collect(jobs, workers=2)
    finally:
        os.close(ends)
        os.close(waits)
    failures = [found.failures[0] for batch in readings for found in batch]
    assert [failure.id for failure in failures if failure] == ["05"]
    assert "exit code 3" in failures[5].reason
