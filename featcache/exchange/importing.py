"""Embeddings made elsewhere, from their files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from featcache.exchange.foreign import read_foreign
from featcache.records import Task
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
    tasks
        What the label columns answer.

    Returns
    -------
    Path
        The store.

    Raises
    ------
    DatasetError
        If rows are missing, doubled or not finite; the message names file and rows.

    Examples
    --------
    >>> import_files([Path("slide1.h5"), Path("slide2.h5")], dataset="slides", model="uni")  # doctest: +SKIP
    """
    features, samples = read_foreign([Path(file) for file in files], id_column=id_column, vector_column=vector_column)
    return store_from_arrays(features, samples, dataset=dataset, model=model, home=home, tasks=tasks)
