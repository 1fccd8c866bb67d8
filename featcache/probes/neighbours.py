"""Nearest neighbours by cosine similarity: exact, unless something else is asked for."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featcache.errors import ConfigurationError, ProbeError
from featcache.probes.base import check_features
from featcache.probes.parameters import Parameters, not_fitted
from featcache.probes.ranking import NEAR_TIE, Ranking, Rows, lengths, rank, scan
from featcache.probes.vectors import VectorIndex, faiss_threads, gpu_count

__all__ = ["Algorithm", "ExactKNN", "IndexKind"]

Algorithm = Literal["auto", "faiss", "bf16", "float64"]
"""How neighbours are found: the result is the same."""
IndexKind = Literal["flat", "ivf", "hnsw"]
"""``flat`` compares with every row; the others are approximate."""

# Candidates beyond k that are scored again.
_MARGIN = 16
# Multiplications from which the screen saves more than its preparation takes, and than importing torch takes.
_REPAYS_SCREEN = 1e11
_REPAYS_TORCH = 4e11
# The screen is prepared once for all queries: fewer do not repay it.
_FEWEST_QUERIES = 1000
# What a search builds from the rows when it first needs it.
_BUILT = ("_screen", "_vectors")
# Queries by which the recall of an approximate index is measured.
_RECALL_SAMPLE = 256


class ExactKNN(Parameters):
    """The k nearest rows by cosine similarity: something fast finds candidates, float64 ranks them.

    The result is the ranking by the cosine in float64, rounded to 12 decimals, with ties broken by row number. It
    depends neither on the batch a query came in nor on the algorithm: each proves that no row it left out is among
    the k nearest, by a bound on its rounding error, and where it cannot, the query is compared with every row in
    float64.

    Parameters
    ----------
    k
        Neighbours for each query.
    metric
        Only ``"cosine"``.
    threads
        Threads of a search; None leaves the settings of FAISS and torch alone. They are put back afterwards.
    algorithm
        ``"faiss"``: a float32 search finds candidates (on GPUs where faiss-gpu finds them). ``"bf16"``: a bfloat16
        screen, for large searches on CPUs that multiply bfloat16 matrices; it imports torch. ``"float64"``: compare
        everything in float64. ``"auto"``: the one of the first two that should be faster.
    index
        ``"flat"`` is exact. ``"ivf"`` and ``"hnsw"`` are approximate and miss neighbours: the recall on a sample of
        the queries is measured against the exact result.

    Attributes
    ----------
    n_rows_ : int
        Rows fitted.
    rows_ : (n_rows, D) float32
        The training rows as given (not copied where they were float32 already: leave them unchanged).
    algorithm_ : str
        Of the last search: ``"faiss"``, ``"faiss-gpu"``, ``"bf16"``, ``"float64"``, ``"ivf"`` or ``"hnsw"``.
    n_near_ties_ : int
        Of the last search: neighbouring places, the k-th and the one after it included, whose similarities differ by
        less than 1e-6 and more than 0: where a float32 search may swap.
    n_scanned_ : int
        Of the last search: queries that the bound did not decide and that were compared with every row in float64.
    recall_ : float
        Of the last search: the share of the true k nearest that were found; 1.0 for an exact index.
    notes_ : tuple of str
        What a reader of the numbers must know.

    References
    ----------
    Douze et al., "The Faiss library", arXiv 2401.08281.

    Examples
    --------
    >>> index = ExactKNN(2).fit([[1, 0], [0, 1], [2, 0]])
    >>> index.kneighbors([[1, 0]])[1]
    array([[0, 2]])
    """

    def __init__(
        self,
        k: int,
        metric: Literal["cosine"] = "cosine",
        *,
        threads: int | None = None,
        algorithm: Algorithm = "auto",
        index: IndexKind = "flat",
    ) -> None:
        self.k = k
        self.metric = metric
        self.threads = threads
        self.algorithm = algorithm
        self.index = index

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled and copied: without the indexes, which the next search builds again from the rows.

        FAISS cannot serialise an index where another library made with SWIG (SimpleITK) was imported after it: they
        share one table of C++ types. Without them the pickle is smaller too, and fits a machine with other processors.
        An index of kind ``"hnsw"`` that is built again by several threads may find other neighbours.
        """
        return {name: value for name, value in vars(self).items() if name not in _BUILT}

    def fit(self, X: ArrayLike, y: object = None) -> Self:
        """Keep (n, D) features; indexes are built when the first search needs them. ``y`` is ignored.

        Raises
        ------
        ProbeError
            If a row is NaN, infinite or zero, ``k`` is not positive, or there are fewer than ``k`` rows.
        ConfigurationError
            For another metric, algorithm or index.
        """
        if self.metric != "cosine":
            raise ConfigurationError(f"unknown metric {self.metric!r}", remedy='Use metric="cosine".')
        for name, value, known in (
            ("algorithm", self.algorithm, get_args(Algorithm)),
            ("index", self.index, get_args(IndexKind)),
        ):
            if value not in known:
                raise ConfigurationError(f"unknown {name} {value!r}", remedy=f"One of {', '.join(known)}.")
        if self.index != "flat" and self.algorithm not in ("auto", "faiss"):
            raise ConfigurationError(f"an index of kind {self.index!r} is searched by FAISS, not {self.algorithm!r}")
        features = check_features(X, name="the training features")
        n = len(features)
        if not 1 <= self.k <= n:
            raise ProbeError(
                f"k = {self.k} neighbours were asked for, the training rows are {n} (n_samples = {n})",
                remedy=f"Choose k between 1 and {n}.",
            )
        self._rows = lengths(features, "the training features")
        self.rows_, self.n_rows_, self.n_features_in_ = features, n, features.shape[1]
        for built in _BUILT:
            vars(self).pop(built, None)
        return self

    def kneighbors(self, Q: ArrayLike) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Similarity and row of the k nearest, nearest first.

        Parameters
        ----------
        Q
            (n, D) queries.

        Returns
        -------
        similarity : (n, k) float32
            Descending.
        index : (n, k) int64
            Ascending among similarities that are equal in float64.

        Raises
        ------
        ProbeError
            If a query is NaN, infinite or zero, has another D, or the index is not fitted.
        """
        if not hasattr(self, "n_rows_"):
            raise not_fitted("the index")
        given = check_features(Q, n_features=self.rows_.shape[1])
        queries = lengths(given, "the queries")
        self.recall_, self.n_scanned_ = 1.0, 0
        self.notes_: tuple[str, ...] = ()
        with faiss_threads(self.threads):
            found = self._exact(queries) if self.index == "flat" else self._approximate(queries)
        self.n_near_ties_ = int(found.near_ties.sum())
        if self.index == "flat":
            self.notes_ = (
                f"Neighbours are exact: the float64 ranking, found by {self.algorithm_}, {self.n_scanned_} of "
                f"{len(found.index)} queries by a full scan. A float32 search may swap {self.n_near_ties_} of "
                f"{found.index.size} places, whose similarities differ by less than {NEAR_TIE:g}.",
            )
        return found.similarity.astype(np.float32), found.index

    def _exact(self, queries: Rows) -> Ranking:
        self.algorithm_ = self._choose(len(queries.vectors))
        found = Ranking.empty(len(queries.vectors), self.k)
        everything = np.arange(len(queries.vectors))
        if self.algorithm_ == "bf16":
            undecided = self._by_screen(queries, found)
        elif self.algorithm_ == "float64":
            undecided = everything
        else:
            undecided = everything
            # Where the bound is too wide for a few candidates, it may do for more.
            for width in (self.k + _MARGIN, 8 * (self.k + _MARGIN)):
                if len(undecided) and (width < self.n_rows_ or width == self.k + _MARGIN):
                    undecided = self._by_vectors(queries, undecided, min(width, self.n_rows_), found)
        self.n_scanned_ = len(undecided)
        if len(undecided):
            found.put(undecided, scan(self._rows, queries.take(undecided), self.k))
        return found

    def _choose(self, n_queries: int) -> str:
        on_gpu = "faiss-gpu" if gpu_count() else "faiss"
        if self.algorithm == "faiss":
            return on_gpu
        if self.algorithm != "auto":
            return self.algorithm
        work = float(n_queries) * self.n_rows_ * self.rows_.shape[1]
        enough = _REPAYS_SCREEN if "torch" in sys.modules else _REPAYS_TORCH
        if on_gpu == "faiss" and work >= enough and n_queries >= _FEWEST_QUERIES and find_spec("torch"):
            from featcache.probes.screen import Screen, cpu_has_bfloat16

            if cpu_has_bfloat16() and Screen.decides(self.n_rows_, self.k):
                return "bf16"
        return on_gpu

    def _by_screen(self, queries: Rows, found: Ranking) -> NDArray[np.int64]:
        """Fill in what the screen decides; the queries that it does not."""
        from featcache.probes.screen import Screen

        if not hasattr(self, "_screen"):
            self._screen = Screen(self._rows, self.threads)
        undecided = np.ones(len(queries.vectors), dtype=bool)
        for part in self._screen.search(queries, self.k):
            near = rank(
                self._rows, queries.take(part.queries), self.k, part.rows, part.counts, threads=self._screen.workers()
            )
            found.put(part.queries, near)
            undecided[part.queries] = False
        return np.flatnonzero(undecided)

    def _by_vectors(self, queries: Rows, which: NDArray[np.int64], width: int, found: Ranking) -> NDArray[np.int64]:
        """Fill in what a float32 search decides of some queries; those that it does not."""
        chosen = queries.take(which)
        bound, candidates = self._flat().search(chosen, width)
        near = rank(self._rows, chosen, self.k, candidates)
        found.put(which, near)
        if width == self.n_rows_:
            return which[:0]
        # A sum of D float32 products of two unit rows, each rounded to float32, is off by less than this.
        slack = (self.rows_.shape[1] + 8) * 2.0**-24
        unsure = np.flatnonzero(bound[:, -1] >= near.similarity[:, -1] - slack - NEAR_TIE)
        return which[unsure]

    def _flat(self) -> VectorIndex:
        if not hasattr(self, "_vectors"):
            self._vectors = VectorIndex(self._rows, "flat")
        return self._vectors

    def _approximate(self, queries: Rows) -> Ranking:
        if not hasattr(self, "_vectors"):
            self._vectors = VectorIndex(self._rows, self.index)
        _, candidates = self._vectors.search(queries, min(self.n_rows_, self.k + _MARGIN))
        short = np.flatnonzero((candidates >= 0).sum(axis=1) < self.k)
        counts = (candidates >= 0).sum(axis=1)
        full = np.flatnonzero(counts >= self.k)
        found = Ranking.empty(len(candidates), self.k)
        flat = candidates[full][candidates[full] >= 0]
        found.put(full, rank(self._rows, queries.take(full), self.k, flat, counts[full]))
        # An index that looked into too few cells has no k rows to offer.
        found.put(short, scan(self._rows, queries.take(short), self.k))
        n = len(queries.vectors)
        sample = np.unique(np.linspace(0, n - 1, min(n, _RECALL_SAMPLE)).astype(np.int64))
        exact = scan(self._rows, queries.take(sample), self.k)
        hits = [np.isin(a, b).sum() for a, b in zip(exact.index, found.index[sample], strict=True)]
        self.recall_ = float(np.sum(hits) / exact.index.size)
        self.algorithm_, self.n_scanned_ = self.index, len(short)
        self.notes_ = (
            f"Neighbours are approximate ({self._vectors.description}): recall {self.recall_:.4f} of the {self.k} "
            f"nearest, measured on {len(sample)} queries.",
        )
        return found
