"""Volumes in the pipeline: batches are shared, a volume is committed whole or not at all."""

from __future__ import annotations

import multiprocessing
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

import featcache
from featcache.datasets import Dataset, load_dataset
from featcache.extraction import reading
from featcache.imaging import read
from featcache.models import Encoder
from featcache.records import Progress


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    """Five volumes of 30 axial slices."""
    root = tmp_path / "volumes"
    root.mkdir()
    for number in range(5):
        voxels = np.random.default_rng(number).integers(0, 1000, (20, 20, 30)).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), root / f"v{number}.nii.gz")
    return root


def test_slices_of_several_volumes_share_batches(volumes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = []
    real = Encoder.encode

    def counted(self: Encoder, pixels: Any, **options: Any) -> Any:
        batches.append(len(pixels))
        return real(self, pixels, **options)

    featcache.extract("pixels", "nifti", root=volumes, dataset_name="warm", slices="n:1")
    monkeypatch.setattr(Encoder, "encode", counted)
    report = featcache.extract("pixels", "nifti", root=volumes, batch_size=64)
    assert report.computed == 150
    assert batches.count(64) == 3  # 150 slices; the probe of a new encoder has one image


@pytest.mark.parametrize("after", [32, 64, 96, 128])
def test_an_interrupted_run_leaves_no_part_of_a_volume(volumes: Path, after: int) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.done >= after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        featcache.extract("pixels", "nifti", root=volumes, dataset_name="cut", batch_size=32, progress=interrupt)
    report = featcache.extract("pixels", "nifti", root=volumes, dataset_name="cut", batch_size=32)
    assert report.reused == after // 30 * 30
    whole = featcache.extract("pixels", "nifti", root=volumes, dataset_name="whole", batch_size=32)
    found, expected = featcache.open(report.store), featcache.open(whole.store)
    assert found["cls"][:].tobytes() == expected["cls"][:].tobytes()


def test_segments_are_made_large_enough_for_the_largest_volume(tmp_path: Path) -> None:
    root = tmp_path / "long"
    root.mkdir()
    voxels = np.random.default_rng(0).integers(0, 1000, (8, 8, 150)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), root / "long.nii.gz")
    report = featcache.extract("pixels", "nifti", root=root)
    records = sorted((report.store / "segments").glob("vectors-*.json"))
    assert len(records) == 1


def mixed(volumes: Path) -> Dataset:
    """The slices of all volumes in an order of their own, as a user's table may have them."""
    loaded = load_dataset("nifti", root=volumes)
    order = np.random.default_rng(0).permutation(len(loaded.samples))
    return replace(loaded, samples=loaded.samples.iloc[order].reset_index(drop=True))


def test_a_volume_is_read_once_in_whatever_order_its_slices_are_listed(
    volumes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = multiprocessing.get_context("fork").SimpleQueue()

    def noted(*arguments: Any) -> Any:
        decoded.put(arguments[0].name)
        return read(*arguments)

    monkeypatch.setattr(reading, "read", noted)
    report = featcache.extract("pixels", mixed(volumes), registry_name="nifti", batch_size=16, workers=2)
    assert (report.rows, report.computed) == (150, 150)
    names = []
    while not decoded.empty():
        names.append(decoded.get())
    assert sorted(names) == [f"v{number}.nii.gz" for number in range(5)]
    store = featcache.open(report.store)
    alone = featcache.extract("pixels", "nifti", root=volumes, dataset_name="plain", batch_size=16)
    expected = featcache.open(alone.store)
    rows = {name: expected["cls"][row].tobytes() for row, name in enumerate(expected.samples["id"])}
    assert {name: store["cls"][row].tobytes() for row, name in enumerate(store.samples["id"])} == rows


def test_an_interrupted_run_leaves_no_part_of_a_volume_in_whatever_order_its_slices_are_listed(volumes: Path) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.done >= 64:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        featcache.extract("pixels", mixed(volumes), registry_name="nifti", batch_size=32, progress=interrupt)
    report = featcache.extract("pixels", mixed(volumes), registry_name="nifti", batch_size=32)
    assert (report.reused, report.computed) == (60, 90)
