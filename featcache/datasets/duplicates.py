"""Files with the same bytes, and with the same pixels."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.datasets.files import natural_key

__all__ = ["merged", "pixel_digest", "same_files", "same_pixels"]

_TAIL = 512
"""Bytes compared before whole files are hashed: the ends of PNG and gzip files hold checksums of their content."""


def same_files(root: Path, sizes: Mapping[str, int | None]) -> tuple[tuple[str, ...], ...]:
    """Groups of files with the same bytes: found by size, then by their last bytes, proved by SHA-256.

    Parameters
    ----------
    root
        Paths are relative to it.
    sizes
        Size in bytes of each file.

    Returns
    -------
    tuple
        Groups of at least two paths, sorted; files that cannot be read are in none.
    """
    groups: Iterable[list[str]] = _grouped(sizes, sizes.get)
    for fingerprint in (_tail, _digest):
        groups = [
            same
            for group in groups
            for same in _grouped(group, lambda path, of=fingerprint: of(root / path))  # type: ignore[misc]
        ]
    return tuple(sorted(tuple(sorted(group, key=natural_key)) for group in groups))


def pixel_digest(array: NDArray[Any]) -> bytes:
    """BLAKE2b-128 of an array's shape, type and values.

    Examples
    --------
    >>> pixel_digest(np.zeros((2, 3))) == pixel_digest(np.zeros((3, 2)).T)
    True
    """
    hashed = hashlib.blake2b(f"{array.shape} {array.dtype.str}".encode(), digest_size=16)
    hashed.update(np.ascontiguousarray(array).data.cast("B") if array.size else b"")
    return hashed.digest()


def same_pixels(digests: Mapping[str, bytes]) -> tuple[tuple[str, ...], ...]:
    """Groups of files with the same :func:`pixel_digest`: copies that were saved again.

    Parameters
    ----------
    digests
        By path.
    """
    return tuple(sorted(tuple(sorted(group, key=natural_key)) for group in _grouped(digests, digests.get)))


def merged(same_bytes: Iterable[tuple[str, ...]], pixels_too: Iterable[tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    """Groups of both kinds, without groups of the first kind that lie within one of the second.

    Examples
    --------
    >>> merged([("a", "b"), ("x", "y")], [("a", "b", "c")])
    (('a', 'b', 'c'), ('x', 'y'))
    """
    groups = list(pixels_too)
    group_of = {path: group for group in groups for path in group}
    kept = [group for group in same_bytes if not set(group) <= set(group_of.get(group[0], ()))]
    return tuple(sorted((*groups, *kept)))


def _grouped(paths: Iterable[str], key: Callable[[str], Any]) -> list[list[str]]:
    """Groups of at least two with the same key; those without a key are alone."""
    groups: dict[Any, list[str]] = defaultdict(list)
    for path in paths:
        groups[key(path)].append(path)
    return [group for value, group in groups.items() if len(group) > 1 and value is not None]


def _tail(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
            return file.read()
    except OSError:
        return None


def _digest(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return None
