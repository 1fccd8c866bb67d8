"""Patch tokens: a family of their own, computed when they are asked for and only then."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import zarr
from PIL import Image

import featcache
from featcache.errors import StoreError
from featcache.exchange import export, import_export, merge
from featcache.extraction import repair
from featcache.imaging import preset, to_tensor
from featcache.models import load_encoder, locate_weights, resolve_model
from featcache.records import Progress
from featcache.store import FeatureStore, collect_garbage, plan_gc, store_from_arrays, verify_store
from tests.conftest import WriteImages

MODEL = "efficientnet_lite0"


def digests_of_files(folder: Path, pattern: str) -> dict[str, str]:
    files = [path for path in folder.glob(pattern) if path.is_file()]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_patches_are_what_the_encoder_gives_for_each_image_alone(image_folder: WriteImages) -> None:
    root = image_folder(3)
    report = featcache.extract(MODEL, "folder", root=root, image_size=96, batch_size=4, patches=True)
    assert report.computed == 18
    store = featcache.open(report.store)
    assert store["patches"].shape == (18, 3, 3, 1280)
    spec = resolve_model(MODEL)
    encoder = load_encoder(spec, locate_weights(spec, None), image_size=96).to("cpu", "fp32")
    recipe = preset("model", spec, 96)
    for row, name in enumerate(store.samples["path"]):
        pixels = to_tensor(np.asarray(Image.open(root / name)), (0, 255), recipe)[None]
        expected = encoder.encode(pixels, patches=True)["patches"][0]
        found = torch.from_numpy(store["patches"][row].astype(np.float32))
        torch.testing.assert_close(found, expected.half().float(), rtol=2e-3, atol=2e-3)


def test_plain_zarr_reads_the_tokens_and_knows_which_row_is_which(image_folder: WriteImages) -> None:
    report = featcache.extract("pixels", "folder", root=image_folder(2), patches=True)
    group = zarr.open_group(report.store, mode="r")
    tokens, digests = group["patches/tokens"], group["patches/digests"]
    assert tokens.shape[1:] == (16, 16, 1)
    assert tokens.chunks == (1, 16, 16, 1)
    store = featcache.open(report.store)
    rows = [row for row in range(tokens.shape[0]) if digests[row].any()]
    by_digest = {digests[row].tobytes(): tokens[row] for row in rows}
    table = pd.read_parquet(report.store.parent / "samples.parquet").set_index("id")
    for row, name in enumerate(store.samples["id"]):
        found = by_digest[bytes.fromhex(table.loc[name, "digest"])]
        np.testing.assert_array_equal(found, store["patches"][row])
        np.testing.assert_array_equal(found.reshape(-1), store["cls"][row])  # the same cells, for this control


def test_patches_asked_for_later_are_all_that_is_computed(image_folder: WriteImages) -> None:
    root = image_folder(3)
    first = featcache.extract("pixels", "folder", root=root)
    assert "patches" not in featcache.open(first.store)
    before = digests_of_files(first.store, "*/c/**/0")
    later = featcache.extract("pixels", "folder", root=root, patches=True)
    assert (later.store, later.computed) == (first.store, 18)
    assert {
        name: digest for name, digest in digests_of_files(first.store, "*/c/**/0").items() if name in before
    } == before
    assert digests_of_files(first.store, "*/c/**/0") == before
    store = featcache.open(later.store)
    np.testing.assert_array_equal(store["patches"][:].reshape(18, -1), store["cls"][:])
    assert featcache.extract("pixels", "folder", root=root, patches=True).computed == 0
    assert featcache.extract("pixels", "folder", root=root).computed == 0
    assert verify_store(later.store) == []


def test_new_images_get_what_they_lack_and_nothing_more(image_folder: WriteImages) -> None:
    root = image_folder(2)
    featcache.extract("pixels", "folder", root=root, patches=True)
    Image.fromarray(np.eye(40, dtype=np.uint8) * 200).save(root / "train/dark/new.png")
    vectors = featcache.extract("pixels", "folder", root=root)
    assert vectors.computed == 1
    store = featcache.open(vectors.store)
    with pytest.raises(StoreError, match=r"1 of 13 rows have no patches[\s\S]*--patches"):
        store["patches"][:]
    assert [problem.incomplete for problem in verify_store(vectors.store)] == [True]
    with_patches = store.samples.index[store.samples["id"] != "train/dark/new.png"]
    assert store["patches"][with_patches].shape == (12, 16, 16, 1)
    assert featcache.extract("pixels", "folder", root=root, patches=True).computed == 1
    store = featcache.open(vectors.store)
    np.testing.assert_array_equal(store["patches"][:].reshape(13, -1), store["cls"][:])


def test_a_killed_run_resumes_to_the_same_bytes(image_folder: WriteImages, home: Path) -> None:
    root = image_folder(45)  # 270 images: segments of 64 of both families
    options = {"root": root, "image_size": 64, "batch_size": 16, "patches": True, "dataset_name": "x"}
    whole = featcache.open(featcache.extract(MODEL, "folder", home=home / "whole", **options).store)

    def stop(progress: Progress) -> None:
        if progress.done >= 150:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        featcache.extract(MODEL, "folder", home=home / "cut", progress=stop, **options)
    resumed = featcache.extract(MODEL, "folder", home=home / "cut", **options)
    assert 0 < resumed.computed < 270
    store = featcache.open(resumed.store)
    for name in ("cls", "patches"):
        np.testing.assert_array_equal(store[name][:], whole[name][:])
    assert verify_store(resumed.store) == []


@pytest.fixture
def complete(image_folder: WriteImages) -> tuple[Path, Path]:
    """(root, store) with vectors and patches of 12 images."""
    root = image_folder(2)
    return root, featcache.extract("pixels", "folder", root=root, patches=True, dataset_name="x").store


@pytest.mark.parametrize("damage", ["flip", "cut", "delete"])
def test_any_damage_of_a_file_of_the_tokens_is_found(complete: tuple[Path, Path], damage: str) -> None:
    _, store = complete
    rng = np.random.default_rng(0)
    files = [path for path in (store / "patches").rglob("*") if path.is_file() and ".lock" not in path.name]
    assert {"tokens", "digests", "ids", "segments"} <= {path.relative_to(store / "patches").parts[0] for path in files}
    for path in files:
        content = path.read_bytes()
        changed = bytearray(content)
        changed[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
        if damage == "delete":
            path.unlink()
        else:
            path.write_bytes({"flip": bytes(changed), "cut": content[:-1]}[damage])
        assert verify_store(store), f"{damage} of {path.relative_to(store)} passed"
        path.write_bytes(content)
    assert verify_store(store) == []


def test_a_read_of_a_damaged_row_is_refused_and_others_are_read(complete: tuple[Path, Path]) -> None:
    _, path = complete
    store = featcache.open(path)
    expected = store["patches"][[0, 2]]
    shard = path / "patches/tokens/c/0/0/0/0"
    content = bytearray(shard.read_bytes())
    content[(16 * 16 * 2 + 4) * 1 + 7] ^= 1  # in row 1: 512 bytes and a checksum each
    shard.write_bytes(content)
    with pytest.raises(StoreError, match="checksum"):
        store["patches"][1]
    np.testing.assert_array_equal(store["patches"][[0, 2]], expected)


def test_repair_computes_lost_tokens_again(complete: tuple[Path, Path]) -> None:
    root, path = complete
    expected = featcache.open(path)["patches"][:]
    vectors = digests_of_files(path, "cls/c/**/0")
    for damage in ("shard", "record", "document", "everything"):
        if damage == "everything":
            shutil.rmtree(path / "patches")
        else:
            pattern = {"shard": "tokens/c/0/0/0/0", "record": "segments/patches-*.json", "document": "zarr.json"}[
                damage
            ]
            next((path / "patches").glob(pattern)).write_bytes(b"lost")
        assert verify_store(path), damage
        report = repair(path, root=root)
        assert report is not None
        assert report.computed == (0 if damage == "document" else 12), damage
        assert verify_store(path) == [], damage
        np.testing.assert_array_equal(featcache.open(path)["patches"][:], expected)
        assert digests_of_files(path, "cls/c/**/0") == vectors


def test_gc_removes_tokens_that_no_image_needs(complete: tuple[Path, Path]) -> None:
    root, path = complete
    for file in sorted((root / "train").rglob("*.png")):
        file.unlink()
    featcache.extract("pixels", "folder", root=root, dataset_name="x")
    expected = featcache.open(path)["patches"][:]
    plan = plan_gc(path)
    assert (plan.dead_rows, plan.tokens["patches"].dead_rows) == (4, 4)
    assert plan.total_bytes > plan.tokens["patches"].bytes > 0
    collect_garbage(path)
    assert plan_gc(path).idle
    np.testing.assert_array_equal(featcache.open(path)["patches"][:], expected)
    assert verify_store(path) == []


@pytest.mark.parametrize("format_", ["hdf5", "npy", "parquet"])
def test_patches_leave_and_come_back_without_loss(complete: tuple[Path, Path], tmp_path: Path, format_: str) -> None:
    _, path = complete
    out = export(featcache.open(path), tmp_path / f"out.{format_}", format=format_)  # type: ignore[arg-type]
    if format_ == "hdf5":
        out = out.rename(tmp_path / "out.h5")
    back = FeatureStore(import_export(out, home=tmp_path / "home"))
    assert sorted(back.names) == sorted(featcache.open(path).names)
    for name in back.names:
        np.testing.assert_array_equal(back[name][:], featcache.open(path)[name][:])
    assert verify_store(back.path) == []


def test_merge_joins_the_tokens_that_there_are(image_folder: WriteImages, tmp_path: Path) -> None:
    root = image_folder(2)
    one = featcache.extract("pixels", "folder", root=root, patches=True, home=tmp_path / "a", dataset_name="x").store
    Image.fromarray(np.eye(40, dtype=np.uint8) * 200).save(root / "train/dark/new.png")
    two = featcache.extract("pixels", "folder", root=root, home=tmp_path / "b", dataset_name="x").store
    report = merge([featcache.open(one), featcache.open(two)], into=tmp_path / "c")
    joined = featcache.open(report.store)
    assert len(joined) == 13
    there = np.flatnonzero(joined.array_of("patches", joined._view[2]).rows >= 0)
    assert len(there) == 12
    np.testing.assert_array_equal(joined["patches"][there].reshape(12, -1), joined["cls"][there])


def test_arrays_called_patches_become_tokens(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vectors, tokens = rng.normal(size=(5, 4)).astype(np.float16), rng.normal(size=(5, 2, 2, 4)).astype(np.float16)
    table = pd.DataFrame({"id": list("abcde")})
    path = store_from_arrays({"cls": vectors, "patches": tokens}, table, dataset="mine", model="theirs")
    np.testing.assert_array_equal(featcache.open(path)["patches"][[4, 0]], tokens[[4, 0]])
    assert verify_store(path) == []


def test_a_disk_that_is_too_small_is_refused_before_any_image_is_read(
    image_folder: WriteImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = image_folder(2)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10_000, 5_000, 5_000))
    with pytest.raises(StoreError, match=r"12 images, \(16, 16, 1\) each, need 0.0 GB"):
        featcache.extract("pixels", "folder", root=root, patches=True)
    assert featcache.extract("pixels", "folder", root=root).computed == 12
