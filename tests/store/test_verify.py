"""``verify`` finds any single damage in any file, and ``repair`` leaves a store that says only what is true."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import featcache
from featcache.extraction import check_source, repair
from featcache.store import FeatureStore, collect_garbage, plan_gc, remove_store, verify_store
from tests.conftest import WriteImages
from tests.store.conftest import MakeStore, features_of

NAMES = [f"row{number}" for number in range(150)]


@pytest.fixture
def store(make_store: MakeStore) -> Path:
    return make_store([NAMES[:100], NAMES[100:]])


def files_of(store: Path) -> list[Path]:
    return sorted(path for path in store.rglob("*") if path.is_file())


def test_an_intact_store_has_no_problem(store: Path) -> None:
    assert verify_store(store) == []


@pytest.mark.parametrize("damage", ["flip", "cut", "delete", "grow"])
def test_any_single_damage_in_any_file_is_found(store: Path, damage: str) -> None:
    rng = np.random.default_rng(0)
    for path in files_of(store):
        content = path.read_bytes()
        places = {0, len(content) - 1, *rng.integers(0, len(content), 6).tolist()} if damage == "flip" else {0}
        for place in places:
            if damage == "delete":
                path.unlink()
            else:
                changed = bytearray(content)
                changed[place] ^= 1 << int(rng.integers(8))
                path.write_bytes({"flip": bytes(changed), "cut": content[:-1], "grow": content + b"\0"}[damage])
            assert verify_store(store), f"{damage} at {place} of {path.relative_to(store)} passed"
            path.write_bytes(content)
    assert verify_store(store) == []


def test_swapped_files_are_found(store: Path) -> None:
    for pattern in ("cls/c/*/0", "digests/c/*/0", "segments/vectors-*.json", "*/zarr.json"):
        first, second = sorted(store.glob(pattern))[:2]
        one, two = first.read_bytes(), second.read_bytes()
        assert one != two
        first.write_bytes(two)
        second.write_bytes(one)
        assert verify_store(store), pattern
        first.write_bytes(one)
        second.write_bytes(two)


def test_a_changed_samples_table_is_found(store: Path) -> None:
    table = store.parent / "samples.parquet"
    content = bytearray(table.read_bytes())
    content[len(content) // 2] ^= 1
    table.write_bytes(content)
    assert any(problem.file == "samples.parquet" for problem in verify_store(store))


def test_leftovers_of_a_crash_are_no_problem(store: Path) -> None:
    (store / "cls" / "c" / "9").mkdir()
    (store / "cls" / "c" / "9" / "0").write_bytes(b"not committed")
    (store / "cls" / "c" / "0" / ".0.1.partial").write_bytes(b"half")
    assert verify_store(store) == []
    assert len(plan_gc(store).leftovers) == 2
    collect_garbage(store)
    assert not (store / "cls" / "c" / "9" / "0").exists()
    assert verify_store(store) == []


def test_a_flip_anywhere_in_a_document_is_a_problem_and_never_a_crash(store: Path) -> None:
    """Also where the flipped byte leaves valid JSON with another name or number in it."""
    for path in files_of(store):
        if path.suffix != ".json":
            continue
        content = path.read_bytes()
        for place in range(0, len(content), 1 + len(content) // 60):
            flipped = bytearray(content)
            flipped[place] ^= 4
            path.write_bytes(flipped)
            assert verify_store(store), f"{path.name}, byte {place}"
        path.write_bytes(content)
    assert verify_store(store) == []


def damage_one(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("file", "computed"),
    [
        ("cls/c/1/0", 64),
        ("ids/c/1", 64),
        ("segments/vectors-00000001.json", 64),
        ("zarr.json", 0),
        ("cls/zarr.json", 0),
        ("segments/zarr.json", 0),
        ("segments/manifest.json", 0),
        ("segments/group.json", 0),
    ],
)
@pytest.mark.parametrize("how", ["flip", "delete"])
def test_repair_computes_only_what_was_damaged(image_folder: WriteImages, file: str, computed: int, how: str) -> None:
    root = image_folder(25)  # 150 images: segments of 64, 64, 22 rows
    report = featcache.extract("pixels", "folder", root=root, image_size=32)
    before = featcache.open(report.store)["cls"][:]
    path = report.store / file
    damage_one(path) if how == "flip" else path.unlink()
    assert verify_store(report.store)
    repaired = repair(report.store, root=root)
    assert repaired is not None
    assert repaired.computed == computed
    assert verify_store(report.store) == []
    np.testing.assert_array_equal(featcache.open(report.store)["cls"][:], before)
    assert repair(report.store, root=root) is None


def test_sources_that_changed_are_named(image_folder: WriteImages) -> None:
    root = image_folder(2)
    report = featcache.extract("pixels", "folder", root=root)
    assert check_source(report.store, root) == []
    damage_one(root / "train/dark/000.png")
    (root / "val/bright/001.png").unlink()
    assert {failure.path for failure in check_source(report.store, root)} == {
        "train/dark/000.png",
        "val/bright/001.png",
    }


def test_gc_drops_what_no_sample_needs_and_keeps_the_rest_bit_for_bit(image_folder: WriteImages) -> None:
    root = image_folder(50)  # 300 images
    report = featcache.extract("pixels", "folder", root=root)
    for path in sorted(root.rglob("*.png"))[:110]:
        path.unlink()
    featcache.extract("pixels", "folder", root=root)
    store = featcache.open(report.store)
    before = dict(zip(store.samples["id"], store["cls"][:], strict=True))
    plan = plan_gc(report.store)
    assert (plan.live_rows, plan.dead_rows) == (190, 110)
    assert plan.bytes > 0
    collect_garbage(report.store)
    assert verify_store(report.store) == []
    after = featcache.open(report.store)
    assert dict(zip(after.samples["id"], map(bytes, after["cls"][:]), strict=True)) == {
        name: bytes(row) for name, row in before.items()
    }
    assert plan_gc(report.store).segments == ()
    assert featcache.extract("pixels", "folder", root=root).computed == 0
    # A reader that opened the store before gets an error for rows that moved, never other rows.
    with pytest.raises(featcache.FeatcacheError, match="missing"):
        store["cls"][:]


def test_rows_removed_and_brought_back_are_reused_until_gc(image_folder: WriteImages) -> None:
    root = image_folder(3)
    featcache.extract("pixels", "folder", root=root)
    content = (root / "train/dark/000.png").read_bytes()
    (root / "train/dark/000.png").unlink()
    assert featcache.extract("pixels", "folder", root=root).rows == 17
    (root / "train/dark/000.png").write_bytes(content)
    again = featcache.extract("pixels", "folder", root=root)
    assert (again.rows, again.computed) == (18, 0)


def test_remove_store_leaves_the_others(make_store: MakeStore) -> None:
    from tests.store.conftest import make_key

    first, second = make_store([NAMES[:5]]), make_store([NAMES[:5]], key=make_key(model="other"))
    remove_store(first)
    assert not first.exists()
    np.testing.assert_array_equal(FeatureStore(second)["cls"][:], features_of(NAMES[:5])["cls"])
    assert [path for path in first.parent.iterdir() if "tiny" in path.name] == []


def test_a_store_whose_document_and_copy_are_both_gone_says_so(store: Path) -> None:
    (store / "zarr.json").write_text("{")
    (store / "segments" / "group.json").write_text("{")
    with pytest.raises(featcache.FeatcacheError, match="both damaged"):
        repair(store)
    shutil.rmtree(store)
