"""Logistic regressions along a path of penalties, for exclusive classes and for labels."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["fit_path", "probabilities"]


def fit_path(
    X: NDArray[np.float64],
    y: NDArray[Any],
    count: int,
    strengths: list[float],
    *,
    max_iter: int,
    tol: float,
) -> tuple[list[tuple[NDArray[np.float64], NDArray[np.float64]]], int]:
    """Weights (C, D) and intercepts (C,) for each strength, and how many fits did not converge.

    A task of two classes has one row. Classes that do not occur have zero weights and the intercept -inf.
    """
    stopped = 0
    rows = 1 if y.ndim == 1 and count == 2 else count
    coef = np.zeros((len(strengths), rows, X.shape[1]))
    intercept = np.full((len(strengths), rows), -np.inf)
    if y.ndim == 1:
        present = np.unique(y)
        weights, offsets, stopped = _regress(X, y, strengths, max_iter, tol)
        # Two classes that were seen of more: the first is the reference, at zero, for the softmax.
        where = present if weights.shape[1] == len(present) else present[1:]
        where = np.zeros(1, dtype=np.int64) if rows == 1 else where
        if rows > 1:
            intercept[:, present[0]] = 0.0
        coef[:, where], intercept[:, where] = weights, offsets
        return list(zip(coef, intercept, strict=True)), stopped
    for label in range(count):
        known = ~np.isnan(y[:, label])
        values = np.unique(y[known, label])
        if len(values) < 2:
            intercept[:, label] = np.inf if values.tolist() == [1.0] else -np.inf
            continue
        fitted = X if known.all() else X[known]
        weights, offsets, unfinished = _regress(fitted, y[known, label], strengths, max_iter, tol)
        coef[:, label], intercept[:, label] = weights[:, 0], offsets[:, 0]
        stopped += unfinished
    return list(zip(coef, intercept, strict=True)), stopped


def _regress(
    X: NDArray[np.float64], y: NDArray[Any], strengths: list[float], max_iter: int, tol: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """(n_C, m, D) weights and (n_C, m) intercepts of a warm-started path, and how many did not converge."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    basis: NDArray[np.float64] | None = None
    if X.shape[1] > X.shape[0]:
        # With an L2 penalty the weights lie in the span of the rows: fit in its coordinates, then turn back.
        left, values, basis = np.linalg.svd(X, full_matrices=False)
        X = left * values
    model = LogisticRegression(max_iter=max_iter, tol=tol, warm_start=True)
    coef, intercept, stopped = [], [], 0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for strength in strengths:
            model.set_params(C=strength).fit(X, y)
            coef.append(model.coef_.copy() if basis is None else model.coef_ @ basis)
            intercept.append(model.intercept_.copy())
    for warning in caught:
        if issubclass(warning.category, ConvergenceWarning):
            stopped += 1
        else:
            warnings.warn(warning.message, stacklevel=2)
    return np.stack(coef), np.stack(intercept), stopped


def probabilities(
    X: NDArray[np.float64], coef: NDArray[np.float64], intercept: NDArray[np.float64], *, multilabel: bool
) -> NDArray[np.float64]:
    """(n, C) probabilities: softmax over exclusive classes (sigmoid for one row), sigmoid of each label."""
    logits = X @ coef.T + intercept
    if multilabel or len(coef) == 1:
        positive = np.exp(-np.logaddexp(0.0, -logits))
        return positive if multilabel else np.hstack([np.exp(-np.logaddexp(0.0, logits)), positive])
    weight = np.exp(logits - logits.max(axis=1, keepdims=True))
    scores: NDArray[np.float64] = weight / weight.sum(axis=1, keepdims=True)
    return scores
