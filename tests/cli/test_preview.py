"""``featcache preview`` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from tests.cli.test_commands import run
from tests.conftest import WriteImages


def test_it_draws_a_sheet_and_says_where(image_folder: WriteImages, tmp_path: Path) -> None:
    root, out = image_folder(3), tmp_path / "sheet.png"
    arguments = ("preview", "--dataset", "folder", "--root", root, "--n", 4, "--out", out, "--preprocess", "radiology")
    said = json.loads(run(*arguments, "--json").stdout)
    assert (said["picture"], said["preprocess"]["intensity"]) == (str(out), "image")
    assert [sample["label"] for sample in said["samples"]] == ["bright", "dark"] * 2
    columns, rows = 2, 2
    assert Image.open(out).width // columns >= 160
    assert Image.open(out).height // rows >= 160


def test_an_unusable_image_is_named_and_gives_exit_code_two(image_folder: WriteImages, tmp_path: Path) -> None:
    root = image_folder(1, splits=("train",))
    arguments = ("preview", "--dataset", "folder", "--root", root, "--out", tmp_path / "s.png")
    done = run(*arguments, "--preprocess", "model,window=lung", check=False)
    assert done.returncode == 2
    assert "train/dark/000.png" in done.stderr
    assert "Hounsfield" in done.stderr
    assert f"{tmp_path / 's.png'}: 2 samples" in done.stdout
    assert (tmp_path / "s.png").is_file()


def test_an_unknown_recipe_names_the_nearest(image_folder: WriteImages) -> None:
    done = run("preview", "--dataset", "folder", "--root", image_folder(1), "--preprocess", "radiologi", check=False)
    assert done.returncode == 1
    assert "did you mean 'radiology'" in done.stderr
