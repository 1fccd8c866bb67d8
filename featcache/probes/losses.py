"""Losses of linear models for many columns of logits at a time: labels by themselves, or exclusive classes."""

from __future__ import annotations

from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from featcache.errors import ProbeError

__all__ = ["ClassWeight", "Loss", "SigmoidLoss", "SoftmaxLoss"]

ClassWeight: TypeAlias = Literal["balanced"] | None
Floats: TypeAlias = NDArray[np.float32]

# The mean curvature only shapes a preconditioner: a part of the rows is enough.
_EVERY = 4


class Loss(Protocol):
    """A convex loss of several outputs, each of one or more columns of logits."""

    group: int
    """Columns that belong together: 1 for labels, K for exclusive classes."""
    total: NDArray[np.float64]
    """(L,) summed weight of the rows of each output."""
    curvature: NDArray[np.float64]
    """(L, group) second derivative of the mean loss by the logit, at the constant model."""
    intercept: NDArray[np.float64]
    """(L, group) the constant model."""

    def residual(self, rows: slice, outputs: NDArray[np.int64], logits: Floats, /) -> NDArray[np.float64]:
        """Replace the (b, P * group) logits of P problems by the loss's derivatives; return summed curvatures.

        ``outputs`` is (P,), the output that each problem fits; ``rows`` are the b rows. The curvatures, of shape
        (P * group,), are estimated on a part of the rows.
        """

    def bend(self, output: int, logits: Floats, /) -> Floats:
        """(n, group) second derivatives by each logit, of all rows of an output."""


class SigmoidLoss:
    """Binary cross-entropy of each label by itself; an unknown entry has no weight.

    Parameters
    ----------
    y
        (n, L) of 0, 1 and NaN for missing; each label has both values.
    class_weight
        None, or ``"balanced"``: known rows / (2 x rows of that value), as in scikit-learn.
    """

    group = 1

    def __init__(self, y: NDArray[np.float64], class_weight: ClassWeight = None) -> None:
        _check_weight(class_weight)
        known = ~np.isnan(y)
        positive, counts = np.nansum(y, axis=0), known.sum(axis=0)
        self._sign = np.where(known, np.where(y == 1, 1.0, -1.0), 0.0).astype(np.float32)
        self._weight: Floats | None = None
        share = positive / counts
        self.total = counts.astype(np.float64)
        if class_weight == "balanced":
            weights = np.where(y == 1, 0.5 / share, 0.5 / (1 - share))
            self._weight = np.where(known, weights, 0.0).astype(np.float32)
            share = np.full(len(share), 0.5)
        self.curvature = (share * (1 - share))[:, None]
        self.intercept = np.log(share / (1 - share))[:, None]

    def residual(self, rows: slice, outputs: NDArray[np.int64], logits: Floats) -> NDArray[np.float64]:
        """See :class:`Loss`."""
        sign = np.take(self._sign[rows], outputs, axis=1)
        # sigmoid(-sign * logit): the error's size, exact to the last bits where it is tiny (overflow to inf is a zero).
        logits *= sign
        with np.errstate(over="ignore"):
            np.exp(logits, out=logits)
        logits += 1
        np.reciprocal(logits, out=logits)
        weight = np.abs(sign) if self._weight is None else np.take(self._weight[rows], outputs, axis=1)
        part = logits[::_EVERY]
        bend = np.einsum("np,np->p", part * (1 - part), weight[::_EVERY])
        logits *= -sign
        if self._weight is not None:
            logits *= weight
        return np.asarray(bend * (len(logits) / len(part)), dtype=np.float64)

    def bend(self, output: int, logits: Floats) -> Floats:
        """See :class:`Loss`."""
        share = 1 / (1 + np.exp(np.minimum(np.abs(logits[:, 0]), 80)))
        weight = np.abs(self._sign[:, output]) if self._weight is None else self._weight[:, output]
        return np.asarray((share * (1 - share) * weight)[:, None])


class SoftmaxLoss:
    """Cross-entropy of K exclusive classes: one output of K columns.

    Parameters
    ----------
    y
        (n,) classes 0 to K - 1, each of which occurs.
    class_weight
        None, or ``"balanced"``: n / (K x rows of the class), as in scikit-learn.
    """

    def __init__(self, y: NDArray[np.int64], class_weight: ClassWeight = None) -> None:
        _check_weight(class_weight)
        counts = np.bincount(y)
        self.group = len(counts)
        self._y = y
        self._weight: Floats | None = None
        share = counts / len(y)
        self.total = np.array([float(len(y))])
        if class_weight == "balanced":
            self._weight = (1 / (self.group * share))[y].astype(np.float32)
            share = np.full(self.group, 1 / self.group)
        self.curvature = (share * (1 - share))[None]
        self.intercept = (np.log(share) - np.log(share).mean())[None]

    def residual(self, rows: slice, outputs: NDArray[np.int64], logits: Floats) -> NDArray[np.float64]:
        """See :class:`Loss`."""
        b, count = len(logits), len(outputs)
        cube = logits.reshape(b, count, self.group)
        cube -= cube.max(axis=2, keepdims=True)
        np.exp(cube, out=cube)
        cube /= cube.sum(axis=2, keepdims=True)
        weight = None if self._weight is None else self._weight[rows]
        part = cube[::_EVERY]
        bend = part * (1 - part)
        if weight is not None:
            bend *= weight[::_EVERY, None, None]
        summed = bend.sum(axis=0, dtype=np.float64).ravel() * (b / len(part))
        # p - 1 of the true class as minus the sum of the others: exact to the last bits where it is tiny.
        true = np.arange(b), slice(None), self._y[rows]
        cube[true] = 0
        cube[true] = -cube.sum(axis=2)
        if weight is not None:
            cube *= weight[:, None, None]
        return np.asarray(summed)

    def bend(self, output: int, logits: Floats) -> Floats:
        """See :class:`Loss`; the diagonal of each row's Hessian."""
        share = np.exp(logits - logits.max(axis=1, keepdims=True))
        share /= share.sum(axis=1, keepdims=True)
        found = share * (1 - share)
        return np.asarray(found if self._weight is None else found * self._weight[:, None])


def _check_weight(class_weight: str | None) -> None:
    if class_weight not in (None, "balanced"):
        raise ProbeError(f"class_weight {class_weight!r} is unknown", remedy="Use None or 'balanced'.")
