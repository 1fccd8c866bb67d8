"""Logistic regressions for a grid of penalties, all labels or classes and all strengths solved together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featcache.errors import ProbeError
from featcache.probes.base import check_rows, check_targets, row_blocks
from featcache.probes.columns import solve_grid
from featcache.probes.eigenbasis import eigenbasis, moments
from featcache.probes.losses import ClassWeight, Loss, SigmoidLoss, SoftmaxLoss
from featcache.probes.parameters import Parameters, not_fitted
from featcache.probes.targets import what_is_missing

__all__ = ["DEFAULT_C", "LinearPath", "LogisticSweep", "fit_logistic"]

Doubles = NDArray[np.float64]

DEFAULT_C = tuple(float(value) for value in 10.0 ** np.linspace(-6, 5, 45))
"""The 45 strengths of DINOv2's protocol."""


@dataclass(frozen=True, slots=True)
class LinearPath:
    """Linear models ``(x - mean) / scale @ coef.T + intercept`` along a grid of settings."""

    coef: Doubles
    """(n_C, R, D)."""
    intercept: Doubles
    """(n_C, R)."""
    mean: Doubles
    """(D,)."""
    scale: Doubles
    """(D,)."""
    n_iter: NDArray[np.int64]
    """(n_C, R)."""
    converged: NDArray[np.bool_]
    """(n_C, R)."""

    def logits(self, X: NDArray[np.floating], which: slice | int = slice(None)) -> NDArray[np.float32]:
        """(n_C, n, R) float32 for (n, D) features, or (n, R) for one model; in blocks of rows."""
        coef, intercept = self.coef[which], self.intercept[which]
        weights = (coef / self.scale).reshape(-1, coef.shape[-1]).T.astype(np.float32)
        offset, centre = intercept.ravel().astype(np.float32), self.mean.astype(np.float32)
        # In two parts: the models are of the exact mean, and a mean may be large.
        offset += (((centre - self.mean) / self.scale) @ coef.reshape(-1, coef.shape[-1]).T).astype(np.float32)
        found = np.empty((*intercept.shape[:-1], len(X), intercept.shape[-1]), dtype=np.float32)
        for rows in row_blocks(*X.shape):
            values = (X[rows].astype(np.float32) - centre) @ weights + offset
            by_row = values.reshape(len(values), *intercept.shape)
            found[..., rows, :] = np.moveaxis(by_row, 0, -2)
        return found


def fit_logistic(
    parts: Sequence[NDArray[np.floating]],
    y: NDArray[Any],
    C: Sequence[float],
    *,
    standardize: bool,
    class_weight: ClassWeight = None,
    tol: float = 1e-4,
    max_iter: int = 1000,
    start: LinearPath | None = None,
) -> LinearPath:
    """Fit every label, or all classes, at every C.

    Parameters
    ----------
    parts
        Features, arrays of shape (n_i, D), one below the other.
    y
        (n,) classes 0 to K - 1, each of which occurs; or (n, L) of 0, 1 and NaN, each label with a known row.
    C
        Ascending, distinct.
    standardize
        Divide the features by their standard deviations first: the penalty is then of those weights.
    class_weight, tol, max_iter
        As in :class:`LogisticSweep`.
    start
        A path of one C for the same outputs, from other rows, to start at.

    Returns
    -------
    LinearPath
        One row of coefficients for a task of two classes. A label with one value has no weights and an
        intercept of plus or minus infinity.
    """
    mean, scale = moments(parts)
    basis = eigenbasis(parts, mean, scale if standardize else np.ones_like(scale))
    loss: Loss
    if y.ndim == 1:
        count = int(y.max()) + 1
        fitted = np.arange(1 if count == 2 else count)
        loss = (
            SigmoidLoss((y[:, None] == 1).astype(float), class_weight) if count == 2 else SoftmaxLoss(y, class_weight)
        )
        outputs = len(fitted)
        constant = np.zeros(outputs)
    else:
        outputs = y.shape[1]
        one = (y == 1).any(axis=0)
        fitted = np.flatnonzero(one & (y == 0).any(axis=0))
        constant = np.where(one, np.inf, -np.inf)
        loss = SigmoidLoss(y[:, fitted], class_weight)
    begin: Doubles | None = None
    if start is not None and start.coef.shape[1] == outputs and np.isfinite(start.intercept[0, fitted]).all():
        begin = basis.turn(start.coef[0, fitted] * basis.scale / start.scale).T
        begin[:, -1] = start.intercept[0, fitted]
        begin = begin.reshape(len(loss.total), loss.group, -1)
    solution = solve_grid(
        basis.rows, basis.variance, loss, np.asarray(C, dtype=np.float64), tol=tol, max_iter=max_iter, start=begin
    )
    # The turned rows, as large as the features, are done with.
    basis = replace(basis, rows=np.empty((0, basis.rows.shape[1]), np.float32))
    weights = solution.weights.astype(np.float64).reshape(len(C), len(fitted), -1)
    if y.ndim == 1 and outputs > 1:
        weights = weights - weights.mean(axis=1, keepdims=True)  # the softmax does not see it, the penalty does
    found, offset = basis.turn_back(weights.reshape(-1, weights.shape[-1]).T)
    coef = np.zeros((len(C), outputs, len(mean)))
    intercept = np.tile(constant, (len(C), 1))
    coef[:, fitted], intercept[:, fitted] = found.reshape(len(C), len(fitted), -1), offset.reshape(len(C), -1)
    passes, done = np.zeros((len(C), outputs), dtype=np.int64), np.ones((len(C), outputs), dtype=bool)
    passes[:, fitted], done[:, fitted] = solution.n_iter, solution.converged
    return LinearPath(coef, intercept, mean, basis.scale, passes, done)


