"""Folds of a cross-validation: patients are dealt out whole, classes in proportion."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featcache.errors import ConfigurationError, ProbeError

__all__ = ["patient_folds"]


def patient_folds(y: ArrayLike, groups: ArrayLike | None, folds: int, seed: int) -> NDArray[np.int64]:
    """The fold of each row.

    Patients in a random order, then by their first row's class (or set of labels), are dealt to the folds in turn.

    Parameters
    ----------
    y
        (n,) classes, or (n, L) labels.
    groups
        (n,) patient of each row; None takes each row by itself.
    folds
        How many, at least 2.
    seed
        Of the order.

    Returns
    -------
    (n,) int64 from 0 to folds - 1

    Raises
    ------
    ConfigurationError
        If there are fewer than two folds.
    ProbeError
        If there are fewer patients than folds.

    Examples
    --------
    >>> sorted(patient_folds([0, 0, 1, 1], None, 2, seed=0)[:2].tolist())
    [0, 1]
    """
    targets: NDArray[Any] = np.asarray(y)
    codes = np.arange(len(targets)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    if folds < 2:
        raise ConfigurationError(f"a cross-validation has at least 2 folds, got {folds}", remedy="The default is 5.")
    _, first = np.unique(codes, return_index=True)
    if len(first) < folds:
        raise ProbeError(
            f"{len(first)} patients cannot be dealt to {folds} folds", remedy=f"Ask for at most {len(first)} folds."
        )
    shown = np.nan_to_num(targets[first].astype(np.float64), nan=-1.0).reshape(len(first), -1)
    stratum = np.unique(shown, axis=0, return_inverse=True)[1].ravel()
    order = np.random.default_rng(seed).permutation(len(first))
    order = order[np.argsort(stratum[order], kind="stable")]
    fold = np.empty(len(first), dtype=np.int64)
    fold[order] = np.arange(len(first)) % folds
    return fold[codes]
