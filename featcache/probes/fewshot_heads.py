"""Linear heads of many small supports at once, each solved in the span of its support.

A support is described by its Gram matrix ``K = Z Z^T`` (B, n, n); a head is the pair of dual weights ``A`` (B, n, m)
and intercepts ``b`` (B, m) whose decisions are ``z . (Z^T A) + b``. Supports of different sizes are padded: a row
that is in no mask has no influence.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["center_gram", "centroid_head", "ridge_head"]

Floats: TypeAlias = NDArray[np.float64]
Mask: TypeAlias = NDArray[np.bool_]


def centroid_head(K: Floats, Y: Floats, known: Mask, *, multilabel: bool) -> tuple[Floats, Floats]:
    """Nearest class mean by Euclidean distance, as a linear function.

    The decision of a class is ``2 z.c - |c|^2``, which is minus its squared distance plus ``|z|^2``, the same for
    all classes. A label's decision is the squared distance to the mean of its negatives minus that to the mean of its
    positives.

    Parameters
    ----------
    K
        (B, n, n) Gram matrices.
    Y
        (B, n, m) targets 0 and 1; anything finite where not known.
    known
        (B, n, m) entries that count.
    multilabel
        Labels, or exclusive classes.

    Returns
    -------
    A : (B, n, m)
    b : (B, m)
        Zero where a mean has no rows.

    References
    ----------
    Wang et al., "SimpleShot: Revisiting Nearest-Neighbor Classification for Few-Shot Learning", arXiv
    1911.04623, equation 2.

    Examples
    --------
    >>> A, b = centroid_head(np.eye(2)[None], np.eye(2)[None], np.ones((1, 2, 2), dtype=bool), multilabel=False)
    >>> A.tolist(), b.tolist()
    ([[[2.0, 0.0], [0.0, 2.0]]], [[-1.0, -1.0]])
    """
    positive = _shares(known & (Y == 1))
    A, b = 2 * positive, -_squares(K, positive)
    if multilabel:
        negative = _shares(known & (Y == 0))
        A, b = A - 2 * negative, b + _squares(K, negative)
    return A, b


def ridge_head(K: Floats, Y: Floats, known: Mask, *, alpha: float) -> tuple[Floats, Floats]:
    """Ridge regression of targets -1 and 1 with an intercept that is not penalised, in its dual form.

    Minimises ``|t - Z w - b|^2 + alpha |w|^2`` for each column. The dual weights solve ``(K + alpha I) A = t - 1 b``
    and sum to zero, so that two solutions of one factorisation, of t and of ones, give both.

    Parameters
    ----------
    K
        (B, n, n) Gram matrices.
    Y
        (B, n, m) targets 0 and 1; anything finite where not known.
    known
        (B, n, m) entries that count. One factorisation serves all columns when they agree.
    alpha
        Strength of the penalty, as scikit-learn's Ridge has it.

    Returns
    -------
    A : (B, n, m)
    b : (B, m)

    References
    ----------
    Saunders, Gammerman and Vovk, "Ridge Regression Learning Algorithm in Dual Variables", ICML 1998; with the
    intercept, Suykens and Vandewalle, "Least Squares Support Vector Machine Classifiers", Neural Processing Letters 9,
    1999.

    Examples
    --------
    >>> A, b = ridge_head(np.eye(2)[None], np.eye(2)[None], np.ones((1, 2, 2), dtype=bool), alpha=1.0)
    >>> A.round(9).tolist(), b.tolist()
    ([[[0.5, -0.5], [-0.5, 0.5]]], [[0.0, 0.0]])
    """
    if not (known == known[:, :, :1]).all():
        parts = [ridge_head(K, Y[:, :, i : i + 1], known[:, :, i : i + 1], alpha=alpha) for i in range(Y.shape[2])]
        return np.concatenate([A for A, _ in parts], axis=2), np.concatenate([b for _, b in parts], axis=1)
    mask = known[:, :, 0].astype(np.float64)
    target = np.where(known, 2 * Y - 1, 0.0)
    A = np.zeros_like(target)
    b = np.zeros((len(K), target.shape[2]))
    for place in range(len(K)):
        rows = mask[place]
        if not rows.any():
            continue
        own = K[place] if rows.all() else K[place] * rows[:, None] * rows
        solved = _solved(own, np.column_stack([target[place], rows]), alpha)
        sums = rows @ solved
        b[place] = sums[:-1] / sums[-1]
        A[place] = solved[:, :-1] - solved[:, -1:] * b[place]
    return A, b


def _solved(K: Floats, T: Floats, alpha: float) -> Floats:
    """(n, m) solution of ``(K + alpha I) X = T`` by Cholesky; by LU where the penalty is lost in the rounding of K."""
    from scipy.linalg.lapack import dposv

    system = K.copy()
    system.flat[:: len(K) + 1] += alpha
    _, solution, fault = dposv(system.T, T, lower=1, overwrite_a=1)
    if fault:
        system = K + alpha * np.eye(len(K))
        solution = np.linalg.solve(system, T)
    return np.asarray(solution, dtype=np.float64)


def center_gram(K: Floats, mask: Floats) -> Floats:
    """Gram matrices of rows minus the mean of the rows in the mask; zero in the other rows and columns."""
    share = mask / np.maximum(mask.sum(axis=1, keepdims=True), 1.0)
    column = (K @ share[:, :, None])[:, :, 0]
    overall = np.einsum("bi,bi->b", column, share)
    centred = K - column[:, :, None] - column[:, None, :] + overall[:, None, None]
    result: Floats = centred * mask[:, :, None] * mask[:, None, :]
    return result


def _shares(mask: Mask) -> Floats:
    """(B, n, m) weights that take the mean over the rows of each column's mask."""
    count = mask.sum(axis=1, keepdims=True)
    shares: Floats = mask / np.maximum(count, 1)
    return shares


def _squares(K: Floats, A: Floats) -> Floats:
    """(B, m) squared lengths of ``Z^T A``."""
    squares: Floats = np.einsum("bnm,bnm->bm", A, K @ A)
    return squares
