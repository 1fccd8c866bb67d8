"""The part of the training rows that is held out to choose a setting, where there is no val."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featcache.errors import ProbeError
from featcache.metrics import undefined_classes

__all__ = ["hold_out"]

# Candidate hold-outs; the one that leaves most classes in both parts is taken.
_HOLDOUTS = 5


def hold_out(
    y: NDArray[Any], count: int, groups: ArrayLike | None, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows to fit and rows to hold out, about a fifth; no group is in both."""
    from sklearn.model_selection import GroupShuffleSplit, StratifiedGroupKFold, StratifiedKFold

    codes = np.arange(len(y)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    if len(codes) != len(y):
        raise ProbeError(f"there are {len(codes)} groups for {len(y)} training rows")
    parts = min(_HOLDOUTS, len(np.unique(codes)))
    if parts < 2:
        raise ProbeError(
            "nothing can be chosen: all training rows are one group, and there is no val",
            remedy="Give a val split, or one setting (of C, for example).",
        )
    if y.ndim == 2:
        splitter: Any = GroupShuffleSplit(_HOLDOUTS, test_size=0.2, random_state=seed)
    else:
        kind = StratifiedKFold if groups is None else StratifiedGroupKFold
        splitter = kind(parts, shuffle=True, random_state=seed)

    def defined(split: tuple[NDArray[np.int64], NDArray[np.int64]]) -> int:
        return -sum(len(undefined_classes(y[rows], count)) for rows in split)

    with warnings.catch_warnings():
        # A class with fewer rows than parts cannot be in each: that is what the choice below is for.
        warnings.simplefilter("ignore", UserWarning)
        try:
            splits = [(fit, held) for fit, held in splitter.split(y, y, codes) if len(fit) and len(held)]
        except ValueError as error:
            raise ProbeError(
                f"a part of train cannot be held out to choose a setting: {error}",
                remedy="Give a val split, or one setting (of C, for example).",
            ) from error
    splits = [split for split in splits if y.ndim == 2 or len(np.unique(y[split[0]])) > 1]
    if not splits:
        raise ProbeError(
            "a part of train cannot be held out to choose a setting: what is left has one class",
            remedy="Give a val split, or one setting (of C, for example).",
        )
    return max(splits, key=defined)
