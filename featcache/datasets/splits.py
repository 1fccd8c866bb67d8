"""Splits for data that has none."""

from __future__ import annotations

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
    Groups are shuffled, sorted by the class that most of their samples have, and dealt to five folds in turn: each
    class is spread over all folds as evenly as it goes. The first fold is test, the second val.
    """
    codes = pd.factorize(stratum.astype("str"))[0]
    own = pd.Series([f"\0{row}" for row in range(len(group))], index=group.index)
    members, names = pd.factorize(group.where(group.notna(), own))
    if len(names) < 5 or np.bincount(codes).max() < 5:
        return pd.Series([None] * len(stratum), index=stratum.index, dtype="str")
    counts = pd.Series(codes).groupby([members, codes]).size()
    main = counts.sort_values(kind="stable").groupby(level=0).tail(1).sort_index(level=0).index.get_level_values(1)
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[np.argsort(main.to_numpy()[order], kind="stable")]
    fold = np.empty(len(names), np.int64)
    fold[order] = np.arange(len(names)) % 5
    split = np.array(["test", "val", "train", "train", "train"], dtype=object)[fold]
    return pd.Series(split[members], index=stratum.index, dtype="str")
