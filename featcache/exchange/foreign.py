"""Reading embeddings as other tools write them: npy + CSV, Parquet, HDF5 with a dataset ``features``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from featcache.errors import DatasetError
from featcache.registry import nearest

__all__ = ["read_foreign"]

_HDF5 = {".h5", ".hdf5", ".hdf"}
_PARQUET = {".parquet", ".pq"}


def read_foreign(
    files: Sequence[Path], *, id_column: str = "id", vector_column: str | None = None
) -> tuple[dict[str, NDArray[Any]], pd.DataFrame]:
    """Read files of one kind.

    Parameters
    ----------
    files
        One ``.npy`` and one ``.csv``; Parquet files; or HDF5 files.
    id_column
        Column of the ids, in CSV and Parquet.
    vector_column
        Column of vectors, in Parquet.

    Returns
    -------
    features
        ``cls``: (n, D).
    samples
        n rows with the column ``id``.

    Raises
    ------
    DatasetError
        If the files are of none of these kinds or lack what they should have.
    """
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise DatasetError(f"no such file: {', '.join(missing)}", remedy="Check the path.")
    kinds = {file.suffix.lower() for file in files}
    if sorted(file.suffix.lower() for file in files) == [".csv", ".npy"]:
        array, table = sorted(files, key=lambda file: file.suffix.lower() != ".npy")
        return {"cls": _read_npy(array)}, _with_ids(_read_csv(table), id_column, table)
    if files and kinds <= _PARQUET:
        parts = [_read_parquet(file, id_column, vector_column) for file in files]
    elif files and kinds <= _HDF5:
        stems = [file.stem for file in files]
        doubled = sorted({stem for stem in stems if stems.count(stem) > 1})
        if doubled:
            raise DatasetError(
                f"several files are named {doubled[0]!r}, and ids are <name of the file>/<row>",
                remedy="Rename them, or import them as datasets of their own.",
            )
        parts = [_read_hdf5(file) for file in files]
    else:
        raise DatasetError(
            f"cannot import {', '.join(file.name for file in files) or 'nothing'}",
            remedy="Give one .npy with one .csv, or .parquet files, or .h5 files with a dataset 'features'.",
        )
    widths = {vectors.shape[1:]: file for (vectors, _), file in zip(parts, files, strict=True)}
    if len(widths) > 1:
        listed = "; ".join(f"{file}: {shape}" for shape, file in widths.items())
        raise DatasetError(
            f"the files hold vectors of different shapes: {listed}",
            remedy="Import what one encoder made; use one --model name for each.",
        )
    samples = pd.concat([table for _, table in parts], ignore_index=True)
    return {"cls": np.concatenate([vectors for vectors, _ in parts])}, samples


def _read_npy(path: Path) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DatasetError(
            f"{path} is not a numpy array of numbers ({error})", remedy="Write it with numpy.save; no pickle is read."
        ) from error
    return array


def _read_csv(path: Path) -> pd.DataFrame:
    try:
        header = pd.read_csv(path, nrows=0)
        texts = [name for name in header if name in ("id", "patient", "volume", "split")]
        return pd.read_csv(path, dtype=dict.fromkeys(texts, "str"))
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"{path} cannot be read as CSV ({error})", remedy="Give a CSV with a header line."
        ) from error


def _read_parquet(path: Path, id_column: str, vector_column: str | None) -> tuple[NDArray[Any], pd.DataFrame]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise DatasetError(f"{path} cannot be read as Parquet ({error})", remedy="Write it again.") from error
    lists = [field.name for field in table.schema if _is_list(field.type)]
    floats = [field.name for field in table.schema if pyarrow.types.is_floating(field.type) and field.name != id_column]
    if vector_column is not None and vector_column not in table.column_names:
        raise DatasetError(
            f"{path} has no column {vector_column!r}{nearest(vector_column, table.column_names)}",
            remedy=f"Columns of vectors: {', '.join(lists) or 'none'}.",
        )
    if vector_column is None and len(lists) > 1:
        raise DatasetError(
            f"{path} has {len(lists)} columns of vectors: {', '.join(lists)}", remedy="Choose one with --vector-column."
        )
    if vector_column is None and not lists and not floats:
        raise DatasetError(
            f"{path} has neither a column of vectors nor floating-point columns",
            remedy="Give one list column, or one floating-point column for each dimension.",
        )
    if vector_column is None and not lists:
        used, vectors = floats, np.column_stack([table.column(name).to_numpy() for name in floats])
    else:
        used = [vector_column or lists[0]]
        vectors = _vectors(table.column(used[0]), f"{path}, column {used[0]}")
    return vectors, _with_ids(table.drop_columns(used).to_pandas(), id_column, path)


def _is_list(kind: Any) -> bool:
    import pyarrow

    tests = (pyarrow.types.is_list, pyarrow.types.is_large_list, pyarrow.types.is_fixed_size_list)
    return any(test(kind) for test in tests) and pyarrow.types.is_floating(kind.value_type)


def _vectors(column: Any, where: str) -> NDArray[Any]:
    """(n, D) from a list column whose rows are equally long."""
    if not _is_list(column.type):
        raise DatasetError(
            f"{where} holds {column.type}, no vectors", remedy="Give a column of lists of floating-point numbers."
        )
    joined = column.combine_chunks()
    lengths = {len(row) if row.is_valid else 0 for row in joined} if joined.null_count else None
    if lengths is None and not hasattr(joined.type, "list_size"):
        lengths = set(joined.value_lengths().to_pylist())
    if lengths is not None and len(lengths) > 1:
        raise DatasetError(
            f"{where}: the vectors have {len(lengths)} different lengths, {min(lengths)} to {max(lengths)}",
            remedy="Leave out rows without a vector; all must be equally long.",
        )
    flat: NDArray[Any] = joined.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(joined), -1) if len(joined) else flat.reshape(0, 0)


def _read_hdf5(path: Path) -> tuple[NDArray[Any], pd.DataFrame]:
    """``features`` (n, D) or (1, n, D), and ``coords`` (n, 2) where the tool wrote them."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            if "features" not in file or not isinstance(file["features"], h5py.Dataset):
                raise DatasetError(
                    f"{path} has no dataset 'features', only {', '.join(file) or 'nothing'}",
                    remedy="Pathology tools write one; rename yours, or convert it to .npy and .csv.",
                )
            features: NDArray[Any] = file["features"][()]
            coords = file["coords"][()] if "coords" in file else None
    except (OSError, RuntimeError) as error:
        raise DatasetError(f"{path} cannot be read as HDF5 ({error})", remedy="Copy or compute it again.") from error
    if features.ndim == 3 and len(features) == 1:
        features = features[0]
    if features.ndim != 2:
        raise DatasetError(
            f"{path}: 'features' has shape {features.shape}, expected (rows, width)", remedy="Reshape it."
        )
    samples = pd.DataFrame(
        {
            "id": pd.Series([f"{path.stem}/{row}" for row in range(len(features))], dtype="str"),
            "volume": pd.Series([path.stem] * len(features), dtype="str"),
            "index": pd.Series(range(len(features)), dtype="Int64"),
        }
    )
    coords = None if coords is None else coords.reshape(-1, coords.shape[-1])
    if coords is not None and coords.shape == (len(features), 2):
        samples["x"], samples["y"] = coords[:, 0], coords[:, 1]
    return features, samples


def _with_ids(table: pd.DataFrame, id_column: str, path: Path) -> pd.DataFrame:
    if id_column not in table:
        raise DatasetError(
            f"{path} has no column {id_column!r}{nearest(id_column, list(map(str, table.columns)))}",
            remedy=f"It has: {', '.join(map(str, table.columns)) or 'none'}. Choose one with --id-column.",
        )
    if id_column == "id":
        return table
    return table.rename(columns={"id": "original_id", id_column: "id"})
