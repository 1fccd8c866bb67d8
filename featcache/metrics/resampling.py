"""Resamples of groups (patients) as multiplicities of rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featcache.errors import ProbeError
from featcache.metrics.weighted import TILE

__all__ = ["group_codes", "jackknife_blocks", "resample_blocks", "resample_weights"]

# Multiplicities held at a time, as float64: 64 MB.
_BLOCK_ENTRIES = 2**23


def resample_weights(groups: ArrayLike, n: int = 1000, seed: int = 0) -> Iterator[NDArray[np.float64]]:
    """Draw as many groups as there are, with replacement, ``n`` times; yield the multiplicities of the rows.

    Parameters
    ----------
    groups
        (n_rows,) group of each row: numbers or strings.
    n
        Number of resamples.
    seed
        Of the generator. The draws do not depend on the size of the blocks.

    Yields
    ------
    (B, n_rows) float64
        Whole numbers; the blocks have ``n`` rows in all and about 64 MB each.

    Raises
    ------
    ProbeError
        If ``n`` is below 1, there is no row, or a group is missing.

    Examples
    --------
    >>> (weights,) = resample_weights(["a", "a", "b"], n=4, seed=1)
    >>> weights.shape, bool((weights[:, 0] == weights[:, 1]).all())
    ((4, 3), True)
    """
    for block in resample_blocks(group_codes(groups), n, seed):
        yield block.astype(np.float64).T


def resample_blocks(codes: NDArray[np.int64], n: int, seed: int) -> Iterator[NDArray[Any]]:
    """(n_rows, B) multiplicities, uint8 where they fit, C-contiguous: stored by rows, as the metrics read them."""
    if n < 1:
        raise ProbeError(f"the bootstrap needs at least one resample, got n = {n}", remedy="Use n = 1000.")
    count = int(codes.max()) + 1
    rng = np.random.default_rng(seed)
    for _, size in _blocks(n, len(codes)):
        drawn = rng.integers(0, count, size=(size, count))
        drawn += count * np.arange(size)[:, None]
        multiplicity = np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count)
        fits = int(multiplicity.max(initial=0)) <= np.iinfo(np.uint8).max
        by_group = np.ascontiguousarray(multiplicity.astype(np.uint8 if fits else np.float64).T)
        yield by_group if _is_range(codes) else by_group[codes]


def jackknife_blocks(codes: NDArray[np.int64], most: int, seed: int) -> Iterator[NDArray[np.uint8]]:
    """(n_rows, B) multiplicities that leave out one group each; of more than ``most`` groups, equal shares of them.

    The shares are random, by the seed.
    """
    count = int(codes.max()) + 1
    shares = min(count, most)
    place = np.arange(count) if shares == count else np.random.default_rng(seed).permutation(count) % shares
    share = place[codes]
    for start, size in _blocks(shares, len(codes)):
        yield (share[:, None] != np.arange(start, start + size)).astype(np.uint8)


def group_codes(groups: ArrayLike) -> NDArray[np.int64]:
    """(n_rows,) number of each row's group, 0 to G - 1, in sorted order of the groups.

    Raises
    ------
    ProbeError
        If there is no row, or a group is missing.
    """
    values = np.asarray(groups)
    if values.ndim != 1 or len(values) == 0:
        raise ProbeError(f"groups must be one value for each of at least one row, got shape {values.shape}")
    missing = np.flatnonzero([value is None or str(value) == "nan" for value in values.tolist()])
    if len(missing):
        raise ProbeError(
            f"the group (patient) is missing in {len(missing)} rows, first: {missing[:5].tolist()}",
            remedy="Fill in the patients, or pass groups=None to resample rows.",
        )
    _, codes = np.unique(values.astype(str) if values.dtype.kind == "O" else values, return_inverse=True)
    return codes.astype(np.int64)


def _blocks(n: int, rows: int) -> Iterator[tuple[int, int]]:
    """Start and size of each block: whole tiles where there is room for one."""
    block = max(1, _BLOCK_ENTRIES // rows)
    block = block - block % TILE if block > TILE else block
    for start in range(0, n, block):
        yield start, min(block, n - start)


def _is_range(codes: NDArray[np.int64]) -> bool:
    return bool((codes == np.arange(len(codes))).all())
