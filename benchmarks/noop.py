"""An ``extract`` that has nothing to do, against what it cannot do without: a stat walk and reading one table.

    python benchmarks/noop.py                 # 100,000 tiny PNG, some minutes to embed them first
    python benchmarks/noop.py --images 20000

Each repeat is a new process that imports featcache, then times the call; beside it a bare ``os.scandir`` walk with
a stat of every file, and ``pyarrow.parquet.read_table(samples.parquet).to_pandas()``, in the same process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "10")

import numpy as np
from PIL import Image

import featcache

_CHILD = """
import gc, json, os, sys, time
gc.set_threshold(100_000, 20, 20)  # as the command does
begin = time.perf_counter()
import featcache
import featcache.extraction, featcache.datasets, pandas, pyarrow.parquet
imports = time.perf_counter() - begin

def walk(folder):
    count = 0
    for entry in os.scandir(folder):
        if entry.is_dir():
            count += walk(entry.path)
        else:
            entry.stat()
            count += 1
    return count

root, home, table = sys.argv[1:]
begin = time.perf_counter()
walk(root)
walked = time.perf_counter() - begin
begin = time.perf_counter()
pyarrow.parquet.read_table(table).to_pandas()
read = time.perf_counter() - begin
begin = time.perf_counter()
report = featcache.extract("pixels", "folder", root=root, home=home, dataset_name="noop", image_size=16)
took = time.perf_counter() - begin
assert report.computed == 0
print(json.dumps({"imports": imports, "walk": walked, "table": read, "extract": took, "torch": "torch" in sys.modules}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="What an extract with nothing to do costs.")
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FEATCACHE_STATE"] = str(Path(folder) / "state")
        root, home = Path(folder) / "images", Path(folder) / "home"
        make_images(root, options.images)
        report = featcache.extract("pixels", "folder", root=root, home=home, dataset_name="noop", image_size=16)
        print(f"{report.rows} images embedded in {report.seconds:.0f} s; now nothing to do:")
        table = str(report.store.parent / "samples.parquet")
        runs = []
        for _ in range(options.repeats):
            done = subprocess.run(
                [sys.executable, "-c", _CHILD, str(root), str(home), table], capture_output=True, text=True, check=True
            )
            runs.append(json.loads(done.stdout))
    median = {name: statistics.median(run[name] for run in runs) for name in ("imports", "walk", "table", "extract")}
    print(f"imports {median['imports']:.2f} s, torch among them: {any(run['torch'] for run in runs)}")
    print(f"bare stat walk {median['walk']:.2f} s, reading the table {median['table']:.2f} s")
    bare = median["walk"] + median["table"]
    print(f"extract {median['extract']:.2f} s = {median['extract'] / bare:.2f} times the two together")


def make_images(root: Path, count: int) -> None:
    """Different 8 x 8 pictures, 1000 a folder."""
    rng = np.random.default_rng(0)
    for number in range(count):
        folder = root / f"class{number // 1000:03}"
        if number % 1000 == 0:
            folder.mkdir(parents=True)
        Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(folder / f"{number:06}.png")


if __name__ == "__main__":
    main()
