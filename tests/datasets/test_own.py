"""Datasets of one's own: a Python file, a TOML manifest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import featcache
from featcache.datasets import check_dataset, load_dataset
from featcache.errors import ConfigurationError, DatasetError
from tests.datasets.miniatures.files import write_lines, write_mask, write_png

CODE = """
from pathlib import Path

import pandas as pd

import featcache
from featcache.datasets.base import sample_table
from featcache.records import Task


def my_set(root=Path("."), limit=6):
    names = pd.Series(sorted(path.name for path in Path(root).glob("*.png"))[:limit], dtype="str")
    none = pd.Series([None] * len(names), dtype="str")
    split = pd.Series(["train", "test"] * (len(names) // 2), dtype="str")
    samples = sample_table(names, names, split=split, patient=none).assign(label=["a", "b"] * (len(names) // 2))
    task = Task("label", "binary", ("label",), ("a", "b"))
    return featcache.Dataset("my_set", Path(root), samples, (task,), "table")


class MySet:
    def __init__(self, root, limit=4):
        self.root, self.limit = root, limit

    def load(self):
        return my_set(self.root, self.limit)


def fails(root):
    raise TypeError("inside")


def wrong(root):
    return 3


word = "no function"
"""


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for number in range(6):
        write_png(tmp_path / "images" / f"{number}.png")
    (tmp_path / "my_data.py").write_text(CODE)
    return tmp_path / "images"


@pytest.mark.parametrize(("name", "rows"), [("my_set", 6), ("MySet", 4)])
def test_a_function_or_a_class_of_a_file_makes_a_dataset(images: Path, tmp_path: Path, name: str, rows: int) -> None:
    target = f"{tmp_path / 'my_data.py'}:{name}"
    assert len(load_dataset(target, root=images).samples) == rows
    assert len(load_dataset(target, root=images, limit=2).samples) == 2
    assert check_dataset(target, images).ok


def test_it_is_extracted_and_its_root_is_found_by_name(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    images.rename(tmp_path / "data" / "my_set")
    monkeypatch.setenv("FEATCACHE_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    report = featcache.extract("pixels", "my_data.py:my_set")
    assert (report.dataset, report.rows, report.failed) == ("my_set", 6, 0)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nowhere.py:x", "no Python file"),
        ("my_data.py:My_Set", "did you mean"),
        ("my_data.py:word", "no function or class 'word'"),
        ("my_data.py:wrong", r"returns int, expected featcache\.Dataset"),
        ("broken.py:x", "SyntaxError"),
    ],
)
def test_a_file_that_makes_none_is_explained(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.py").write_text("def x(:")
    with pytest.raises(DatasetError, match=message) as caught:
        load_dataset(target, root=images)
    assert caught.value.remedy


def test_wrong_options_are_told_from_errors_inside(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match="limits"):
        load_dataset("my_data.py:my_set", root=images, limits=2)
    with pytest.raises(TypeError, match="inside"):
        load_dataset("my_data.py:fails", root=images)


MANIFEST = """
[dataset]
name = "portable"
root = "images"
table = "labels.csv"
licence = "internal"
notes = ["Portable X-rays only."]

[columns]
path = "file"
id = "key"
patient = "mrn"
split = "fold"
mask = "lung"
keep = ["age"]

[[tasks]]
name = "finding"
type = "multiclass"
columns = ["finding"]
classes = ["none", "mild", "severe"]

[[tasks]]
name = "signs"
type = "multilabel"
columns = ["fluid", "air"]

[[tasks]]
name = "lungs"
type = "segmentation"
columns = ["lung"]
classes = ["background", "lung"]
"""


@pytest.fixture
def described(tmp_path: Path) -> Path:
    lines = ["file,key,mrn,fold,age,name,finding,fluid,air,lung"]
    for number in range(9):
        write_png(tmp_path / "images" / "xray" / f"{number}.png")
        write_mask(tmp_path / "images" / "lung" / f"{number}.png")
        finding = ("none", "mild", "severe")[number % 3]
        fold = ("Training", "valid", "TEST")[number // 3]
        mask = f"lung\\{number}.png" if number else ""
        lines.append(f"xray\\{number}.png,k{number},p{number},{fold},{50 + number},Doe,{finding},1,{number % 2},{mask}")
    write_lines(tmp_path / "images" / "labels.csv", lines, bom=True)
    (tmp_path / "my_set.toml").write_text(MANIFEST)
    return tmp_path / "my_set.toml"


def test_a_manifest_describes_a_dataset_without_code(described: Path) -> None:
    dataset = load_dataset(str(described))
    samples = dataset.samples
    assert (dataset.name, dataset.split_origin) == ("portable", "table")
    assert samples["split"].value_counts().to_dict() == {"train": 3, "val": 3, "test": 3}
    assert samples["id"].tolist()[:2] == ["k0", "k1"]
    assert [task.classes for task in dataset.tasks] == [
        ("none", "mild", "severe"),
        ("fluid", "air"),
        ("background", "lung"),
    ]
    assert samples["lung"][1] == "lung/1.png"
    assert samples["lung"].isna().tolist() == [True] + [False] * 8
    assert samples["age"].tolist()[:2] == [50, 51]
    assert "Doe" not in samples.to_csv()
    assert dataset.notes[:2] == ("Portable X-rays only.", "Licence: internal.")
    report = check_dataset(str(described))
    assert report.ok
    assert json.dumps(dict(report.labels))


def test_a_manifest_is_extracted(described: Path) -> None:
    report = featcache.extract("pixels", str(described))
    assert (report.dataset, report.rows) == ("portable", 9)


def test_a_manifest_may_name_a_split_file_and_another_root_wins(described: Path, tmp_path: Path) -> None:
    lines = ["patient,split", *(f"p{number},{'train' if number < 6 else 'test'}" for number in range(9))]
    write_lines(tmp_path / "split.csv", lines)
    described.write_text(MANIFEST + '\n[split]\nfile = "split.csv"\n')
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    dataset = load_dataset(str(described), root=tmp_path / "elsewhere")
    assert dataset.split_origin == "file"
    assert dataset.samples["split"].value_counts().to_dict() == {"train": 6, "test": 3}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[dataset]", "[dataset", "not valid TOML"),
        ("licence =", "license =", "did you mean 'licence'"),
        ("[columns]", "[column]", "did you mean 'columns'"),
        ('type = "multiclass"', 'type = "classes"', "of type 'classes'"),
        ('name = "finding"\n', "", "a task has no 'name'"),
        ('"severe"]', '"heavy"]', "none of its classes: 'severe'"),
        ('path = "file"', 'path = "flie"', "did you mean 'file'"),
        ('table = "labels.csv"', 'table = "other.csv"', "no file"),
        ('root = "images"', 'root = "pictures"', "no folder"),
        ('columns = ["fluid", "air"]', 'columns = ["fluid", "age"]', "'age' has the values 50"),
    ],
)
def test_a_mistake_in_a_manifest_is_explained(described: Path, old: str, new: str, message: str) -> None:
    assert old in MANIFEST
    described.write_text(MANIFEST.replace(old, new))
    with pytest.raises((ConfigurationError, DatasetError), match=message) as caught:
        load_dataset(str(described))
    assert caught.value.remedy


def test_a_mask_outside_the_root_is_refused(described: Path, tmp_path: Path) -> None:
    file = tmp_path / "images" / "labels.csv"
    file.write_text(file.read_text(encoding="utf-8-sig").replace("lung\\1.png", "..\\1.png"))
    with pytest.raises(DatasetError, match="leads out of the root"):
        load_dataset(str(described))


def test_an_option_that_belongs_into_the_manifest_is_refused(described: Path) -> None:
    with pytest.raises(ConfigurationError, match="label_columns"):
        load_dataset(str(described), label_columns=("finding",))


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no manifest"):
        load_dataset(str(tmp_path / "none.toml"))
