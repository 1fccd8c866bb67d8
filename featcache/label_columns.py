"""Label columns of a table as tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from featcache.errors import DatasetError
from featcache.records import Task

__all__ = ["tasks_of_columns", "whole_numbers"]


def tasks_of_columns(frame: pd.DataFrame, labels: Sequence[str], where: str) -> tuple[Task, ...]:
    """What label columns ask: one column a binary or multi-class task, several one multi-label task.

    Parameters
    ----------
    frame
        With the columns.
    labels
        Their names; none gives no task, nor does a column with one value.
    where
        What the table is called in a message.

    Raises
    ------
    DatasetError
        If one of several columns has other values than 0 and 1.

    Examples
    --------
    >>> tasks_of_columns(pd.DataFrame({"finding": ["yes", "no", None]}), ["finding"], "a table")[0].classes
    ('no', 'yes')
    """
    if len(labels) > 1:
        for name in labels:
            values = set(pd.unique(whole_numbers(frame[name]).dropna()))
            if not values <= {0, 1}:
                raise DatasetError(
                    f"{where}: label {name!r} has the values {sorted(map(str, values))[:5]}, expected 0 and 1",
                    remedy="Several label columns are one multi-label task. Use one column for a multi-class task.",
                )
        return (Task("labels", "multilabel", tuple(labels), tuple(labels)),)
    if not labels:
        return ()
    classes = tuple(sorted(set(whole_numbers(frame[labels[0]]).dropna().astype("str"))))
    if len(classes) < 2:
        return ()  # nothing to tell apart; features can be extracted all the same
    return (Task(labels[0], "binary" if len(classes) == 2 else "multiclass", tuple(labels), classes),)


def whole_numbers(column: pd.Series[Any]) -> pd.Series[Any]:
    """Whole numbers beside missing values stay whole (1, not 1.0)."""
    if column.dtype.kind == "f" and column.notna().any() and (column.dropna() % 1 == 0).all():
        return column.astype("Int64")
    if column.dtype.kind in "biuf" or column.isna().all():
        return column
    numbers = pd.to_numeric(column, errors="coerce")
    plain = column.dropna().astype("str").str.fullmatch(r"-?(0|[1-9]\d{0,14})(\.\d+)?")
    if numbers.isna().equals(column.isna()) and plain.all():
        return whole_numbers(numbers)  # numbers that lose nothing by being numbers; not 007, not 1e5
    return column
