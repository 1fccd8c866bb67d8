"""The logistic probe: L2-regularised logistic regression whose strength is chosen on validation rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.errors import ProbeError
from featcache.probes.logistic_path import DEFAULT_C, LinearPath, LogisticSweep, convergence_notes, fit_logistic
from featcache.probes.losses import ClassWeight
from featcache.probes.path_probe import PathProbe

__all__ = ["LogisticProbe", "LogisticSweep", "probabilities"]


class LogisticProbe(PathProbe):
    """Logistic regression on standardised features, C chosen on val, refitted on train and val.

    Softmax regression for class indices, one binary regression for each label of a multi-label task (without
    the rows that miss it). Features are standardised by the mean and standard deviation of the rows fitted. All C and
    all labels are fitted together, see :class:`LogisticSweep`. C is chosen by balanced accuracy, then macro AUROC, for
    class indices, by macro AUROC for labels; of equal ones the smallest.

    Parameters
    ----------
    C
        Inverse strengths of the L2 penalty, as scikit-learn defines them (the loss is summed over rows); default
        45 values from 1e-6 to 1e5.
    class_weight
        None, or ``"balanced"`` as in scikit-learn.
    max_iter
        Passes over the rows for each fit at most.
    tol
        As in :class:`LogisticSweep`.
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
    protocol of Oquab et al., "DINOv2", arXiv 2304.07193, section 7.1.

    Examples
    --------
    >>> X = [[0.0], [1.0], [2.0], [3.0]]
    >>> probe = LogisticProbe(C=(0.1, 1.0)).fit(X, [0, 0, 1, 1], [[0.5], [2.5]], [0, 1])
    >>> probe.C_, probe.predict_scores(X).argmax(axis=1).tolist()
    (0.1, [0, 0, 1, 1])
    """

    _grid = "C"
    _weakest_last = True

    def __init__(
        self,
        C: Sequence[float] = DEFAULT_C,
        *,
        class_weight: ClassWeight = None,
        max_iter: int = 1000,
        tol: float = 1e-4,
        seed: int = 0,
    ) -> None:
        self.C = C
        self.class_weight = class_weight
        self.max_iter = max_iter
        self.tol = tol
        self.seed = seed

    def _check_settings(self) -> None:
        if self.max_iter < 1 or not self.tol > 0:
            raise ProbeError(f"max_iter and tol must be positive, got {self.max_iter} and {self.tol}")

    def _path(
        self, parts: Sequence[NDArray[np.floating]], y: NDArray[Any], values: list[float], start: LinearPath | None
    ) -> tuple[LinearPath, list[str]]:
        path = fit_logistic(
            parts,
            y,
            values,
            standardize=True,
            class_weight=self.class_weight,
            tol=self.tol,
            max_iter=self.max_iter,
            start=start,
        )
        return path, convergence_notes(path, y.ndim == 1, self.max_iter)

    def _scores(self, logits: NDArray[np.float64], *, multilabel: bool) -> NDArray[np.float64]:
        return probabilities(logits, multilabel=multilabel)


def probabilities(logits: NDArray[np.float64], *, multilabel: bool) -> NDArray[np.float64]:
    """(n, C) probabilities: softmax over exclusive classes (sigmoid for one column), sigmoid of each label.

    Examples
    --------
    >>> probabilities(np.array([[0.0]]), multilabel=False).tolist()
    [[0.5, 0.5]]
    """
    if multilabel or logits.shape[1] == 1:
        positive = np.exp(-np.logaddexp(0.0, -logits))
        return positive if multilabel else np.hstack([np.exp(-np.logaddexp(0.0, logits)), positive])
    weight = np.exp(logits - logits.max(axis=1, keepdims=True))
    scores: NDArray[np.float64] = weight / weight.sum(axis=1, keepdims=True)
    return scores
