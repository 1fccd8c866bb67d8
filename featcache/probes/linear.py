"""The linear probe: L2-regularised logistic regression whose strength is chosen on validation rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featcache.errors import ProbeError
from featcache.metrics import auroc, balanced_accuracy, undefined_classes
from featcache.probes.base import check_features, check_targets, column_moments
from featcache.probes.holdout import hold_out
from featcache.probes.regression import fit_path, probabilities

__all__ = ["LogisticProbe"]

_DEFAULT_C = tuple(float(value) for value in 10.0 ** np.linspace(-4, 2, 13))
_Part: TypeAlias = tuple[NDArray[np.float32], NDArray[Any]]
"""Features and targets of some rows."""


class LogisticProbe:
    """Logistic regression on standardised features, C chosen on val, refitted on train and val.

    Multinomial for class indices, one binary regression for each label of a multi-label task (without
    the rows that miss it). Features are standardised by the mean and standard deviation of the rows fitted.
    The path runs from the smallest C to the largest, each fit starting at the solution before.

    Parameters
    ----------
    C
        Inverse strengths of the L2 penalty, as scikit-learn defines them (the loss is summed over rows).
    max_iter
        L-BFGS iterations of each fit.
    tol
        L-BFGS stops when no component of the gradient of the mean loss is larger.
    seed
        Of the hold-out, where there is no val.

    Attributes
    ----------
    C_ : float
        The strength chosen.
    val_scores_ : dict of float to dict of str to float
        For each C, ascending, its metrics on the validation rows; empty if there was one C.
    selection_ : str
        A sentence that says on what C was chosen.
    classes_ : (C,) int64
        Class or label of each column of the scores.
    coef_ : (C, D) or (1, D) float64
        Weights for standardised features; one row for a task of two classes, as in scikit-learn.
    intercept_ : (C,) or (1,) float64
        -inf for a class or label that never occurs, +inf for a label that is always positive.
    multilabel_ : bool
        Whether the targets were a matrix.
    mean_, scale_ : (D,) float64
        Of the rows fitted last.
    notes_ : tuple of str
        What a reader of the numbers must know: fits that did not converge, classes that could not be learnt.

    References
    ----------
    Alain and Bengio, "Understanding intermediate layers using linear classifier probes", 2016; the logistic
    protocol of Oquab et al., "DINOv2", arXiv 2304.07193, section 7.1, with fewer C.

    Examples
    --------
    >>> X = [[0.0], [1.0], [2.0], [3.0]]
    >>> probe = LogisticProbe(C=(0.1, 1.0)).fit(X, [0, 0, 1, 1], [[0.5], [2.5]], [0, 1])
    >>> probe.C_, probe.predict_scores(X).argmax(axis=1).tolist()
    (0.1, [0, 0, 1, 1])
    """

    def __init__(
        self, C: Sequence[float] = _DEFAULT_C, *, max_iter: int = 1000, tol: float = 1e-6, seed: int = 0
    ) -> None:
        self.C = C
        self.max_iter = max_iter
        self.tol = tol
        self.seed = seed

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        X_val: ArrayLike | None = None,
        y_val: ArrayLike | None = None,
        *,
        groups: ArrayLike | None = None,
        n_classes: int | None = None,
    ) -> Self:
        """Choose C, then fit on all rows.

        Parameters
        ----------
        X, y
            (n, D) training features; (n,) class indices or (n, L) multi-label 0, 1 and NaN for missing.
        X_val, y_val
            Validation rows. Without them a fifth of the training rows is held out to choose C.
        groups
            (n,) group (patient) of each training row: a group is held out as a whole.
        n_classes
            Columns of the scores; None takes the largest class index + 1. A class that never occurs scores 0.

        Raises
        ------
        ProbeError
            If an input is invalid, nothing can be learnt (one class only, a label that is never known), or no
            hold-out is possible.
        """
        self._check_settings()
        if (X_val is None) != (y_val is None):
            raise ProbeError("X_val and y_val belong together", remedy="Give both or neither.")
        features = check_features(X, name="the training features")
        targets, count = check_targets(y, len(features), n_classes=n_classes, name="the training targets")
        _refuse_or_note(targets, count)
        part: _Part = features, targets
        held: _Part | None = None
        if X_val is not None and y_val is not None:
            held_X = check_features(X_val, name="the val features", n_features=features.shape[1])
            held_y, found = check_targets(y_val, len(held_X), n_classes=n_classes, name="the val targets")
            if targets.ndim != held_y.ndim or (targets.ndim == 2 and count != found):
                raise ProbeError(f"targets of shapes {targets.shape} and {held_y.shape} are not of one task")
            count, held = max(count, found), (held_X, held_y)
            features, targets = np.concatenate([features, held_X]), np.concatenate([targets, held_y])
        notes = _refuse_or_note(targets, count)
        strengths = sorted({float(value) for value in self.C})
        self.val_scores_: dict[float, dict[str, float]] = {}
        self.C_, self.selection_ = strengths[0], f"C = {strengths[0]:g} was given: nothing to choose."
        if len(strengths) > 1:
            where = "val"
            if held is None:
                rows, left_out = hold_out(targets, count, groups, self.seed)
                part, held = (features[rows], targets[rows]), (features[left_out], targets[left_out])
                where = f"a part of train held out by {'row' if groups is None else 'group'}"
            notes += self._choose(part, held, count, strengths)
            rule = "balanced accuracy, then macro AUROC" if targets.ndim == 1 else "macro AUROC"
            self.selection_ = (
                f"C = {self.C_:g} of {len(strengths)} values from {strengths[0]:g} to {strengths[-1]:g} "
                f"by {rule}, then the smaller C, on {where} ({len(held[0])} rows); "
                f"refitted on all {len(features)} rows."
            )
        self.classes_ = np.arange(count)
        self.multilabel_ = targets.ndim == 2
        self.mean_, self.scale_ = column_moments(features)
        standard = (features - self.mean_) / self.scale_
        path, stopped = fit_path(standard, targets, count, [self.C_], max_iter=self.max_iter, tol=self.tol)
        self.coef_, self.intercept_ = path[0]
        self.notes_ = (*notes, *_convergence_notes(stopped, "final", self.max_iter))
        return self

    def predict_scores(self, X: ArrayLike) -> NDArray[np.float64]:
        """(n, C) float64 probabilities: of exclusive classes, which sum to 1, or of each label.

        Raises
        ------
        ProbeError
            If the features are invalid or the probe is not fitted.
        """
        if not hasattr(self, "coef_"):
            raise ProbeError("the probe is not fitted", remedy="Call fit(X, y) first.")
        features = check_features(X, n_features=len(self.mean_))
        standard = (features - self.mean_) / self.scale_
        return probabilities(standard, self.coef_, self.intercept_, multilabel=self.multilabel_)

    def _check_settings(self) -> None:
        if len(self.C) == 0 or not all(0 < value < float("inf") for value in self.C):
            raise ProbeError(f"C must be positive numbers, got {tuple(self.C)}", remedy="For example C=(1.0,).")
        if self.max_iter < 1 or not self.tol > 0:
            raise ProbeError(f"max_iter and tol must be positive, got {self.max_iter} and {self.tol}")

    def _choose(self, part: _Part, held: _Part, count: int, strengths: list[float]) -> list[str]:
        """Set ``val_scores_`` and ``C_``; return notes."""
        mean, scale = column_moments(part[0])
        standard, target = (held[0] - mean) / scale, held[1]
        path, stopped = fit_path(
            (part[0] - mean) / scale, part[1], count, strengths, max_iter=self.max_iter, tol=self.tol
        )
        if target.ndim == 2:
            # A label that the fitted part cannot teach says nothing about C.
            target = target.copy()
            target[:, undefined_classes(part[1], count)] = np.nan
            if len(undefined_classes(target, count)) == count:
                raise ProbeError(
                    "C cannot be chosen: no label has positives and negatives in both train and val",
                    remedy="Give a val split with positives, or one value of C.",
                )
        for strength, (coef, intercept) in zip(strengths, path, strict=True):
            scores = probabilities(standard, coef, intercept, multilabel=target.ndim == 2)
            metrics = {"auroc": auroc(target, scores)}
            if target.ndim == 1:
                metrics["balanced_accuracy"] = balanced_accuracy(target, scores)
            self.val_scores_[strength] = metrics

        def rank(strength: float) -> tuple[float, float, float]:
            # Rounded, so that the last bits of a sum decide nothing.
            area = np.nan_to_num(round(self.val_scores_[strength]["auroc"], 12), nan=-1.0)
            recall = round(self.val_scores_[strength].get("balanced_accuracy", 0.0), 12)
            return recall, float(area), -strength

        self.C_ = max(strengths, key=rank)
        return _convergence_notes(stopped, "selection", self.max_iter)


def _refuse_or_note(y: NDArray[Any], count: int) -> list[str]:
    """Notes on what cannot be learnt from these targets; an error if nothing can, or a label is never known."""
    undefined = undefined_classes(y, count)
    if y.ndim == 2:
        never = np.flatnonzero(np.isnan(y).all(axis=0)).tolist()
        if never:
            raise ProbeError(f"labels {never} are missing in every training row", remedy="Leave them out.")
    if len(undefined) == count or len(np.unique(y[~np.isnan(y)])) < 2:
        raise ProbeError(
            "nothing can be learnt: train has one class, or no label with positives and negatives",
            remedy="Choose a split or a task with at least two classes in train.",
        )
    if y.ndim == 2:
        note = f"Labels {undefined} have one value in training: their score is constant."
        return [note] if undefined else []
    rare = np.flatnonzero(np.bincount(y, minlength=count) == 1).tolist()
    notes = [f"Classes {undefined} do not occur in training: their score is 0."] if undefined else []
    return [*notes, *([f"Classes {rare} have one training row."] if rare else [])]


def _convergence_notes(stopped: int, kind: str, max_iter: int) -> list[str]:
    if not stopped:
        return []
    return [f"{stopped} {kind} fits did not converge in {max_iter} iterations: raise max_iter or lower C."]
