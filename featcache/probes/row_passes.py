"""Passes over the rows that all columns of a fit share: how logits move, and what the loss says of it."""

from __future__ import annotations

from concurrent.futures import Executor
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from featcache.probes.losses import Loss

__all__ = ["RowPasses"]

Floats: TypeAlias = NDArray[np.float32]
Doubles: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.int64]

_BLOCK = 256
"""Rows worked on at a time; what is in between is small then."""
_FEWEST_STRIPES, _MOST_STRIPES, _STRIPE = 8, 32, 2048
"""Neighbouring blocks are one thread's work and one sum: so many stripes of about so many rows."""


class RowPasses:
    """The logits of some columns, and how far each would move.

    The stripes depend on the number of rows alone, and their sums are added in the order of the rows: the numbers are
    the same for any number of threads.

    Parameters
    ----------
    rows
        (n, q) float32.
    loss
        What the logits are scored by.
    width
        Columns at most.
    workers
        Threads that share a pass.

    Attributes
    ----------
    logits, moved : (n, width) float32
        Of the weights that were accepted; what the last step adds to them.
    """

    def __init__(self, rows: Floats, loss: Loss, width: int, workers: Executor) -> None:
        self.rows, self.loss, self.workers = rows, loss, workers
        self.logits, self.moved = np.empty((len(rows), width), np.float32), np.empty((len(rows), width), np.float32)
        self._blocks = [slice(begin, min(begin + _BLOCK, len(rows))) for begin in range(0, len(rows), _BLOCK)]
        count = min(max(_FEWEST_STRIPES, len(rows) // _STRIPE), _MOST_STRIPES, len(self._blocks))
        bounds = np.linspace(0, len(self._blocks), count + 1).round().astype(int).tolist()
        self._stripes = [self._blocks[first:last] for first, last in pairwise(bounds)]

    def keep(self, columns: Indices, before: int, new: int) -> None:
        """Move ``columns`` of the ``before`` first ones to the front; ``new`` that follow start at zero."""
        if len(columns) < before:
            for rows in self._blocks:
                block = self.logits[rows]
                block[:, : len(columns)] = block[:, columns]
        self.logits[:, len(columns) : len(columns) + new] = 0

    def accept(self, count: int) -> None:
        """Move the logits of the first ``count`` columns."""
        self.logits[:, :count] += self.moved[:, :count]

    def gradient(
        self, outputs: Indices, columns: slice | Indices, count: int, direction: Floats | None
    ) -> tuple[Floats, Doubles, Doubles]:
        """Gradient (q, m) of the summed loss, its slope (m,) and curvature (m,), where the logits are moved.

        Parameters
        ----------
        outputs
            Output of each problem that has these columns.
        columns, count
            Which, and how many (m).
        direction
            (q, m) sets how the first m columns move; None keeps it.
        """

        def part(stripe: list[slice]) -> tuple[Floats, Doubles, Doubles]:
            pull = np.zeros((self.rows.shape[1], count), np.float32)
            along, bent = np.zeros(count), np.zeros(count)
            for block in stripe:
                rows = self.rows[block]
                if direction is not None:
                    self.moved[block, :count] = rows @ direction
                moved = self.moved[block, columns]
                logits = self.logits[block, columns] + moved
                bent += self.loss.residual(block, outputs, logits)
                pull += rows.T @ logits
                along += np.einsum("nm,nm->m", logits, moved)
            return pull, along, bent

        gradient = np.zeros((self.rows.shape[1], count), np.float32)
        slope, bend = np.zeros(count), np.zeros(count)
        for pull, along, bent in self.workers.map(part, self._stripes):  # in the order of the rows
            gradient += pull
            slope += along
            bend += bent
        return gradient, slope, bend

    def slope(self, outputs: Indices, columns: Indices, length: Floats) -> Doubles:
        """(m,) slopes of the summed loss along the move, at these lengths of it: no product with the rows."""

        def part(stripe: list[slice]) -> Doubles:
            along = np.zeros(len(columns))
            for block in stripe:
                moved = self.moved[block, columns]
                logits = self.logits[block, columns] + moved * length
                self.loss.residual(block, outputs, logits)
                along += np.einsum("nm,nm->m", logits, moved)
            return along

        total = np.zeros(len(columns))
        for along in self.workers.map(part, self._stripes):
            total += along
        return total
