"""Few-shot episodes solved in batches against scikit-learn, one classifier an episode.

All in one run: in each repeat every peer takes its turn, so that a noisy minute hits all of them; medians.

    python benchmarks/probes_fewshot.py                              # 10000 test rows x 1024, about 2 minutes
    python benchmarks/probes_fewshot.py --test-rows 25000 --shots 1,16

What is compared. Every peer gets the same episodes, the same L2-normalised float32 features and the same test rows,
and ends with the accuracy of each episode on all of them. scikit-learn fits and predicts episode by episode, on
``--reference-episodes`` of them; its time is scaled to all episodes. Ours draws no episode in the measured time, as
the peers do not, but checks its inputs, fits, scores every class and calls the metric.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

# Before numpy is loaded; for all peers alike.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "10")

import numpy as np
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.neighbors import NearestCentroid

from featcache.probes import FewShot, draw_episodes

Array = np.ndarray[Any, Any]

PEERS: dict[str, Callable[[], Any]] = {
    "sklearn LogisticRegression": lambda: LogisticRegression(max_iter=1000),
    "sklearn RidgeClassifier": lambda: RidgeClassifier(alpha=1.0),
    "sklearn NearestCentroid": NearestCentroid,
}
HEADS = ("ridge", "centroid", "logistic", "knn")


def features(rows: int, width: int, classes: int, seed: int) -> tuple[Array, Array]:
    """Rows of length 1 with a spectrum that decays as 1 / rank, and classes that differ a little in it."""
    rng = np.random.default_rng(seed)
    decay = np.arange(1, width + 1) ** -0.5
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((width, width)))[0]
    centre = 0.7 * np.random.default_rng(2).standard_normal((classes, width))
    y = rng.integers(0, classes, rows)
    X = ((rng.standard_normal((rows, width)) + centre[y]) * decay) @ turn
    return (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32), y


def measure(
    *,
    test_rows: int = 10_000,
    width: int = 1024,
    classes: int = 14,
    shots: tuple[int, ...] = (1, 4, 16),
    n_episodes: int = 100,
    reference_episodes: int = 10,
    repeats: int = 3,
    heads: tuple[str, ...] = HEADS,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Rows of the table: for each shot and peer seconds for all episodes and mean accuracy.

    Each row of ours has the ratios of the peers' times to its own, by peer.
    """
    X, y = features(max(20 * classes * max(shots), 4000), width, classes, seed)
    X_test, y_test = features(test_rows, width, classes, seed + 1)
    table: list[dict[str, Any]] = []
    for shot in shots:
        episodes = draw_episodes(y, (shot,), n_episodes, seed)
        seconds: dict[str, list[float]] = {name: [] for name in (*PEERS, *heads)}
        scored: dict[str, Array] = {}
        for _ in range(repeats):
            for name, make in PEERS.items():
                start = time.perf_counter()
                scored[name] = one_by_one(make, episodes.rows[0][:reference_episodes], (X, y), (X_test, y_test))
                seconds[name].append((time.perf_counter() - start) * n_episodes / reference_episodes)
            for head in heads:
                start = time.perf_counter()
                probe = FewShot(head=head, transform="l2").fit(X, y, episodes=episodes)  # type: ignore[arg-type]
                scored[head] = probe.evaluate(X_test, y_test)[0]
                seconds[head].append(time.perf_counter() - start)
        median = {name: statistics.median(times) for name, times in seconds.items()}
        for name in seconds:
            table.append(
                {
                    "shots": shot,
                    "peer": f"FewShot {name}" if name in heads else name,
                    "seconds": median[name],
                    "accuracy": float(scored[name][:reference_episodes].mean()),
                    "ratios": {peer: median[peer] / median[name] for peer in PEERS} if name in heads else {},
                }
            )
    return table


def one_by_one(
    make: Callable[[], Any], supports: Sequence[Array], train: tuple[Array, Array], test: tuple[Array, Array]
) -> Array:
    """(n,) accuracies of a scikit-learn classifier fitted on one episode after the other."""
    (X, y), (X_test, y_test), values = train, test, []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for support in supports:
            predicted = make().fit(X[support], y[support]).predict(X_test)
            values.append(float((predicted == y_test).mean()))
    return np.array(values)


def main() -> None:
    parser = argparse.ArgumentParser(description="Few-shot episodes in batches against scikit-learn.")
    parser.add_argument("--test-rows", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--classes", type=int, default=14)
    parser.add_argument("--shots", default="1,4,16")
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--reference-episodes", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    rows = measure(
        test_rows=options.test_rows,
        width=options.width,
        classes=options.classes,
        shots=tuple(int(shot) for shot in options.shots.split(",")),
        n_episodes=options.episodes,
        reference_episodes=options.reference_episodes,
        repeats=options.repeats,
    )
    sys.stdout.write(
        f"{'shots':>5}  {'peer':<28}{'seconds':>9}{'accuracy':>10}  times faster than {', '.join(PEERS)}\n"
    )
    for row in rows:
        ratios = "".join(f"{ratio:>8.1f}x" for ratio in row["ratios"].values())
        sys.stdout.write(
            f"{row['shots']:>5}  {row['peer']:<28}{row['seconds']:>9.2f}{row['accuracy']:>10.3f}{ratios}\n"
        )


if __name__ == "__main__":
    main()
