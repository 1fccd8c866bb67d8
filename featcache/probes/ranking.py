"""The float64 ranking that every search returns, whatever found the candidates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.errors import ProbeError
from featcache.probes.base import row_blocks

__all__ = ["NEAR_TIE", "Ranking", "Rows", "lengths", "rank", "scan"]

NEAR_TIE = 1e-6
"""Two similarities closer than this can change places where somebody ranks them in float32."""

# Float64 sums of the same products in another order differ by less: such similarities are equal.
_DECIMALS = 12
# Similarities ordered at a time: about a second-level cache.
_ORDERED = 2**16
# Pairs that a thread works on at a time.
_PAIRS = 2**15


@dataclass(frozen=True, slots=True)
class Rows:
    """Vectors and their lengths."""

    vectors: NDArray[np.float32]
    """(n, D), as they were given: their direction is not rounded."""
    lengths: NDArray[np.float64]
    """(n,)"""

    def unit(self, rows: slice | NDArray[np.int64]) -> NDArray[np.float64]:
        """Some rows at length 1."""
        unit: NDArray[np.float64] = self.vectors[rows] / self.lengths[rows, None]
        return unit

    def take(self, rows: slice | NDArray[np.int64]) -> Rows:
        """Some of the rows."""
        return Rows(self.vectors[rows], self.lengths[rows])


@dataclass(frozen=True, slots=True)
class Ranking:
    """The nearest of each query, nearest first."""

    similarity: NDArray[np.float64]
    """(n, k) cosines, rounded to 12 decimals."""
    index: NDArray[np.int64]
    """(n, k) rows, ascending among equal similarities."""
    near_ties: NDArray[np.int64]
    """(n,) neighbouring places, the k-th and the one after it included, that differ by less than 1e-6 but do differ."""

    @staticmethod
    def empty(n: int, k: int) -> Ranking:
        """Space for n queries."""
        return Ranking(np.empty((n, k)), np.empty((n, k), np.int64), np.empty(n, np.int64))

    def put(self, where: slice | NDArray[np.int64], part: Ranking) -> None:
        """Copy the rankings of some queries to their places."""
        self.similarity[where], self.index[where], self.near_ties[where] = part.similarity, part.index, part.near_ties


def lengths(features: NDArray[np.float32], name: str) -> Rows:
    """Lengths in float64, where no float32 overflows or vanishes.

    Parameters
    ----------
    features
        (n, D) float32; kept, not copied.
    name
        What the message calls it.

    Raises
    ------
    ProbeError
        If a row is all zero.

    Examples
    --------
    >>> lengths(np.array([[3, 4]], dtype=np.float32), "X").lengths
    array([5.])
    """
    length = np.empty(len(features))
    for rows in row_blocks(len(features), 16 * features.shape[1]):
        wide = features[rows].astype(np.float64)
        length[rows] = np.sqrt(np.einsum("nd,nd->n", wide, wide))
    zero = np.flatnonzero(length == 0)
    if len(zero):
        raise ProbeError(
            f"{name}: {len(zero)} rows are all zero and have no direction, first: {zero[:5].tolist()}",
            remedy="Leave these rows out, or probe other features.",
        )
    return Rows(features, length)


def rank(
    rows: Rows,
    queries: Rows,
    k: int,
    candidates: NDArray[np.int64],
    counts: NDArray[np.int64] | None = None,
    *,
    threads: int = 1,
) -> Ranking:
    """Order candidates by their cosine in float64, ties by row.

    Every dot product is summed in the same order, so that equal rows have equal similarity whatever the batch.

    Parameters
    ----------
    rows, queries
        n and q vectors.
    k
        Places.
    candidates
        (q, m) rows, m >= k; or a flat array of the rows of the first query, then of the second, and so on.
    counts
        (q,) how many of the flat array belong to each query, each at least k.
    threads
        Workers.

    Returns
    -------
    Ranking

    Examples
    --------
    >>> rows = lengths(np.array([[2, 0], [0, 1], [1, 0]], dtype=np.float32), "X")
    >>> rank(rows, rows, 2, np.array([[2, 1, 0]] * 3)).index.tolist()
    [[0, 2], [1, 0], [0, 2]]
    """
    if counts is None:
        counts = np.full(len(candidates), candidates.shape[1])
        candidates = candidates.ravel()
    ends = np.cumsum(counts)
    flat = _cosines(rows, queries, candidates, counts, threads)
    found = Ranking.empty(len(counts), k)
    # Queries with about as many candidates share a rectangle; what is beyond a query's own is never looked at.
    order = np.argsort(counts, kind="stable")
    blocks = []
    start = 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and (stop - start + 1) * counts[order[stop]] <= _ORDERED:
            stop += 1
        blocks.append(order[start:stop])
        start = stop

    def work(chosen: NDArray[np.int64]) -> None:
        count = counts[chosen]
        width = int(count[-1])
        place = (ends[chosen] - count)[:, None] + np.minimum(np.arange(width), count[:, None] - 1)
        near, similarity = candidates[place], flat[place]
        similarity[np.arange(width) >= count[:, None]] = -np.inf
        found.put(chosen, _ordered(similarity, near, k))

    _shared(work, blocks, threads)
    return found


def scan(rows: Rows, queries: Rows, k: int) -> Ranking:
    """Rank every row for every query; equal queries (blank slices, say) are ranked once.

    A float64 matrix product finds the candidates: its error is far below 1e-9, and what is within that of the
    k-th place is ranked like any candidate.

    Examples
    --------
    >>> rows = lengths(np.array([[2, 0], [0, 1], [1, 0]], dtype=np.float32), "X")
    >>> scan(rows, rows, 1).index.tolist()
    [[0], [1], [0]]
    """
    _, first, which = np.unique(queries.vectors, axis=0, return_index=True, return_inverse=True)
    distinct = queries.take(first)
    n, found = len(rows.vectors), Ranking.empty(len(first), k)
    for chosen in row_blocks(len(first), 2 * n):
        unit = distinct.unit(chosen)
        similarity = np.empty((len(unit), n))
        for block in row_blocks(n, 16 * rows.vectors.shape[1]):
            np.matmul(unit, rows.unit(block).T, out=similarity[:, block])
        last = np.partition(similarity, n - k, axis=1)[:, n - k]
        query, near = np.nonzero(similarity >= last[:, None] - NEAR_TIE - 1e-9)
        counts = np.bincount(query, minlength=len(unit))
        found.put(chosen, rank(rows, distinct.take(chosen), k, near, counts))
    return Ranking(found.similarity[which], found.index[which], found.near_ties[which])


def _cosines(
    rows: Rows, queries: Rows, candidates: NDArray[np.int64], counts: NDArray[np.int64], threads: int
) -> NDArray[np.float64]:
    """(sum of counts,) rounded cosines of each query with its candidates."""
    from featcache.probes.dots import dot_pairs

    query = np.repeat(np.arange(len(counts)), counts)
    similarity = np.empty(len(candidates))

    def work(first: int) -> None:
        part = slice(first, first + _PAIRS)
        dot_pairs(rows.vectors, queries.vectors, query[part], candidates[part], similarity[part])
        similarity[part] /= queries.lengths[query[part]] * rows.lengths[candidates[part]]

    _shared(work, range(0, len(candidates), _PAIRS), threads)
    return similarity.round(_DECIMALS, out=similarity)


def _shared(work: Callable[[Any], None], parts: Sequence[Any], threads: int) -> None:
    if threads > 1 and len(parts) > 1:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, parts))
    else:
        for part in parts:
            work(part)


def _ordered(similarity: NDArray[np.float64], near: NDArray[np.int64], k: int) -> Ranking:
    order = np.lexsort((near, -similarity))[:, : k + 1]
    ordered = np.take_along_axis(similarity, order, axis=1)
    with np.errstate(invalid="ignore"):
        gap = ordered[:, :-1] - ordered[:, 1:]
    return Ranking(
        ordered[:, :k],
        np.take_along_axis(near, order[:, :k], axis=1),
        ((gap > 0) & (gap < NEAR_TIE)).sum(axis=1),
    )
