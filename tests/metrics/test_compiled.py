"""The compiled loops load late, wherever they may be kept, and give the same bits on any number of threads."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import featcache
from featcache.metrics import compiled
from featcache.metrics.weighted import TILE, Weights

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys, numpy as np
from featcache.metrics import METRICS, bootstrap_many
from featcache.metrics import curves
assert "numba" not in sys.modules
rng = np.random.default_rng(0)
y = (rng.random((3000, 3)) < 0.3).astype(float)
score = 1 / (1 + np.exp(-rng.standard_normal(y.shape) - y))
found = bootstrap_many(METRICS, y, score, rng.integers(0, 900, 3000), n=640, method="bca")
assert "numba" in sys.modules
print([(name, e.value.hex(), e.low.hex(), e.high.hex()) for name, e in found.items()])
"""


def run(environment: dict[str, str]) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    one, two = (run(dict.fromkeys(names, count)) for count in ("1", "2"))
    assert one == two


@pytest.mark.skipif(sys.platform != "linux", reason="the cache folder of the user is found by XDG_CACHE_HOME")
def test_a_package_folder_that_cannot_be_written_keeps_its_code_with_the_user(tmp_path: Path) -> None:
    package = tmp_path / "site-packages" / "featcache"
    shutil.copytree(Path(featcache.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "metrics" / "__pycache__").write_text("a file where the folder would be")  # also stops root
    code = "from featcache.metrics import compiled as c; print(c.__file__); print(c.pair_sums.stats.cache_path)"
    environment = {
        **{name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"},
        "PYTHONPATH": str(package.parent),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    command = [sys.executable, "-B", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    module, kept = (Path(line) for line in done.stdout.split())
    assert module.is_relative_to(package)
    assert kept.is_relative_to(tmp_path / "cache")


def test_a_function_that_cannot_be_kept_is_compiled_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    scope: dict[str, Any] = {}
    # No file belongs to this code, so that numba finds no folder to keep it in.
    exec(compile("def add_one(values):\n    values += 1", "<nowhere>", "exec"), scope)
    with caplog.at_level("INFO"):
        add_one = compiled._compile(scope["add_one"])
    values = np.zeros(3)
    add_one(values)
    np.testing.assert_array_equal(values, 1)
    assert "not kept between runs" in caplog.text


def test_the_loops_run_on_the_tiles_that_weights_are_cut_into() -> None:
    assert compiled._TILE == TILE
    for count in (1, TILE, TILE + 1):
        tiles = Weights(np.ones((5, count))).tiles
        assert tiles.shape[1] % TILE == 0
        np.testing.assert_array_equal(tiles.sum(axis=1), count)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64, np.float32, np.float64])
def test_weights_of_any_type_count_the_same(dtype: Any) -> None:
    columns = np.random.default_rng(0).poisson(1.0, (50, 3))
    rows, codes = np.arange(50), np.tile([0, 2], 25).astype(np.int8)
    out = np.zeros((3, TILE))
    compiled.pair_sums(Weights(columns.astype(dtype)).tiles, rows, codes, out)
    negatives, positives = columns[::2], columns[1::2]
    expected = 2 * (positives * np.cumsum(negatives, axis=0)).sum(axis=0)
    np.testing.assert_array_equal(out[0, :3], expected)
    np.testing.assert_array_equal(out[1, :3], 2 * positives.sum(axis=0))
    np.testing.assert_array_equal(out[2, :3], negatives.sum(axis=0))
