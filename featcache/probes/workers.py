"""Threads that share the blocks of rows of a pass."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager

__all__ = ["row_workers"]


@contextmanager
def row_workers() -> Iterator[Executor]:
    """As many threads as BLAS has, while BLAS itself has one: they meet once a pass, not in every product.

    The products of blocks of rows are then added in the order of the rows, so that the result does not depend on which
    thread was faster, nor on how many there are.
    """
    from threadpoolctl import threadpool_info, threadpool_limits  # type: ignore[import-untyped]

    threads = max((pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"), default=1)
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(threads) as workers:
        yield workers
