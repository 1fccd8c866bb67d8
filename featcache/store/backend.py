"""What a container of features must offer; Zarr groups and HDF5 files do."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from featcache.records import Failure
from featcache.store.token_forms import is_token_family

__all__ = [
    "Backend",
    "FORMAT_VERSION",
    "KEPT_PIXELS",
    "NOT_FEATURES",
    "NO_ROW",
    "family_path",
    "locate_rows",
    "open_backend",
    "token_families",
]

FORMAT_VERSION = 1
"""Of the store's format (``docs/format.md``). A store of a higher one is refused."""

NOT_FEATURES = frozenset({"digests", "ids"})
"""Arrays that say what a row is."""

NO_ROW = bytes(16)
"""The digest of a place that holds no row (a quarantined image, the end of a short segment)."""


KEPT_PIXELS = "kept_pixels"
"""The model that a store of decoded pixels names: no features, and never meant where no store is named."""


def family_path(store: Path, family: str) -> Path:
    """The group that holds a family: the store itself for ``vectors``, a group inside it for tokens."""
    return store if family == "vectors" else store / family


def token_families(store: Path) -> list[str]:
    """Names of the families beside ``vectors`` that a Zarr store has, sorted."""
    held = store.glob("patches*/segments") if store.is_dir() else ()
    return sorted(path.parent.name for path in held if is_token_family(path.parent.name) and path.is_dir())


class Backend(Protocol):
    """A container opened for reading."""

    path: Path
    """The folder or file."""
    attributes: dict[str, Any]
    """Format version, key, specification, families and provenance."""

    def committed(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """(n, 16) digests of the committed rows and (n,) their row numbers, in the order of the commits."""

    def ids(self) -> dict[int, str]:
        """The id that each committed row had when it was embedded, by row number."""

    def describe(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Shape of one row and dtype of an array."""

    def read(self, name: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Some rows of an array, in the order asked for; rows may repeat."""

    def failures(self) -> tuple[Failure, ...]:
        """The samples in quarantine."""


def open_backend(path: Path) -> Backend:
    """Open a store: a Zarr group (folder) or its packed copy (an HDF5 file).

    Raises
    ------
    StoreNotFoundError
        If there is nothing at ``path``.
    StoreVersionError
        If a newer featcache wrote it.
    StoreCorruptError
        If its metadata cannot be read.
    """
    if path.is_file():
        from featcache.store.hdf5_backend import Hdf5Backend

        return Hdf5Backend(path)
    from featcache.store.zarr_backend import ZarrBackend

    return ZarrBackend(path)


def locate_rows(digests: NDArray[np.uint8], rows: NDArray[np.int64], wanted: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Row number of each wanted digest, -1 where it is not committed; of several commits the last counts.

    Parameters
    ----------
    digests, rows
        (n, 16) uint8 and (n,), from :meth:`Backend.committed`.
    wanted
        (m, 16) uint8; :data:`NO_ROW` is never found.

    Returns
    -------
    ndarray
        (m,) int64.

    Notes
    -----
    A binary search on the first 8 bytes, then a comparison of the rest. Digests that share their first half
    and differ in the second (which chance does not bring about) are looked up one by one.
    """
    if len(digests) == 0 or len(wanted) == 0:
        return np.full(len(wanted), -1, np.int64)
    known = np.ascontiguousarray(digests).view(np.uint64)
    asked = np.ascontiguousarray(wanted).view(np.uint64)
    order, halves = _sorted_halves(known)
    # Searching in order keeps the search in the processor's cache.
    asked_order, asked_halves = _sorted_halves(asked)
    place = np.empty(len(asked), np.int64)
    place[asked_order] = np.searchsorted(halves, asked_halves, side="right") - 1
    found = order[np.maximum(place, 0)]
    same_half = (place >= 0) & (known[found, 0] == asked[:, 0])
    there = (asked[:, 0] != 0) | (asked[:, 1] != 0)
    same = same_half & (known[found, 1] == asked[:, 1]) & there
    result = np.where(same, rows[found], -1)
    for position in np.flatnonzero(same_half & ~same & there):
        twins = np.flatnonzero((known == asked[position]).all(axis=1))
        result[position] = rows[twins[-1]] if len(twins) else -1
    return result.astype(np.int64, copy=False)


def _sorted_halves(digests: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Stable order of (n, 2) digests by their first halves, and the halves so ordered; quick unless some are equal."""
    first = np.ascontiguousarray(digests[:, 0])
    order = np.argsort(first)
    halves = first[order]
    if (halves[1:] == halves[:-1]).any():
        order = np.argsort(first, kind="stable")
    return order, halves
