"""Weighted sums of entries by bin: the confusion counts, and the gaps of a calibration."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from featcache.metrics.inputs import Floats
from featcache.metrics.weighted import Weights, worth_compiling

__all__ = ["EntrySums"]


class EntrySums:
    """Sums over entries that each belong to a row and to a bin, in the order of the rows.

    No matrix product: that would depend on the number of threads in the last bit, and wait for them on a busy machine.

    Parameters
    ----------
    rows
        (m,) the row of the weights that an entry belongs to.
    bins
        (m,) below ``count``.
    count
        Number of bins.
    values
        (m, K) float64 to be weighted and summed; None counts the entries (K = 1).
    """

    def __init__(
        self, rows: NDArray[np.int64], bins: NDArray[np.int64], count: int, values: Floats | None = None
    ) -> None:
        # Numpy sorts 16 bits by radix, ten times as fast.
        order = np.argsort(bins.astype(np.uint16) if count <= 1 << 16 else bins, kind="stable")
        self._rows, self._bins, self._count = rows[order], bins[order], count
        self._values = np.ones((len(rows), 1)) if values is None else values[order]

    def __call__(self, w: Weights) -> Floats:
        """(count, K, B) sums."""
        width = self._values.shape[1]
        if worth_compiling(len(self._rows) * w.count):
            from featcache.metrics import compiled

            out = np.zeros((self._count, width, w.tiles.shape[1]))
            compiled.bin_sums(w.tiles, self._rows, self._bins, self._values, out)
            return out[:, :, : w.count]
        entries = w.floats[self._rows]
        out = np.zeros((self._count, width, w.count))
        for k, b in np.ndindex(width, w.count):
            out[:, k, b] = np.bincount(self._bins, self._values[:, k] * entries[:, b], self._count)
        return out