class LogisticSweep(Parameters):
    """L2-regularised logistic regression for a whole grid of C and all labels or classes at once.

    Each model minimises scikit-learn's objective, ``C * sum(loss) + 0.5 * |w|^2``, the intercept not penalised.
    Two classes and each label of a multi-label matrix: the binary regression (a row that misses a label is left out of
    that label only). More classes: the softmax regression.

    Parameters
    ----------
    C
        Inverse strengths of the penalty; default the 45 values of DINOv2's protocol.
    class_weight
        None, or ``"balanced"`` as in scikit-learn; of a multi-label matrix, for each label by itself.
    max_iter
        Passes over the rows for each model at most.
    tol
        A model has converged when a quasi-Newton step would move its logits by less than this share of their standard
        deviation. It is relative, so that rare labels are solved as well as frequent ones.

    Attributes
    ----------
    C_ : (n_C,) float64
        The strengths, in the order given.
    classes_ : (n_classes,) int64
        Classes that occur, or indices of the labels.
    coef_ : (n_C, n_outputs, D) float64
        ``n_outputs`` is 1 for two classes, else the number of classes or labels.
    intercept_ : (n_C, n_outputs) float64
        Plus or minus infinity for a label with one value in the rows fitted; its weights are zero.
    n_iter_ : (n_C, n_outputs) int64
        Passes that each model took part in.
    converged_ : (n_C, n_outputs) bool
        Whether ``tol`` was reached.
    n_features_in_ : int
        D.
    notes_ : tuple of str
        What could not be learnt, and models that did not converge.

    Notes
    -----
    The rows are copied once, in float32 (see :func:`eigenbasis`); from D = 512 on, the peak is below three times the
    size of float32 features, the features included. For exclusive classes 2 n K float32 numbers are needed at least.

    References
    ----------
    The protocol: Oquab et al., "DINOv2", arXiv 2304.07193. The method: see :mod:`featcache.probes.columns`.

    Examples
    --------
    >>> sweep = LogisticSweep(C=(0.1, 1.0)).fit([[0.0], [1.0], [2.0], [3.0]], [0, 0, 1, 1])
    >>> sweep.coef_.shape, [f"{x:.2f}" for x in sweep.decision_function([[3.0]]).flat]
    ((2, 1, 1), ['0.27', '1.44'])
    """

    def __init__(
        self,
        C: ArrayLike = DEFAULT_C,
        *,
        class_weight: ClassWeight = None,
        max_iter: int = 1000,
        tol: float = 1e-4,
    ) -> None:
        self.C = C
        self.class_weight = class_weight
        self.max_iter = max_iter
        self.tol = tol

    def fit(self, X: ArrayLike, Y: ArrayLike) -> Self:
        """Fit all models.

        Parameters
        ----------
        X
            (n, D) features; float16 and float32 are read as they are.
        Y
            (n,) class indices, or (n, L) multi-label 0, 1 and NaN for missing.

        Raises
        ------
        ProbeError
            If an input or a setting is invalid, or nothing can be learnt.
        """
        strengths = check_strengths(self.C, "C")
        if self.max_iter < 1 or not self.tol > 0:
            raise ProbeError(f"max_iter and tol must be positive, got {self.max_iter} and {self.tol}")
        features = check_rows(X)
        targets, count = check_targets(Y, len(features), name="Y")
        notes = what_is_missing(targets, count)
        self.classes_ = np.arange(count)
        if targets.ndim == 1:
            self.classes_, targets = np.unique(targets, return_inverse=True)
        order, where = np.unique(strengths, return_inverse=True)
        self._path = fit_logistic(
            [features],
            targets,
            order.tolist(),
            standardize=False,
            class_weight=self.class_weight,
            tol=self.tol,
            max_iter=self.max_iter,
        )
        path = self._path
        self.C_, self._where = strengths, where
        self.coef_ = path.coef[where]
        self.intercept_ = path.intercept[where] - self.coef_ @ path.mean
        self.n_iter_, self.converged_ = path.n_iter[where], path.converged[where]
        self.n_features_in_ = features.shape[1]
        self.notes_ = (*notes, *convergence_notes(path, targets.ndim == 1, self.max_iter))
        return self

    def decision_function(self, X: ArrayLike) -> NDArray[np.float32]:
        """(n_C, n, n_outputs) float32 logits.

        Raises
        ------
        ProbeError
            If the features are invalid or the sweep is not fitted.
        """
        if not hasattr(self, "coef_"):
            raise not_fitted("the sweep")
        features = check_rows(X, n_features=self.n_features_in_)
        found = self._path.logits(features)
        return found if np.array_equal(self._where, np.arange(len(found))) else found[self._where]


def check_strengths(values: ArrayLike, name: str) -> Doubles:
    """(n,) float64 of positive numbers, or :class:`ProbeError`."""
    strengths = np.atleast_1d(np.asarray(values, dtype=np.float64))
    if strengths.ndim != 1 or len(strengths) == 0 or not ((strengths > 0) & (strengths < np.inf)).all():
        raise ProbeError(f"{name} must be positive numbers, got {strengths}", remedy=f"For example {name}=(1.0,).")
    return strengths


def convergence_notes(path: LinearPath, exclusive: bool, max_iter: int) -> list[str]:
    """A note on fits that did not converge; exclusive classes are one fit."""
    converged = path.converged[:, :1] if exclusive else path.converged
    if converged.all():
        return []
    stopped = int((~converged).sum())
    return [f"{stopped} of {converged.size} fits did not converge in {max_iter} iterations: raise max_iter or lower C."]
