"""A batch on processors: small parts side by side, one thread each."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    _Features = dict[str, torch.Tensor]

__all__ = ["PART", "Parts"]

PART = 4
"""Images that a thread encodes at a time: their activations stay in its processor's cache."""


class Parts:
    """Encodes batches part by part in threads that share the processors among them.

    PyTorch's own threads meet at the end of every operator, and an operator on a whole batch goes through memory; parts
    meet once a batch. What a row gives does not depend on the number of threads where there are as many parts.

    Parameters
    ----------
    encode
        Gives the features of some images; is called by several threads at once.

    Examples
    --------
    >>> import torch
    >>> with Parts(lambda pixels: {"cls": pixels.mean(dim=(1, 2, 3))}) as parts:
    ...     parts(torch.ones(6, 3, 2, 2))["cls"].tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    """

    def __init__(self, encode: Callable[[torch.Tensor], _Features]) -> None:
        self._encode = encode
        self._workers: ThreadPoolExecutor | None = None
        self._count = 0

    def __enter__(self) -> Parts:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the threads."""
        if self._workers is not None:
            self._workers.shutdown(cancel_futures=True)
        self._workers = None

    def __call__(self, pixels: torch.Tensor) -> _Features:
        """Features of (B, 3, S, S) images."""
        import torch

        parts = torch.split(pixels, PART)
        threads = torch.get_num_threads()
        count = min(threads, len(parts))
        if count == 1:
            found = [self._encode(part) for part in parts]
        else:
            share = threads // count
            torch.set_num_threads(share)
            try:
                found = list(self._threads(count).map(partial(self._with_threads, share), parts))
            finally:
                torch.set_num_threads(threads)
        return {name: torch.cat([one[name] for one in found]) for name in found[0]}

    def _threads(self, count: int) -> ThreadPoolExecutor:
        if self._workers is None or self._count != count:
            self.close()
            self._workers = ThreadPoolExecutor(count, thread_name_prefix="featcache-encode")
            self._count = count
        return self._workers

    def _with_threads(self, share: int, part: torch.Tensor) -> _Features:
        import torch

        if torch.get_num_threads() != share:  # older versions set the number for the thread that asks
            torch.set_num_threads(share)
        return self._encode(part)
