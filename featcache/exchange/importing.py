"""Embeddings made elsewhere, from their files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from featcache.errors import DatasetError
from featcache.exchange.foreign import read_foreign
from featcache.label_columns import tasks_of_columns
from featcache.records import Task
from featcache.registry import nearest
from featcache.store import store_from_arrays

__all__ = ["import_files"]


def import_files(
    files: Sequence[Path],
    *,
    dataset: str,
    model: str,
    home: Path | str | None = None,
    id_column: str = "id",
    vector_column: str | None = None,
    label_columns: Sequence[str] = (),
    tasks: Sequence[Task] = (),
) -> Path:
    """Import embeddings from files: npy + CSV, Parquet, or HDF5 with a dataset ``features``.

    Parameters
    ----------
    files
        ``x.npy`` and ``x.csv`` (rows in the same order); Parquet files; or HDF5 files, one a slide, whose rows
        get the ids ``<stem>/<row>``.
    dataset
        Name in the home. If it exists, the ids must mean the same samples there.
    model
        What made the embeddings, in the user's words.
    home
        Default: FEATCACHE_HOME or the platform's data folder.
    id_column
        Column of unique ids in CSV and Parquet.
    vector_column
        Parquet: the column that holds vectors; default: the only list column, else all floating-point columns.
    label_columns
        Of the CSV or Parquet; default: the column ``label`` if there is one. Several are one multi-label task.
    tasks
        What columns answer, where that is not what ``label_columns`` says.

    Returns
    -------
    Path
        The store.

    Raises
    ------
    DatasetError
        If rows are missing, doubled or not finite (the message names file and rows), or a label column is not there.

    Examples
    --------
    >>> import_files([Path("slide1.h5"), Path("slide2.h5")], dataset="slides", model="uni")  # doctest: +SKIP
    """
    features, samples = read_foreign([Path(file) for file in files], id_column=id_column, vector_column=vector_column)
    if not tasks:
        tasks = _tasks(samples, label_columns, files)
    return store_from_arrays(features, samples, dataset=dataset, model=model, home=home, tasks=tasks)


def _tasks(samples: pd.DataFrame, label_columns: Sequence[str], files: Sequence[Path]) -> tuple[Task, ...]:
    where = ", ".join(str(file) for file in files)
    columns = list(map(str, samples.columns))
    for name in label_columns:
        if name not in columns:
            raise DatasetError(
                f"{where}: no column {name!r}{nearest(name, columns)} (columns: {', '.join(columns)})",
                remedy="Name the columns of labels with --label-column.",
            )
    return tasks_of_columns(samples, tuple(label_columns) or ("label",) * ("label" in columns), where)
