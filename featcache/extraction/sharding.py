"""Which rows are a shard's: a division of a dataset's unique rows that every process finds by itself."""

from __future__ import annotations

import heapq
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from featcache.datasets import Dataset
from featcache.errors import ConfigurationError
from featcache.extraction.jobs import is_stacked
from featcache.records import Selector
from featcache.store import NO_ROW, FeatureStore, is_store, open_forms

if TYPE_CHECKING:
    from featcache.extraction.plan import Plan

__all__ = [
    "PACKED_LATER",
    "Shard",
    "checked_shard",
    "first_rows",
    "refuse_packed",
    "rows_there",
    "shard_notes",
    "shards_of_rows",
    "units_of_rows",
]

Shard = tuple[int, int]
"""(i, n): the i-th of n shards, counted from 1."""

PACKED_LATER = (
    "Shards leave their rows in Zarr segments: run the same command once without --shard to pack them into the HDF5 "
    "file."
)
"""What ``--format hdf5`` means for a shard."""

_RUN = 64
"""Rows of an array of pictures that stay together: such a file may be the whole dataset."""


def checked_shard(shard: str | Shard) -> Shard:
    """(i, n) from ``"i/n"`` or from itself.

    Raises
    ------
    ConfigurationError
        If it is not i of n with i from 1 to n.

    Examples
    --------
    >>> checked_shard("2/8"), checked_shard((1, 1))
    ((2, 8), (1, 1))
    """
    text = shard if isinstance(shard, str) else "/".join(map(str, shard))
    found = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", text, re.ASCII)
    if found is None:
        raise ConfigurationError(
            f"shard {text!r} is not of the form i/n", remedy="Write --shard 1/4 for the first of 4."
        )
    number, count = int(found[1]), int(found[2])
    if not 1 <= number <= count:
        raise ConfigurationError(
            f"there is no shard {number} of {count}: they are counted from 1 to {count}",
            remedy="In a SLURM array use --array=1-N and --shard $SLURM_ARRAY_TASK_ID/N.",
        )
    return number, count


def shards_of_rows(dataset: Dataset, digests: Sequence[bytes | None], count: int) -> NDArray[np.int64]:
    """Number of the shard of each row, 1 to ``count``: the same in every process that sees the same dataset.

    Rows of one digest are in one shard, and so are rows of one file or DICOM series, which is decoded once for all of
    them. Files that are plain stacks of pictures (``.npz``) are cut into runs of 64 rows. The largest units are dealt
    first, each to the shard that has the fewest rows: shards differ by one unit at most.

    Parameters
    ----------
    dataset
        n samples.
    digests
        16 bytes for each of the n rows; None for files that cannot be read, which are dealt as well, so that each of
        them is reported by one shard.
    count
        Number of shards.

    Returns
    -------
    (n,) int64
        What is committed already does not matter, so that shards that start at different times agree.
    """
    units = units_of_rows(dataset.samples["path"].tolist(), dataset.samples["selector"].tolist(), digests)
    # A duplicate weighs nothing: it costs no forward pass.
    sizes = np.bincount(units[first_rows(digests)], minlength=int(units.max(initial=-1)) + 1)
    loads = [(0, number) for number in range(1, count + 1)]
    shard_of_unit = np.empty(len(sizes), np.int64)
    for unit in np.argsort(-sizes, kind="stable").tolist():
        load, number = heapq.heappop(loads)
        shard_of_unit[unit] = number
        heapq.heappush(loads, (load + int(sizes[unit]), number))
    return shard_of_unit[units]


def units_of_rows(paths: Sequence[str], selectors: Sequence[str], digests: Sequence[bytes | None]) -> NDArray[np.int64]:
    """A number for each row, equal for rows that are decoded together, in the order of first appearance."""
    numbers: dict[tuple[str, str | None, int], int] = {}
    unit_of_digest: dict[bytes, int] = {}
    units = []
    for path, text, digest in zip(paths, selectors, digests, strict=True):
        unit = None if digest is None else unit_of_digest.get(digest)
        if unit is None:
            unit = numbers.setdefault(_place(path, text), len(numbers))
            if digest is not None:
                unit_of_digest[digest] = unit
        units.append(unit)
    return np.array(units, np.int64)


def _place(path: str, selector: str) -> tuple[str, str | None, int]:
    """What is decoded together: file, series, and of a stack of pictures which run of them."""
    if '"series"' not in selector and ('"axis"' in selector or '"index"' not in selector):
        return path, None, 0  # without parsing it: there may be a million slices
    part = Selector.from_text(selector)
    if is_stacked(path, part):
        return path, part.array, (part.index or 0) // _RUN
    return path, part.series, 0


def first_rows(digests: Sequence[bytes | None]) -> list[int]:
    """Rows that are not a repetition of an earlier one."""
    first: dict[bytes, int] = {}
    return [row for row, digest in enumerate(digests) if digest is None or first.setdefault(digest, row) == row]


def rows_there(plan: Plan, store: Path, *, all_there: bool) -> int:
    """Samples of a plan that have features: of the whole dataset, or of the plan's shard."""
    if all_there:
        return len(plan.digests) if plan.own is None else int(plan.own.sum())
    if plan.own is None:
        return len(FeatureStore(store)) if is_store(store) else 0
    known = [digest or NO_ROW for digest, own in zip(plan.digests, plan.own, strict=True) if own]
    wanted = np.frombuffer(b"".join(known), np.uint8).reshape(-1, 16)
    there = np.zeros(len(wanted), bool)
    for opened in open_forms(plan.store, plan.form):
        there |= opened.rows_of(wanted) >= 0
    return int((there & wanted.any(axis=1)).sum())


def shard_notes(plan: Plan) -> tuple[str, ...]:
    """What the user of a shard should know."""
    if plan.shard is None or plan.form != "hdf5":
        return ()
    return (PACKED_LATER,)


def refuse_packed(plan: Plan) -> None:
    """Refuse to turn a packed store into a Zarr group in a shard: several would do it at once.

    Raises
    ------
    ConfigurationError
        If the plan is a shard's.
    """
    if plan.shard is not None:
        raise ConfigurationError(
            f"the store {plan.store.with_suffix('.h5').name} is packed, and a shard does not unpack it",
            remedy="Leave out --format zarr: shards add to it. Or run the command once without --shard.",
        )
