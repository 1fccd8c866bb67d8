"""What training targets can teach."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.errors import ProbeError
from featcache.metrics import undefined_classes

__all__ = ["what_is_missing"]


def what_is_missing(y: NDArray[Any], count: int) -> list[str]:
    """Notes on what cannot be learnt from these targets; an error if nothing can, or a label is never known.

    Parameters
    ----------
    y
        (n,) class indices, or (n, L) multi-label 0, 1 and NaN.
    count
        Number of classes or labels.

    Raises
    ------
    ProbeError
        If there is one class only, no label with both values, or a label without a known row.

    Examples
    --------
    >>> what_is_missing(np.array([0, 2, 2]), 3)
    ['Classes [1] do not occur in training: nothing is known of them.', 'Classes [0] have one training row.']
    """
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
        note = f"Labels {undefined} have one value in training: nothing can be learnt of them."
        return [note] if undefined else []
    rare = np.flatnonzero(np.bincount(y, minlength=count) == 1).tolist()
    notes = [f"Classes {undefined} do not occur in training: nothing is known of them."] if undefined else []
    return [*notes, *([f"Classes {rare} have one training row."] if rare else [])]
