"""Each example runs as its docstring says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import featcache

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("plain_zarr.py", "800 rows of 256 features in float16"),
        ("scikit_learn.py", "accuracy on 400 crops: 0."),
        ("pandas_labels.py", "thalamus"),
    ],
)
def test_example(name: str, expected: str) -> None:
    report = featcache.extract("pixels", "brain_regions")
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), str(report.store)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout


def test_every_example_is_run() -> None:
    listed = {mark.args[1][index][0] for mark in test_example.pytestmark for index in range(len(mark.args[1]))}  # type: ignore[attr-defined]
    assert listed == {path.name for path in EXAMPLES.glob("*.py")}
