"""The commands as a user runs them: one process each, with exit codes, streams and JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import jsonschema
import pytest

import featcache
from featcache_cli.main import cli
from tests.conftest import WriteImages

DOCS = Path(__file__).parents[2] / "docs"


def run(*arguments: object, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "featcache_cli.main", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )
    assert not check or done.returncode == 0, done.stderr
    return done


def schema(name: str) -> dict[str, object]:
    found: dict[str, object] = json.loads((DOCS / "schemas" / f"{name}.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(found)
    return found


def loaded_by(*arguments: object) -> set[str]:
    """Heavy packages that a command imports."""
    code = (
        "import sys, runpy\n"
        "sys.argv = ['featcache', *sys.argv[1:]]\n"
        "try: runpy.run_module('featcache_cli.main', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "finally: print('\\nLOADED', *[m for m in ('torch', 'timm', 'transformers', 'sklearn', 'faiss', 'pandas')"
        " if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    return set(done.stdout.rsplit("LOADED", 1)[1].split())


def test_the_whole_way_from_images_to_json(image_folder: WriteImages) -> None:
    root = image_folder(8)
    report = json.loads(run("extract", "--model", "pixels", "--dataset", "folder", "--root", root, "--json").stdout)
    jsonschema.validate(report, schema("extract"))
    assert (report["rows"], report["computed"], report["failed"]) == (48, 48, 0)
    again = json.loads(run("extract", "--model", "pixels", "--dataset", "folder", "--root", root, "--json").stdout)
    jsonschema.validate(again, schema("extract"))
    assert (again["computed"], again["reused"]) == (0, 48)

    knn = run("probe", "knn", "--k", "1,5", "--json")
    assert "using the store extracted last" in knn.stderr
    result = json.loads(knn.stdout)
    jsonschema.validate(result, schema("probe"))
    assert [found["k"] for found in result["runs"]] == [1, 5]
    assert result["runs"][0]["metrics"]["accuracy"]["value"] == 1.0  # bright against dark
    linear = json.loads(run("probe", "linear", "--json", "--dataset", report["dataset"]).stdout)
    jsonschema.validate(linear, schema("probe"))

    assert "accuracy" in run("probe", "knn", "--k", "3").stdout
    listed = json.loads(run("list", "--json").stdout)
    assert [store["rows"] for store in listed["stores"]] == [48]
    details = json.loads(run("info", "--json").stdout)
    assert details["splits"] == {"train": 16, "val": 16, "test": 16}
    assert details["arrays"]["cls"][0] == 48
    for command in ("list", "info"):
        assert "pixels" in run(command).stdout

    for command in (["--help"], ["list"], ["info"], ["probe", "knn", "--k", "3"]):
        assert not loaded_by(*command) & {"torch", "timm", "transformers"}, command
    assert not loaded_by("probe", "knn", "--k", "3") & {"sklearn"}
    assert not loaded_by("--help")


def test_quarantined_images_give_exit_code_two(image_folder: WriteImages) -> None:
    root = image_folder(3)
    (root / "train/dark/000.png").write_bytes(b"<html>")
    arguments = ("extract", "--model", "pixels", "--dataset", "folder", "--root", root)
    done = run(*arguments, "--json", check=False)
    assert done.returncode == 2
    report = json.loads(done.stdout)
    jsonschema.validate(report, schema("extract"))
    assert report["failures"][0]["path"] == "train/dark/000.png"
    told = run(*arguments, check=False)
    assert told.returncode == 2
    assert "train/dark/000.png" in told.stderr
    assert run(*arguments, "--allow-failures").returncode == 0
    assert "train/dark/000.png" in run("info").stdout


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (("extract", "--model", "dinov2_vits", "--dataset", "folder", "--root", "."), 1, "dinov2_vits14"),
        (("extract", "--model", "pixels", "--dataset", "foldr", "--root", "."), 1, "folder"),
        (("extract", "--model", "pixels", "--dataset", "folder", "--root", "nowhere"), 1, "nowhere"),
        (("extract", "--model", "pixels", "--dataset", "folder"), 1, "--root"),
        (("extract", "--model", "pixels"), 2, "--dataset"),
        (("probe", "knn"), 1, "featcache extract"),
        (("probe", "knn", "--k", "five"), 2, "5,20,100"),
        (("info", "--dataset", "x"), 1, "featcache extract"),
        (
            ("--debug", "extract", "--model", "pixels", "--dataset", "folder", "--root", "nowhere"),
            1,
            "Traceback",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_wrong_call_is_one_clear_error(arguments: tuple[str, ...], code: int, expected: str) -> None:
    done = run(*arguments, check=False)
    assert done.returncode == code
    assert expected in done.stderr
    assert ("Traceback" in done.stderr) == (expected == "Traceback")
    assert done.stdout == ""


def test_a_missing_checkpoint_says_which_file_to_put_where(image_folder: WriteImages, tmp_path: Path) -> None:
    done = run(
        "extract", "--model", "dinov2_vits14", "--dataset", "folder", "--root", image_folder(1),
        check=False, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path), TORCH_HOME=str(tmp_path),
    )  # fmt: skip
    assert done.returncode == 1
    assert "dinov2_vits14_pretrain.pth" in done.stderr
    assert "--weights" in done.stderr


def test_doctor_models_and_datasets_report(tmp_path: Path) -> None:
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "TORCH_HOME": str(tmp_path)}
    found = json.loads(run("doctor", "--json", **offline).stdout)
    weights = {row["model"]: row["weights"] for row in found["models"]}
    assert weights["efficientnet_lite0"] == "here"
    assert weights["dinov2_vitl14"] == "missing"
    assert found["devices"][0]["device"] == "cpu"
    assert "dinov2_vitl14_pretrain.pth" in {row["model"]: row["where"] for row in found["models"]}["dinov2_vitl14"]
    told = run("doctor", **offline).stdout
    assert "dinov2_vitl14" in told.split("no weights here")[1]
    names = {row["name"] for row in json.loads(run("models", "--json").stdout)["models"]}
    assert names == set(featcache.list_models())
    listed = {row["name"]: row for row in json.loads(run("datasets", "--json").stdout)["datasets"]}
    assert set(listed) == set(featcache.list_datasets())
    for command in ("models", "datasets"):
        assert "brain_regions" in run(command).stdout or command == "models"


def test_every_command_and_option_has_a_help_text() -> None:
    for name, command in cli.commands.items():
        assert command.help, name
        for parameter in command.params:
            assert not isinstance(parameter, click.Option) or parameter.help, f"{name} {parameter.opts}"
