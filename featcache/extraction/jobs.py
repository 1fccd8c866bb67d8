"""What a run has to do, and how it is cut: batches for the encoder, segments for the store, units for the readers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path, PurePath
from typing import cast

import numpy as np
from numpy.typing import NDArray

from featcache.datasets import Dataset
from featcache.imaging import decoder_of, unit_of
from featcache.records import Sample, Selector

__all__ = ["Batch", "Job", "Unit", "batches_of", "is_stacked", "jobs_of", "segments_of", "volume_ends"]

_MOST_TOGETHER = 4096
"""Slices of a volume that are committed together."""

_WORTH_KEEPING = 1.1
"""Batches keep the places that rows have in a whole run, unless that makes so many times more of them."""

Unit = tuple[Path, Selector]
"""What is decoded at once: a file, or one series or time point of it."""


@dataclass(frozen=True, slots=True)
class Job:
    """One sample to embed."""

    sample: Sample
    """What to read."""
    relative_path: str
    """Its file for messages, relative to the dataset's root."""
    digest: bytes
    """16 bytes."""
    rank: int
    """Its place among all rows of the dataset, whether they are missing or not."""

    @property
    def unit(self) -> Unit:
        """The part of its file that is decoded for it, and for its neighbours."""
        return self.sample.path, unit_of(self.sample.path, self.sample.selector)


@dataclass(frozen=True, slots=True)
class Batch:
    """Some jobs and the places that they have in a batch of a fixed size; the other places are zeros."""

    jobs: range
    """Numbers of the jobs, one after the other."""
    places: tuple[int, ...]
    """Of each."""


def jobs_of(
    dataset: Dataset,
    digests: Sequence[bytes | None],
    rows: Sequence[int],
    *,
    ranks: Mapping[int, int] | None = None,
) -> list[Job]:
    """The jobs of some rows of a dataset; ten times as fast as looking at each row of its table.

    Parameters
    ----------
    dataset
        The samples.
    digests
        Of each sample; those of ``rows`` are there.
    rows
        Of the dataset's table.
    ranks
        Of each of the rows; default: the row.
    """
    ids, paths, selectors = (dataset.samples[column].tolist() for column in ("id", "path", "selector"))
    whole = Selector()
    opened: dict[str, Path] = {}  # slices of a volume share its path
    jobs = []
    for row in rows:
        path = opened.get(paths[row]) or opened.setdefault(paths[row], dataset.root / paths[row])
        selector = Selector.from_text(selectors[row]) if selectors[row] else whole
        rank = row if ranks is None else ranks[row]
        jobs.append(Job(Sample(ids[row], path, selector), paths[row], cast(bytes, digests[row]), rank))
    return jobs


def batches_of(jobs: Sequence[Job], batch_size: int) -> list[Batch]:
    """Cut jobs into batches of a fixed size.

    A row is computed in the place that it has when the whole dataset is: what a killed run left over comes out in
    the same bits. Where what is missing lies so scattered that it would cost more than a tenth more batches, it is
    packed instead.

    Parameters
    ----------
    jobs
        In the order of their ranks.
    batch_size
        Images a batch.
    """
    grouped = groupby(range(len(jobs)), key=lambda number: jobs[number].rank // batch_size)
    kept = [range(numbers[0], numbers[-1] + 1) for numbers in (list(group) for _, group in grouped)]
    packed = range(0, len(jobs), batch_size)
    if len(kept) <= _WORTH_KEEPING * len(packed) + 1:
        return [Batch(run, tuple(jobs[number].rank % batch_size for number in run)) for run in kept]
    runs = [range(first, min(first + batch_size, len(jobs))) for first in packed]
    return [Batch(run, tuple(range(len(run)))) for run in runs]


def is_stacked(path: PurePath | str, selector: Selector) -> bool:
    """Whether a sample is one of many pictures in a plain array: its neighbours are no slices of the same thing."""
    return selector.axis is None and selector.index is not None and decoder_of(path) in ("array", "matlab")


def volume_ends(jobs: Sequence[Job]) -> NDArray[np.bool_]:
    """For each job, in order, whether with it a volume is whole: the last of its slices, or a picture by itself.

    Volumes of more than 4096 slices are taken as pictures: they are not held back until they are whole.
    """
    ends = np.ones(len(jobs), bool)
    first = 0
    for (path, _), run in groupby(jobs, key=lambda job: job.unit):
        count = sum(1 for _ in run)
        if 1 < count <= _MOST_TOGETHER and not is_stacked(path, jobs[first].sample.selector):
            ends[first : first + count - 1] = False
        first += count
    return ends


def segments_of(jobs: Sequence[Job], chunk_rows: int) -> list[list[int]]:
    """Cut jobs into segments: for each, how many rows its volumes (or files) have.

    The slices of a volume are committed together, where they fit a segment; a segment holds as many whole volumes
    as fit, or, of jobs that are files by themselves, ``chunk_rows``.
    """
    segments: list[list[int]] = []
    used = chunk_rows
    for _, run in groupby(jobs, key=lambda job: job.unit):
        count = sum(1 for _ in run)
        while count:
            if used + count > chunk_rows:
                segments.append([])
                used = 0
            part = min(count, chunk_rows)
            segments[-1].append(part)
            used += part
            count -= part
    return segments
