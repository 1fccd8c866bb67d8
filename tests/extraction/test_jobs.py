"""Cutting a run into batches and segments."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featcache.datasets import load_dataset
from featcache.extraction.jobs import Job, batches_of, jobs_of, segments_of, volume_ends
from featcache.records import Sample, Selector


def slice_jobs(counts: list[int]) -> list[Job]:
    """Jobs of volumes with so many slices each."""
    places = [(volume, index) for volume, count in enumerate(counts) for index in range(count)]
    return [
        Job(Sample(f"{volume}/{index}", Path(f"/v{volume}.nii"), Selector("axial", index)), "", bytes(16), rank)
        for rank, (volume, index) in enumerate(places)
    ]


def jobs_of_ranks(ranks: list[int]) -> list[Job]:
    return [Job(Sample(str(rank), Path(f"/{rank}.png")), "", bytes(16), rank) for rank in ranks]


@given(st.sets(st.integers(0, 500), min_size=1), st.integers(1, 40))
@settings(max_examples=80, deadline=None)
def test_batches_hold_each_job_once_in_a_place_of_its_own(ranks: set[int], batch_size: int) -> None:
    jobs = jobs_of_ranks(sorted(ranks))
    batches = batches_of(jobs, batch_size)
    assert [number for batch in batches for number in batch.jobs] == list(range(len(jobs)))
    for batch in batches:
        assert len(set(batch.places)) == len(batch.jobs) == len(batch.places)
        assert all(0 <= place < batch_size for place in batch.places)
    assert len(batches) <= 1.1 * -(-len(jobs) // batch_size) + 1


@pytest.mark.parametrize("first", [1, 7, 32, 50, 63])
def test_what_a_killed_run_left_over_keeps_its_places(first: int) -> None:
    whole = jobs_of_ranks(list(range(200)))
    places = {
        whole[number].rank: place
        for batch in batches_of(whole, 16)
        for number, place in zip(batch.jobs, batch.places, strict=True)
    }
    rest = whole[first:]
    for batch in batches_of(rest, 16):
        for number, place in zip(batch.jobs, batch.places, strict=True):
            assert places[rest[number].rank] == place


def test_scattered_jobs_are_packed() -> None:
    batches = batches_of(jobs_of_ranks(list(range(0, 1000, 10))), 32)
    assert [len(batch.jobs) for batch in batches] == [32, 32, 32, 4]


@given(st.lists(st.integers(1, 90), min_size=1, max_size=30))
@settings(max_examples=80, deadline=None)
def test_a_volume_that_fits_lies_in_one_segment(counts: list[int]) -> None:
    jobs = slice_jobs(counts)
    lengths = [sum(volumes) for volumes in segments_of(jobs, 64)]
    assert sum(lengths) == len(jobs)
    assert max(lengths) <= 64
    segment = [number for number, length in enumerate(lengths) for _ in range(length)]
    for volume, count in enumerate(counts):
        own = {segment[job.rank] for job in jobs if job.sample.path.name == f"v{volume}.nii"}
        assert len(own) == 1 or count > 64


def test_single_files_fill_segments() -> None:
    assert [sum(files) for files in segments_of(jobs_of_ranks(list(range(150))), 64)] == [64, 64, 22]


def test_jobs_are_made_of_the_tables_rows(tmp_path: Path) -> None:
    """As :meth:`Dataset.sample` gives them one by one."""
    for number in range(3):
        voxels = np.zeros((4, 4, 5), np.int16)
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / f"v{number}.nii.gz")
    dataset = load_dataset("nifti", root=tmp_path)
    digests = [bytes([row]) * 16 for row in range(15)]
    found = jobs_of(dataset, digests, [3, 4, 11], ranks={3: 0, 4: 1, 11: 2})
    for row, rank, job in zip([3, 4, 11], range(3), found, strict=True):
        path = dataset.samples["path"].iloc[row]
        assert job == Job(dataset.sample(row), path, digests[row], rank)
    assert [job.rank for job in jobs_of(dataset, digests, [3, 4, 11])] == [3, 4, 11]


@given(st.lists(st.integers(1, 70), min_size=1, max_size=8))
@settings(max_examples=40, deadline=None)
def test_a_volume_is_whole_with_its_last_slice(counts: list[int]) -> None:
    ends = volume_ends(slice_jobs(counts))
    assert (np.flatnonzero(ends) + 1).tolist() == np.cumsum(counts).tolist()


def test_pictures_and_huge_volumes_are_whole_one_by_one() -> None:
    stack = [Job(Sample(str(n), Path("/a.npz"), Selector(index=n, array="x")), "", bytes(16), n) for n in range(9)]
    assert volume_ends(stack).all()
    assert volume_ends(jobs_of_ranks([0, 1, 5])).all()
    assert volume_ends(slice_jobs([5000])).all()
