"""The logistic sweep against scikit-learn: every label at every C, time, memory and the largest difference of AUROC.

    python benchmarks/probes_logistic.py                    # 10,000 x 1024, 14 labels, 45 C
    python benchmarks/probes_logistic.py --rows 86000 --fits 5 --tight-fits 3 --paths 0

Synthetic features with a covariance of power-law spectrum, seeded; labels as rare as ChestX-ray14's, linear in the
features plus noise. Everyone gets the same standardised float32 features (float64 where that is said), 2 threads.

scikit-learn would take hours, so its time is extrapolated: ``--fits`` of the labels x C fits are drawn, one in each of
as many equal parts of the grid of C, with a random label, and their mean is multiplied. ``tol=1e-4`` is scikit-learn's
default; with it, rare labels stop far from the minimum. ``tol=1e-12``, float64 and at most 1000 iterations are DINOv2's
protocol. The AUROC is compared with the fits that stopped before 1000 iterations, by themselves.
The warm-started path goes through all C of ``--paths`` random labels, from the smallest on.

featcache at a looser tolerance, for comparison with scikit-learn's default: its AUROC is compared with its own default.

Memory is the growth of the resident set above the interpreter with its libraries, features included, in a process of
its own, as a multiple of the float32 features.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Before numpy is loaded; for all peers alike.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "10")

import numpy as np

PREVALENCE = (0.103, 0.025, 0.042, 0.021, 0.119, 0.022, 0.015, 0.002, 0.177, 0.052, 0.056, 0.030, 0.013, 0.047)
"""Of the findings of ChestX-ray14, in alphabetical order."""
ENOUGH = 50
"""Positives from which a label's AUROC is compared."""
Array = np.ndarray[Any, Any]


