"""Ridge regression along a whole path of penalties from one Gram matrix, and the probe that classifies with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featcache.errors import ProbeError
from featcache.probes.base import as_numbers, check_rows, row_blocks
from featcache.probes.eigenbasis import moments
from featcache.probes.logistic_path import LinearPath, check_strengths
from featcache.probes.parameters import Parameters, not_fitted
from featcache.probes.path_probe import PathProbe

__all__ = ["DEFAULT_ALPHAS", "RidgeProbe", "RidgeSweep", "fit_ridge"]

Doubles = NDArray[np.float64]

DEFAULT_ALPHAS = tuple(float(value) for value in 10.0 ** np.linspace(-2, 8, 45))
"""45 penalties, for squared errors summed over the rows."""


def fit_ridge(parts: Sequence[NDArray[np.floating]], y: Doubles, alphas: Doubles, *, standardize: bool) -> LinearPath:
    """Minimise ``sum((y - x w - b)^2) + alpha |w|^2`` for every target and every alpha, in float64.

    With w = V a in the eigenbasis V of the Gram matrix of the centred rows, with eigenvalues s: a = V'X'y / (s + alpha)
    (Hastie, Tibshirani and Friedman, "The Elements of Statistical Learning", equation 3.47). With fewer rows than
    columns the Gram matrix of the rows is used. Targets with the same missing rows share one decomposition.

    Parameters
    ----------
    parts
        Features, arrays of shape (n_i, D), one below the other.
    y
        (n, L) targets; NaN leaves a row out of that target.
    alphas
        (n_alpha,) positive.
    standardize
        Divide the features by their standard deviations first.

    Returns
    -------
    LinearPath
        ``coef`` of shape (n_alpha, L, D).
    """
    mean, scale = moments(parts)
    scale = scale if standardize else np.ones_like(scale)
    coef = np.zeros((len(alphas), y.shape[1], len(mean)))
    intercept = np.zeros((len(alphas), y.shape[1]))
    patterns, pattern = np.unique(~np.isnan(y), axis=1, return_inverse=True)
    for place in range(patterns.shape[1]):
        known, targets = patterns[:, place], np.flatnonzero(pattern.ravel() == place)
        shift, weights = _path_of(parts, known, y[np.ix_(known, targets)], alphas, mean=mean, scale=scale)
        coef[:, targets] = weights
        intercept[:, targets] = y[np.ix_(known, targets)].mean(axis=0) - weights @ shift
    done = np.ones(intercept.shape, dtype=bool)
    return LinearPath(coef, intercept, mean, scale, np.ones(intercept.shape, dtype=np.int64), done)


def _path_of(
    parts: Sequence[NDArray[np.floating]],
    known: NDArray[np.bool_],
    y: Doubles,
    alphas: Doubles,
    *,
    mean: Doubles,
    scale: Doubles,
) -> tuple[Doubles, Doubles]:
    """Mean (D,) of the known rows and weights (n_alpha, L, D), both of the centred and scaled features."""
    n, width = len(y), len(mean)
    wanted = y - y.mean(axis=0)
    few = n < width
    rows = np.empty((n, width)) if few else None
    gram, pull, total = np.zeros((0, 0) if few else (width, width)), np.zeros((width, y.shape[1])), np.zeros(width)
    seen = fitted = 0
    for part in parts:
        for block in row_blocks(len(part), 4 * width):
            some = known[seen + block.start : seen + block.stop]
            values = (part[block][some].astype(np.float64) - mean) / scale
            total += values.sum(axis=0)
            pull += values.T @ wanted[fitted : fitted + len(values)]
            if rows is None:
                gram += values.T @ values
            else:
                rows[fitted : fitted + len(values)] = values
            fitted += len(values)
        seen += len(part)
    shift = total / n
    if rows is None:
        # Of rows about their own mean: the targets are centred, so only the Gram matrix has to be moved.
        eigenvalues, vectors = np.linalg.eigh(gram - n * np.outer(shift, shift))
        inside = vectors.T @ pull
    else:
        rows -= shift
        eigenvalues, left = np.linalg.eigh(rows @ rows.T)
        inside, vectors = left.T @ wanted, rows.T @ left
    shrunk = inside[None] / (np.maximum(eigenvalues, 0)[None, :, None] + alphas[:, None, None])
    flat = vectors @ np.moveaxis(shrunk, 1, 0).reshape(len(eigenvalues), -1)
    return shift, np.moveaxis(flat.reshape(width, len(alphas), -1), 0, -1)


class RidgeSweep(Parameters):
    """Ridge regression for a whole grid of penalties and all targets at once.

    Each model minimises scikit-learn's objective, ``|y - X w - b|^2 + alpha |w|^2``, the intercept not penalised.

    Parameters
    ----------
    alphas
        Penalties.

    Attributes
    ----------
    alphas_ : (n_alpha,) float64
        The penalties, in the order given.
    coef_ : (n_alpha, n_outputs, D) float64
    intercept_ : (n_alpha, n_outputs) float64
    n_features_in_ : int
        D.

    Examples
    --------
    >>> sweep = RidgeSweep(alphas=(1.0, 2.0)).fit([[0.0], [1.0], [2.0]], [0.0, 1.0, 2.0])
    >>> sweep.coef_.shape, sweep.coef_.ravel().round(4).tolist()
    ((2, 1, 1), [0.6667, 0.5])
    """

    def __init__(self, alphas: ArrayLike = DEFAULT_ALPHAS) -> None:
        self.alphas = alphas

    def fit(self, X: ArrayLike, Y: ArrayLike) -> Self:
        """Fit all models.

        Parameters
        ----------
        X
            (n, D) features.
        Y
            (n,) or (n, L) real targets; NaN leaves a row out of that target.

        Raises
        ------
        ProbeError
            If an input or a penalty is invalid, or a target is missing in every row.
        """
        alphas = check_strengths(self.alphas, "alphas")
        features, given = check_rows(X), as_numbers(Y, "Y")
        if given.dtype.kind not in "biuf" or given.ndim not in (1, 2) or len(given) != len(features):
            raise ProbeError(f"Y: expected real numbers of shape ({len(features)},) or ({len(features)}, L), "
                             f"got {given.dtype} of shape {given.shape}")  # fmt: skip
        targets = given.astype(np.float64).reshape(len(given), -1)
        if np.isinf(targets).any() or np.isnan(targets).all(axis=0).any():
            raise ProbeError("Y holds infinity, or a target that is missing in every row", remedy="Leave it out.")
        self._path = fit_ridge([features], targets, alphas, standardize=False)
        self.alphas_, self.coef_ = alphas, self._path.coef
        self.intercept_ = self._path.intercept - self.coef_ @ self._path.mean
        self.n_features_in_ = features.shape[1]
        return self

    def decision_function(self, X: ArrayLike) -> NDArray[np.float32]:
        """(n_alpha, n, n_outputs) float32 predictions.

        Raises
        ------
        ProbeError
            If the features are invalid or the sweep is not fitted.
        """
        if not hasattr(self, "coef_"):
            raise not_fitted("the sweep")
        return self._path.logits(check_rows(X, n_features=self.n_features_in_))


class RidgeProbe(PathProbe):
    """Least squares on 0/1 targets of standardised features: the linear probe that needs no iterations.

    One regression for each class or label; the penalty is chosen on val and all rows are refitted, as in
    :class:`LogisticProbe`, whose other attributes it has. Scores are sigmoid(4 f - 2) of the regression's value f: a
    monotone map to (0, 1) that leaves 0.5, the order and the largest class where they are, no calibrated probability.

    Parameters
    ----------
    alpha
        Penalties of the squared weights; the squared errors are summed over rows.
    seed
        Of the hold-out, where there is no val.

    Attributes
    ----------
    alpha_ : float
        The penalty chosen; of equally good ones the largest.

    References
    ----------
    Hastie, Tibshirani and Friedman, "The Elements of Statistical Learning", 2009, sections 3.4.1 and 4.2.

    Examples
    --------
    >>> X = [[0.0], [1.0], [2.0], [3.0]]
    >>> probe = RidgeProbe(alpha=(0.1, 1.0)).fit(X, [0, 0, 1, 1], [[0.5], [2.5]], [0, 1])
    >>> probe.alpha_, probe.predict_scores(X).argmax(axis=1).tolist()
    (1.0, [0, 0, 1, 1])
    """

    _grid = "alpha"
    _weakest_last = False

    def __init__(self, alpha: Sequence[float] = DEFAULT_ALPHAS, *, seed: int = 0) -> None:
        self.alpha = alpha
        self.seed = seed

    def _check_settings(self) -> None:
        pass

    def _path(
        self, parts: Sequence[NDArray[np.floating]], y: NDArray[Any], values: list[float], start: LinearPath | None
    ) -> tuple[LinearPath, list[str]]:
        targets = y
        if y.ndim == 1:
            count = int(y.max()) + 1
            targets = (y[:, None] == (np.arange(count) if count > 2 else np.ones(1))).astype(np.float64)
        path = fit_ridge(parts, targets, np.array(values), standardize=True)
        if y.ndim == 2:  # as the logistic probe: a label with one value scores 0 or 1
            constant = np.nanmin(y, axis=0) == np.nanmax(y, axis=0)
            path.intercept[:, constant] = np.where(np.nanmax(y[:, constant], axis=0) == 1, np.inf, -np.inf)
        return path, []

    def _scores(self, logits: NDArray[np.float64], *, multilabel: bool) -> NDArray[np.float64]:
        positive = np.exp(-np.logaddexp(0.0, 2 - 4 * logits))
        if multilabel or logits.shape[1] > 1:
            return positive
        return np.hstack([np.exp(-np.logaddexp(0.0, 4 * logits - 2)), positive])
