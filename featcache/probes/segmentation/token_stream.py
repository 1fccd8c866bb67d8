"""Patch tokens and their targets in shuffled batches: bounded memory, every row once an epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from featcache.errors import ProbeError

__all__ = ["TokenBatch", "TokenSource", "TokenStream"]

_KEPT_BYTES = 1 << 30
"""Of tokens and targets together, unless the caller says otherwise."""


class TokenSource(Protocol):
    """What is needed of an array of tokens; ``store["patches"]`` and a NumPy array have it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, h, w, D), or (n, L, h, w, D) with layers."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of an element."""

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """Rows by number."""


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Some rows of a stream."""

    places: NDArray[np.int64]
    """(b,) their places in :attr:`TokenStream.rows`."""
    tokens: NDArray[Any]
    """(b, h, w, D) or (b, L, h, w, D), as stored."""
    labels: NDArray[np.uint8]
    """(b, S, S) class numbers."""


class TokenStream:
    """Batches of tokens and targets of some rows of a store.

    Tokens stay where they are and are read batch by batch, one batch ahead of the consumer in a thread. What fits into
    ``memory`` is kept from the first epoch on; the rest is read again every epoch, so that memory does not grow with
    the number of rows.

    Parameters
    ----------
    tokens
        (n, h, w, D) or (n, L, h, w, D) array, or anything that is indexed by row numbers like one.
    labels
        Gives the (S, S) uint8 targets of a row number.
    rows
        Row numbers to serve.
    size
        S, rows and columns of the targets.
    memory
        Bytes of rows that are kept between epochs; 0 keeps none.

    Raises
    ------
    ProbeError
        If there are no rows, or the tokens have another shape.

    Examples
    --------
    >>> tokens, targets = np.zeros((5, 2, 2, 3), np.float16), np.ones((4, 4), np.uint8)
    >>> stream = TokenStream(tokens, lambda row: targets, [4, 2, 0], size=4)
    >>> [batch.places.tolist() for batch in stream.batches(2)]
    [[0, 1], [2]]
    >>> sorted(place for batch in stream.batches(2, seed=1) for place in batch.places.tolist())
    [0, 1, 2]
    """

    def __init__(
        self,
        tokens: TokenSource,
        labels: Callable[[int], NDArray[np.uint8]],
        rows: Sequence[int] | NDArray[np.int64],
        *,
        size: int,
        memory: int = _KEPT_BYTES,
    ) -> None:
        shape = tuple(tokens.shape)
        if len(shape) not in (4, 5) or 0 in shape[1:]:
            raise ProbeError(
                f"the patch tokens have shape {shape}, expected (rows, h, w, D) or (rows, layers, h, w, D)",
                remedy="Extract with --patches and a model that has a grid of tokens.",
            )
        self.rows = np.asarray(rows, np.int64)
        if not len(self.rows):
            raise ProbeError("there are no rows to stream", remedy="Choose a split whose samples have masks.")
        self.size = size
        self.grid: tuple[int, int] = (shape[-3], shape[-2])
        self.width = shape[-1]
        self.layers: int | None = shape[1] if len(shape) == 5 else None
        self._tokens = tokens
        self._labels = labels
        row_bytes = int(np.prod(shape[1:])) * np.dtype(tokens.dtype).itemsize + size * size
        self._capacity = max(0, memory) // row_bytes
        self._kept: dict[int, tuple[NDArray[Any], NDArray[np.uint8]]] = {}

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def kept(self) -> int:
        """Rows that are in memory at the moment."""
        return len(self._kept)

    def batches(self, batch_size: int, *, seed: int | Sequence[int] | None = None) -> Iterator[TokenBatch]:
        """Each row once, in batches.

        Parameters
        ----------
        batch_size
            Rows of a batch; the last may be shorter.
        seed
            Of the order, for example ``(seed, epoch)``; None keeps the order of the rows.

        Raises
        ------
        ProbeError
            If a target has another shape than (S, S), or ``batch_size`` is not positive.
        """
        if batch_size < 1:
            raise ProbeError(f"batches of {batch_size} rows cannot be read", remedy="Give a size of at least 1.")
        order = np.arange(len(self.rows)) if seed is None else np.random.default_rng(seed).permutation(len(self.rows))
        parts = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        with ThreadPoolExecutor(1, thread_name_prefix="featcache-tokens") as reader:
            coming = reader.submit(self._read, parts[0])
            for following in [*parts[1:], None]:
                batch = coming.result()
                if following is not None:
                    coming = reader.submit(self._read, following)
                yield batch

    def _read(self, places: NDArray[np.int64]) -> TokenBatch:
        missing = np.array([place for place in places.tolist() if place not in self._kept], np.int64)
        fresh: dict[int, tuple[NDArray[Any], NDArray[np.uint8]]] = {}
        if len(missing):
            ascending = missing[np.argsort(self.rows[missing], kind="stable")]
            found = self._tokens[self.rows[ascending]]
            for place, tokens in zip(ascending.tolist(), found, strict=True):
                fresh[place] = tokens, self._target(int(self.rows[place]))
            for place, (tokens, target) in fresh.items():
                if len(self._kept) < self._capacity:
                    self._kept[place] = tokens.copy(), target.copy()  # of its own, not a view of the batch
        parts = [fresh[place] if place in fresh else self._kept[place] for place in places.tolist()]
        return TokenBatch(places, np.stack([part[0] for part in parts]), np.stack([part[1] for part in parts]))

    def _target(self, row: int) -> NDArray[np.uint8]:
        target = self._labels(row)
        if target.shape != (self.size, self.size):
            raise ProbeError(
                f"the target of row {row} has shape {target.shape}, expected ({self.size}, {self.size})",
                remedy="Bring masks to the input square first: featcache.evaluation.segmentation.native.to_input.",
            )
        return target
