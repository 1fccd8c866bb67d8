"""Every benchmark of the probes, one after another: neighbours, logistic sweep, few-shot, bootstrap.

    python benchmarks/probes.py              # at 10,000 rows, about ten minutes
    python benchmarks/probes.py --rows 86000 # the size of the study; scikit-learn is timed on few fits and scaled

Each part is a script of its own with more options: ``probes_knn.py``, ``probes_logistic.py``, ``probes_fewshot.py``,
``probes_bootstrap.py``. They run in processes of their own, so that peak memory and threads are theirs.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description="All benchmarks of the probes.")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=1024)
    options = parser.parse_args()
    rows, width = str(options.rows), str(options.width)
    many = options.rows > 20_000
    parts = {
        "probes_knn.py": ["--rows", rows, "--width", width],
        "probes_logistic.py": [
            "--rows", rows, "--width", width, "--fits", "14" if many else "23", "--tight-fits", "3" if many else "9",
            "--paths", "0" if many else "1",
        ],
        "probes_fewshot.py": ["--width", width],
        "probes_bootstrap.py": ["--rows", str(min(options.rows, 25_600))],
    }  # fmt: skip
    for script, arguments in parts.items():
        print(f"\n## {script} {' '.join(arguments)}\n", flush=True)
        subprocess.run([sys.executable, str(FOLDER / script), *arguments], check=True)


if __name__ == "__main__":
    main()
