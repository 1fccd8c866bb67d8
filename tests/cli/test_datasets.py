"""``featcache datasets`` and the sentences on bad files, as a user sees them."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.test_commands import run
from tests.datasets.miniatures import nih
from tests.datasets.miniatures.files import write_lines, write_png


def test_the_list_says_which_datasets_are_here_and_which_folders_are_empty(tmp_path: Path) -> None:
    nih.make(tmp_path / "nih")
    (tmp_path / "btcv").mkdir()
    found = json.loads(run("datasets", "--json", FEATCACHE_DATA=str(tmp_path)).stdout)["datasets"]
    state = {row["name"]: row["state"] for row in found}
    assert (state["nih"], state["btcv"], state["chexpert"]) == ("here", "empty", "not found")
    shown = run("datasets", FEATCACHE_DATA=str(tmp_path)).stdout.splitlines()
    assert any(line.startswith("btcv") and "empty" in line for line in shown)


def test_bad_files_are_said_in_sentences_by_extract_info_preview_and_check(tmp_path: Path) -> None:
    for number in range(3):
        write_png(tmp_path / f"{number}.png")
    (tmp_path / "bad.png").write_bytes((tmp_path / "0.png").read_bytes()[:60])
    write_lines(tmp_path / "t.csv", ["path,label", "0.png,a", "1.png,b", "2.png,a", "bad.png,b"])
    where = ("--dataset", "table", "--root", tmp_path)
    done = run("extract", "--model", "pixels", "--image-size", "16", *where, check=False)
    assert done.returncode == 2
    sentence = "inside a chunk. Copy it again from its source."
    assert sentence in done.stderr
    assert sentence in run("info").stdout
    seen = run("preview", "--n", "4", "--out", tmp_path / "seen.png", *where, check=False)
    assert seen.returncode == 2
    assert sentence in seen.stderr
    checked = run("datasets", "check", "table", "--root", tmp_path, "--decode", check=False)
    assert checked.returncode == 1
    assert sentence in checked.stdout


def test_a_check_says_that_options_leave_the_published_counts_out(tmp_path: Path) -> None:
    nih.make(tmp_path / "nih")
    checked = run("datasets", "check", "nih", "--root", tmp_path / "nih", "-o", "val_images=6")
    assert "published counts are not compared" in checked.stdout
