"""A bfloat16 screen for exact neighbours: each number it computes is an upper bound of a similarity."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.probes.base import row_blocks
from featcache.probes.ranking import NEAR_TIE, Rows

__all__ = ["Candidates", "Screen", "cpu_has_bfloat16"]

# bfloat16 keeps 8 bits: rounding to nearest moves a number by 2^-9 of itself at most.
_UNIT = 2.0**-9
# A bound is made this much larger before it is rounded, so that it is one afterwards too.
_UP = 1 + 2.0**-7
# Columns whose largest number stands for all of them while most are still being ruled out.
_GROUP = 16
# Rows of which the mean is taken; any vector would be correct.
_MEAN_OF = 8192
# More candidates than this for each neighbour asked for: the screen decides too little.
_MOST = 24
# Numbers of a block of bounds: 128 MB of bfloat16.
_BLOCK = 2**26


@dataclass(frozen=True, slots=True)
class Candidates:
    """What is left to rank for some queries."""

    queries: NDArray[np.int64]
    """Positions of the queries that were decided, ascending."""
    counts: NDArray[np.int64]
    """How many candidates each of them has."""
    rows: NDArray[np.int64]
    """The candidates, query by query."""


class Screen:
    """Candidates that are proved to hold the k nearest.

    With m any vector, q.x = q.m + (q - m).(x - m) + m.(x - m). The first term is the same for all x, the last is a
    number for each x; the middle is small where embeddings are concentrated, and so is its rounding error. By Cauchy
    and Schwarz the error of the rounded product is at most |x - m - x'| |q'| + |x - m| |q - m - q'|, with ' for
    what was rounded. Both parts are products of a number for x and one for q: as two more columns of the matrices
    they make the product itself the upper bound. The k-th largest bound, less twice its error, is a number that
    the k-th similarity reaches; a row whose bound does not reach it is not among the k nearest.

    Parameters
    ----------
    rows
        n >= 64 training rows.
    threads
        Of torch during the work; None leaves its setting alone.

    Notes
    -----
    A bfloat16 product on a CPU is summed in float32 and rounded once (AMX and AVX-512 BF16); the bounds hold
    (D + 64) 2^-23 of the sum of magnitudes for the summation.
    """

    def __init__(self, rows: Rows, threads: int | None = None) -> None:
        import torch

        self.threads = threads
        n, width = rows.vectors.shape
        sample = np.unique(np.linspace(0, n - 1, min(n, _MEAN_OF)).astype(np.int64))
        self._mean = torch.from_numpy(rows.unit(sample).mean(axis=0))
        self._n = n
        # Column j of a block of bounds, j + G, j + 2G ... are a group: the number of columns is a multiple.
        self._columns = -(-n // (32 * _GROUP)) * 32 * _GROUP
        self._summed = (width + 64) * 2.0**-23
        padded = -(-(width + 6) // 32) * 32
        self._rows = torch.zeros((self._columns, padded), dtype=torch.bfloat16)
        self._error = torch.zeros((self._columns, 3))
        with torch_threads(threads):
            for block in row_blocks(n, 64 * width):
                centred, shift = self._centre(rows, block)
                rounded = self._rows[block]
                rounded[:, :width] = centred
                rest = shift
                for column in range(width, width + 3):
                    rounded[:, column] = rest
                    rest = rest - rounded[:, column].double()
                length = torch.linalg.vector_norm(centred, dim=1)
                lost = torch.linalg.vector_norm(centred - rounded[:, :width].double(), dim=1)
                error = torch.stack(
                    [lost + self._summed * length, length, rest.abs() + self._summed * shift.abs() + 1e-12], dim=1
                )
                rounded[:, width + 3 : width + 6] = error * _UP
                self._error[block] = rounded[:, width + 3 : width + 6].float()
        # Columns beyond n are zero rows, whose bound is 0: candidates are only taken above 0.
        self._worst = self._error.view(_GROUP, -1, 3).amax(dim=0)

    @staticmethod
    def decides(n: int, k: int) -> bool:
        """Whether there are enough rows for k to be few among them."""
        return n >= 2 * _GROUP * k

    def workers(self) -> int:
        """Threads that may work beside each other."""
        import torch

        return self.threads or torch.get_num_threads()

    def _centre(self, rows: Rows, block: slice) -> tuple[Any, Any]:
        """x - m and m.(x - m), in float64."""
        import torch

        centred = torch.from_numpy(rows.vectors[block]).double()
        centred /= torch.from_numpy(rows.lengths[block])[:, None]
        centred -= self._mean
        return centred, centred @ self._mean

    def search(self, queries: Rows, k: int) -> Iterator[Candidates]:
        """Candidates of the queries, block by block; a query that is in none was not decided."""
        import torch

        if not self.decides(self._n, k):
            return
        width = queries.vectors.shape[1]
        step = max(64, _BLOCK // self._columns)
        # Written again and again: fresh pages would cost as much as the product.
        space = torch.empty((min(step, len(queries.vectors)), self._columns), dtype=torch.bfloat16)
        for start in range(0, len(queries.vectors), step):
            block = slice(start, min(start + step, len(queries.vectors)))
            with torch_threads(self.threads):
                centred, _ = self._centre(queries, block)
                rounded = torch.zeros((len(centred), self._rows.shape[1]), dtype=torch.bfloat16)
                rounded[:, :width] = centred
                rounded[:, width : width + 3] = 1
                length = torch.linalg.vector_norm(rounded[:, :width].double(), dim=1)
                lost = torch.linalg.vector_norm(centred - rounded[:, :width].double(), dim=1)
                own = torch.stack([length, lost + self._summed * length, torch.ones_like(length)], dim=1)
                rounded[:, width + 3 : width + 6] = own * _UP
                own = rounded[:, width + 3 : width + 6].float()
                bounds = torch.mm(rounded, self._rows.T, out=space[: len(rounded)])
                found = self._decide(bounds, own, k, start)
            yield found

    def _decide(self, bounds: Any, own: Any, k: int, start: int) -> Candidates:
        import torch

        # Positive bfloat16 numbers are ordered as the integers of the same bits; negative ones are below all these.
        bits = bounds.view(torch.int16)
        groups = bits.view(len(bits), _GROUP, -1).amax(dim=1)
        best, where = torch.topk(groups, k, dim=1)
        worst = (self._worst[where] * own[:, None]).sum(dim=2)
        reached = best.view(torch.bfloat16).float() * (1 - 2 * _UNIT) - 2.001 * worst
        least = (reached.amin(dim=1) - NEAR_TIE) * (1 - 2 * _UNIT)
        least = torch.where(best[:, -1] > 0, least, torch.zeros_like(least))
        # Rounded down: the bits of a positive float32 without the lower 16.
        limit = (least.clamp(min=0).view(torch.int32) >> 16).to(torch.int16)
        decided = limit > 0
        limit = torch.where(decided, limit, torch.full_like(limit, torch.iinfo(torch.int16).max))
        query, group = (groups >= limit[:, None]).numpy().nonzero()
        members = bits.numpy().reshape(len(bits), _GROUP, -1)[query, :, group]
        hit, member = (members >= limit.numpy()[query, None]).nonzero()
        query, rows = query[hit], group[hit] + member * groups.shape[1]
        counts = np.bincount(query, minlength=len(bits))
        kept = decided.numpy() & (counts <= _MOST * (k + 16))
        rows = rows[kept[query]]
        return Candidates(np.flatnonzero(kept) + start, counts[kept], rows)


def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices (AVX-512 BF16 or AMX), told without importing torch.

    Examples
    --------
    >>> cpu_has_bfloat16() in (True, False)
    True
    """
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


@contextmanager
def torch_threads(threads: int | None) -> Iterator[None]:
    """Run torch with so many threads and restore its setting."""
    import torch

    before = torch.get_num_threads()
    try:
        if threads is not None:
            torch.set_num_threads(threads)
        yield
    finally:
        torch.set_num_threads(before)
