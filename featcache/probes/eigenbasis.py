"""Rows of features in the eigenbasis of their covariance: what a Gram matrix knows, every penalised fit can use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from featcache.probes.base import row_blocks

__all__ = ["Eigenbasis", "eigenbasis", "moments"]

# With fewer rows than columns, directions whose variance is smaller than this share of the largest are rounding errors.
_NOISE = 1e-13


@dataclass(frozen=True, slots=True)
class Eigenbasis:
    """Centred (and scaled) rows, turned to the principal directions of these rows.

    Linear models are equivalent in it: ``(x - mean) / scale @ w == rows @ (vectors.T @ w)`` for each w in the span of
    the rows, and an L2 penalty of w is an L2 penalty of the turned weights.
    """

    rows: NDArray[np.float32]
    """(n, r + 1): coordinates in decreasing order of variance, and a last column of ones, the intercept's."""
    variance: NDArray[np.float64]
    """(r + 1,) mean square of each column of ``rows``; 1 for the intercept."""
    vectors: NDArray[np.float32]
    """(D, r) orthonormal directions; r = D, or the rank for fewer rows than columns."""
    mean: NDArray[np.float64]
    """(D,) of the features as given."""
    scale: NDArray[np.float64]
    """(D,) divisor of the centred features; ones where they were not standardised."""

    def turn(self, coef: NDArray[np.float64]) -> NDArray[np.float64]:
        """(r + 1, m) weights for ``rows`` of (m, D) weights of centred and scaled features; the intercepts are 0."""
        inside = self.vectors.T.astype(np.float64) @ coef.T
        return np.concatenate([inside, np.zeros((1, len(coef)))])

    def turn_back(self, weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(m, D) weights of centred and scaled features and (m,) intercepts of (r + 1, m) weights for ``rows``."""
        return (self.vectors.astype(np.float64) @ weights[:-1]).T, weights[-1].copy()


def moments(parts: Sequence[NDArray[np.floating]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and scale of each column over all parts, as :func:`column_moments`, from any floating dtype.

    Parameters
    ----------
    parts
        Arrays of shape (n_i, D).

    Returns
    -------
    mean, scale : (D,) float64
        ``scale`` is the standard deviation with divisor n, and 1 for a constant column.

    Examples
    --------
    >>> moments([np.array([[1.0, 5.0]]), np.array([[3.0, 5.0]])])
    (array([2., 5.]), array([1., 1.]))
    """
    n, width = sum(len(part) for part in parts), parts[0].shape[1]
    total, squares = np.zeros(width), np.zeros(width)
    low, high = np.full(width, np.inf), np.full(width, -np.inf)
    for block in _blocks(parts):
        total += block.sum(axis=0, dtype=np.float64)
        low, high = np.minimum(low, block.min(axis=0)), np.maximum(high, block.max(axis=0))
    mean = total / n
    for block in _blocks(parts):
        squares += np.square(block - mean).sum(axis=0)
    # By its range, not by a deviation of zero: the mean of equal numbers is rounded too.
    return mean, np.where(low == high, 1.0, np.sqrt(squares / n))


def eigenbasis(
    parts: Sequence[NDArray[np.floating]], mean: NDArray[np.float64], scale: NDArray[np.float64]
) -> Eigenbasis:
    """Turn ``(part - mean) / scale`` of all parts, one below the other, to the eigenbasis of their Gram matrix.

    One float32 copy of the rows is made. With fewer rows than columns the Gram matrix of the rows is used,
    and the copy has at most n columns.

    Parameters
    ----------
    parts
        Arrays of shape (n_i, D), finite, of any floating dtype.
    mean, scale
        (D,) float64; ``mean`` must be that of all rows.

    Returns
    -------
    Eigenbasis

    Examples
    --------
    >>> basis = eigenbasis([np.array([[1.0, 1.0], [3.0, 3.0]])], np.array([2.0, 2.0]), np.ones(2))
    >>> basis.rows.shape, basis.variance.round(6).tolist()
    ((2, 3), [2.0, 0.0, 1.0])
    """
    n, width = sum(len(part) for part in parts), parts[0].shape[1]
    centre, divisor = mean.astype(np.float32), scale.astype(np.float32)
    # What rounding the mean to float32 left over: a constant that only the intercept would see, but large in bad data.
    left = ((mean - centre) / scale).astype(np.float32)

    def centred(block: NDArray[np.floating]) -> NDArray[np.float32]:
        shifted = block.astype(np.float32)
        shifted -= centre
        shifted /= divisor
        shifted -= left
        return shifted

    if n < width:
        return _of_few_rows(np.concatenate([centred(block) for block in _blocks(parts)]), mean, scale)
    gram = np.zeros((width, width))
    for block in _blocks(parts):
        shifted = centred(block)
        gram += shifted.T @ shifted
    gram /= n
    # In place: of a symmetric matrix the transposed view is the same matrix in the order that LAPACK wants.
    turned = eigh(gram.T, overwrite_a=True, check_finite=False, driver="evd")[1]
    vectors = np.ascontiguousarray(turned[:, ::-1], dtype=np.float32)
    del gram, turned
    rows = np.empty((n, width + 1), dtype=np.float32)
    rows[:, -1] = 1
    start = 0
    for block in _blocks(parts):
        rows[start : start + len(block), :-1] = centred(block) @ vectors
        start += len(block)
    return Eigenbasis(rows, _mean_squares(rows), vectors, mean, scale)


def _of_few_rows(shifted: NDArray[np.float32], mean: NDArray[np.float64], scale: NDArray[np.float64]) -> Eigenbasis:
    """The basis from the (n, n) Gram matrix, in float64: its square roots are needed."""
    n = len(shifted)
    gram = np.zeros((n, n))
    step = max(1, 2**23 // n)
    for start in range(0, shifted.shape[1], step):
        columns = shifted[:, start : start + step].astype(np.float64)
        gram += columns @ columns.T
    values, left = np.linalg.eigh(gram)
    kept = values > _NOISE * max(float(values[-1]), np.finfo(np.float64).tiny)
    values, left = values[kept][::-1], left[:, kept][:, ::-1]
    root = np.sqrt(values)
    rows = np.ones((n, len(values) + 1), dtype=np.float32)
    rows[:, :-1] = left * root
    vectors = shifted.T @ (left / root).astype(np.float32)
    return Eigenbasis(rows, _mean_squares(rows), vectors, mean, scale)


def _mean_squares(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    total = np.zeros(rows.shape[1])
    for block in row_blocks(*rows.shape):
        total += np.einsum("nq,nq->q", rows[block], rows[block])
    return total / len(rows)


def _blocks(parts: Sequence[NDArray[np.floating]]) -> Iterator[NDArray[np.floating]]:
    for part in parts:
        for rows in row_blocks(len(part), 64 * part.shape[1]):
            yield part[rows]
