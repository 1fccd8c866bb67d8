"""Splits: names, a user's split file, the study's rule, a seeded one, and patients that are on two sides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from featcache.datasets.files import shown
from featcache.datasets.label_files import read_table
from featcache.errors import DatasetError
from featcache.records import evenly_spaced

__all__ = [
    "SPLITS",
    "evenly_spaced",
    "normalized_split",
    "seeded_split",
    "split_from_file",
    "straddling_patients",
    "study_split",
]

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


def study_split(groups: Sequence[str], *, test: int, val: int, of: int) -> tuple[dict[str, str], tuple[str, ...]]:
    """The radiology study's deterministic rule (arXiv 2312.02366): test first, then val from what is left.

    Parameters
    ----------
    groups
        Volumes or patients, in the order in which the rule counts them, each once.
    test, val
        How many the study takes.
    of
        How many groups the complete dataset has. Where there are not as many, the shares are kept.

    Returns
    -------
    split
        By group.
    notes
        What to say if the dataset is not complete.
    """
    notes: tuple[str, ...] = ()
    if len(groups) != of:
        share = len(groups) / of
        test, val = round(test * share), round(val * share)
        notes = (
            f"{len(groups)} of the published {of} are here: the split follows the study's rule with its shares "
            f"({len(groups) - test - val} train, {val} val, {test} test), but it is not the study's split.",
        )
    split = dict.fromkeys(groups, "train")
    rest = list(groups)
    for name, count in (("test", test), ("val", val)):
        chosen = [rest[place] for place in evenly_spaced(len(rest), count)]
        split.update(dict.fromkeys(chosen, name))
        rest = [group for group in rest if split[group] == "train"]
    return split, notes


def split_from_file(samples: pd.DataFrame, file: Path) -> tuple[pd.Series[str], tuple[str, ...]]:
    """The split that a user's table gives.

    Parameters
    ----------
    samples
        With the columns ``id``, ``patient``, ``volume``.
    file
        CSV or Parquet with a column ``split`` and one of ``id``, ``patient``, ``volume``. Rows that it does not
        name get no split: they are embedded, and no probe uses them.

    Raises
    ------
    DatasetError
        For other columns, names of splits other than train, val, test, ids that the dataset does not have, and
        ids with two splits.
    """
    frame = read_table(file)
    keys = [name for name in ("id", "patient", "volume") if name in frame.columns]
    if "split" not in frame.columns or len(keys) != 1:
        raise DatasetError(
            f"split file {file} has the columns {', '.join(map(str, frame.columns))}",
            remedy="Expected the column split and exactly one of id, patient, volume.",
        )
    key = keys[0]
    frame = frame[[key, "split"]].dropna().astype("str")
    frame["split"] = frame["split"].map(normalized_split)
    odd = sorted(set(frame["split"]) - set(SPLITS))
    if odd:
        raise DatasetError(f"split file {file} has the splits {shown(odd)}", remedy="Expected train, val or test.")
    frame = frame.drop_duplicates()
    twice = frame[key][frame[key].duplicated()].unique().tolist()
    if twice:
        raise DatasetError(
            f"split file {file}: {len(twice)} values of {key!r} are in two splits: {shown(twice)}",
            remedy="Give each one split.",
        )
    known = samples[key].dropna().astype("str")
    unknown = sorted(set(frame[key]) - set(known))
    if unknown:
        example = f", for example {known.iloc[0]!r}" if len(known) else ""
        raise DatasetError(
            f"split file {file} names {len(unknown)} values of {key!r} that the dataset does not have: "
            f"{shown(map(repr, unknown))} (the dataset has {known.nunique()}{example})",
            remedy="Remove those rows, or mend the names.",
        )
    split = samples[key].map(dict(zip(frame[key], frame["split"], strict=True))).astype("str")
    left = int(split.isna().sum())
    return split, (f"{left} samples are not named in {file.name}: they have no split.",) if left else ()


def straddling_patients(samples: pd.DataFrame) -> list[str]:
    """Patients with samples in more than one split, sorted."""
    known = samples[["patient", "split"]].dropna().drop_duplicates()
    return sorted(known["patient"][known["patient"].duplicated()].unique().tolist())


def mapped_split(groups: pd.Series[str], split: Mapping[str, Any]) -> pd.Series[str]:
    """The split of each sample by its group; missing where the group has none."""
    return groups.map(dict(split)).astype("str")


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
    if group.isna().all():  # every sample is a group of its own
        members, main = np.arange(len(group)), codes
    else:
        own = pd.Series([f"\0{row}" for row in range(len(group))], index=group.index)
        members = pd.factorize(group.where(group.notna(), own))[0]
        counts = pd.Series(codes).groupby([members, codes]).size().sort_values(kind="stable")
        main = counts.groupby(level=0).tail(1).sort_index(level=0).index.get_level_values(1).to_numpy()
    if len(main) < 5 or np.bincount(codes).max() < 5:
        return pd.Series([None] * len(stratum), index=stratum.index, dtype="str")
    order = np.random.default_rng(seed).permutation(len(main))
    order = order[np.argsort(main[order], kind="stable")]
    fold = np.empty(len(main), np.int64)
    fold[order] = np.arange(len(main)) % 5
    split = np.array(["test", "val", "train", "train", "train"], dtype=object)[fold]
    return pd.Series(split[members], index=stratum.index, dtype="str")