def synthetic(n: int, width: int, labels: int, *, seed: int = 0) -> tuple[Array, Array]:
    """(n, width) standardised float32 features and (n, labels) targets."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n, width), dtype=np.float32)
    rank = np.arange(1, width + 1)
    y = np.empty((n, labels))
    for label in range(labels):
        weights = (rng.standard_normal(width) / np.sqrt(rank)).astype(np.float32)
        score = rows @ (weights / np.linalg.norm(weights)) + rng.standard_normal(n)
        y[:, label] = score > np.quantile(score, 1 - PREVALENCE[label % len(PREVALENCE)])
    turn = np.linalg.qr(rng.standard_normal((width, width)))[0]
    turn = (rank[:, None] ** -0.5 * turn).astype(np.float32)
    for begin in range(0, n, 8192):
        rows[begin : begin + 8192] = rows[begin : begin + 8192] @ turn
    rows -= rows.mean(axis=0)
    rows /= rows.std(axis=0)
    return rows, y


def measure(
    n_rows: int = 10_000,
    n_features: int = 1024,
    n_labels: int = 14,
    n_C: int = 45,
    *,
    fits: int = 45,
    tight_fits: int = 15,
    paths: int = 1,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Time featcache and its peers.

    Parameters
    ----------
    n_rows, n_features, n_labels, n_C
        The problem; a fifth as many rows, 20,000 at most, are scored.
    fits, tight_fits, paths
        scikit-learn's drawn fits at its default and at the protocol's tolerance, and warm-started paths; 0 leaves out.
    seed
        Of the data and the draws.

    Returns
    -------
    list of dict
        ``name``, ``seconds`` for all fits, ``measured`` (how they were found), ``ratio`` to featcache,
        ``memory`` in multiples of the features and ``auroc`` (largest difference to featcache), or None.
    """
    n_test = min(20_000, n_rows // 5)
    everything, targets = synthetic(n_rows + n_test, n_features, n_labels, seed=seed)
    X, y = everything[:n_rows], targets[:n_rows]
    X_test, y_test = everything[n_rows:], targets[n_rows:]
    C = 10.0 ** np.linspace(-6, 5, n_C)
    total = n_C * n_labels
    drawn, tight = draw(C, n_labels, fits, seed), draw(C, n_labels, tight_fits, seed + 1)
    rows: list[dict[str, Any]] = []

    def add(name: str, seconds: float, measured: str, worst: float | None = None) -> None:
        rows.append({"name": name, "seconds": seconds, "measured": measured, "memory": None, "auroc": worst})

    times = [timed_sweep(X, y, C)]
    found: dict[str, list[float]] = {}
    differences: dict[str, list[float]] = {}
    logits = times[0][1].decision_function(X_test)
    # In turns with the peers, so that a noisy minute hits all of them.
    peers = [
        ("scikit-learn, cold, float32, tol 1e-4", drawn, np.float32, 1e-4),
        ("scikit-learn, cold, float64, tol 1e-4", drawn, np.float64, 1e-4),
        ("scikit-learn, cold, float64, tol 1e-12 (DINOv2's protocol)", tight, np.float64, 1e-12),
    ]
    converged = {}
    for name, which, dtype, tol in peers:
        if not which:
            continue
        given = X.astype(dtype, copy=False)
        for place, label in which:
            begin = time.perf_counter()
            model = fit_sklearn(given, y[:, label], C[place], tol)
            found.setdefault(name, []).append(time.perf_counter() - begin)
            done = bool(model.n_iter_[0] < 1000)
            if done and y[:, label].sum() >= ENOUGH and y_test[:, label].any():
                scores = logits[place, :, label], model.decision_function(X_test.astype(dtype))
                differences.setdefault(name, []).append(difference(y_test[:, label], *scores))
            converged[name] = converged.get(name, 0) + int(done)
        del given
        times.append(timed_sweep(X, y, C))
    if fits:
        seconds = in_parallel(X, y, C, drawn)
        found["scikit-learn, cold, float32, tol 1e-4, 2 jobs"] = [seconds / len(drawn)] * len(drawn)
    for label in np.random.default_rng(seed).choice(n_labels, min(paths, n_labels), replace=False):
        found.setdefault("scikit-learn, warm-started path, float32, tol 1e-4", []).extend(
            warm_path(X, y[:, label], C)
        )  # fmt: skip
    if paths:
        times.append(timed_sweep(X, y, C))
    own = float(np.median([seconds for seconds, _ in times]))
    fitted = times[0][1]
    add("featcache LogisticSweep", own, f"all {total} fits, median of {len(times)}")
    passes, unconverged = float(fitted.n_iter_.sum() / total), int((~fitted.converged_).sum())
    rows[0] |= {"memory": peak_memory(X, y, n_C), "passes": passes, "unconverged": unconverged}
    seconds, loose = timed_sweep(X, y, C, tol=1e-2)
    scores = loose.decision_function(X_test)
    worst = max(
        difference(y_test[:, label], logits[place, :, label], scores[place, :, label])
        for place in range(n_C)
        for label in np.flatnonzero((y.sum(axis=0) >= ENOUGH) & y_test.any(axis=0))
    )
    add("featcache LogisticSweep, tol 1e-2", seconds, f"all {total} fits, once", worst)
    for name, seconds_each in found.items():
        stopped = len(seconds_each) - converged.get(name, len(seconds_each))
        note = f"{len(seconds_each)} of {total} fits, extrapolated" + (
            f"; {stopped} at 1000 iterations" * (stopped > 0)
        )
        worst = max(differences[name]) if name in differences else None
        add(name, float(np.mean(seconds_each)) * total, note, worst)
    for row in rows:
        row["ratio"] = row["seconds"] / own
    return rows


def timed_sweep(X: Array, y: Array, C: Array, *, tol: float = 1e-4) -> tuple[float, Any]:
    """Seconds, and the sweep."""
    from featcache.probes import LogisticSweep

    begin = time.perf_counter()
    fitted = LogisticSweep(C, tol=tol).fit(X, y)
    return time.perf_counter() - begin, fitted


def difference(truth: Array, one: Array, two: Array) -> float:
    """Between the AUROC of two scores of a label."""
    from featcache.metrics import auroc

    columns = (score.reshape(-1, 1) for score in (one, two))
    areas = [auroc(truth.reshape(-1, 1), column) for column in columns]
    return abs(areas[0] - areas[1])


def draw(C: Array, labels: int, count: int, seed: int) -> list[tuple[int, int]]:
    """(place in the grid, label) of the fits that stand for all."""
    rng = np.random.default_rng(seed)
    parts = np.array_split(np.arange(len(C)), count) if count else []
    return [(int(rng.choice(part)), int(rng.integers(labels))) for part in parts if len(part)]


def fit_sklearn(X: Array, y: Array, C: float, tol: float) -> Any:
    """One cold fit."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=C, tol=tol, max_iter=1000).fit(X, y)


def warm_path(X: Array, y: Array, C: Array) -> list[float]:
    """Seconds of each fit along the path."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(tol=1e-4, max_iter=1000, warm_start=True)
    seconds = []
    for strength in C:
        begin = time.perf_counter()
        model.set_params(C=strength).fit(X, y)
        seconds.append(time.perf_counter() - begin)
    return seconds


def in_parallel(X: Array, y: Array, C: Array, drawn: Sequence[tuple[int, int]]) -> float:
    """Seconds of the drawn fits in two processes, each with a thread of its own; not counting their start."""
    from joblib import Parallel, delayed

    with Parallel(n_jobs=2, inner_max_num_threads=1, backend="loky") as parallel, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parallel(delayed(fit_sklearn)(X[:500], np.arange(500) % 2, 1.0, 1e-2) for _ in range(2))
        begin = time.perf_counter()
        parallel(delayed(fit_sklearn)(X, y[:, label], C[place], 1e-4) for place, label in drawn)
        return time.perf_counter() - begin


def peak_memory(X: Array, y: Array, n_C: int) -> float | None:
    """Peak of a sweep in multiples of the features; None where /proc does not tell."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "X.npy", X)
        np.save(Path(folder) / "y.npy", y)
        done = subprocess.run(
            [sys.executable, __file__, "--child", folder, "--C", str(n_C)], capture_output=True, text=True, check=True
        )
    return float(done.stdout)


def child(folder: Path, n_C: int) -> None:
    """Print the peak of a sweep in multiples of the features."""
    from featcache.probes import LogisticSweep

    grid = 10.0 ** np.linspace(-6, 5, n_C)
    small = np.random.default_rng(0).standard_normal((64, 8))
    LogisticSweep((1.0,)).fit(small, np.arange(64) % 2)  # loads what is loaded late
    before = status("VmRSS")
    X, y = np.load(folder / "X.npy"), np.load(folder / "y.npy")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak
    LogisticSweep(grid).fit(X, y)
    print((status("VmHWM") - before) / X.nbytes)


def status(field: str) -> int:
    """A size of this process in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def main() -> None:
    parser = argparse.ArgumentParser(description="The logistic sweep against scikit-learn.")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--labels", type=int, default=14)
    parser.add_argument("--C", type=int, default=45)
    parser.add_argument("--fits", type=int, default=45, help="scikit-learn fits at its default tolerance")
    parser.add_argument("--tight-fits", type=int, default=15, help="scikit-learn fits at DINOv2's tolerance")
    parser.add_argument("--paths", type=int, default=1, help="warm-started paths")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.C)
        return
    print(
        f"{options.rows} x {options.width} float32, {options.labels} labels x {options.C} C, {os.cpu_count()} cores\n"
    )
    rows = measure(
        options.rows,
        options.width,
        options.labels,
        options.C,
        fits=options.fits,
        tight_fits=options.tight_fits,
        paths=options.paths,
    )
    print("| | seconds | times featcache | measured | max AUROC difference |\n|---|---|---|---|---|")
    for row in rows:
        difference = "" if row["auroc"] is None else f"{row['auroc']:.5f}"
        print(f"| {row['name']} | {row['seconds']:,.1f} | {row['ratio']:,.1f} | {row['measured']} | {difference} |")
    own = rows[0]
    memory = "not measured" if own["memory"] is None else f"{own['memory']:.2f} x the features"
    print(f"\npeak memory {memory}; {own['passes']:.1f} passes a fit; {own['unconverged']} fits not converged")


if __name__ == "__main__":
    main()
