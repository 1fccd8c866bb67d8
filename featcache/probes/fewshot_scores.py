"""Scores of many rows by many small classifiers: one matrix product, then the cheap part of each."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["link", "project", "vote_of_support"]

Floats: TypeAlias = NDArray[np.float64]
Singles: TypeAlias = NDArray[np.float32]

_DECIMALS = 6
"""Votes of float32 weights are rounded, so that the same weights summed in another order are ties."""

_CANCELLED = 1e-4
"""Share of |x|^2 + |m|^2 below which |x - m|^2 has lost too many float32 digits to be taken from products."""


def project(X: Singles, squares: Floats, columns: Singles, center: Singles, transform: str) -> Singles:
    """Products of B sets of c columns with the rows of X as episode b transforms them.

    ``c . (x - m) / |x - m|`` comes from ``c . x`` and ``m . x``, so that X is read once and never transformed; rows
    that are so close to m that digits cancel are computed directly.

    Parameters
    ----------
    X
        (n, D) rows.
    squares
        (n,) their squared lengths.
    columns
        (B, c, D).
    center
        (B, D) m; used by ``cl2``.
    transform
        ``cl2``, ``l2`` or ``none``.

    Returns
    -------
    (B, c, n) float32
        Zero for a row without direction.

    Examples
    --------
    >>> X = np.array([[3.0, 4.0]], dtype=np.float32)
    >>> project(X, np.array([25.0]), np.eye(2, dtype=np.float32)[None], np.zeros((1, 2), dtype=np.float32), "l2")
    array([[[0.6],
            [0.8]]], dtype=float32)
    """
    centred = transform == "cl2"
    stacked = np.concatenate([columns, center[:, None, :]], axis=1) if centred else columns
    products: Singles = (stacked.reshape(-1, X.shape[1]) @ X.T).reshape(len(stacked), -1, len(X))
    if transform == "none":
        return products
    if not centred:
        products *= np.where(squares > 0, 1 / np.sqrt(np.where(squares > 0, squares, 1.0)), 0.0).astype(np.float32)
        return products
    wide = center.astype(np.float64)
    length = np.einsum("bd,bd->b", wide, wide)[:, None]
    distance = squares - 2 * products[:, -1] + length
    close = distance <= _CANCELLED * (squares + length)
    inverse = (1 / np.sqrt(np.where(close, 1.0, distance))).astype(np.float32)
    result = products[:, :-1]
    result -= np.einsum("bcd,bd->bc", columns, center)[:, :, None]
    result *= inverse[:, None, :]
    for episode, row in np.argwhere(close):
        difference = X[row] - wide[episode]
        norm = float(np.sqrt(difference @ difference))
        result[episode, :, row] = columns[episode] @ difference / norm if norm > 0 else 0.0
    return result


def link(decision: Singles, intercept: Singles, *, multilabel: bool) -> Floats:
    """Scores of decisions: the softmax over classes, or the sigmoid of each label.

    Parameters
    ----------
    decision
        (B, C, n) without the intercepts; is overwritten.
    intercept
        (B, C).

    Returns
    -------
    (B, n, C) float64

    Examples
    --------
    >>> link(np.zeros((1, 2, 1), dtype=np.float32), np.zeros((1, 2), dtype=np.float32), multilabel=False)
    array([[[0.5, 0.5]]])
    """
    decision += intercept[:, :, None]
    if multilabel:
        np.negative(decision, out=decision)
        np.exp(np.negative(np.logaddexp(np.float32(0), decision, out=decision), out=decision), out=decision)
    else:
        decision -= decision.max(axis=1, keepdims=True)
        np.exp(decision, out=decision)
        decision /= decision.sum(axis=1, keepdims=True)
    return np.ascontiguousarray(decision.transpose(0, 2, 1), dtype=np.float64)


def vote_of_support(
    similarity: Singles, target: Floats, known: NDArray[np.bool_], *, k: int, temperature: float
) -> Floats:
    """Softmax-weighted vote of the k nearest of a support, of all its rows where it has no more.

    Parameters
    ----------
    similarity
        (s, n) of the support's rows and those scored.
    target, known
        (s, C) targets 0 and 1, and which of them count.
    k
        Of equal similarities the first rows are the nearest.
    temperature
        Of the softmax.

    Returns
    -------
    (n, C) float64
        A label that none of the k has known gets its share in the support.

    Examples
    --------
    >>> known = np.ones((2, 2), dtype=bool)
    >>> vote_of_support(np.array([[0.5], [0.1]], dtype=np.float32), np.eye(2), known, k=1, temperature=0.07)
    array([[1., 0.]])
    """
    weight = np.exp((similarity - similarity.max(axis=0)) / np.float32(temperature))
    if k < len(similarity):
        weight *= _nearest(similarity, k)
    share = target.T.astype(np.float32) @ weight
    total = known.T.astype(np.float32) @ weight
    prior = (target.sum(axis=0) / known.sum(axis=0))[:, None]
    scores = np.where(total > 0, share / np.where(total > 0, total, 1), prior)
    return np.ascontiguousarray(np.clip(scores, 0, 1).round(_DECIMALS).T, dtype=np.float64)


def _nearest(similarity: Singles, k: int) -> NDArray[np.bool_]:
    """(s, n) True for the k largest of each column; of equal ones the first rows."""
    last = np.partition(similarity, len(similarity) - k, axis=0)[len(similarity) - k]
    nearest: NDArray[np.bool_] = similarity >= last
    tied = np.flatnonzero(nearest.sum(axis=0) > k)
    if len(tied):
        above, equal = similarity[:, tied] > last[tied], similarity[:, tied] == last[tied]
        nearest[:, tied] = above | (equal & (np.cumsum(equal, axis=0) <= k - above.sum(axis=0)))
    return nearest
