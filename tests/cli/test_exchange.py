"""``export``, ``import`` and ``merge`` as commands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result

from featcache.exchange import FORMATS
from featcache.store import FeatureStore
from featcache_cli.exchange import export, import_, merge

X = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)


def run(command: object, *arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])  # type: ignore[arg-type]


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    np.save(tmp_path / "x.npy", X)
    pd.DataFrame({"id": list("abcdef"), "label": list("xyxyxy")}).to_csv(tmp_path / "x.csv", index=False)
    return [tmp_path / "x.npy", tmp_path / "x.csv"]


def test_import_export_and_merge(files: list[Path], tmp_path: Path) -> None:
    done = run(import_, "--dataset", "mine", "--model", "theirs", *files, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["dataset"], found["model"], found["rows"]) == ("mine", "theirs", 6)
    assert "6 rows of cls" in run(import_, "--dataset", "mine", "--model", "theirs", *files).output

    out = tmp_path / "out.parquet"
    done = run(export, "--dataset", "mine", "--format", "parquet", "--out", out, "--json")
    assert json.loads(done.stdout)["rows"] == 6
    assert "wrote 6 rows" in run(export, "--format", "npy", "--out", tmp_path / "folder", "--features", "cls").output

    back = json.loads(run(import_, out, "--home", tmp_path / "home", "--json").stdout)
    np.testing.assert_array_equal(FeatureStore(back["store"])["cls"][:], X)

    joined = run(merge, found["store"], back["store"], "--into", tmp_path / "joined", "--json")
    assert json.loads(joined.stdout)["added"] == 6
    assert "0 of them new" in run(merge, found["store"], "--into", tmp_path / "joined").output


def test_foreign_embeddings_need_names(files: list[Path]) -> None:
    done = run(import_, *files)
    assert done.exit_code == 2
    assert "--dataset and --model" in done.output


def test_every_format_is_offered() -> None:
    (option,) = [option for option in export.params if option.name == "format_"]
    assert tuple(option.type.choices) == FORMATS  # type: ignore[attr-defined]
