"""Each example runs as its docstring says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

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


def test_brain_tissue_on_few_slices(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "brain_tissue.py"), "--step", "4", "--image-size", "256"]
    done = subprocess.run([*command, "--out", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    means = re.findall(r"^  (pretrained|same network|raw pixels).* mean (0\.\d+)", done.stdout, re.MULTILINE)
    kinds, dice = [kind for kind, _ in means], [float(value) for _, value in means]
    assert kinds == ["pretrained", "same network", "raw pixels"] * 2
    assert dice[3] > 2 * dice[5]  # lobes: trained features beat pixels; of tissue, seven slices say nothing
    assert min(dice[:3]) > 0.1
    assert "not a clinical result" in done.stdout
    for name in ("brain_tissue", "brain_lobes"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.format == "PNG"


def test_every_example_is_run() -> None:
    listed = {mark.args[1][index][0] for mark in test_example.pytestmark for index in range(len(mark.args[1]))}  # type: ignore[attr-defined]
    listed.add("brain_tissue.py")
    assert listed == {path.name for path in EXAMPLES.glob("*.py")}
