"""What publishers, file systems and spreadsheets do to datasets: each is reported with file and remedy."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest

import featcache
from featcache.datasets import check_dataset, load_dataset
from featcache.datasets.files import walk
from featcache.datasets.label_files import read_list, read_table
from featcache.errors import ConfigurationError, DatasetError
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


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for number in range(6):
        write_png(tmp_path / "images" / f"{number}.{'PNG' if number % 2 else 'png'}")
    return tmp_path


def test_equal_rows_of_a_table_are_dropped_and_said(images: Path) -> None:
    lines = [
        "path,label,remark",
        *(f"images/{number}.png,a,x" for number in (0, 2, 4)),
        "images/2.png,a,another remark",
    ]
    write_lines(images / "t.csv", lines)
    dataset = load_dataset("table", root=images)
    assert dataset.samples["path"].tolist() == ["images/0.png", "images/2.png", "images/4.png"]
    assert any("1 rows of t.csv are repeated" in note for note in dataset.notes)


def test_rows_of_a_table_that_contradict_each_other_are_named_with_the_table(images: Path) -> None:
    write_lines(images / "t.csv", ["path,label", "images/0.png,a", "images/0.png,b"])
    with pytest.raises(DatasetError, match=r"t\.csv: 1 values of 'path' have several rows that differ: images/0\.png"):
        load_dataset("table", root=images)


def test_a_table_in_other_letters_finds_the_files_and_keeps_its_ids(images: Path) -> None:
    names = [f"Images\\{number}.Png" for number in range(6)]
    write_lines(images / "t.csv", ["path,label", *(f"{name},{'ab'[place % 2]}" for place, name in enumerate(names))])
    dataset = load_dataset("table", root=images)
    assert dataset.samples["path"].tolist() == [f"images/{n}.{'PNG' if n % 2 else 'png'}" for n in range(6)]
    assert dataset.samples["id"].tolist() == [f"Images/{number}.Png" for number in range(6)]
    assert any("6 paths of the table differ" in note for note in dataset.notes)


@pytest.mark.skipif(os.name == "nt", reason="such a path may exist there")
@pytest.mark.parametrize("path", ["C:\\data\\0.png", "C:/data/0.png", "\\\\server\\share\\0.png"])
def test_a_path_of_a_windows_machine_is_explained(images: Path, path: str) -> None:
    write_lines(images / "t.csv", ["path,label", f"{path},a"])
    with pytest.raises(DatasetError, match="path of a Windows machine") as caught:
        load_dataset("table", root=images)
    assert "below the root" in (caught.value.remedy or "")


def test_an_unknown_option_is_answered_with_the_known_ones(images: Path) -> None:
    with pytest.raises(
        ConfigurationError, match=r"'folder' does not take the option mask; did you mean 'masks'"
    ) as caught:
        load_dataset("folder", root=images, mask="x")
    assert "mask_classes" in (caught.value.remedy or "")


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
        dataset = loaded(xrays)
        assert any("cannot be read" in note and "images_002" in note for note in dataset.notes)
        assert dataset.missing
        report = check_dataset("nih", xrays, **nih.OPTIONS)
        assert [failure.path for failure in report.unreadable] == ["images_002"]
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


@pytest.mark.parametrize("part", ["datasets", "imaging"])
def test_every_error_of_the_readers_says_what_to_do(part: str) -> None:
    """Read from the source: an error without a remedy leaves a newcomer alone with it."""
    kinds = {"DatasetError", "ImageError", "ConfigurationError", "MissingDependencyError"}
    raised = [
        (file.name, node.exc)
        for file in (Path(featcache.__file__).parent / part).glob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)
    ]
    own = [(name, call) for name, call in raised if isinstance(call.func, ast.Name) and call.func.id in kinds]
    assert len(own) > 30
    bare = [f"{name}:{call.lineno}" for name, call in own if not any(word.arg == "remedy" for word in call.keywords)]
    assert bare == []
