"""Samples tables that become one: each id once, nothing overwritten in silence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from featcache.errors import ConfigurationError, DatasetError
from featcache.store.samples import SampleTable

__all__ = ["SAMPLE_COLUMNS", "join_samples", "unite_frames"]

SAMPLE_COLUMNS = ("id", "digest", "path", "selector", "patient", "volume", "axis", "index", "split")
"""The first columns of ``samples.parquet``; labels follow."""


def unite_frames(frames: Sequence[pd.DataFrame], origins: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """One samples table of several: rows by id in the order of their first appearance, columns united.

    A value that one table lacks is taken from the other; of two different ones the first counts.

    Returns
    -------
    frame
        The union.
    conflicts
        One sentence for each value that was not taken.

    Raises
    ------
    DatasetError
        If one id means different content.
    """
    united, origin = frames[0].set_index("id", drop=False), dict.fromkeys(frames[0]["id"], origins[0])
    conflicts: list[str] = []
    for frame, source in zip(frames[1:], origins[1:], strict=True):
        other = frame.set_index("id", drop=False)
        common = other.index[other.index.isin(united.index)]
        for column in (name for name in other.columns if name in united.columns and name != "id"):
            mine, theirs = united.loc[common, column], other.loc[common, column]
            differs = (mine.notna() & theirs.notna()).to_numpy(dtype=bool, copy=True)
            differs[differs] = mine[differs].to_numpy(object) != theirs[differs].to_numpy(object)
            for name in common[differs]:
                sentence = f"{name}: {column} is {mine[name]!r} in {origin[name]} and {theirs[name]!r} in {source}"
                conflicts.append(sentence)
            if column == "digest" and differs.any():
                raise DatasetError(
                    f"{int(differs.sum())} id(s) mean different content, first {conflicts[-int(differs.sum())]}",
                    remedy="Ids must be unique within a dataset: rename them on one side, or choose another --dataset.",
                )
        united = _joined(united, other)
        origin = dict.fromkeys(other.index, source) | origin
    first = [name for name in SAMPLE_COLUMNS if name in united]
    return united[[*first, *(name for name in united if name not in first)]].reset_index(drop=True), conflicts


def join_samples(before: SampleTable | None, new: SampleTable, dataset: str) -> SampleTable:
    """A dataset's table with imported samples joined in.

    Raises
    ------
    ConfigurationError
        If the dataset is another one: no id in common.
    DatasetError
        If a value differs.
    """
    if before is None:
        return new
    if before.registry_name != "imported" and not set(before.frame["id"]) & set(new.frame["id"]):
        raise ConfigurationError(
            f"dataset {dataset!r} exists with {len(before.frame)} samples, and none of the ids to import is among them",
            remedy="Choose another --dataset, or give the ids that the dataset uses (--id-column).",
        )
    frame, conflicts = unite_frames([before.frame, new.frame], [f"dataset {dataset}", "the import"])
    if conflicts:
        raise DatasetError(
            f"{len(conflicts)} value(s) of the import differ from the table of {dataset}, first {conflicts[0]}",
            remedy="Correct them, leave the column out, or choose another --dataset.",
        )
    names = {task.name for task in before.tasks}
    tasks = (*before.tasks, *(task for task in new.tasks if task.name not in names))
    return replace(before, frame=frame, tasks=tasks)


def _joined(here: pd.DataFrame, there: pd.DataFrame) -> pd.DataFrame:
    """All rows and columns of both; a missing value is filled from ``there``."""
    index = here.index.append(there.index[~there.index.isin(here.index)])
    columns = [*here.columns, *(name for name in there.columns if name not in here.columns)]
    joined = {}
    for name in columns:
        if name not in there:
            values = here[name].reindex(index)
        elif name not in here:
            values = there[name].reindex(index)
        else:
            filled, offered = here[name].reindex(index), there[name].reindex(index)
            values = filled.astype(object).where(filled.notna(), offered.astype(object))
            values = _typed(values, here[name], there[name])
        joined[name] = values
    return pd.DataFrame(joined, index=index)


def _typed(values: pd.Series[Any], here: pd.Series[Any], there: pd.Series[Any]) -> pd.Series[Any]:
    """Objects back in the type that both columns had; of an empty column and another, that of the other."""
    kinds = [column.dtype for column in (here, there) if column.notna().any()] or [here.dtype]
    if any(kind != kinds[0] for kind in kinds):
        return values.infer_objects()
    if values.isna().any() and kinds[0].kind in "biu" and isinstance(kinds[0], np.dtype):
        return values.infer_objects()
    return values.astype(kinds[0])
