"""``--format hdf5``: the store stays as one ordinary file, and behaves like any other store."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

import featcache
from featcache.extraction import repair, why
from featcache.records import Progress
from featcache.store import collect_garbage, find_store, plan_gc, remove_store, store_paths, verify_store
from tests.conftest import WriteImages

KEPT = {"format": "hdf5", "dataset_name": "x"}


def as_zarr(root: Path, home: Path, **options: object) -> featcache.FeatureStore:
    return featcache.open(
        featcache.extract("pixels", "folder", root=root, home=home, dataset_name="x", **options).store
    )  # type: ignore[arg-type]


def same(one: featcache.FeatureStore, two: featcache.FeatureStore) -> None:
    assert one.samples.equals(two.samples)
    assert sorted(one.names) == sorted(two.names)
    for name in one.names:
        np.testing.assert_array_equal(one[name][:], two[name][:])


def test_the_store_is_one_file_with_the_same_rows(image_folder: WriteImages, tmp_path: Path, home: Path) -> None:
    root = image_folder(3)
    report = featcache.extract("pixels", "folder", root=root, **KEPT)  # type: ignore[arg-type]
    assert report.store.suffix == ".h5"
    assert (report.computed, report.rows) == (18, 18)
    assert not list(report.store.parent.glob("*.zarr"))
    with h5py.File(report.store) as file:
        assert file["cls"].shape == (18, 256)
    same(featcache.open(report.store), as_zarr(root, tmp_path / "other"))
    assert store_paths(home) == [report.store]
    assert find_store("x") == report.store
    assert find_store(model="pixels") == report.store
    assert find_store() == report.store
    assert verify_store(report.store) == []


def test_a_later_run_keeps_the_form_and_computes_only_what_is_missing(
    image_folder: WriteImages, tmp_path: Path
) -> None:
    root = image_folder(3)
    first = featcache.extract("pixels", "folder", root=root, **KEPT)  # type: ignore[arg-type]
    stamp = first.store.stat().st_mtime_ns
    again = featcache.extract("pixels", "folder", root=root, dataset_name="x")
    assert (again.store, again.computed, again.rows) == (first.store, 0, 18)
    assert first.store.stat().st_mtime_ns == stamp
    Image.fromarray(np.eye(40, dtype=np.uint8) * 200).save(root / "train/dark/new.png")
    assert why("pixels", "folder", root=root, dataset_options={"dataset_name": "x"}).missing == 1
    more = featcache.extract("pixels", "folder", root=root, dataset_name="x")
    assert (more.store, more.computed, more.rows) == (first.store, 1, 19)
    assert not list(first.store.parent.glob("*.zarr"))
    same(featcache.open(more.store), as_zarr(root, tmp_path / "other"))


def test_a_killed_run_leaves_the_old_file_readable_and_resumes(image_folder: WriteImages, tmp_path: Path) -> None:
    root = image_folder(3)
    first = featcache.extract("pixels", "folder", root=root, **KEPT)  # type: ignore[arg-type]
    rng = np.random.default_rng(1)
    for number in range(200):
        Image.fromarray(rng.integers(0, 255, (40, 40), np.uint8)).save(root / f"train/dark/more{number}.png")

    def stop(progress: Progress) -> None:
        if progress.done >= 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        featcache.extract("pixels", "folder", root=root, dataset_name="x", batch_size=16, progress=stop)
    assert (first.store.with_suffix(".zarr") / "zarr.json").is_file()
    assert find_store("x") == first.store
    assert len(featcache.open("x")) == 18
    resumed = featcache.extract("pixels", "folder", root=root, dataset_name="x", batch_size=16)
    assert resumed.store == first.store
    assert resumed.computed < 200
    assert not first.store.with_suffix(".zarr").exists()
    same(featcache.open(resumed.store), as_zarr(root, tmp_path / "other", batch_size=16))


def test_a_store_changes_its_form_on_request_and_loses_nothing(image_folder: WriteImages) -> None:
    root = image_folder(3)
    group = featcache.extract("pixels", "folder", root=root, dataset_name="x")
    expected = featcache.open(group.store)["cls"][:]
    (root / "train/dark/000.png").rename(root.parent / "gone.png")  # its row is kept until gc, in either form
    packed = featcache.extract("pixels", "folder", root=root, **KEPT)  # type: ignore[arg-type]
    assert packed.computed == 0
    assert not group.store.exists()
    assert featcache.open(packed.store).dead_rows == 1
    (root.parent / "gone.png").rename(root / "train/dark/000.png")
    back = featcache.extract("pixels", "folder", root=root, dataset_name="x", format="zarr")
    assert (back.store, back.computed) == (group.store, 0)
    np.testing.assert_array_equal(featcache.open(back.store)["cls"][:], expected)
    assert verify_store(back.store) == []


def test_patches_are_packed_and_new_images_get_them_too(image_folder: WriteImages) -> None:
    root = image_folder(2)
    packed = featcache.extract("pixels", "folder", root=root, patches=True, **KEPT)  # type: ignore[arg-type]
    Image.fromarray(np.eye(40, dtype=np.uint8) * 200).save(root / "train/dark/new.png")
    more = featcache.extract("pixels", "folder", root=root, dataset_name="x")
    assert "patch tokens" in more.notes[-1]
    store = featcache.open(packed.store)
    np.testing.assert_array_equal(store["patches"][:].reshape(13, -1), store["cls"][:])


def test_quarantine_is_renewed_in_the_packed_form(image_folder: WriteImages) -> None:
    root = image_folder(2)
    (root / "train/dark/000.png").write_bytes(b"<html>")
    report = featcache.extract("pixels", "folder", root=root, **KEPT)  # type: ignore[arg-type]
    assert [failure.id for failure in featcache.open(report.store).failures] == ["train/dark/000.png"]
    (root / "train/dark/000.png").unlink()
    again = featcache.extract("pixels", "folder", root=root, dataset_name="x")
    assert again.computed == 0
    assert featcache.open(report.store).failures == ()


def test_gc_and_rm_of_the_packed_form(image_folder: WriteImages, home: Path) -> None:
    root = image_folder(3)
    report = featcache.extract("pixels", "folder", root=root, **KEPT)  # type: ignore[arg-type]
    for number in range(3):
        (root / f"train/dark/00{number}.png").unlink()
    featcache.extract("pixels", "folder", root=root, dataset_name="x")
    assert plan_gc(report.store).dead_rows == 3
    expected = featcache.open(report.store)["cls"][:]
    collect_garbage(report.store)
    assert plan_gc(report.store).idle
    assert len(featcache.open(report.store).digests) == 15
    np.testing.assert_array_equal(featcache.open(report.store)["cls"][:], expected)
    remove_store(report.store)
    assert store_paths(home) == []
    assert sorted(path.name for path in (home / "x").iterdir() if not path.name.startswith(".")) == ["samples.parquet"]


def test_repair_computes_only_the_rows_that_cannot_be_read(image_folder: WriteImages) -> None:
    root = image_folder(100)  # 600 rows of 256 numbers: a chunk of cls holds 512
    report = featcache.extract("pixels", "folder", root=root, **KEPT)  # type: ignore[arg-type]
    expected = featcache.open(report.store)["cls"][:]
    with h5py.File(report.store) as file:
        place = file["cls"].id.get_chunk_info(1).byte_offset
    content = bytearray(report.store.read_bytes())
    content[place + 10] ^= 1
    report.store.write_bytes(content)
    assert verify_store(report.store)
    mended = repair(report.store, root=root)
    assert mended is not None
    assert mended.store == report.store
    assert mended.computed == 600 - 512
    np.testing.assert_array_equal(featcache.open(report.store)["cls"][:], expected)
    assert verify_store(report.store) == []
