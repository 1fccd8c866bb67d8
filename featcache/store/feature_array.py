"""``FeatureArray``: one array of a store, indexed like numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.errors import StoreError
from featcache.store.backend import Backend
from featcache.store.token_forms import SCALES, TokenForm

__all__ = ["FeatureArray"]


class FeatureArray:
    """One array of a store, its rows in the order of ``store.samples``.

    Index it like numpy: ``array[:]``, ``array[10:20]``, ``array[[3, 1, 3]]``, ``array[mask]``, ``array[5]``,
    ``array[rows, 0]``. Reading fetches the rows that the first index asks for and returns numpy; every other
    index is applied to those rows in memory. Chunks that are read whole are checked against their checksum
    (a container's ``read`` says which).

    Parameters
    ----------
    backend
        The opened container.
    name
        Of the array.
    rows
        (n,) row number in the container for each row of the view; -1 where the container has none.
    label
        What messages call it; default ``name``.
    decoded
        For int8 tokens, the type in which their products with their scales are given; None for numbers as stored.
    """

    def __init__(
        self,
        backend: Backend,
        name: str,
        rows: NDArray[np.int64],
        *,
        label: str | None = None,
        decoded: np.dtype[Any] | None = None,
    ) -> None:
        self.name = name if label is None else label
        self.rows = rows
        self._backend = backend
        self._array = name
        self._row_shape, self._dtype = backend.describe(name)
        self._is_coded = decoded is not None
        if decoded is not None:
            self._dtype = decoded

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows of the view, *shape of a row)."""
        return (len(self.rows), *self._row_shape)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return 1 + len(self._row_shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """As stored; of int8 tokens, that of the features that they stand for."""
        return self._dtype

    def __len__(self) -> int:
        return len(self.rows)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        array = self[:]
        return array if dtype is None else array.astype(dtype)

    def __repr__(self) -> str:
        return f"<FeatureArray {self.name} {self.shape} {self.dtype}>"

    def _read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        absent = int((rows < 0).sum())
        if absent:
            raise StoreError(
                f"{absent} of {len(rows)} rows have no {self.name} in {self._backend.path}",
                remedy=f"Run the same `featcache extract` with {_option(self.name)}: only those rows are computed.",
            )
        if not self._is_coded:
            return self._backend.read(self._array, rows)
        scales = self._backend.read(SCALES, rows)
        decoded = np.empty((len(rows), *self._row_shape), self._dtype)
        codes = self._backend.read(self._array, rows)
        for place in range(len(rows)):  # by row: a float32 copy of them all would be four times what is asked for
            decoded[place] = codes[place] * scales[place][..., None]
        return decoded

    def __getitem__(self, key: Any) -> NDArray[Any]:
        key = key if isinstance(key, tuple) else (key,)
        first, others = (key[0], key[1:]) if key else (slice(None), ())
        if isinstance(first, slice):
            array = self._read(self.rows[first])
            return array[(slice(None), *others)] if others else array
        places = None if first is None or first is Ellipsis else np.asarray(first)
        if places is None or (places.dtype == bool and places.ndim != 1):
            everything: NDArray[Any] = self[:][key]
            return everything
        if places.size == 0 and places.dtype != bool:
            places = places.astype(np.int64)
        wanted = np.asarray(self.rows[places])
        array = self._read(wanted.reshape(-1))
        if not others and wanted.ndim > 0:
            return array.reshape(*wanted.shape, *self._row_shape)
        # The rows were fetched in the order asked for; numpy pairs their numbers with the other indices.
        fetched = np.arange(wanted.size).reshape(wanted.shape) if wanted.ndim > 0 else 0
        result: NDArray[Any] = array[(fetched, *others)]
        return result


def _option(name: str) -> str:
    """How an extraction is asked for an array."""
    form = TokenForm.of_family(name)
    if form is None:
        return f"--{name}"
    layers = f" --layers {form.layers}" if form.layers > 1 else ""
    pca = "" if form.pca is None else f" --token-pca {form.pca}"
    return f"--patches{layers}{pca}{' --token-dtype int8' if form.dtype == 'int8' else ''}"
