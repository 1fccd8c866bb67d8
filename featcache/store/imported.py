"""Embeddings made elsewhere, in a store whose key says so."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from featcache.errors import ConfigurationError, DatasetError
from featcache.records import Task
from featcache.store.adding import add_rows
from featcache.store.home import find_home, remember_last_store
from featcache.store.joining import SAMPLE_COLUMNS, join_samples
from featcache.store.keys import Key
from featcache.store.samples import SampleTable, read_samples, write_samples

__all__ = ["imported_key", "store_from_arrays"]

_RESERVED = {"digests", "ids", "segments", "samples", "quarantine", "tokens"}


def store_from_arrays(
    features: Mapping[str, NDArray[Any]],
    samples: pd.DataFrame,
    *,
    dataset: str,
    model: str,
    home: Path | str | None = None,
    tasks: Sequence[Task] = (),
) -> Path:
    """Put arrays into a store whose key says that they were imported.

    Parameters
    ----------
    features
        (n, …) arrays by name; ``cls`` is what probes read by default. float16 and float32 are stored as they are,
        if all are float16 or all float32; otherwise everything is stored as float32, float64 rounded.
    samples
        n rows with a column ``id``, unique; ``split``, ``patient`` and labels besides.
    dataset
        Name in the home. If it exists, the ids must mean the same samples there: their rows are
        aligned with those of the dataset's other stores.
    model
        What made the embeddings, in the user's words.
    home
        Default: FEATCACHE_HOME or the platform's data folder.
    tasks
        What the label columns answer.

    Returns
    -------
    Path
        The store. The same content imported again gives the same path and adds nothing.

    Raises
    ------
    DatasetError
        If numbers of rows differ, ids are missing or doubled, values are not finite, or the dataset's table has
        other values for the same ids.

    Examples
    --------
    >>> X = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    >>> table = pd.DataFrame({"id": ["a", "b", "c"], "split": ["train", "train", "test"]})
    >>> store_from_arrays({"cls": X}, table, dataset="mine", model="theirs")  # doctest: +SKIP
    """
    _check_name(dataset)
    frame = _checked_samples(samples)
    arrays = _checked_arrays(features, frame["id"].tolist())
    content = _content_digests(arrays, frame["id"].tolist())
    key = imported_key(model, arrays, content)
    folder = find_home(home) / dataset
    before = read_samples(folder)
    frame["digest"] = _known_digests(before, frame["id"].tolist(), content)
    table = join_samples(
        before, SampleTable("imported", _ordered(frame), tuple(tasks), _split_origin(frame), ()), dataset
    )
    write_samples(folder, table)
    path, _ = add_rows(
        folder,
        key,
        arrays={name: array.shape[1:] for name, array in arrays.items()},
        ids=frame["id"].tolist(),
        digests=frame["digest"].tolist(),
        read=lambda name, rows: arrays[name][rows],
        provenance={"imported": True, "original_dtypes": {name: str(features[name].dtype) for name in arrays}},
    )
    remember_last_store(find_home(home), path)
    return path


def imported_key(model: str, arrays: Mapping[str, NDArray[Any]], content: Sequence[str]) -> Key:
    """The key of imported features: of the encoder only its name is known, so the content stands for it.

    ``weights`` is SHA-256 over the arrays' names, types and row shapes and the sorted digests of the rows,
    so that the order of the rows does not matter and other numbers never join the same store.
    """
    total = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        total.update(f"{name} {array.dtype} {array.shape[1:]}\n".encode())
    for digest in sorted(content):
        total.update(bytes.fromhex(digest))
    return Key(
        model=model,
        weights=total.hexdigest(),
        precision="unknown",
        runtime="imported",
        dtype=str(next(iter(arrays.values())).dtype),
        preprocess={},
        decoders={},
        encoder=0,
    )


def _check_name(dataset: str) -> None:
    if not re.fullmatch(r"[\w][\w.+-]*", dataset):
        raise ConfigurationError(
            f"{dataset!r} cannot be a folder's name", remedy="Use letters, digits, '.', '_', '+' and '-'."
        )


def _checked_samples(samples: pd.DataFrame) -> pd.DataFrame:
    if "id" not in samples:
        raise DatasetError(
            f"the samples have no column 'id', only {', '.join(map(str, samples.columns)) or 'none'}",
            remedy="Name the column of unique ids: --id-column, or samples.rename(columns={…: 'id'}).",
        )
    if samples["id"].isna().any():
        row = int(np.flatnonzero(samples["id"].isna())[0])
        raise DatasetError(f"row {row} of the samples has no id", remedy="Give each row an id.")
    frame = samples.reset_index(drop=True).rename(columns=str)
    frame["id"] = frame["id"].astype(str).astype("str")
    doubled = frame["id"][frame["id"].duplicated()]
    if len(doubled):
        raise DatasetError(
            f"{len(doubled)} id(s) occur more than once, first {doubled.iloc[0]!r}",
            remedy="Ids must be unique: leave the copies out, or number them.",
        )
    return frame.drop(columns="digest", errors="ignore")


def _checked_arrays(features: Mapping[str, NDArray[Any]], ids: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Arrays of one floating-point type, finite, one row an id."""
    if not features:
        raise DatasetError("there is no array to import", remedy="Give at least one, named 'cls'.")
    given = {name: np.asarray(array) for name, array in features.items()}
    kinds = {array.dtype.name for array in given.values()}
    dtype = np.dtype(np.float16 if kinds == {"float16"} else np.float32)
    checked = {}
    for name, array in given.items():
        if name in _RESERVED or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
            raise DatasetError(
                f"{name!r} cannot be an array's name", remedy="Use letters, digits and '_', for example cls."
            )
        if array.ndim < 2 or array.dtype.kind not in "fiu":
            raise DatasetError(
                f"{name} has shape {array.shape} and type {array.dtype}; expected (rows, width) numbers",
                remedy="Give one vector of numbers a row.",
            )
        if len(array) != len(ids):
            raise DatasetError(
                f"{name} has {len(array)} rows, the samples have {len(ids)}",
                remedy="Each row of the features needs its row in the table, in the same order.",
            )
        with np.errstate(over="ignore"):
            cast = array.astype(dtype)
        bad = np.flatnonzero(~np.isfinite(cast).reshape(len(cast), -1).all(axis=1))
        if len(bad):
            raise DatasetError(
                f"{len(bad)} row(s) of {name} are not finite in {dtype}, first row {bad[0]} ({ids[bad[0]]!r})",
                remedy="A bad input is never a feature: leave these rows out, or compute them again.",
            )
        if array.dtype.kind in "iu" and (cast.astype(np.float64) != array).any():
            raise DatasetError(
                f"{name} holds whole numbers of more than 24 bits, which float32 cannot hold",
                remedy="Check that these are features; scale them if so.",
            )
        checked[name] = cast
    return checked


