"""Volumes in the pipeline: batches are shared, a volume is committed whole or not at all."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

import featcache
from featcache.datasets import Dataset, load_dataset
from featcache.errors import StoreError
from featcache.extraction import reading
from featcache.extraction.encoding import Encoding
from featcache.imaging import read
from featcache.records import Progress
from featcache.store import StoreWriter, read_samples, verify_store
from featcache.store.segments import read_segments


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
    real = Encoding.start

    def counted(self: Encoding, pixels: Any) -> Any:
        batches.append(len(pixels))
        return real(self, pixels)

    featcache.extract("pixels", "nifti", root=volumes, dataset_name="warm", slices="n:1")
    monkeypatch.setattr(Encoding, "start", counted)
    report = featcache.extract("pixels", "nifti", root=volumes, batch_size=64)
    assert report.computed == 150
    assert batches == [64, 64, 64]  # 150 slices


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


def token_rows(store: Path) -> Counter[str]:
    """Of how many slices of each volume tokens are committed."""
    table = read_samples(store.parent)
    assert table is not None
    paths = dict(zip(table.frame["digest"], table.frame["path"], strict=True))
    segments = read_segments(store / "patches")
    return Counter(paths[digest.tobytes().hex()] for segment in segments for digest in segment.digests)


def test_the_tokens_of_a_volume_are_committed_together_though_they_fill_several_segments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fails at each of the nine segments in turn: there is never a part of a volume."""
    root = tmp_path / "volumes"
    root.mkdir()
    for number in range(3):
        voxels = np.random.default_rng(number).integers(0, 1000, (8, 8, 20)).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), root / f"v{number}.nii.gz")
    monkeypatch.setattr("featcache.store.creating.token_rows_for", lambda _: 8)
    whole = featcache.extract("pixels", "nifti", root=root, dataset_name="whole", patches=True, batch_size=8)
    assert len(list((whole.store / "patches" / "segments").glob("patches-*.json"))) == 9
    seen = set()
    written = StoreWriter.write

    for after in range(9):
        left = after

        def failing(self: StoreWriter, *arguments: Any) -> Any:
            nonlocal left
            if self.family == "patches":
                left -= 1
                if left < 0:
                    raise StoreError("the disk is gone", remedy="Look for it.")
            return written(self, *arguments)

        with monkeypatch.context() as patched:
            patched.setattr(StoreWriter, "write", failing)
            with pytest.raises(StoreError, match="the disk is gone"):
                featcache.extract("pixels", "nifti", root=root, dataset_name=f"cut{after}", patches=True, batch_size=8)
        counts = token_rows(whole.store.parents[1] / f"cut{after}" / whole.store.name)
        assert set(counts.values()) <= {20}
        seen.add(len(counts))
        if after == 4:
            report = featcache.extract(
                "pixels", "nifti", root=root, dataset_name=f"cut{after}", patches=True, batch_size=8
            )
            assert verify_store(report.store) == []
            found, expected = featcache.open(report.store), featcache.open(whole.store)
            assert found["patches"][:].tobytes() == expected["patches"][:].tobytes()
    assert seen == {0, 1, 2}


def test_an_interrupted_run_leaves_no_tokens_of_a_part_of_a_volume(
    volumes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.done >= 80:
            raise KeyboardInterrupt

    monkeypatch.setattr("featcache.store.creating.token_rows_for", lambda _: 8)
    options: dict[str, Any] = {"root": volumes, "dataset_name": "cut", "patches": True, "batch_size": 16}
    with pytest.raises(KeyboardInterrupt):
        featcache.extract("pixels", "nifti", progress=interrupt, **options)
    store = featcache.open("cut").path
    assert sorted(token_rows(store).values()) == [30, 30]
    recorded = {int(path.stem[-8:]) for path in (store / "patches" / "segments").glob("patches-*.json")}
    files = (path for path in (store / "patches" / "digests" / "c").rglob("*") if path.is_file())
    chunks = {int(path.parent.name) for path in files}
    assert chunks == recorded, "what was written of the third volume is removed"
    report = featcache.extract("pixels", "nifti", **options)
    assert sorted(token_rows(report.store).values()) == [30] * 5
    assert verify_store(report.store) == []


def test_an_archive_of_pictures_is_no_volume_so_that_a_killed_run_keeps_most_of_it(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (300, 28, 28), np.uint8)
    parts = {"train": images[:200], "val": images[200:250], "test": images[250:]}
    arrays = {f"{split}_images": part for split, part in parts.items()}
    labels = {f"{split}_labels": np.zeros((len(part), 1), np.uint8) for split, part in parts.items()}
    np.savez(tmp_path / "breastmnist.npz", **arrays, **labels)

    def interrupt(progress: Progress) -> None:
        if progress.done >= 96:
            raise KeyboardInterrupt

    options: dict[str, Any] = {"root": tmp_path, "dataset_name": "cut", "batch_size": 32}
    with pytest.raises(KeyboardInterrupt):
        featcache.extract("pixels", "medmnist", progress=interrupt, **options)
    records = list((featcache.open("cut").path / "segments").glob("vectors-*.json"))
    assert len(records) == 2
    assert featcache.extract("pixels", "medmnist", **options).reused == 96
