"""``verify``, ``gc``, ``rm``, ``why`` and ``labels`` as a user runs them, and signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import featcache
from tests.cli.test_commands import run
from tests.conftest import WriteImages


def test_verify_finds_repairs_and_reports(image_folder: WriteImages) -> None:
    root = image_folder(25)
    report = featcache.extract("pixels", "folder", root=root)
    assert "intact" in run("verify").stdout
    chunk = report.store / "cls" / "c" / "0" / "0"
    content = bytearray(chunk.read_bytes())
    content[99] ^= 1
    chunk.write_bytes(content)
    found = run("verify", "--store", report.store, check=False)
    assert found.returncode == 1
    assert "cls/c/0/0" in found.stdout
    done = json.loads(run("verify", "--store", report.store, "--repair", "--root", root, "--json").stdout)
    assert (done["computed"], done["left"]) == (64, [])
    (root / "train/dark/000.png").write_bytes(b"changed")
    changed = run("verify", "--source", "--root", root, check=False)
    assert changed.returncode == 1
    assert "train/dark/000.png" in changed.stdout


def test_rows_that_are_not_computed_yet_are_no_damage(image_folder: WriteImages) -> None:
    root = image_folder(3)
    first = featcache.extract("pixels", "folder", root=root)
    (root / "train/dark/new.png").write_bytes((root / "train/dark/000.png").read_bytes()[:-1] + b"x")
    featcache.extract("pixels", "folder", root=root, image_size=64)
    told = run("verify", "--store", first.store)
    assert "intact, incomplete" in told.stdout


def test_gc_says_what_it_would_do_and_asks(image_folder: WriteImages) -> None:
    root = image_folder(50)
    featcache.extract("pixels", "folder", root=root)
    for path in sorted(root.rglob("*.png"))[:150]:
        path.unlink()
    featcache.extract("pixels", "folder", root=root)
    refused = run("gc", check=False)
    assert "150 are not" in refused.stdout
    assert refused.returncode == 1  # nobody answered the question
    assert "nothing was removed" in refused.stderr
    assert run("gc", "--yes").returncode == 0
    assert json.loads(run("gc", "--json").stdout)["dead_rows"] < 64
    assert "intact" in run("verify").stdout


def test_rm_removes_one_named_store(image_folder: WriteImages) -> None:
    report = featcache.extract("pixels", "folder", root=image_folder(2))
    assert run("rm", check=False).returncode == 2
    assert run("rm", "--store", report.store, check=False).returncode == 1  # nobody says yes
    assert report.store.exists()
    run("rm", "--store", report.store, "--yes")
    assert not report.store.exists()


def test_why_names_the_field_that_differs(image_folder: WriteImages) -> None:
    root = image_folder(2)
    arguments = ("--model", "pixels", "--dataset", "folder", "--root", root)
    featcache.extract("pixels", "folder", root=root)
    same = json.loads(run("why", *arguments, "--json").stdout)
    assert (same["exists"], same["missing"]) == (True, 0)
    other = json.loads(run("why", *arguments, "--image-size", "64", "--json").stdout)
    assert (other["exists"], other["missing"]) == (False, 12)
    assert other["differences"] == ["preprocess.crop: 64, there 224", "preprocess.resize_to: 73, there 256"]
    assert "preprocess.crop" in run("why", *arguments, "--image-size", "64").stdout


def test_labels_are_replaced_without_computing(image_folder: WriteImages, tmp_path: Path) -> None:
    root = image_folder(10)
    paths = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))
    table = tmp_path / "labels.csv"
    frame = pd.DataFrame({"path": paths, "split": ["train", "test"] * 30, "finding": ["a", "b", "c"] * 20})
    frame.to_csv(table, index=False)
    options = ("--dataset", "table", "--root", root, "--table", table, "--name", "mine", "--split-column", "split")
    run("extract", "--model", "pixels", *options, "--label-column", "finding")
    before = featcache.open("mine")["cls"][:]
    frame.assign(age=np.arange(60) % 2).to_csv(table, index=False)
    run("labels", *options, "--label-column", "age")
    store = featcache.open("mine")
    assert [task.name for task in store.tasks] == ["age"]
    np.testing.assert_array_equal(store["cls"][:], before)
    again = json.loads(run("extract", "--model", "pixels", *options, "--label-column", "age", "--json").stdout)
    assert again["computed"] == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_commits_what_is_finished_and_says_how_to_resume(
    image_folder: WriteImages, number: signal.Signals
) -> None:
    root = image_folder(100)
    code = (
        "import os, signal, sys, contextlib, featcache_cli.main, featcache_cli.extract\n"
        # A shell starts background jobs with SIGINT ignored, and this may run in one.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "number = int(sys.argv.pop())\n"
        "@contextlib.contextmanager\n"
        "def interrupting(label):\n"
        "    yield lambda progress: os.kill(os.getpid(), number) if progress.done == 160 else None\n"
        "featcache_cli.extract.progress_bar = interrupting\n"
        "featcache_cli.main.main()"
    )
    arguments = ["extract", "--model", "pixels", "--dataset", "folder", "--root", str(root), "--batch-size", "32"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments, str(int(number))],
        capture_output=True,
        text=True,
        check=False,
        env=dict(os.environ),
    )
    assert done.returncode == 130, done.stderr
    assert "goes on from there" in done.stderr
    report = featcache.extract("pixels", "folder", root=root, batch_size=32)
    assert report.reused >= 128
    assert report.rows == 600
