"""Rows that leave a store, by blocks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.store import FeatureStore, SampleTable, digests_from_text

__all__ = ["RowReader"]

_BLOCK_BYTES = 1 << 26


class RowReader:
    """All arrays of some of a store's rows.

    Parameters
    ----------
    store
        Where they are.
    table
        The samples whose rows are read, in this order; its column ``digest`` says which they are.
    """

    def __init__(self, store: FeatureStore, table: SampleTable) -> None:
        digests = digests_from_text(table.frame["digest"].tolist())
        self._arrays = {name: store.array_of(name, digests) for name in store.names}

    def __call__(self, name: str, places: NDArray[np.int64]) -> NDArray[Any]:
        return self._arrays[name][places]

    def present(self, name: str) -> NDArray[np.bool_]:
        """Which of the n rows the array has: all, but for tokens that were not computed."""
        return self._arrays[name].rows >= 0

    def blocks(self, name: str) -> Iterator[NDArray[Any]]:
        """One array by blocks of about 64 MB, so that it need not fit into memory."""
        array = self._arrays[name]
        size = max(1, _BLOCK_BYTES // max(1, array.dtype.itemsize * math.prod(array.shape[1:])))
        for start in range(0, len(array), size):
            yield array[start : start + size]
