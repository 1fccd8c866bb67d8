"""Exact nearest neighbours by cosine similarity."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featcache.errors import ConfigurationError, ProbeError
from featcache.probes.base import check_features, row_blocks

__all__ = ["ExactKNN"]

# Candidates beyond k that are scored again.
_MARGIN = 16


class ExactKNN:
    """Exact k nearest rows by cosine similarity: FAISS finds candidates, a fixed-order product ranks them.

    Two equal rows always have equal similarity, whatever the batch a query came in, and equal similarities
    are ordered by row number, also at the k-th place; the order that a matrix product alone would give
    depends on its blocking.

    Parameters
    ----------
    k
        Neighbours for each query.
    metric
        Only ``"cosine"``.
    threads
        OpenMP threads of FAISS during a search; None leaves its setting alone. It is put back afterwards.

    Attributes
    ----------
    n_rows_ : int
        Rows fitted.
    rows_ : (n_rows, D) float32
        The training rows at length 1.
    index_ : faiss.IndexFlatIP
        Of these rows.

    References
    ----------
    Douze et al., "The Faiss library", arXiv 2401.08281 (IndexFlatIP).

    Examples
    --------
    >>> index = ExactKNN(2).fit([[1, 0], [0, 1], [2, 0]])
    >>> index.kneighbors([[1, 0]])[1]
    array([[0, 2]])
    """

    def __init__(self, k: int, metric: Literal["cosine"] = "cosine", *, threads: int | None = None) -> None:
        self.k = k
        self.metric = metric
        self.threads = threads

    def fit(self, X: ArrayLike) -> Self:
        """Index (n, D) features.

        Raises
        ------
        ProbeError
            If a row is NaN, infinite or zero, ``k`` is not positive, or there are fewer than ``k`` rows.
        ConfigurationError
            For another metric.
        """
        import faiss

        if self.metric != "cosine":
            raise ConfigurationError(f"unknown metric {self.metric!r}", remedy='Use metric="cosine".')
        features = check_features(X, name="the training features")
        if not 1 <= self.k <= len(features):
            raise ProbeError(
                f"k = {self.k} neighbours were asked for, the training rows are {len(features)}",
                remedy=f"Choose k between 1 and {len(features)}.",
            )
        self.rows_ = _normalise(features, "the training features")
        self.index_: Any = faiss.IndexFlatIP(features.shape[1])
        self.index_.add(self.rows_)
        self.n_rows_ = len(features)
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
            Ascending among equal similarities.

        Raises
        ------
        ProbeError
            If a query is NaN, infinite or zero, has another D, or the index is not fitted.
        """
        if not hasattr(self, "n_rows_"):
            raise ProbeError("the index is not fitted", remedy="Call fit(X) first.")
        queries = check_features(Q, name="the queries", n_features=self.rows_.shape[1])
        queries = _normalise(queries, "the queries")
        width = min(self.n_rows_, self.k + _MARGIN)
        with _faiss_threads(self.threads):
            bound, candidates = self.index_.search(queries, width)
        similarity = np.empty((len(queries), self.k), dtype=np.float32)
        index = np.empty((len(queries), self.k), dtype=np.int64)
        for rows in row_blocks(len(queries), width * queries.shape[1]):
            scores = np.einsum("qd,qcd->qc", queries[rows], self.rows_[candidates[rows]])
            order = np.lexsort((candidates[rows], -scores))[:, : self.k]
            similarity[rows] = np.take_along_axis(scores, order, axis=1)
            index[rows] = np.take_along_axis(candidates[rows], order, axis=1)
        if width < self.n_rows_:
            # A row that FAISS left out may still tie with, or round above, the k-th: scan for those queries.
            slack = np.float32(max(1e-6, np.finfo(np.float32).eps * queries.shape[1] ** 0.5))
            unsure = np.flatnonzero(bound[:, -1] >= similarity[:, -1] - slack)
            if len(unsure):
                similarity[unsure], index[unsure] = self._scan(queries[unsure])
        return similarity, index

    def _scan(self, queries: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Rank every row for every query; equal queries (blank slices, say) are ranked once."""
        distinct, which = np.unique(queries, axis=0, return_inverse=True)
        similarity = np.empty((len(distinct), self.k), dtype=np.float32)
        index = np.empty((len(distinct), self.k), dtype=np.int64)
        for i, query in enumerate(distinct):
            scores = np.einsum("qd,qcd->qc", query[None], self.rows_[None])[0]
            index[i] = np.argsort(-scores, kind="stable")[: self.k]
            similarity[i] = scores[index[i]]
        return similarity[which], index[which]


def _normalise(features: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    """Rows of length 1; the length is taken in float64, where no float32 overflows or vanishes."""
    unit = np.empty_like(features)
    zero: list[int] = []
    for rows in row_blocks(len(features), features.shape[1]):
        wide = features[rows].astype(np.float64)
        length = np.sqrt(np.einsum("nd,nd->n", wide, wide))
        zero += (np.flatnonzero(length == 0) + rows.start).tolist()
        unit[rows] = wide / np.where(length == 0, 1.0, length)[:, None]
    if zero:
        raise ProbeError(
            f"{name}: {len(zero)} rows are all zero and have no direction, first: {zero[:5]}",
            remedy="Leave these rows out, or probe other features.",
        )
    return unit


@contextmanager
def _faiss_threads(threads: int | None) -> Iterator[None]:
    """Run FAISS with so many threads and restore its setting."""
    import faiss

    before = faiss.omp_get_max_threads()
    try:
        if threads is not None:
            faiss.omp_set_num_threads(threads)
        yield
    finally:
        faiss.omp_set_num_threads(before)
