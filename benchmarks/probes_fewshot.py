"""Few-shot episodes solved in batches against scikit-learn, one classifier an episode.

All in one run: in each repeat every peer takes its turn, so that a noisy minute hits all of them; medians.

    python benchmarks/probes_fewshot.py                              # 2000 test rows x 1024, about 2 minutes
    python benchmarks/probes_fewshot.py --test-rows 10000 --shots 1,16

What is compared. Every peer gets the same episodes, the same float32 features and the same test rows, and ends with
the accuracy of each episode on all of them. ``none`` are features as long as standardised ones are, sqrt(D) on
average; ``l2`` are the same at length 1, on which scikit-learn's L-BFGS needs only a few iterations. The more test
rows, the closer both sides come to the one matrix product that both need; ``fit`` leaves the test rows out.
scikit-learn fits and predicts episode by episode, on ``--reference-episodes`` of them; its time is scaled to all
episodes. Ours draws no episode in the measured time, as the peers do not, but checks its inputs, fits, scores every
class and calls the metric.
"""

from __future__ import annotations

import argparse
import itertools
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

LOGISTIC = "sklearn LogisticRegression"
PEERS: dict[str, Callable[[], Any]] = {
    LOGISTIC: lambda: LogisticRegression(max_iter=1000),
    "sklearn RidgeClassifier": lambda: RidgeClassifier(alpha=1.0),
    "sklearn NearestCentroid": NearestCentroid,
}
HEADS = ("ridge", "centroid", "logistic", "knn")


def features(rows: int, width: int, classes: int, seed: int) -> tuple[Array, Array]:
    """Rows about sqrt(width) long with a spectrum that decays as 1 / rank, and classes that differ a little in it."""
    rng = np.random.default_rng(seed)
    decay = np.arange(1, width + 1) ** -0.5
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((width, width)))[0]
    centre = 0.7 * np.random.default_rng(2).standard_normal((classes, width))
    y = rng.integers(0, classes, rows)
    X = ((rng.standard_normal((rows, width)) + centre[y]) * decay) @ turn
    return (X * np.sqrt(width / np.square(decay).sum())).astype(np.float32), y


def measure(
    *,
    test_rows: int = 2_000,
    width: int = 1024,
    classes: int = 14,
    shots: tuple[int, ...] = (1, 4, 16),
    n_episodes: int = 100,
    reference_episodes: int = 10,
    repeats: int = 3,
    heads: tuple[str, ...] = HEADS,
    transforms: tuple[str, ...] = ("none", "l2"),
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Rows of the table: for each transform, shot and peer seconds for all episodes and mean accuracy.

    ``seconds`` is fit and score. Each row of ours has the ratios of the peers' seconds to its own, by peer, and that
    of LogisticRegression's fit to its own.
    """
    X, y = features(max(20 * classes * max(shots), 4000), width, classes, seed)
    X_test, y_test = features(test_rows, width, classes, seed + 1)
    table: list[dict[str, Any]] = []
    for transform, shot in itertools.product(transforms, shots):
        train, test = (X, y), (X_test, y_test)
        if transform == "l2":
            train, test = ((rows / np.linalg.norm(rows, axis=1, keepdims=True), t) for rows, t in (train, test))
        episodes = draw_episodes(y, (shot,), n_episodes, seed)
        ours = [head for head in heads if (head, transform) != ("knn", "none")]
        fits: dict[str, list[float]] = {name: [] for name in (*PEERS, *ours)}
        totals: dict[str, list[float]] = {name: [] for name in (*PEERS, *ours)}
        scored: dict[str, Array] = {}
        for _ in range(repeats):
            for name, make in PEERS.items():
                scored[name], fit, total = one_by_one(make, episodes.rows[0][:reference_episodes], train, test)
                fits[name].append(fit * n_episodes / reference_episodes)
                totals[name].append(total * n_episodes / reference_episodes)
            for head in ours:
                start = time.perf_counter()
                probe = FewShot(head=head, normalize=transform).fit(*train, episodes=episodes)  # type: ignore[arg-type]
                fits[head].append(time.perf_counter() - start)
                scored[head] = probe.evaluate(*test)[0]
                totals[head].append(time.perf_counter() - start)
        fit_of, total_of = ({name: statistics.median(times[name]) for name in times} for times in (fits, totals))
        for name in totals:
            mine = name in ours
            table.append(
                {
                    "transform": transform,
                    "shots": shot,
                    "peer": f"FewShot {name}" if mine else name,
                    "fit": fit_of[name],
                    "seconds": total_of[name],
                    "accuracy": float(scored[name][:reference_episodes].mean()),
                    "ratios": {peer: total_of[peer] / total_of[name] for peer in PEERS} if mine else {},
                    "fit_ratio": fit_of[LOGISTIC] / fit_of[name] if mine else None,
                }
            )
    return table


def one_by_one(
    make: Callable[[], Any], supports: Sequence[Array], train: tuple[Array, Array], test: tuple[Array, Array]
) -> tuple[Array, float, float]:
    """(n,) accuracies of a classifier fitted on one episode after the other, seconds to fit, and of all."""
    (X, y), (X_test, y_test), values, fit = train, test, [], 0.0
    begin = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for support in supports:
            start = time.perf_counter()
            fitted = make().fit(X[support], y[support])
            fit += time.perf_counter() - start
            values.append(float((fitted.predict(X_test) == y_test).mean()))
    return np.array(values), fit, time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description="Few-shot episodes in batches against scikit-learn.")
    parser.add_argument("--test-rows", type=int, default=2_000)
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
    sys.stdout.write(f"{options.episodes} episodes, {options.test_rows} test rows. LR, RC, NC: {', '.join(PEERS)}\n")
    columns = f"{'rows':<5}{'shots':>6}  {'peer':<28}{'fit s':>8}{'all s':>8}{'accuracy':>10}"
    sys.stdout.write(columns + "  fit/LR  all/LR  all/RC  all/NC\n")
    for row in rows:
        line = f"{row['transform']:<5}{row['shots']:>6}  {row['peer']:<28}{row['fit']:>8.2f}{row['seconds']:>8.2f}"
        ratios = [row["fit_ratio"], *row["ratios"].values()] if row["ratios"] else []
        sys.stdout.write(f"{line}{row['accuracy']:>10.3f}" + "".join(f"{ratio:>7.1f}x" for ratio in ratios) + "\n")


if __name__ == "__main__":
    main()
