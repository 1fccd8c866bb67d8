"""``check_dataset`` finds what is wrong with a copy, and nothing in a right one."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from featcache.datasets import check_dataset
from tests.datasets.miniatures import chexpert, nih, tuberculosis, volumes
from tests.datasets.miniatures.files import write_lines, write_png


def test_a_right_copy_is_ok_and_the_report_is_json(tmp_path: Path) -> None:
    report = check_dataset("nih", nih.make(tmp_path), decode=True, **nih.OPTIONS)
    assert report.ok
    assert report.samples == {"train": 12, "val": 6, "test": 6}
    assert report.patients == {"train": 6, "val": 3, "test": 3}
    assert report.decoded == 24
    assert json.loads(json.dumps(asdict(report)))["labels"]["findings"]["train"]["Mass"] > 0


def test_label_statistics_are_those_of_the_table(tmp_path: Path) -> None:
    report = check_dataset("nih", nih.make(tmp_path), **nih.OPTIONS)
    for finding in ("Mass", "Hernia", "Edema", "Effusion"):
        published = sum(finding in line.split(",")[1].split("|") for _, line in nih.rows())
        assert sum(part[finding] for part in report.labels["findings"].values()) == published


def test_counts_are_compared_with_the_published_ones(tmp_path: Path) -> None:
    report = check_dataset("msd_spleen", volumes.make_spleen(tmp_path))
    by_place = {(count.unit, count.split): (count.expected, count.found) for count in report.counts}
    assert by_place["volumes", "test"] == (15, 4)
    assert by_place["samples", "train"] == (1268, 22)
    assert not report.ok
    assert report.unused == 2  # imagesTs


def test_missing_and_surplus_files_are_named(tmp_path: Path) -> None:
    root = nih.make(tmp_path)
    (root / "images_001" / "images" / "00000001_000.png").unlink()
    write_png(root / "images_002" / "images" / "99999999_000.png")
    report = check_dataset("nih", root, **nih.OPTIONS)
    assert report.missing == ("00000001_000.png",)
    assert report.surplus == ("images_002/images/99999999_000.png",)
    assert not report.ok


def test_rows_whose_files_are_gone_are_missing(tmp_path: Path) -> None:
    root = chexpert.make(tmp_path)
    gone = "CheXpert-v1.0-small/train/patient00003/study1/view1_frontal.jpg"
    (root / gone).unlink()
    report = check_dataset("chexpert", root)
    assert report.missing == (gone,)
    assert report.unused == 14  # the lateral views


def test_empty_files_are_found_without_decoding_and_others_with(tmp_path: Path) -> None:
    root = tuberculosis.make_montgomery(tmp_path)
    (root / "CXR_png" / "MCUCXR_0002_0.png").write_bytes(b"")
    (root / "CXR_png" / "MCUCXR_0005_0.png").write_bytes(b"<!DOCTYPE html>")
    quick = check_dataset("montgomery", root)
    assert [failure.path for failure in quick.unreadable] == ["CXR_png/MCUCXR_0002_0.png"]
    seen: list[tuple[int, int]] = []
    thorough = check_dataset("montgomery", root, decode=True, progress=lambda *done: seen.append(done))
    assert {failure.path[-8:] for failure in thorough.unreadable} == {"02_0.png", "05_0.png"}
    assert all(failure.remedy for failure in thorough.unreadable)
    assert seen[-1] == (35, 35)  # 12 images and 24 masks, without the empty one


def test_damaged_headers_of_volumes_are_found_without_decoding(tmp_path: Path) -> None:
    root = volumes.make_heart(tmp_path)
    (root / "Task02_Heart" / "imagesTr" / "la_004.nii.gz").write_bytes(b"\x1f\x8b\x08 truncated")
    report = check_dataset("msd_heart", root)
    assert [failure.path for failure in report.unreadable] == ["Task02_Heart/imagesTr/la_004.nii.gz"]


def test_files_with_the_same_bytes_are_found_and_said_if_they_straddle(tmp_path: Path) -> None:
    root = nih.make(tmp_path)
    first = root / "images_001" / "images" / "00000001_000.png"
    shutil.copy(first, root / "images_001" / "images" / "00000001_001.png")  # both train
    shutil.copy(first, root / "images_003" / "images" / "00000012_001.png")  # test
    other = root / "images_001" / "images" / "00000002_000.png"
    shutil.copy(other, root / "images_001" / "images" / "00000002_001.png")  # both train
    report = check_dataset("nih", root, **nih.OPTIONS)
    assert {len(group) for group in report.duplicates} == {2, 3}
    assert [len(group) for group in report.duplicates_across_splits] == [3]


def test_files_of_one_size_and_ending_are_not_the_same(tmp_path: Path) -> None:
    lines = ["path,label"]
    for number in range(4):
        content = np.random.default_rng(number).bytes(100) + bytes(1000)
        (tmp_path / f"{number}.png").write_bytes(content)
        lines.append(f"{number}.png,{'ab'[number % 2]}")
    write_lines(tmp_path / "labels.csv", lines)
    assert check_dataset("table", tmp_path).duplicates == ()


def test_copies_that_were_saved_again_are_found_by_decoding(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 10), dtype=np.uint8)
    write_png(tmp_path / "0.png", pixels)
    PIL.Image.fromarray(pixels).save(tmp_path / "1.png", compress_level=0)
    PIL.Image.fromarray(pixels).save(tmp_path / "2.bmp")
    write_png(tmp_path / "3.png", pixels[::-1])
    (tmp_path / "4.png").write_bytes((tmp_path / "3.png").read_bytes())
    (tmp_path / "5.png").write_bytes(b"no picture")
    (tmp_path / "6.png").write_bytes(b"no picture")
    files = ["0.png", "1.png", "2.bmp", "3.png", "4.png", "5.png", "6.png"]
    splits = ["train", "test", "train", "train", "train", "train", "train"]
    write_lines(tmp_path / "t.csv", ["path,split", *(f"{a},{b}" for a, b in zip(files, splits, strict=True))])
    assert check_dataset("table", tmp_path).duplicates == (("3.png", "4.png"), ("5.png", "6.png"))
    report = check_dataset("table", tmp_path, decode=True)
    assert report.duplicates == (("0.png", "1.png", "2.bmp"), ("3.png", "4.png"), ("5.png", "6.png"))
    assert report.duplicates_across_splits == (("0.png", "1.png", "2.bmp"),)


def test_patients_in_two_splits_are_named_by_pair(tmp_path: Path) -> None:
    report = check_dataset("nih", nih.make(tmp_path), val_images=5)
    assert report.overlap == {"train+val": ("7",)}
    assert not report.ok


@pytest.mark.parametrize("layout", ["raw", "averaged"])
def test_masks_are_counted_by_split(tmp_path: Path, layout: str) -> None:
    report = check_dataset("btcv", volumes.make_btcv(tmp_path, layout=layout))
    assert report.labels["organs"]["test"] == {"with masks": 0, "(missing)": 12}
    assert report.labels["organs"]["val"]["with masks"] == 12
