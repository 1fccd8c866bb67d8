"""FAISS indexes of unit rows: flat ones on CPUs or GPUs, and approximate ones for those who ask."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from featcache.probes.base import row_blocks
from featcache.probes.ranking import Rows

__all__ = ["VectorIndex", "faiss_threads", "gpu_count"]

# FAISS on a GPU returns no more neighbours than this.
_GPU_NEIGHBOURS = 2048


class VectorIndex:
    """Rows at length 1, searched by inner product in float32.

    Parameters
    ----------
    rows
        Training rows.
    kind
        ``"flat"``: all rows, on the GPUs that faiss-gpu finds. ``"ivf"``: 4 sqrt(n) cells, of which the nearest
        sixteenth is searched. ``"hnsw"``: a graph of 32 links a row.

    Attributes
    ----------
    description : str
        What was built, in words.
    """

    def __init__(self, rows: Rows, kind: Literal["flat", "ivf", "hnsw"]) -> None:
        import faiss

        n, width = rows.vectors.shape
        self._on_gpu: Any = None
        if kind == "flat":
            self._index: Any = faiss.IndexFlatIP(width)
            self.description = "IndexFlatIP"
        elif kind == "ivf":
            cells = max(1, min(n // 39, int(4 * np.sqrt(n))))
            self._index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, cells, faiss.METRIC_INNER_PRODUCT)
            self._index.nprobe = max(1, cells // 16)
            sample = np.unique(np.linspace(0, n - 1, min(n, 128 * cells)).astype(np.int64))
            self._index.train(rows.unit(sample).astype(np.float32))
            self.description = f"IndexIVFFlat, {self._index.nprobe} of {cells} cells"
        else:
            self._index = faiss.IndexHNSWFlat(width, 32, faiss.METRIC_INNER_PRODUCT)
            self._index.hnsw.efSearch = 64
            self.description = "IndexHNSWFlat, 32 links, efSearch 64"
        for block in row_blocks(n, width):
            self._index.add(rows.unit(block).astype(np.float32))
        if kind == "flat" and gpu_count():
            options = faiss.GpuMultipleClonerOptions()
            options.shard = True
            self._on_gpu = faiss.index_cpu_to_all_gpus(self._index, options)

    def search(self, queries: Rows, width: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """(n, width) inner products and rows, nearest first; row -1 where an approximate index found no more."""
        if hasattr(self._index, "hnsw"):
            self._index.hnsw.efSearch = max(64, 2 * width)
        index = self._on_gpu if self._on_gpu is not None and width <= _GPU_NEIGHBOURS else self._index
        similarity = np.empty((len(queries.vectors), width), dtype=np.float32)
        found = np.empty((len(queries.vectors), width), dtype=np.int64)
        for block in row_blocks(len(queries.vectors), queries.vectors.shape[1]):
            similarity[block], found[block] = index.search(queries.unit(block).astype(np.float32), width)
        return similarity, found


def gpu_count() -> int:
    """GPUs that FAISS can use: none with faiss-cpu.

    Examples
    --------
    >>> gpu_count() >= 0
    True
    """
    import faiss

    return int(faiss.get_num_gpus()) if hasattr(faiss, "StandardGpuResources") else 0


@contextmanager
def faiss_threads(threads: int | None) -> Iterator[None]:
    """Run FAISS with so many threads and restore its setting."""
    import faiss

    before = faiss.omp_get_max_threads()
    try:
        if threads is not None:
            faiss.omp_set_num_threads(threads)
        yield
    finally:
        faiss.omp_set_num_threads(before)
