"""``FeatureArray``: one array of a store, indexed like numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.store.backend import Backend

__all__ = ["FeatureArray"]


class FeatureArray:
    """One array of a store, its rows in the order of ``store.samples``.

    Index it like numpy: ``array[:]``, ``array[10:20]``, ``array[[3, 1, 3]]``, ``array[mask]``, ``array[5]``.
    Reading fetches the bytes that are needed and returns numpy. Chunks that are read whole are checked
    against their checksum.

    Parameters
    ----------
    backend
        The opened container.
    name
        Of the array.
    rows
        (n,) row number in the container for each row of the view.
    """

    def __init__(self, backend: Backend, name: str, rows: NDArray[np.int64]) -> None:
        self.name = name
        self._backend = backend
        self._rows = rows
        self._row_shape, self._dtype = backend.describe(name)

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows of the view, *shape of a row)."""
        return (len(self._rows), *self._row_shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """As stored."""
        return self._dtype

    def __len__(self) -> int:
        return len(self._rows)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        array = self[:]
        return array if dtype is None else array.astype(dtype)

    def __repr__(self) -> str:
        return f"<FeatureArray {self.name} {self.shape} {self.dtype}>"

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        if isinstance(rows, tuple):
            result: NDArray[Any] = self[rows[0]]
            if isinstance(rows[0], int | np.integer):
                return result[rows[1:]]
            return result[(slice(None), *rows[1:])]
        if isinstance(rows, int | np.integer):
            one: NDArray[Any] = self._backend.read(self.name, self._rows[np.array([rows])])[0]
            return one
        wanted = rows if isinstance(rows, slice) else np.asarray(rows)
        if isinstance(wanted, np.ndarray) and wanted.size == 0:
            wanted = wanted.astype(np.int64)
        return self._backend.read(self.name, self._rows[wanted])
