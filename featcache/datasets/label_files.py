"""Label tables and lists as their publishers write them: all text, nothing guessed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from featcache.datasets.files import posix, shown
from featcache.errors import DatasetError
from featcache.registry import nearest

__all__ = ["by_value", "numbers_in", "read_list", "read_table", "unique_rows"]


def read_table(file: Path, *, required: Sequence[str] = (), optional: Sequence[str] | None = None) -> pd.DataFrame:
    """Read a CSV (UTF-8, with or without BOM) or Parquet file; CSV cells stay text, empty ones are missing.

    Parameters
    ----------
    file
        The table.
    required
        Columns that must be there.
    optional
        Further columns to read, where they are; None for all. What is not read cannot leak.

    Raises
    ------
    DatasetError
        If the file cannot be read, has no rows, or lacks a column (with the nearest names).
    """
    wanted = None if optional is None else {*required, *optional}
    try:
        if file.suffix.lower() == ".parquet":
            frame = pd.read_parquet(file)
        else:
            # All as text: guessed types turn the class None into a missing label and patient 0100 into 100.
            frame = pd.read_csv(
                file,
                encoding="utf-8-sig",
                skipinitialspace=True,
                dtype="str",
                keep_default_na=False,
                na_values=[""],
                usecols=None if wanted is None else lambda name: str(name).strip() in wanted,
            )
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"table {file} cannot be read: it is not UTF-8 ({error.reason} at byte {error.start})",
            remedy="Save it again as CSV UTF-8.",
        ) from error
    except (ValueError, OSError) as error:
        raise DatasetError(f"table {file} cannot be read: {error}", remedy="Open it and look at that place.") from error
    frame = frame.reset_index(drop=True)
    frame.columns = [str(name).strip() for name in frame.columns]
    for name in required:
        if name not in frame.columns:
            known = _header(file)
            raise DatasetError(
                f"table {file} has no column {name!r}{nearest(name, known)} (columns: {', '.join(known)})",
                remedy="Use the table as its publisher ships it.",
            )
    if frame.empty:
        raise DatasetError(f"table {file} has no rows", remedy="Copy it again from its source.")
    return frame


def _header(file: Path) -> list[str]:
    if file.suffix.lower() == ".parquet":
        return [str(name) for name in pd.read_parquet(file).columns]
    return [str(name).strip() for name in pd.read_csv(file, encoding="utf-8-sig", nrows=0).columns]


def unique_rows(frame: pd.DataFrame, key: str, file: Path) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Rows without repetitions.

    Returns
    -------
    frame
        The first of each set of equal rows.
    notes
        How many were dropped.

    Raises
    ------
    DatasetError
        If rows with the same key differ, or a key is missing.
    """
    missing = frame[key].isna()
    if missing.any():
        raise DatasetError(
            f"table {file}: {int(missing.sum())} rows have no {key!r}, first row {missing.tolist().index(True) + 1}",
            remedy="Fill it in, or delete those rows.",
        )
    if not frame[key].duplicated().any():
        return frame, ()
    unique = frame.drop_duplicates(ignore_index=True)
    repeated = unique[key][unique[key].duplicated()].unique().tolist()
    if repeated:
        raise DatasetError(
            f"table {file}: {len(repeated)} values of {key!r} have several rows that differ: {shown(repeated)}",
            remedy="Keep one row for each.",
        )
    return unique, (f"{len(frame) - len(unique)} rows of {file.name} are repeated and were dropped.",)


def read_list(file: Path) -> list[str]:
    """File names, one a line, without folders; blank lines are skipped.

    Raises
    ------
    DatasetError
        If it cannot be read or a name occurs twice.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"list {file} cannot be read: {error}", remedy="Copy it again from its source.") from error
    names = [name for line in text.splitlines() if (name := line.strip())]
    if "/" in text or "\\" in text:
        names = [posix(name).rsplit("/", 1)[-1] for name in names]
    if len(set(names)) < len(names):
        repeated = pd.Series(names, dtype="str")
        first = repeated[repeated.duplicated()].tolist()
        raise DatasetError(f"list {file} names {len(first)} files twice: {shown(first)}", remedy="Keep one line each.")
    return names


def by_value(column: pd.Series[Any], function: Callable[[Any], Any], dtype: str) -> pd.Series[Any]:
    """Apply a function once to each distinct value of a column; missing values stay missing."""
    made = {value: function(value) for value in column.dropna().unique().tolist()}
    return column.map(made).astype(dtype)  # type: ignore[no-any-return, call-overload, unused-ignore]


def numbers_in(column: pd.Series[str]) -> pd.Series[Any]:
    """The digits of texts such as ``058Y`` as whole numbers; missing where there are none."""

    def number(text: str) -> int | None:
        digits = "".join(char for char in text if char.isdecimal())
        return int(digits) if digits else None

    return by_value(column, number, "Int64")
