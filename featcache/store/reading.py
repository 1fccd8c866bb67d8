"""Rows of an array, read straight from its chunks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.errors import StoreCorruptError
from featcache.store.zarr_layout import ArrayLayout, chunk_file, decode_chunk

__all__ = ["FeatureArray"]

_WHOLE_CHUNK_SHARE = 0.25
"""From this share of a chunk's rows on, the chunk is read whole and its checksum is checked."""


class FeatureArray:
    """One array of a store, its rows in the order of ``store.samples``.

    Index it like numpy: ``array[:]``, ``array[10:20]``, ``array[[3, 1, 3]]``, ``array[mask]``, ``array[5]``.
    Reading fetches the bytes that are needed and returns numpy; chunks that are read whole are checked
    against their crc32c.

    Parameters
    ----------
    store
        Folder of the Zarr group.
    layout
        The array's type and chunking.
    physical
        (n,) row number in the Zarr array for each row of the view.
    """

    def __init__(self, store: Path, layout: ArrayLayout, physical: NDArray[np.int64]) -> None:
        self._store = store
        self._layout = layout
        self._physical = physical

    @property
    def name(self) -> str:
        """Name of the array."""
        return self._layout.name

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows of the view, *shape of a row)."""
        return (len(self._physical), *self._layout.row_shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """As stored."""
        return np.dtype(self._layout.dtype)

    def __len__(self) -> int:
        return len(self._physical)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        array = self[:]
        return array if dtype is None else array.astype(dtype)

    def __repr__(self) -> str:
        return f"<FeatureArray {self.name} {self.shape} {self.dtype}>"

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        if isinstance(rows, tuple):
            result: NDArray[Any] = self[rows[0]][(slice(None), *rows[1:])]
            return result
        if isinstance(rows, int | np.integer):
            one: NDArray[Any] = self._read(self._physical[np.array([rows])])[0]
            return one
        wanted = np.asarray(rows) if not isinstance(rows, slice) else rows
        if isinstance(wanted, np.ndarray) and wanted.size == 0:
            wanted = wanted.astype(np.int64)
        return self._read(self._physical[wanted])

    def _read(self, physical: NDArray[np.int64]) -> NDArray[Any]:
        layout = self._layout
        result = np.empty((len(physical), *layout.row_shape), self.dtype)
        chunks, offsets = np.divmod(physical, layout.chunk_rows)
        order = np.argsort(chunks, kind="stable")
        boundaries = np.flatnonzero(np.diff(chunks[order])) + 1
        for places in np.split(order, boundaries) if len(order) else []:
            path = chunk_file(self._store, layout, int(chunks[places[0]]))
            inside = offsets[places]
            if len(np.unique(inside)) >= _WHOLE_CHUNK_SHARE * layout.chunk_rows:
                result[places] = decode_chunk(path, layout)[inside]
            else:
                result[places] = self._map(path)[inside]
        return result

    def _map(self, path: Path) -> NDArray[Any]:
        layout = self._layout
        expected = layout.chunk_rows * layout.row_bytes + 4
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            size = -1
        if size != expected:
            found = "missing" if size < 0 else f"{size} bytes, expected {expected}"
            raise StoreCorruptError(
                f"a committed chunk is {found}: {path}",
                remedy="Restore the store, or remove its folder and extract again.",
            )
        dtype = np.dtype(layout.dtype).newbyteorder("<")
        return np.memmap(path, dtype, mode="r", shape=(layout.chunk_rows, *layout.row_shape))
