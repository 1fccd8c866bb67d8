"""The bootstrap of macro AUROC over rows against a loop of scikit-learn's roc_auc_score over the same resamples.

    python benchmarks/probes_bootstrap.py                         # 25600 x 14, 1000 resamples, about half a minute
    python benchmarks/probes_bootstrap.py --rows 5000 --labels 3

What is compared. The loop indexes the rows of each resample and calls ``roc_auc_score`` once for each label. It takes
the same time for every resample, so that only a handful is run, and its time for all is that of one times their
number. featcache runs all of them, draws included. Both alternate in one run; medians. What the first call of
featcache costs more, loading or compiling the loops, is shown on its own.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

# Before numpy is loaded; for both alike.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "10")

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from featcache.metrics import auroc, average_precision, bootstrap, resample_weights
from featcache.metrics.bootstrap import resampled
from featcache.metrics.catalog import scorer

Array = np.ndarray[Any, Any]
LOOPED = 3
"""Resamples of the loop in each repeat."""
PEERS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "auroc": (auroc, roc_auc_score),
    "average_precision": (average_precision, average_precision_score),
}


def labels_and_scores(n_rows: int, n_labels: int, seed: int = 0) -> tuple[Array, Array]:
    """Prevalences from 0.5 % to 40 % and scores of moderate quality; every tenth score is rounded, for ties."""
    rng = np.random.default_rng(seed)
    y = (rng.random((n_rows, n_labels)) < np.geomspace(0.005, 0.4, n_labels)).astype(float)
    score = 1 / (1 + np.exp(-(rng.standard_normal((n_rows, n_labels)) + y)))
    score[::10] = np.round(score[::10], 2)
    return y, score


def loop(metric: Callable[..., Any], y: Array, score: Array, weights: Array) -> Array:
    """What one writes without a library: (B,) macro values of the resamples."""
    values = []
    for multiplicity in weights:
        rows = np.repeat(np.arange(len(y)), multiplicity.astype(np.int64))
        values.append(np.mean([metric(y[rows, j], score[rows, j]) for j in range(y.shape[1])]))
    return np.array(values)


def measure(n_rows: int, n_labels: int, n_resamples: int, *, repeats: int = 3) -> list[dict[str, Any]]:
    """One row for each metric: seconds of both, their ratio, and the largest difference of a resample."""
    y, score = labels_and_scores(n_rows, n_labels)
    handful = next(resample_weights(np.arange(n_rows), n_resamples))[:LOOPED]
    rows = []
    for name, (metric, peer) in PEERS.items():
        begin = time.perf_counter()
        bootstrap(metric, y, score, n=n_resamples)
        first = time.perf_counter() - begin
        ours, theirs = [], []
        for _ in range(repeats):
            begin = time.perf_counter()
            expected = loop(peer, y, score, handful)
            theirs.append((time.perf_counter() - begin) / len(handful) * n_resamples)
            begin = time.perf_counter()
            bootstrap(metric, y, score, n=n_resamples)
            ours.append(time.perf_counter() - begin)
        (found,) = resampled([scorer(metric, y, score)], np.arange(n_rows), n_resamples, 0)
        rows.append(
            {
                "metric": name,
                "n_rows": n_rows,
                "n_labels": n_labels,
                "n_resamples": n_resamples,
                "looped": len(handful),
                "loop_s": statistics.median(theirs),
                "featcache_s": statistics.median(ours),
                "first_call_s": first,
                "ratio": statistics.median(theirs) / statistics.median(ours),
                "difference": float(np.abs(found[: len(handful)] - expected).max()),
            }
        )
    return rows


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description="Bootstrap against a loop of scikit-learn.")
    parser.add_argument("--rows", type=int, default=25_600)
    parser.add_argument("--labels", type=int, default=14)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"{os.cpu_count()} cores, {sys.platform}{load}; Python {platform.python_version()}, numpy {np.__version__}\n")
    print(f"{options.rows} x {options.labels}, {options.resamples} resamples, {options.repeats} repeats, medians.")
    print(f"The loop ran {LOOPED} resamples in each repeat; its time is theirs x {options.resamples} / {LOOPED}.\n")
    print("| macro | loop s | featcache s | ratio | first call s | largest difference |")
    print("|---|---|---|---|---|---|")
    for row in measure(options.rows, options.labels, options.resamples, repeats=options.repeats):
        print(
            f"| {row['metric']} | {row['loop_s']:.1f} | {row['featcache_s']:.2f} | {row['ratio']:.0f} "
            f"| {row['first_call_s']:.2f} | {row['difference']:.1e} |"
        )


if __name__ == "__main__":
    main()
