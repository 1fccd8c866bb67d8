"""Exact k nearest neighbours against FAISS IndexFlatIP, scikit-learn and torch, alternated in one run.

    python benchmarks/probes_knn.py                      # 86000 references x 1024, 4096 queries, k = 20 and 200
    python benchmarks/probes_knn.py --rows 20000 --queries 2000

All peers get the same float32 rows and two threads (``--threads``). ``build`` is what is done once for all queries
(lengths, rounding, adding to an index), ``search`` what each query costs. The features are synthetic and seeded: a
spectrum that falls like i^-0.7 around a common mean, cosines near ``--cosine``, as embeddings of one modality are.
featcache's result is compared with the float64 ranking on a sample of the queries.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

# Before numpy is loaded; for all peers alike.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "10")

import faiss
import numpy as np
import threadpoolctl

from featcache.probes import ExactKNN

Array = np.ndarray[Any, Any]
_SAMPLE = 64


def synthetic(n: int, width: int, *, cosine: float, seed: int, what: int) -> Array:
    """(n, width) float32 rows of a decaying spectrum around a mean that gives pairs about this cosine."""
    spectrum = np.arange(1, width + 1, dtype=np.float32) ** -0.7
    mean = np.random.default_rng(seed).standard_normal(width, dtype=np.float32)
    mean *= np.sqrt(cosine / (1 - cosine) * (spectrum**2).sum() / (mean**2).sum())
    rows = np.random.default_rng([seed, what]).standard_normal((n, width), dtype=np.float32)
    rows *= spectrum
    rows += mean
    return rows


class Faiss:
    """IndexFlatIP over unit rows."""

    name = "FAISS IndexFlatIP"

    def build(self, X: Array, k: int) -> None:
        self.k = k
        unit = X / np.linalg.norm(X, axis=1, keepdims=True)
        self.index = faiss.IndexFlatIP(X.shape[1])
        self.index.add(unit)

    def search(self, Q: Array) -> Array:
        return self.index.search(Q / np.linalg.norm(Q, axis=1, keepdims=True), self.k)[1]


class Featcache:
    """ExactKNN with a fixed algorithm."""

    def __init__(self, algorithm: Any) -> None:
        self.algorithm = algorithm
        self.name = f"featcache ExactKNN, {algorithm}"

    def build(self, X: Array, k: int) -> None:
        self.knn = ExactKNN(k, algorithm=self.algorithm).fit(X)
        self.knn.kneighbors(X[:1])  # builds the index

    def search(self, Q: Array) -> Array:
        return self.knn.kneighbors(Q)[1]


class Sklearn:
    """Brute force over unit rows."""

    name = "scikit-learn brute"

    def build(self, X: Array, k: int) -> None:
        from sklearn.neighbors import NearestNeighbors

        unit = X / np.linalg.norm(X, axis=1, keepdims=True)
        self.index = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(unit)

    def search(self, Q: Array) -> Array:
        unit = Q / np.linalg.norm(Q, axis=1, keepdims=True)
        return self.index.kneighbors(unit, return_distance=False)


def true_ranking(X: Array, Q: Array, k: int) -> Array:
    """Float64, ties by row, straight from the definition."""
    similarity = np.empty((len(Q), len(X)))
    q = Q.astype(np.float64)
    for start in range(0, len(X), 4096):
        x = X[start : start + 4096].astype(np.float64)
        similarity[:, start : start + 4096] = q @ x.T / np.outer(np.linalg.norm(q, axis=1), np.linalg.norm(x, axis=1))
    return np.argsort(-similarity.round(12), axis=1, kind="stable")[:, :k]


def measure(
    *,
    rows: int = 86_000,
    width: int = 1024,
    queries: int = 4096,
    k: int = 20,
    cosine: float = 0.6,
    repeats: int = 3,
    threads: int = 2,
    sklearn: bool = False,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """One row a peer: median seconds to build and to search, and the ratio of its search to FAISS."""
    import torch

    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)
    X = synthetic(rows, width, cosine=cosine, seed=seed, what=1)
    Q = synthetic(queries, width, cosine=cosine, seed=seed, what=2)
    peers: list[Any] = [Faiss(), Featcache("bf16"), Featcache("faiss")]
    if sklearn:
        peers.append(Sklearn())
    taken: dict[str, dict[str, list[float]]] = {peer.name: {"build": [], "search": []} for peer in peers}
    result: dict[str, Array] = {}
    with threadpoolctl.threadpool_limits(threads):
        for peer in peers:
            taken[peer.name]["build"].append(seconds(peer.build, X, k))
        for _ in range(repeats):
            for peer in peers:
                begin = time.perf_counter()
                result[peer.name] = peer.search(Q)
                taken[peer.name]["search"].append(time.perf_counter() - begin)
        sample = np.linspace(0, queries - 1, min(queries, _SAMPLE)).astype(int)
        truth = true_ranking(X, Q[sample], k)
    table = []
    for peer in peers:
        found = result[peer.name][sample]
        sets = np.mean([len(set(a) & set(b)) / k for a, b in zip(found, truth, strict=True)])
        row = {
            "peer": peer.name,
            "k": k,
            "build_s": statistics.median(taken[peer.name]["build"]),
            "search_s": statistics.median(taken[peer.name]["search"]),
            "times_faster_than_faiss": statistics.median(taken[peers[0].name]["search"])
            / statistics.median(taken[peer.name]["search"]),
            "recall": float(sets),
            "places_as_in_float64": float((found == truth).mean()),
        }
        if isinstance(peer, Featcache):
            row |= {"near_ties": peer.knn.n_near_ties_, "scanned": peer.knn.n_scanned_}
        table.append(row)
    return table


def seconds(work: Callable[..., object], *arguments: object) -> float:
    begin = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - begin


def print_table(table: Sequence[dict[str, Any]]) -> None:
    print(
        f"{'peer':<28}{'k':>5}{'build s':>9}{'search s':>10}{'x FAISS':>9}{'recall':>9}{'places':>9}"
        f"{'near ties':>11}{'scanned':>9}"
    )
    for row in table:
        print(
            f"{row['peer']:<28}{row['k']:>5}{row['build_s']:>9.2f}{row['search_s']:>10.2f}"
            f"{row['times_faster_than_faiss']:>9.2f}{row['recall']:>9.4f}{row['places_as_in_float64']:>9.4f}"
            f"{row.get('near_ties', '-'):>11}{row.get('scanned', '-'):>9}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="Exact nearest neighbours against FAISS.")
    parser.add_argument("--rows", type=int, default=86_000)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--queries", type=int, default=4096)
    parser.add_argument("--k", type=int, nargs="+", default=[20, 200])
    parser.add_argument("--cosine", type=float, default=0.6, help="of an average pair")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sklearn", action="store_true", help="scikit-learn too (slow)")
    options = vars(parser.parse_args())
    ks = options.pop("k")
    print(
        f"{options['queries']} queries, {options['rows']} x {options['width']}, {options['repeats']} repeats, medians"
    )
    for k in ks:
        print_table(measure(k=k, **options))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory of this process, all peers together: {peak:.1f} GiB")


if __name__ == "__main__":
    main()
