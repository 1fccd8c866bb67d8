"""Splits for data that has none."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd

__all__ = ["SPLITS", "normalized_split", "seeded_split"]

SPLITS = ("train", "val", "test")

_SYNONYMS = {
    "dev": "val",
    "eval": "val",
    "testing": "test",
    "training": "train",
    "valid": "val",
    "validation": "val",
}


def normalized_split(name: str) -> str:
    """``train``, ``val`` or ``test`` for the names that people use; other names in lower case."""
    lower = name.strip().lower()
    return _SYNONYMS.get(lower, lower)


def seeded_split(stratum: pd.Series[str], group: pd.Series[str], *, seed: int = 0) -> pd.Series[str]:
    """Assign 60 % train, 20 % val, 20 % test: whole groups, class shares kept where that is possible.

    Parameters
    ----------
    stratum
        (n,) class of each sample.
    group
        (n,) patient of each sample; a missing one is a group of its own.
    seed
        Same table and seed, same split.

    Returns
    -------
    Series
        ``train``, ``val`` or ``test``; all missing where there are fewer than five groups, or five samples of any
        class: features can be extracted all the same, a probe says that there is no split.

    Notes
    -----
    scikit-learn's ``StratifiedGroupKFold`` with five folds: the first is test, the second val.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    own = pd.Series([f"\0{row}" for row in range(len(group))], index=group.index)
    groups = group.where(group.notna(), own)
    codes = pd.factorize(stratum.astype("str"))[0]
    if groups.nunique() < 5 or np.bincount(codes).max() < 5:
        return pd.Series([None] * len(stratum), index=stratum.index, dtype="str")
    folds = StratifiedGroupKFold(n_splits=5, shuffle=True, random_state=seed)
    split = np.full(len(stratum), "train", dtype=object)
    with warnings.catch_warnings():
        # A class with fewer than five groups cannot be in every fold; a probe says what that means for it.
        warnings.simplefilter("ignore", UserWarning)
        held_out = [rows for _, rows in folds.split(np.zeros(len(codes)), codes, pd.factorize(groups)[0])]
    split[held_out[0]], split[held_out[1]] = "test", "val"
    return pd.Series(split, index=stratum.index, dtype="str")
