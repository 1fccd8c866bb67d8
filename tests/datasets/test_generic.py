"""``folder`` and ``table``: what users have, and what they get wrong."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from featcache.datasets import SAMPLE_COLUMNS, load_dataset
from featcache.errors import ConfigurationError, DatasetError, UnknownNameError
from tests.conftest import WriteImages


def test_a_folder_with_splits(image_folder: WriteImages) -> None:
    dataset = load_dataset("folder", root=image_folder(2))
    assert tuple(dataset.samples.columns[: len(SAMPLE_COLUMNS)]) == SAMPLE_COLUMNS
    assert dataset.samples["split"].value_counts().to_dict() == {"train": 4, "val": 4, "test": 4}
    assert dataset.tasks[0].type == "binary"
    assert dataset.tasks[0].classes == ("bright", "dark")
    assert dataset.sample(0).path.is_file()


@pytest.mark.parametrize("name", ["Training", "valid"])
def test_split_folders_have_synonyms(image_folder: WriteImages, name: str) -> None:
    dataset = load_dataset("folder", root=image_folder(1, splits=(name, "test")))
    assert set(dataset.samples["split"]) == {"test", {"Training": "train", "valid": "val"}[name]}


def test_a_folder_without_splits_is_split_by_seed(image_folder: WriteImages) -> None:
    root = image_folder(20, splits=("",))
    first, again = load_dataset("folder", root=root), load_dataset("folder", root=root)
    other = load_dataset("folder", root=root, seed=1)
    assert first.samples.equals(again.samples)
    assert not first.samples["split"].equals(other.samples["split"])
    shares = first.samples.groupby("label")["split"].value_counts(normalize=True)
    assert shares["dark"].to_dict() == pytest.approx({"train": 0.6, "val": 0.2, "test": 0.2}, abs=0.051)
    assert "no split" in first.notes[0]


def test_files_that_are_no_images_are_left_out_and_counted(image_folder: WriteImages) -> None:
    root = image_folder(1)
    (root / "train" / "dark" / "Thumbs.db").write_bytes(b"x")
    (root / "train" / "dark" / "._000.png").write_bytes(b"x")
    dataset = load_dataset("folder", root=root)
    assert len(dataset.samples) == 6
    assert dataset.notes == ("1 files are no images by their extension and were left out.",)


def test_a_folder_without_classes_shows_the_expected_tree(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(DatasetError, match=r"ROOT/<class>/image\.png"):
        load_dataset("folder", root=tmp_path)


def test_a_missing_root_says_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DatasetError, match="--root"):
        load_dataset("folder")
    monkeypatch.setenv("FEATCACHE_DATA", str(tmp_path))
    with pytest.raises(DatasetError, match=str(tmp_path / "folder")):
        load_dataset("folder")


def test_a_root_is_found_through_the_environment_and_the_configuration(
    image_folder: WriteImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = image_folder(1)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "featcache.toml").write_text(f"[roots]\nfolder = '{root}'\n")
    assert load_dataset("folder").root == root.resolve()
    (tmp_path / "featcache.toml").unlink()
    (tmp_path / "data").mkdir()
    root.rename(tmp_path / "data" / "folder")
    monkeypatch.setenv("FEATCACHE_DATA", str(tmp_path / "data"))
    assert load_dataset("folder").root == (tmp_path / "data" / "folder").resolve()


def test_an_unknown_dataset_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="brain_regions"):
        load_dataset("brain_region")


def test_an_option_of_another_dataset_is_refused(image_folder: WriteImages) -> None:
    with pytest.raises(ConfigurationError, match="label_columns"):
        load_dataset("folder", root=image_folder(1), label_columns=("x",))


def write_table(root: Path, **columns: list[object]) -> Path:
    count = len(next(iter(columns.values())))
    frame = pd.DataFrame({"path": [f"train/dark/{n:03}.png" for n in range(count)], **columns})
    frame.to_csv(root / "labels.csv", index=False, encoding="utf-8-sig")
    return root / "labels.csv"


def test_a_table_with_everything_renamed(image_folder: WriteImages, tmp_path: Path) -> None:
    root = image_folder(3)
    frame = pd.DataFrame(
        {
            "File": ["train\\dark\\000.png", str(root / "train/dark/001.png"), "test/dark/000.png"],
            "Finding": ["a", None, "b"],
            "Fold": ["Training", "training", "TEST"],
            "MRN": [12, 12, None],
            "Age": [50, 51, None],
            "Key": ["x", "y", "z"],
        }
    )
    frame.to_parquet(tmp_path / "labels.parquet")
    dataset = load_dataset(
        "table",
        root=root,
        table=tmp_path / "labels.parquet",
        path_column="File",
        label_columns=("Finding",),
        split_column="Fold",
        patient_column="MRN",
        id_column="Key",
        keep_columns=("Age",),
        dataset_name="mine",
    )
    samples = dataset.samples
    assert dataset.name == "mine"
    assert list(samples["path"]) == ["train/dark/000.png", "train/dark/001.png", "test/dark/000.png"]
    assert list(samples["split"]) == ["train", "train", "test"]
    assert list(samples["patient"].dropna()) == ["12", "12"]
    assert list(samples["id"]) == ["x", "y", "z"]
    assert samples["Finding"].isna().tolist() == [False, True, False]
    assert "Age" in samples
    assert dataset.tasks[0].classes == ("a", "b")


def test_several_label_columns_are_one_multilabel_task(image_folder: WriteImages) -> None:
    root = image_folder(6)
    write_table(root, effusion=[0, 1, None, 0, 1, 0], mass=[1, 0, 0, 0, 1, 1])
    dataset = load_dataset("table", root=root, label_columns=("effusion", "mass"))
    assert load_dataset("table", root=root, label_columns="effusion, mass").tasks == dataset.tasks
    assert dataset.tasks[0].type == "multilabel"
    assert dataset.split_origin == "seeded"


def test_a_seeded_split_keeps_patients_together(image_folder: WriteImages) -> None:
    root = image_folder(60)
    write_table(root, label=["a", "b"] * 30, patient=[n // 4 for n in range(60)])
    samples = load_dataset("table", root=root).samples
    assert samples.groupby("patient")["split"].nunique().max() == 1
    assert set(samples["split"]) == {"train", "val", "test"}


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"label": ["a", "b"]}, {"path_column": "paht"}, "did you mean 'path'"),
        ({"label": ["a", "b"]}, {"label_columns": ("lable",)}, "did you mean 'label'"),
        ({"label": ["a", "b"]}, {"split_column": "fold"}, "no column 'fold'"),
        ({"a": [0, 2], "b": [0, 1]}, {"label_columns": ("a", "b")}, "expected 0 and 1"),
        ({"label": ["a", "b"], "path": ["../x.png", "y.png"]}, {}, "leads out of the root"),
        ({"label": ["a", "b"], "path": ["/elsewhere/x.png", "y.png"]}, {}, "below the root"),
        ({"label": ["a", "b"], "path": [None, "y.png"]}, {}, "have no path"),
        (
            {"label": ["a", "b"], "path": ["y.png", "y.png"], "split": ["train", "test"]},
            {},
            "several rows that differ: y.png",
        ),
    ],
)
def test_a_bad_table_is_explained(
    image_folder: WriteImages, columns: dict[str, list[object]], options: dict[str, object], message: str
) -> None:
    root = image_folder(3)
    write_table(root, **columns)
    with pytest.raises((DatasetError, ConfigurationError), match=message):
        load_dataset("table", root=root, **options)


def test_a_table_is_taken_literally(image_folder: WriteImages) -> None:
    """The class None is a class, 0100 is not 100, long ids keep their digits, other columns stay behind."""
    root = image_folder(6)
    write_table(
        root,
        label=["None", "NA", "mild", "mild", "", "007"],
        patient=["100", "0100", "1234567890123456789", "1234567890123456788", "", "a"],
        split=["train"] * 3 + ["test"] * 3,
        PatientName=["x"] * 6,
    )
    dataset = load_dataset("table", root=root)
    assert dataset.tasks[0].classes == ("007", "NA", "None", "mild")
    assert dataset.samples["label"].isna().sum() == 1
    assert dataset.samples["patient"].nunique() == 5
    assert "PatientName" not in dataset.samples


def test_data_that_cannot_be_split_or_told_apart_is_extracted_all_the_same(image_folder: WriteImages) -> None:
    root = image_folder(2)
    write_table(root, label=["a", "a"])
    dataset = load_dataset("table", root=root)
    assert dataset.tasks == ()
    assert dataset.samples["split"].isna().all()
    assert "too few" in dataset.notes[0]


def test_links_to_folders_are_not_followed_and_said(image_folder: WriteImages) -> None:
    root = image_folder(2)
    (root / "train" / "linked").symlink_to(root / "test" / "dark")
    dataset = load_dataset("folder", root=root)
    assert len(dataset.samples) == 12
    assert dataset.notes == ("1 links to folders were not followed; copy or mount what they point to.",)


def test_a_stray_folder_beside_the_splits_is_refused(image_folder: WriteImages) -> None:
    root = image_folder(2)
    (root / "extra" / "dark").mkdir(parents=True)
    (root / "extra" / "dark" / "x.png").write_bytes((root / "train/dark/000.png").read_bytes())
    with pytest.raises(DatasetError, match="'extra'"):
        load_dataset("folder", root=root)


def test_two_tables_in_the_root_need_a_choice(image_folder: WriteImages) -> None:
    root = image_folder(1)
    write_table(root, label=["a", "b"])
    (root / "other.csv").write_text("path\n")
    with pytest.raises(DatasetError, match="--table"):
        load_dataset("table", root=root)
    with pytest.raises(DatasetError, match="no rows"):
        load_dataset("table", root=root, table="other.csv")
