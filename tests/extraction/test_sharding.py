"""Shards divide a dataset's unique rows, and together make the store that one process makes."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import featcache
from featcache.datasets import Dataset
from featcache.errors import ConfigurationError
from featcache.exchange import merge
from featcache.extraction.sharding import checked_shard, shards_of_rows
from featcache.records import Selector
from featcache.store import FeatureStore, store_paths, verify_store
from tests.conftest import WriteImages

Shell = Callable[..., "subprocess.CompletedProcess[str]"]
ROOT = Path(__file__).parents[2]


def dataset_of(paths: list[str], selectors: list[Selector]) -> Dataset:
    frame = pd.DataFrame({"path": paths, "selector": [selector.to_text() for selector in selectors]})
    return Dataset("x", Path("/nowhere"), frame, (), "none")


def digests_of(dataset: Dataset) -> list[bytes | None]:
    pairs = zip(dataset.samples["path"], dataset.samples["selector"], strict=True)
    return [hashlib.md5(f"{path}|{selector}".encode()).digest() for path, selector in pairs]


@pytest.mark.parametrize(
    ("text", "expected"), [("1/1", (1, 1)), ("3/8", (3, 8)), (" 2 / 2 ", (2, 2)), ((2, 5), (2, 5))]
)
def test_a_shard_is_i_of_n_counted_from_one(text: str, expected: tuple[int, int]) -> None:
    assert checked_shard(text) == expected


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "1/0", "-1/4", "a/b", "1/4/2", "1.0/4", "", (0, 2)])
def test_anything_else_is_refused_with_a_remedy(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"shard [\s\S]*(--shard|--array=1-N)"):
        checked_shard(text)


def test_rows_of_one_file_or_series_stay_together() -> None:
    rng = np.random.default_rng(0)
    paths, selectors = [], []
    for volume in range(30):
        for index in range(int(rng.integers(1, 40))):
            paths.append(f"volume{volume}.nii.gz")
            selectors.append(Selector("axial", index))
    for series in range(7):
        for index in range(20):
            paths.append("folder")
            selectors.append(Selector("axial", index, series=f"1.2.{series}"))
    dataset = dataset_of(paths, selectors)
    shards = shards_of_rows(dataset, digests_of(dataset), 4)
    together = {(path, selector.series, shard) for path, selector, shard in zip(paths, selectors, shards, strict=True)}
    assert len(together) == 37
    sizes = Counter(shards.tolist())
    assert set(sizes) == {1, 2, 3, 4}
    largest = max(Counter(zip(paths, [selector.series for selector in selectors], strict=True)).values())
    assert max(sizes.values()) - min(sizes.values()) <= largest


def test_duplicates_are_in_the_shard_of_the_first_and_weigh_nothing() -> None:
    paths = [f"{row}.png" for row in range(40)]
    dataset = dataset_of(paths, [Selector()] * 40)
    digests = digests_of(dataset)
    digests[20:40] = [digests[0]] * 20
    shards = shards_of_rows(dataset, digests, 4)
    assert set(shards[20:].tolist()) == {int(shards[0])}
    assert set(Counter(shards[:20].tolist()).values()) == {5}


def test_a_stack_of_pictures_is_divided_and_unreadable_files_are_dealt_too() -> None:
    dataset = dataset_of(["all.npz"] * 1000, [Selector(array="train_images", index=row) for row in range(1000)])
    sizes = Counter(shards_of_rows(dataset, digests_of(dataset), 4).tolist())
    assert max(sizes.values()) - min(sizes.values()) <= 64
    unreadable = dataset_of([f"{row}.png" for row in range(8)], [Selector()] * 8)
    assert set(Counter(shards_of_rows(unreadable, [None] * 8, 4).tolist()).values()) == {2}
    assert shards_of_rows(dataset_of([], []), [], 4).shape == (0,)


@pytest.mark.parametrize("count", [1, 5])
def test_the_division_is_the_same_in_another_process(count: int) -> None:
    """Whatever the seed of its hashes."""
    code = (
        "import sys; from tests.extraction.test_sharding import *\n"
        "d = dataset_of([f'{r % 17}.png' for r in range(50)], [Selector()] * 50)\n"
        "print(shards_of_rows(d, digests_of(d), int(sys.argv[1])).tolist())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code, str(count)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


def rows_by_id(store: FeatureStore) -> dict[str, bytes]:
    arrays = [store[name][:] for name in sorted(store.names)]
    return {name: b"".join(array[row].tobytes() for array in arrays) for row, name in enumerate(store.samples["id"])}


@pytest.mark.parametrize("patches", [False, True])
def test_shards_make_the_store_that_one_process_makes(image_folder: WriteImages, tmp_path: Path, patches: bool) -> None:
    root = image_folder(9)
    shutil.copy(root / "train/dark/000.png", root / "test/dark/copy.png")
    (root / "train/dark/broken.png").write_bytes(b"no image")
    options = {"root": root, "dataset_name": "x", "patches": patches}
    alone = featcache.extract("pixels", "folder", home=tmp_path / "alone", **options)  # type: ignore[arg-type]
    reports = [
        featcache.extract("pixels", "folder", shard=(number, 3), **options)  # type: ignore[arg-type]
        for number in (2, 1, 3)
    ]
    store = FeatureStore(reports[0].store)
    assert rows_by_id(store) == rows_by_id(FeatureStore(alone.store))
    assert store.failures == FeatureStore(alone.store).failures
    assert verify_store(store.path) == []
    assert sum(report.computed for report in reports) == alone.computed == 54
    assert sum(report.rows for report in reports) == alone.rows == 55
    assert sum(report.failed for report in reports) == alone.failed == 1
    assert max(report.computed for report in reports) - min(report.computed for report in reports) <= 1
    again = featcache.extract("pixels", "folder", shard=(1, 3), **options)  # type: ignore[arg-type]
    assert (again.computed, again.rows) == (0, reports[1].rows)
    whole = featcache.extract("pixels", "folder", **options)  # type: ignore[arg-type]
    assert (whole.computed, whole.rows, whole.failed) == (0, 55, 1)


def test_the_samples_table_is_the_same_whichever_shard_writes_it(image_folder: WriteImages, tmp_path: Path) -> None:
    root = image_folder(2)
    tables = set()
    for number in (1, 2):
        folder = tmp_path / f"home{number}"
        featcache.extract("pixels", "folder", root=root, home=folder, dataset_name="x", shard=f"{number}/2")
        tables.add((folder / "x" / "samples.parquet").read_bytes())
    assert len(tables) == 1


def test_a_file_that_failed_in_another_shard_stays_in_quarantine(image_folder: WriteImages) -> None:
    root = image_folder(3)
    for name in ("train/dark/000.png", "train/dark/001.png"):
        (root / name).write_bytes(name.encode())
    reports = [featcache.extract("pixels", "folder", root=root, dataset_name="x", shard=(i, 2)) for i in (1, 2)]
    assert [report.failed for report in reports] == [1, 1]
    assert len(FeatureStore(reports[0].store).failures) == 2
    (root / "train/dark/000.png").write_bytes((root / "train/dark/002.png").read_bytes())
    for i in (1, 2):
        featcache.extract("pixels", "folder", root=root, dataset_name="x", shard=(i, 2))
    assert [failure.path for failure in FeatureStore(reports[0].store).failures] == ["train/dark/001.png"]


def test_shards_of_a_packed_store_add_segments_that_the_last_call_packs(image_folder: WriteImages, home: Path) -> None:
    root = image_folder(3)
    options = {"root": root, "dataset_name": "x", "format": "hdf5"}
    for number in (1, 2):
        report = featcache.extract("pixels", "folder", shard=(number, 2), **options)  # type: ignore[arg-type]
        assert report.store.suffix == ".zarr"
        assert "without --shard" in report.notes[-1]
    packed = featcache.extract("pixels", "folder", **options)  # type: ignore[arg-type]
    assert (packed.computed, packed.rows, packed.store.suffix) == (0, 18, ".h5")
    assert store_paths(home) == [packed.store]
    more = image_folder(4)
    part = featcache.extract("pixels", "folder", root=more, dataset_name="x", shard=(1, 2))
    assert 0 < part.computed < 24
    shutil.rmtree(part.store)
    with pytest.raises(ConfigurationError, match="--format zarr"):
        featcache.extract("pixels", "folder", root=more, dataset_name="x", shard=(2, 2), format="zarr")
    last = featcache.extract("pixels", "folder", root=more, dataset_name="x")
    assert (last.rows, last.store) == (24, packed.store)
    assert verify_store(last.store) == []


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Run a script by bash with this environment's ``featcache`` on the path."""
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "featcache").write_text(f'#!/bin/sh\nexec {sys.executable} -m featcache_cli.main "$@"\n')
    (commands / "featcache").chmod(0o755)

    def run(*command: str, **environment: object) -> subprocess.CompletedProcess[str]:
        path = f"{commands}{os.pathsep}{os.environ['PATH']}"
        own = {**os.environ, "PATH": path, **{name: str(value) for name, value in environment.items()}}
        return subprocess.run(["bash", *command], env=own, capture_output=True, text=True, check=False, cwd=ROOT)

    return run


