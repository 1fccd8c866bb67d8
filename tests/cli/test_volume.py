"""``featcache probe volume`` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import numpy as np
from PIL import Image

from tests.cli.test_commands import loaded_by, run, schema


def test_volumes_are_cross_validated_and_the_heads_compared(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(24):  # patients up to 79 are ill, the others are not
        patient = number + 1 if number % 2 else number + 100
        folder = tmp_path / ("train", "val", "test")[number % 3] / str(patient)
        folder.mkdir(parents=True)
        for place in range(3 + number % 2):
            level = 150 if number % 2 and place == 1 else 60
            Image.fromarray(rng.integers(level, level + 50, (32, 32), dtype=np.uint8)).save(folder / f"{place}.png")
    run("extract", "--model", "pixels", "--dataset", "sars_cov_2", "--root", tmp_path)
    question = ["probe", "volume", "--dataset", "sars_cov_2", "--folds", 3, "--epochs", 3, "--n-bootstrap", 50]
    result = json.loads(run(*question, "--json").stdout)
    jsonschema.validate(result, schema("probe"))
    assert [run["pool"] for run in result["runs"]] == ["attention", "mean", "max"]
    assert {(run["split"], run["n"]) for run in result["runs"]} == {("cross-validated", 24)}
    shown = run(*question).stdout
    assert "over patients" in shown
    assert "pool = attention" in shown
    assert "torch" not in loaded_by(*question, "--pool", "max", "--position")
    # Attention is learnt with its head, by one probe only: nothing else is pooled instead without a word.
    for name in ("knn", "logistic", "linear"):
        refused = run("probe", name, "--dataset", "sars_cov_2", "--pool", "attention", check=False)
        assert refused.returncode == 1
        assert "featcache probe volume --pool attention" in refused.stderr