def _content_digests(arrays: Mapping[str, NDArray[Any]], ids: Sequence[str]) -> list[str]:
    """BLAKE2b-16 of the bytes of each row of all arrays (by name, little-endian) and the id."""
    rows = [np.ascontiguousarray(array, array.dtype.newbyteorder("<")) for _, array in sorted(arrays.items())]
    digests = []
    for row, name in enumerate(ids):
        digest = hashlib.blake2b(digest_size=16)
        for array in rows:
            digest.update(array[row].tobytes())
        digest.update(name.encode())
        digests.append(digest.hexdigest())
    return digests


def _known_digests(before: SampleTable | None, ids: Sequence[str], content: Sequence[str]) -> pd.Series[str]:
    """The digest that the dataset's table has for an id; that of the content for a new id."""
    known = {} if before is None else before.frame.dropna(subset="digest").set_index("id")["digest"].to_dict()
    return pd.Series([known.get(name, digest) for name, digest in zip(ids, content, strict=True)], dtype="str")


def _ordered(frame: pd.DataFrame) -> pd.DataFrame:
    """All columns of a samples table, in its order; those that nobody gave are missing."""
    full = frame.copy()
    for name in SAMPLE_COLUMNS:
        if name not in full:
            full[name] = pd.Series([None] * len(full), dtype="Int64" if name == "index" else "str")
    return full[[*SAMPLE_COLUMNS, *(name for name in frame if name not in SAMPLE_COLUMNS)]]


def _split_origin(frame: pd.DataFrame) -> str:
    return "table" if "split" in frame and frame["split"].notna().any() else "none"