def test_the_shell_script_of_the_documentation_makes_the_unsharded_store(
    image_folder: WriteImages, tmp_path: Path, home: Path, shell: Shell
) -> None:
    root = image_folder(20)
    page = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- shell -->\n```sh\n(.*?)```", page, re.DOTALL)
    assert found is not None
    done = shell("-e", "-c", found[1], IMAGES=root)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("mine / pixels: 60 rows, 60 computed, 0 reused, 0 failed") == 2
    assert "mine / pixels: 120 rows, 0 computed, 120 reused, 0 failed" in done.stdout
    alone = featcache.extract("pixels", "folder", root=root, home=tmp_path / "alone", dataset_name="mine")
    (path,) = store_paths(home)
    assert rows_by_id(FeatureStore(path)) == rows_by_id(FeatureStore(alone.store))
    assert verify_store(path) == []


def test_the_slurm_script_is_a_shard_a_task(image_folder: WriteImages, home: Path, shell: Shell) -> None:
    script = str(ROOT / "examples" / "slurm_array.sh")
    common = {"MODEL": "pixels", "DATASET": "folder", "ROOT": image_folder(2), "SHARDS": 2, "SLURM_ARRAY_TASK_COUNT": 1}
    refused = shell(script, SLURM_ARRAY_TASK_ID=0, **common)
    assert refused.returncode == 1
    assert "counted from 1 to 2" in refused.stderr
    done = shell(script, SLURM_ARRAY_TASK_ID=2, **common)
    assert "6 rows, 6 computed" in done.stdout, done.stderr
    last = shell(script, SLURM_ARRAY_TASK_ID=1, SHARD="all", **common)
    assert "12 rows, 6 computed, 6 reused" in last.stdout, last.stderr
    (path,) = store_paths(home)
    assert verify_store(path) == []


def test_shards_in_homes_of_their_own_are_merged(image_folder: WriteImages, tmp_path: Path) -> None:
    root = image_folder(4)
    (root / "train/dark/broken.png").write_bytes(b"no image")
    options = {"root": root, "dataset_name": "x"}
    parts = [
        featcache.extract("pixels", "folder", shard=(number, 2), home=tmp_path / str(number), **options)  # type: ignore[arg-type]
        for number in (1, 2)
    ]
    report = merge([FeatureStore(part.store) for part in parts], into=tmp_path / "both")
    alone = featcache.extract("pixels", "folder", home=tmp_path / "alone", **options)  # type: ignore[arg-type]
    assert rows_by_id(FeatureStore(report.store)) == rows_by_id(FeatureStore(alone.store))
    assert FeatureStore(report.store).failures == alone.failures
