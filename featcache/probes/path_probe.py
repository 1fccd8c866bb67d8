"""A linear probe with a path of penalties: one is chosen on validation rows, then all rows are fitted."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Self, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featcache.errors import ProbeError
from featcache.metrics import auroc, balanced_accuracy, undefined_classes
from featcache.probes.base import check_rows, check_targets
from featcache.probes.holdout import hold_out
from featcache.probes.logistic_path import LinearPath, check_strengths
from featcache.probes.parameters import Decider, not_fitted
from featcache.probes.targets import what_is_missing

__all__ = ["Part", "PathProbe", "best_setting", "checked_parts", "choosing_parts"]

Features: TypeAlias = NDArray[np.floating]
Part: TypeAlias = tuple[Features, NDArray[Any]]
"""Features and targets of some rows."""


class PathProbe(Decider):
    """What the logistic and the ridge probe share: the choice of the strength, the refit and the scores.

    A subclass names its grid, fits a path on standardised features and turns logits to scores.
    """

    _grid: ClassVar[str]
    """Name of the parameter that holds the grid; the one chosen is this name and an underscore."""
    _weakest_last: ClassVar[bool]
    """Whether the penalty falls with the value, as C."""

    seed: int

    @abstractmethod
    def _check_settings(self) -> None:
        """Raise :class:`ProbeError` unless the settings other than the grid make sense."""

    @abstractmethod
    def _path(
        self, parts: Sequence[Features], y: NDArray[Any], values: list[float], start: LinearPath | None
    ) -> tuple[LinearPath, list[str]]:
        """The models of ascending values and notes; ``y`` as :func:`fit_logistic` takes it."""

    @abstractmethod
    def _scores(self, logits: NDArray[np.float64], *, multilabel: bool) -> NDArray[np.float64]:
        """(n, C) scores of (n, R) logits; a single column of exclusive classes gives two."""

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
        """Choose the strength, then fit on all rows.

        Parameters
        ----------
        X, y
            (n, D) training features; (n,) class indices or (n, L) multi-label 0, 1 and NaN for missing.
        X_val, y_val
            Validation rows. Without them a fifth of the training rows is held out for the choice.
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
        values = sorted({float(value) for value in check_strengths(getattr(self, self._grid), self._grid)})
        part, held, count = checked_parts(X, y, X_val, y_val, n_classes)
        whole = (part,) if held is None else (part, held)
        targets = np.concatenate([y for _, y in whole])
        notes = what_is_missing(targets, count)
        self.val_scores_: dict[float, dict[str, float]] = {}
        chosen, start = values[0], None
        self.selection_ = f"{self._grid} = {chosen:g} was given: nothing to choose."
        if len(values) > 1:
            part, held, where = choosing_parts(part, held, count, groups, self.seed)
            chosen, start, more = self._choose(part, held, count, values)
            notes += more
            preferred = "smaller" if self._weakest_last else "larger"
            rule = "balanced accuracy, then macro AUROC" if targets.ndim == 1 else "macro AUROC"
            self.selection_ = (
                f"{self._grid} = {chosen:g} of {len(values)} values from {values[0]:g} to {values[-1]:g} "
                f"by {rule}, then the {preferred} {self._grid}, on {where} ({len(held[0])} rows); "
                f"refitted on all {len(targets)} rows."
            )
        setattr(self, f"{self._grid}_", chosen)
        self.classes_, self.n_features_in_ = np.arange(count), whole[0][0].shape[1]
        self.multilabel_ = targets.ndim == 2
        self._final, self._present, more = self._models([x for x, _ in whole], targets, [chosen], start)
        self.mean_, self.scale_ = self._final.mean, self._final.scale
        self.coef_, self.intercept_ = self._spread(self._final.coef[0], self._final.intercept[0], count)
        self.notes_ = (*notes, *(f"Final fit: {note}" for note in more))
        return self

    def predict_scores(self, X: ArrayLike) -> NDArray[np.float64]:
        """(n, C) float64 scores between 0 and 1, of exclusive classes or of each label.

        Raises
        ------
        ProbeError
            If the features are invalid or the probe is not fitted.
        """
        if not hasattr(self, "coef_"):
            raise not_fitted()
        features = check_rows(X, n_features=len(self.mean_))
        return self._all_classes(self._final.logits(features, 0), self._present, len(self.classes_))

    def _models(
        self, parts: Sequence[Features], y: NDArray[Any], values: list[float], start: LinearPath | None
    ) -> tuple[LinearPath, NDArray[np.int64], list[str]]:
        """A path for the classes (or labels) that occur, which ones they are, and notes."""
        if y.ndim == 2:
            present = np.arange(y.shape[1])
        else:
            present, y = np.unique(y, return_inverse=True)
        path, notes = self._path(parts, y, values, start)
        return path, present, notes

    def _choose(self, part: Part, held: Part, count: int, values: list[float]) -> tuple[float, LinearPath, list[str]]:
        """The best value, its model and notes; sets ``val_scores_``."""
        path, present, notes = self._models([part[0]], part[1], values, None)
        target = teachable(part[1], held[1], count, self._grid)
        for place, value in enumerate(values):
            scores = self._all_classes(path.logits(held[0], place), present, count, multilabel=target.ndim == 2)
            self.val_scores_[value] = metrics_of(target, scores)
        order = values if self._weakest_last else values[::-1]
        chosen = order[best_setting([self.val_scores_[value] for value in order])]
        one = slice(values.index(chosen), values.index(chosen) + 1)
        model = LinearPath(
            path.coef[one], path.intercept[one], path.mean, path.scale, path.n_iter[one], path.converged[one]
        )
        return chosen, model, [f"Selection: {note}" for note in notes]

    def _all_classes(
        self, logits: NDArray[np.float32], present: NDArray[np.int64], count: int, *, multilabel: bool | None = None
    ) -> NDArray[np.float64]:
        multi = self.multilabel_ if multilabel is None else multilabel
        scores = self._scores(logits.astype(np.float64), multilabel=multi)
        if scores.shape[1] == count:
            return scores
        wide = np.zeros((len(scores), count))
        wide[:, present] = scores
        return wide

    def _spread(
        self, coef: NDArray[np.float64], intercept: NDArray[np.float64], count: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Weights and intercepts of all classes: zero and -inf for those that do not occur."""
        if self.multilabel_ or count == 2 or len(coef) == count:
            return coef, intercept
        wide, offset = np.zeros((count, coef.shape[1])), np.full(count, -np.inf)
        # Two classes that were seen of more: the first is the reference, at zero, for the softmax.
        where = self._present if len(coef) == len(self._present) else self._present[1:]
        offset[self._present[0]] = 0.0
        wide[where], offset[where] = coef, intercept
        return wide, offset


def checked_parts(
    X: ArrayLike, y: ArrayLike, X_val: ArrayLike | None, y_val: ArrayLike | None, n_classes: int | None
) -> tuple[Part, Part | None, int]:
    """Training rows, validation rows if given, and the number of classes or labels; else :class:`ProbeError`."""
    if (X_val is None) != (y_val is None):
        raise ProbeError("X_val and y_val belong together", remedy="Give both or neither.")
    features = check_rows(X, name="the training features")
    targets, count = check_targets(y, len(features), n_classes=n_classes, name="the training targets")
    what_is_missing(targets, count)
    if X_val is None or y_val is None:
        return (features, targets), None, count
    held_X = check_rows(X_val, name="the val features", n_features=features.shape[1])
    held_y, found = check_targets(y_val, len(held_X), n_classes=n_classes, name="the val targets")
    if targets.ndim != held_y.ndim or (targets.ndim == 2 and count != found):
        raise ProbeError(f"targets of shapes {targets.shape} and {held_y.shape} are not of one task")
    return (features, targets), (held_X, held_y), max(count, found)


def choosing_parts(
    part: Part, held: Part | None, count: int, groups: ArrayLike | None, seed: int
) -> tuple[Part, Part, str]:
    """Rows to fit, rows to choose on, and what the latter are."""
    if held is not None:
        return part, held, "val"
    features, targets = part
    rows, left_out = hold_out(targets, count, groups, seed)
    where = f"a part of train held out by {'row' if groups is None else 'group'}"
    return (features[rows], targets[rows]), (features[left_out], targets[left_out]), where


def teachable(fitted: NDArray[Any], target: NDArray[Any], count: int, setting: str) -> NDArray[Any]:
    """Validation targets without the labels that the fitted rows cannot teach: they say nothing about a setting."""
    if target.ndim == 1:
        return target
    target = target.copy()
    target[:, undefined_classes(fitted, count)] = np.nan
    if len(undefined_classes(target, count)) == count:
        raise ProbeError(
            f"{setting} cannot be chosen: no label has positives and negatives in both train and val",
            remedy=f"Give a val split with positives, or one value of {setting}.",
        )
    return target


def metrics_of(target: NDArray[Any], scores: NDArray[np.float64]) -> dict[str, float]:
    """The metrics a setting is chosen by."""
    metrics = {"auroc": auroc(target, scores)}
    if target.ndim == 1:
        metrics["balanced_accuracy"] = balanced_accuracy(target, scores)
    return metrics


def best_setting(metrics: Sequence[dict[str, float]]) -> int:
    """The place of the best: by balanced accuracy where there is one, then by macro AUROC, then the first.

    Examples
    --------
    >>> best_setting([{"auroc": 0.7}, {"auroc": 0.8}, {"auroc": 0.8}])
    1
    """

    def rank(place: int) -> tuple[float, float, int]:
        # Rounded, so that the last bits of a sum decide nothing.
        area = np.nan_to_num(round(metrics[place]["auroc"], 12), nan=-1.0)
        return round(metrics[place].get("balanced_accuracy", 0.0), 12), float(area), -place

    return max(range(len(metrics)), key=rank)
