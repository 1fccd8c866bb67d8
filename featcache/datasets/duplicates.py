"""Files with the same bytes."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from featcache.datasets.files import natural_key

__all__ = ["same_files"]

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
