"""Masks: written once, found by sample id, readable by plain Zarr, whole after a crash."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr

from featcache.errors import (
    ConfigurationError,
    StoreCorruptError,
    StoreNotFoundError,
    StoreVersionError,
    UnknownNameError,
)
from featcache.records import Selector, VolumeGeometry
from featcache.store import mask_writer, row_digest, store_paths
from featcache.store.mask_writer import MaskRow, open_mask_writer
from featcache.store.masks import open_masks

CLASSES = ("background", "liver", "spleen")
GEOMETRY = VolumeGeometry((7, 6, 4), np.diag([0.7, 0.8, 3.0, 1.0]), (7, 6, 4), np.diag([-0.7, -0.8, 3.0, 1.0]))


def labels_of(name: str, shape: tuple[int, int] = (6, 7)) -> np.ndarray:
    return np.random.default_rng([*name.encode()]).integers(0, 3, shape, dtype=np.uint8)


def row_of(name: str, *, content: str | None = None, **facts: object) -> MaskRow:
    return MaskRow(name, row_digest(b"0" * 16, content or name), **{"selector": "", **facts})  # type: ignore[arg-type]


def write(home: Path, names: list[str], **shapes: tuple[int, int]) -> None:
    with open_mask_writer(home, "data", "organs", CLASSES) as writer:
        for name in names:
            if not writer.reuse(name, row_of(name).digest, ""):
                writer.add(row_of(name), labels_of(name, shapes.get(name, (6, 7))))
        writer.commit(names)


def test_masks_of_different_sizes_come_back_by_id(home: Path) -> None:
    write(home, ["a", "b", "c"], b=(11, 3))
    masks = open_masks(home, "data")
    assert masks.ids == ("a", "b", "c")
    assert masks.class_names == CLASSES
    assert masks.task == "organs"
    for name, shape in {"a": (6, 7), "b": (11, 3), "c": (6, 7)}.items():
        assert masks.shape(name) == shape
        assert masks[name].dtype == np.uint8
        np.testing.assert_array_equal(masks[name], labels_of(name, shape))
    assert "b" in masks
    assert "d" not in masks
    assert len(masks) == 3
    assert list(masks) == ["a", "b", "c"]


def test_what_is_returned_may_be_changed_without_harm(home: Path) -> None:
    write(home, ["a"])
    masks = open_masks(home, "data")
    masks["a"][:] = 9
    np.testing.assert_array_equal(masks["a"], labels_of("a"))


def test_planes_across_chunks_in_any_order(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mask_writer, "_CHUNK", 16)
    names = [f"s{number}" for number in range(12)]
    shapes = {name: (1 + number % 5, 3 + 7 * (number % 4)) for number, name in enumerate(names)}
    write(home, names, **shapes)
    masks = open_masks(home, "data")
    for name in np.random.default_rng(0).permutation(names * 3).tolist():
        np.testing.assert_array_equal(masks[name], labels_of(name, shapes[name]))


def test_plain_zarr_reads_a_mask(home: Path) -> None:
    write(home, ["a", "b"], a=(5, 9))
    group = zarr.open_group(home / "data" / "masks.zarr", mode="r")
    rows = group[group.attrs["featcache"]["tasks"]["organs"]["rows"]]
    place = rows["ids"][:].tolist().index("b")
    part, offset, (height, width) = (rows[name][place] for name in ("part", "offset", "shape"))
    flat = group[f"labels-{part:08}"][offset : offset + height * width]
    np.testing.assert_array_equal(flat.reshape(height, width), labels_of("b"))


def test_geometry_of_a_volume_and_thickness_along_its_axis(home: Path) -> None:
    with open_mask_writer(home, "data", "organs", CLASSES) as writer:
        for index in (2, 0, 1):
            text = Selector("axial", index).to_text()
            row = row_of(f"v_{index}", selector=text, spacing=(0.8, 0.7), volume="v", geometry=GEOMETRY)
            writer.add(row, labels_of(f"v_{index}"))
        writer.add(row_of("picture"), labels_of("picture"))
        writer.commit()
    masks = open_masks(home, "data")
    assert masks.volumes == ("v",)
    assert masks.members("v") == ("v_0", "v_1", "v_2")
    assert masks.volume("v_1") == "v"
    assert masks.volume("picture") is None
    assert masks.spacing("v_1") == (0.8, 0.7)
    assert masks.spacing("picture") is None
    assert masks.thickness("v") == 3.0
    assert masks.thickness("w") is None
    assert masks.selector("v_2") == Selector("axial", 2)
    found = masks.geometry("v")
    assert found is not None
    assert found.shape == (7, 6, 4)
    assert found.file_shape == (7, 6, 4)
    np.testing.assert_array_equal(found.affine, GEOMETRY.affine)
    np.testing.assert_array_equal(found.file_affine, GEOMETRY.file_affine)
    np.testing.assert_array_equal(masks.affine("v"), GEOMETRY.affine)
    assert masks.affine("w") is None


def test_new_samples_are_appended_and_written_labels_are_not_touched(home: Path) -> None:
    write(home, ["a", "b"])
    files = {
        file: file.stat().st_ino for file in (home / "data" / "masks.zarr").rglob("*") if "labels-" in file.as_posix()
    }
    write(home, ["a", "b", "c"])
    masks = open_masks(home, "data")
    assert masks.ids == ("a", "b", "c")
    np.testing.assert_array_equal(masks["a"], labels_of("a"))
    np.testing.assert_array_equal(masks["c"], labels_of("c"))
    assert all(file.stat().st_ino == number for file, number in files.items())


def test_a_changed_mask_replaces_and_what_nobody_needs_goes(home: Path) -> None:
    write(home, ["a"])
    with open_mask_writer(home, "data", "organs", CLASSES) as writer:
        writer.add(row_of("a", content="changed"), labels_of("changed", (3, 3)))
        writer.commit(["a"])
    masks = open_masks(home, "data")
    np.testing.assert_array_equal(masks["a"], labels_of("changed", (3, 3)))
    folders = sorted(folder.name for folder in (home / "data" / "masks.zarr").iterdir() if folder.is_dir())
    assert len(folders) == 2
    assert folders[0].startswith("labels-")
    assert folders[1].startswith("rows-")


def test_equal_content_under_two_ids_is_written_once(home: Path) -> None:
    with open_mask_writer(home, "data", "organs", CLASSES) as writer:
        writer.add(row_of("a", content="same"), labels_of("same"))
        writer.add(row_of("b", content="same"), labels_of("same"))
        writer.commit()
    group = zarr.open_group(home / "data" / "masks.zarr", mode="r")
    assert sum(group[name].shape[0] for name in group.array_keys()) == 6 * 7
    np.testing.assert_array_equal(open_masks(home, "data")["b"], labels_of("same"))


def test_two_tasks_share_a_group_and_must_be_named(home: Path) -> None:
    write(home, ["a"])
    with open_mask_writer(home, "data", "vessels", ("background", "vessel")) as writer:
        writer.add(row_of("a", content="vessels"), np.ones((2, 2), np.uint8))
        writer.commit()
    with pytest.raises(UnknownNameError, match="organs, vessels"):
        open_masks(home, "data")
    assert open_masks(home, "data", task="vessels")["a"].sum() == 4
    np.testing.assert_array_equal(open_masks(home, "data", task="organs")["a"], labels_of("a"))


def test_other_classes_reuse_no_labels(home: Path) -> None:
    write(home, ["a"])
    with open_mask_writer(home, "data", "organs", ("background", "liver")) as writer:
        assert not writer.reuse("a", row_of("a").digest, "")


def test_renamed_classes_keep_their_labels(home: Path) -> None:
    write(home, ["a"])
    with open_mask_writer(home, "data", "organs", ("background", "Leber", "Milz")) as writer:
        assert writer.reuse("a", row_of("a").digest, "")
        writer.commit(["a"])
    masks = open_masks(home, "data")
    assert masks.class_names == ("background", "Leber", "Milz")
    np.testing.assert_array_equal(masks["a"], labels_of("a"))


def test_a_commit_without_a_change_writes_nothing(home: Path) -> None:
    write(home, ["a", "b"])
    before = sorted((path, path.stat().st_mtime_ns) for path in (home / "data" / "masks.zarr").rglob("*"))
    write(home, ["a", "b"])
    assert sorted((path, path.stat().st_mtime_ns) for path in (home / "data" / "masks.zarr").rglob("*")) == before
    write(home, ["b", "a"])
    assert open_masks(home, "data").ids == ("b", "a")


def test_slices_that_come_later_join_their_volume(home: Path) -> None:
    for index in (1, 0):
        with open_mask_writer(home, "data", "organs", CLASSES) as writer:
            place = VolumeGeometry((7, 6, 4), np.eye(4), (7, 6, 4), np.eye(4))
            text = Selector("axial", index).to_text()
            writer.add(row_of(f"v{index}", selector=text, volume="v", geometry=place), labels_of(f"v{index}"))
            writer.commit()
    masks = open_masks(home, "data")
    assert masks.volumes == ("v",)
    assert masks.members("v") == ("v0", "v1")


def test_volumes_that_swap_their_names_keep_their_geometry(home: Path) -> None:
    affines = {"v": np.diag([1.0, 1, 2, 1]), "w": np.diag([1.0, 1, 7, 1])}
    with open_mask_writer(home, "data", "organs", CLASSES) as writer:
        for name, affine in affines.items():
            place = VolumeGeometry((7, 6, 4), affine, (7, 6, 4), affine)
            text = Selector("axial", 0).to_text()
            writer.add(row_of(name, selector=text, volume=name, geometry=place), labels_of(name))
        writer.commit()
    with open_mask_writer(home, "data", "organs", CLASSES) as writer:
        for name, other in (("v", "w"), ("w", "v")):
            assert writer.reuse(name, row_of(name).digest, other)
        writer.commit()
    masks = open_masks(home, "data")
    assert (masks.thickness("w"), masks.thickness("v")) == (2.0, 7.0)


def test_many_masks_are_committed_in_parts(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mask_writer, "_PART", 100)
    monkeypatch.setattr(mask_writer, "_CHUNK", 32)
    names = [f"s{number}" for number in range(9)]
    write(home, names)
    masks = open_masks(home, "data")
    assert len(list((home / "data" / "masks.zarr").glob("labels-*"))) == 3
    for name in names:
        np.testing.assert_array_equal(masks[name], labels_of(name))


class _Killed(BaseException):
    pass


@pytest.mark.parametrize("last", range(8))
def test_killed_at_any_rename_the_masks_of_before_stay_and_the_next_run_ends_whole(
    home: Path, monkeypatch: pytest.MonkeyPatch, last: int
) -> None:
    write(home, ["a", "b"])
    rename, replace, done = Path.rename, Path.replace, []

    def dying(move: object) -> object:
        def moved(self: Path, target: Path) -> Path:
            if len(done) == last:
                raise _Killed
            done.append(target)
            return move(self, target)  # type: ignore[operator, no-any-return]

        return moved

    with monkeypatch.context() as patched:
        patched.setattr(mask_writer, "_PART", 42)
        patched.setattr(Path, "rename", dying(rename))
        patched.setattr(Path, "replace", dying(replace))
        with pytest.raises(_Killed):
            write(home, ["a", "c", "b", "d", "e"])
    masks = open_masks(home, "data")
    assert {"a", "b"} <= set(masks.ids)
    for name in masks.ids:
        np.testing.assert_array_equal(masks[name], labels_of(name))
    write(home, ["a", "c", "b", "d", "e"])
    masks = open_masks(home, "data")
    assert masks.ids == ("a", "c", "b", "d", "e")
    for name in masks.ids:
        np.testing.assert_array_equal(masks[name], labels_of(name))
    assert not list((home / "data").glob(".masks.zarr.*.partial"))


def test_without_masks_the_error_names_the_command(home: Path) -> None:
    with pytest.raises(StoreNotFoundError, match="featcache masks --dataset data"):
        open_masks(home, "data")


def test_an_unknown_sample_is_named(home: Path) -> None:
    write(home, ["a"])
    with pytest.raises(UnknownNameError, match="'zz' has no mask"):
        open_masks(home, "data")["zz"]


def test_a_flipped_bit_is_an_error_and_not_a_label(home: Path) -> None:
    write(home, ["a"])
    (file,) = (file for file in (home / "data" / "masks.zarr").glob("labels-*/c/*") if file.is_file())
    content = bytearray(file.read_bytes())
    content[5] ^= 1
    file.write_bytes(content)
    with pytest.raises(StoreCorruptError, match="masks again"):
        open_masks(home, "data")["a"]


def folder(home: Path, kind: str) -> Path:
    (found,) = (home / "data" / "masks.zarr").glob(f"{kind}-*")
    return found


def test_a_lost_shard_is_an_error_and_not_background(home: Path) -> None:
    write(home, ["a"])
    (folder(home, "labels") / "c" / "0").unlink()
    with pytest.raises(StoreCorruptError, match="missing or damaged"):
        open_masks(home, "data")["a"]


@pytest.mark.parametrize("lost", ["offset/c/0", "volume_shape/zarr.json", "zarr.json"])
def test_a_lost_file_of_the_rows_is_an_error(home: Path, lost: str) -> None:
    write(home, ["a", "b"])
    (folder(home, "rows") / lost).unlink()
    with pytest.raises(StoreCorruptError, match="missing or damaged"):
        open_masks(home, "data")


def test_a_flip_in_any_document_is_noticed(home: Path) -> None:
    write(home, ["a", "b"])
    group = home / "data" / "masks.zarr"
    for path in sorted(group.rglob("zarr.json")):
        content = path.read_bytes()
        for place in range(0, len(content), 23):
            if content[place : place + 1] in b" \n":
                continue
            changed = bytearray(content)
            changed[place] ^= 1
            path.write_bytes(changed)
            same = path == group / "zarr.json" and place < content.index(b'"featcache"')
            try:
                masks = open_masks(home, "data")
                assert same or "labels" in path.parent.name
                np.testing.assert_array_equal(masks["a"], labels_of("a"))
                assert same
            except StoreCorruptError:
                pass
        path.write_bytes(content)
    assert open_masks(home, "data").ids == ("a", "b")


def test_a_missing_group_of_labels_says_to_open_again(home: Path) -> None:
    write(home, ["a"])
    masks = open_masks(home, "data")
    folder(home, "labels").rename(home / "gone")
    with pytest.raises(StoreCorruptError, match="open them again"):
        masks["a"]


def test_masks_without_any_foreground_are_kept(home: Path) -> None:
    with open_mask_writer(home, "data", "organs", CLASSES) as writer:
        writer.add(row_of("a"), np.zeros((6, 7), np.uint8))
        writer.commit()
    np.testing.assert_array_equal(open_masks(home, "data")["a"], np.zeros((6, 7)))


def test_a_newer_version_and_a_foreign_group_are_refused(home: Path) -> None:
    write(home, ["a"])
    document = home / "data" / "masks.zarr" / "zarr.json"
    text = document.read_text()
    document.write_text(text.replace('"masks_version": 1', '"masks_version": 2'))
    with pytest.raises(StoreVersionError, match="Upgrade"):
        open_masks(home, "data")
    document.write_text("{}")
    with pytest.raises(StoreCorruptError, match="no masks"):
        open_masks(home, "data")


def test_labels_beyond_the_classes_are_refused(home: Path) -> None:
    with open_mask_writer(home, "data", "organs", CLASSES) as writer:
        with pytest.raises(ConfigurationError, match="values up to 3"):
            writer.add(row_of("a"), np.full((2, 2), 3, np.uint8))
        with pytest.raises(ConfigurationError, match="geometry is unknown"):
            writer.add(row_of("a", volume="v"), labels_of("a"))


def test_masks_are_no_feature_store(home: Path) -> None:
    write(home, ["a"])
    assert store_paths(home) == []


def test_leftovers_of_a_kill_are_removed_by_the_next_writer(home: Path) -> None:
    write(home, ["a"])
    for leftover in (".masks.zarr.1.partial", "masks.zarr/labels-00000007", "masks.zarr/rows-00000008"):
        (home / "data" / leftover).mkdir()
    write(home, ["a", "b"])
    assert not list((home / "data").glob(".*.partial"))
    assert not {"labels-00000007", "rows-00000008"} & {path.name for path in (home / "data" / "masks.zarr").iterdir()}
