"""Masks of a user's own pictures, by a table's column or a folder of the same shape."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import featcache
from featcache.datasets import load_dataset
from featcache.errors import ConfigurationError, DatasetError
from featcache.imaging import read, select
from featcache.records import Selector
from tests.datasets.miniatures.files import write_lines, write_mask, write_png


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number in range(4):
        write_png(tmp_path / "images" / f"{number}.png")
        write_mask(tmp_path / "outlines" / f"{number}.png", inside=1)
    lines = ["path,label,split,outline", "images/0.png,a,train,outlines\\0.png", "images/1.png,b,train,outlines/1.png"]
    lines += ["images/2.png,a,test,", "images/3.png,b,test,outlines/gone.png"]
    write_lines(tmp_path / "t.csv", lines)
    return tmp_path


def test_a_column_of_masks_is_a_segmentation_task(root: Path) -> None:
    dataset = load_dataset("table", root=root, mask_column="outline", mask_classes="background,lung")
    assert dataset.samples["mask"].tolist()[:2] == ["outlines/0.png", "outlines/1.png"]
    assert dataset.samples["mask"].isna().tolist() == [False, False, True, True]
    label, task = dataset.tasks
    assert (label.name, task.columns, task.classes) == ("label", ("mask",), ("background", "lung"))
    assert task.mask_values == (0, 1)
    part = Selector.from_text(dataset.samples["mask_selector"][0])
    mask = select(read(root / dataset.samples["mask"][0], part), part)
    assert mask.shape == read(dataset.sample(0).path).array.shape
    assert set(np.unique(mask)) == {0, 1}
    notes = " ".join(dataset.notes)
    assert "1 images have no mask: images/2.png" in notes
    assert "1 masks are not there: outlines/gone.png" in notes
    report = featcache.extract("pixels", dataset, registry_name="table", image_size=16)
    assert (report.failed, report.rows) == (0, 4)


def test_without_the_option_a_table_is_what_it_was(root: Path) -> None:
    dataset = load_dataset("table", root=root)
    assert [task.name for task in dataset.tasks] == ["label"]
    assert "mask" not in dataset.samples


def test_without_classes_every_value_but_zero_is_inside(root: Path) -> None:
    task = load_dataset("table", root=root, mask_column="outline").tasks[1]
    assert (task.classes, task.mask_values) == (("background", "foreground"), None)


def test_a_column_that_names_no_file_is_an_error(root: Path) -> None:
    write_lines(root / "t.csv", ["path,outline", "images/0.png,nowhere.png"])
    with pytest.raises(DatasetError, match=r"'outline': none of 1 images has a mask file, such as nowhere\.png"):
        load_dataset("table", root=root, mask_column="outline")
    with pytest.raises(DatasetError, match="no column 'outlin'; did you mean 'outline'"):
        load_dataset("table", root=root, mask_column="outlin")
    with pytest.raises(ConfigurationError, match="without masks"):
        load_dataset("table", root=root, mask_classes="a,b")


def test_a_mask_outside_the_root_is_an_error(root: Path) -> None:
    write_lines(root / "t.csv", ["path,outline", "images/0.png,../elsewhere.png"])
    with pytest.raises(DatasetError, match="leads out of the root"):
        load_dataset("table", root=root, mask_column="outline")


def test_a_parallel_folder_has_the_masks_of_a_folder(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for label in ("cat", "dog"):
            write_png(tmp_path / split / label / "7.PNG")
            write_mask(tmp_path / "masks" / split / label / "7.png")
    (tmp_path / "masks" / "test" / "dog" / "7.png").unlink()
    dataset = load_dataset("folder", root=tmp_path, masks="masks")
    found = dict(zip(dataset.samples["id"], dataset.samples["mask"].fillna("none"), strict=True))
    assert found == {
        "test/cat/7.PNG": "masks/test/cat/7.png",
        "test/dog/7.PNG": "none",
        "train/cat/7.PNG": "masks/train/cat/7.png",
        "train/dog/7.PNG": "masks/train/dog/7.png",
    }
    assert dataset.split_origin == "folder"
    assert [task.name for task in dataset.tasks] == ["label", "segmentation"]
    with pytest.raises(DatasetError, match="beside train and test there is 'masks'"):
        load_dataset("folder", root=tmp_path)
