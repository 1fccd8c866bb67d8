"""What publishers, file systems and spreadsheets do to datasets: each is reported with file and remedy."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from featcache.datasets import check_dataset, load_dataset
from featcache.datasets.files import walk
from featcache.datasets.label_files import read_list, read_table
from featcache.errors import DatasetError
from tests.datasets.miniatures import chexpert, nih, sars_cov_2, tuberculosis, volumes
from tests.datasets.miniatures.files import write_lines, write_png


@pytest.fixture
def xrays(tmp_path: Path) -> Path:
    return nih.make(tmp_path / "data")


def edit(file: Path, *changes: tuple[str, str]) -> None:
    text = file.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    file.write_text(text)


def loaded(root: Path, name: str = "nih"):  # type: ignore[no-untyped-def]
    return load_dataset(name, root=root, **(nih.OPTIONS if name == "nih" else {}))


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("Data_Entry_2017.csv", ("Mass", "Mas"), "unknown finding 'Mas'"),
        ("Data_Entry_2017.csv", ("Finding Labels", "Findings"), "no column 'Finding Labels'; did you mean 'Findings'"),
        ("Data_Entry_2017.csv", ("00000001_000.png", "00000001_001.png"), "several rows that differ"),
        ("Data_Entry_2017.csv", ("00000001_001.png", ""), "1 rows have no 'Image Index'"),
        ("train_val_list.txt", ("00000001_000.png", "00000012_000.png"), "are in both lists: 00000012_000.png"),
        ("train_val_list.txt", ("00000001_000.png", "nobody.png"), "not in the label table: nobody.png"),
        ("test_list.txt", ("00000010_000.png", "00000010_001.png"), "names 1 files twice"),
    ],
)
def test_a_mistake_in_a_label_file_is_named_with_its_file(
    xrays: Path, file: str, change: tuple[str, str], message: str
) -> None:
    edit(xrays / file, change)
    with pytest.raises(DatasetError, match=message) as caught:
        loaded(xrays)
    assert str(xrays) in caught.value.message
    assert caught.value.remedy


def test_boms_windows_line_ends_paths_and_repeated_rows_change_nothing(xrays: Path) -> None:
    before = loaded(xrays).samples
    for name in ("Data_Entry_2017.csv", "train_val_list.txt", "test_list.txt"):
        lines = (xrays / name).read_text().splitlines()
        is_list = name.endswith(".txt")
        lines = [*(f"images\\{line}" for line in lines), "", " "] if is_list else [*lines, lines[1]]
        write_lines(xrays / name, lines, bom=True, newline="\r\n")
    dataset = loaded(xrays)
    assert dataset.samples.equals(before)
    assert any("1 rows of Data_Entry_2017.csv are repeated" in note for note in dataset.notes)


def test_file_names_in_capitals_are_found(xrays: Path) -> None:
    file = xrays / "images_001" / "images" / "00000001_000.png"
    file.rename(file.with_name("00000001_000.PNG"))
    samples = loaded(xrays).samples
    assert samples["path"][0].endswith("00000001_000.PNG")
    assert samples["id"][0] == "00000001_000.png"


def test_an_image_in_two_folders_is_taken_once_and_said(xrays: Path) -> None:
    write_png(xrays / "images_009" / "images" / "00000001_000.png")
    dataset = loaded(xrays)
    assert dataset.samples["path"][0] == "images_001/images/00000001_000.png"
    assert any("more than one folder" in note for note in dataset.notes)


def test_an_odd_label_of_chexpert_is_named(tmp_path: Path) -> None:
    root = chexpert.make(tmp_path)
    edit(root / "CheXpert-v1.0-small" / "train.csv", (",-1.0", ",2.0"))
    with pytest.raises(DatasetError, match=r"train\.csv: labels 2\.0"):
        loaded(root, "chexpert")


def test_tables_that_do_not_fit_the_root_of_chexpert_say_which_path(tmp_path: Path) -> None:
    root = chexpert.make(tmp_path)
    edit(root / "CheXpert-v1.0-small" / "valid.csv", ("valid/patient", "valid/somebody"))
    with pytest.raises(DatasetError, match=r"valid/somebody00009.* nor 5 others"):
        loaded(root, "chexpert")


def test_a_patient_folder_that_is_no_number_is_named(tmp_path: Path) -> None:
    root = sars_cov_2.make(tmp_path, layout="study")
    (root / "train" / "79").rename(root / "train" / "seventy-nine")
    with pytest.raises(DatasetError, match="seventy-nine"):
        loaded(root, "sars_cov_2")


def test_an_amos_volume_without_a_number_is_named(tmp_path: Path) -> None:
    root = volumes.make_amos(tmp_path)
    (root / "amos22" / "imagesTr" / "amos_0001.nii.gz").rename(root / "amos22" / "imagesTr" / "first.nii.gz")
    with pytest.raises(DatasetError, match="'first' has no number"):
        loaded(root, "amos")


def test_images_without_a_mask_are_named(tmp_path: Path) -> None:
    root = tuberculosis.make_montgomery(tmp_path)
    (root / "ManualMask" / "leftMask" / "MCUCXR_0002_0.png").unlink()
    dataset = loaded(root, "montgomery")
    assert dataset.samples["mask"].isna().sum() == 1
    assert any("1 images have no mask: MCUCXR_0002_0" in note for note in dataset.notes)


def test_label_volumes_without_an_image_are_named(tmp_path: Path) -> None:
    root = volumes.make_heart(tmp_path)
    (root / "Task02_Heart" / "imagesTr" / "la_003.nii.gz").unlink()
    dataset = loaded(root, "msd_heart")
    assert dataset.surplus == ("Task02_Heart/labelsTr/la_003.nii.gz",)


def test_links_in_circles_end(xrays: Path) -> None:
    (xrays / "images_001" / "again").symlink_to(xrays, target_is_directory=True)
    (xrays / "images_001" / "itself").symlink_to(xrays / "images_001" / "itself")
    dataset = loaded(xrays)
    assert len(dataset.samples) == 24
    assert any("links to folders were not followed" in note for note in dataset.notes)
    assert check_dataset("nih", xrays, **nih.OPTIONS).missing == ()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_left_out_and_said(xrays: Path) -> None:
    """To open one would wait until somebody writes to it."""
    os.mkfifo(xrays / "images_001" / "images" / "00000001_000.PNG")
    dataset = loaded(xrays)
    assert len(dataset.samples) == 24
    assert any("were left out: images_001/images/00000001_000.PNG" in note for note in dataset.notes)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_folder_is_named(xrays: Path) -> None:
    folder = xrays / "images_002"
    folder.chmod(0)
    try:
        with pytest.raises(DatasetError, match="images_002"):
            loaded(xrays)
    finally:
        folder.chmod(0o755)


def test_a_folder_that_goes_away_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"cannot be read: .*gone"):
        walk(tmp_path / "gone")


def test_a_table_in_another_encoding_is_explained(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_bytes("path,label\nö.png,a\n".encode("latin-1"))
    with pytest.raises(DatasetError, match="not UTF-8") as caught:
        read_table(file)
    assert "UTF-8" in (caught.value.remedy or "")


@pytest.mark.parametrize("content", [b"", b'path,label\n"a.png,b\n', b"PAR1 no parquet"])
def test_a_table_that_is_none_is_explained(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / ("labels.parquet" if content.startswith(b"PAR1") else "labels.csv")
    file.write_bytes(content)
    with pytest.raises(DatasetError, match=r"labels\.") as caught:
        read_table(file)
    assert caught.value.remedy


def test_a_missing_list_is_explained(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"list\.txt cannot be read"):
        read_list(tmp_path / "list.txt")
