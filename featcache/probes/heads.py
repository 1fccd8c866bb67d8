"""Many linear heads trained by SGD in one pass: a batch is multiplied once for all that read it.

Heads differ in learning rate and in which token blocks they read. They are ordered so that the heads that read one
block are neighbours: each block then needs one product forwards and one backwards, and nothing is multiplied by zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from featcache.probes.blocks import TokenBlocks
from featcache.probes.workers import row_workers

__all__ = ["Head", "HeadBank", "batches", "train_banks", "train_heads"]

Floats: TypeAlias = NDArray[np.float32]

_MOMENTUM = 0.9
_INIT = 0.01
# Weights updated at a time: gradient, momentum and weights of 64 KB each stay in a core's cache.
_CHUNK = 2**14


@dataclass(frozen=True, slots=True, order=True)
class Head:
    """What distinguishes a head."""

    lr: float
    """Learning rate, before a protocol scales it."""
    n_last_blocks: int
    """CLS tokens it reads."""
    avgpool: bool
    """Whether it reads the mean patch too."""


@dataclass(slots=True)
class _Block:
    """The weights that multiply one block of the input, of all heads that read it."""

    first: int
    last: int
    columns: slice
    w: Floats
    """(width, columns): weights divided by the head's learning rate, so that one step serves all rates."""
    v: Floats
    """(width, columns): momentum of the gradients."""


class HeadBank:
    """Weights of all heads.

    Parameters
    ----------
    heads
        The heads, in any order.
    rates
        (H,) learning rate of each, scaled.
    blocks
        Rows from which widths are read.
    outputs
        Columns of each head.
    seed
        Of the initial weights, N(0, 0.01), independent of which other heads there are; biases start at zero.
    """

    def __init__(
        self, heads: Sequence[Head], rates: Sequence[float], blocks: TokenBlocks, outputs: int, seed: int
    ) -> None:
        # Without the mean patch from few blocks to many, then with it from many to few: readers of a block are
        # neighbours.
        order = sorted(
            range(len(heads)),
            key=lambda i: (heads[i].avgpool, heads[i].n_last_blocks * (-1 if heads[i].avgpool else 1), heads[i].lr),
        )
        self.heads, self.outputs = [heads[i] for i in order], outputs
        self.rate = np.repeat(np.array([rates[i] for i in order], dtype=np.float32), outputs)
        self.bias = np.zeros(len(self.rate), dtype=np.float32)
        self._bias_v = np.zeros_like(self.bias)
        self.blocks = self._lay_out(blocks)
        for place, head in enumerate(self.heads):
            self._draw(place, head, seed)

    def _lay_out(self, blocks: TokenBlocks) -> list[_Block]:
        readers: list[tuple[int, int, slice, int]] = []
        width = blocks.cls.shape[1]
        for number in range(-1, max(head.n_last_blocks for head in self.heads)):
            reads = [head.avgpool if number < 0 else head.n_last_blocks > number for head in self.heads]
            places = np.flatnonzero(reads)
            if not len(places):
                continue
            columns = slice(int(places[0]) * self.outputs, (int(places[-1]) + 1) * self.outputs)
            if number > 1 and readers[-1][2] == columns:  # the same readers: one wider block
                readers[-1] = (readers[-1][0], number + 1, columns, readers[-1][3] + width)
            else:
                wide = width if number >= 0 or blocks.patch_mean is None else blocks.patch_mean.shape[1]
                readers.append((number, number + 1, columns, wide))
        found = []
        for first, last, columns, wide in readers:
            shape = wide, columns.stop - columns.start
            found.append(_Block(first, last, columns, np.empty(shape, np.float32), np.zeros(shape, np.float32)))
        return found

    def _draw(self, place: int, head: Head, seed: int) -> None:
        rng = np.random.default_rng([seed, head.n_last_blocks, int(head.avgpool), round(head.lr * 1e9)])
        for block, columns in self._reads(place):
            values = rng.normal(0.0, _INIT, (len(block.w), self.outputs))
            block.w[:, columns] = values / self.rate[place * self.outputs]

    def _reads(self, place: int) -> list[tuple[_Block, slice]]:
        """The blocks that a head reads, and its columns in each."""
        begin, end = place * self.outputs, (place + 1) * self.outputs
        return [
            (block, slice(begin - block.columns.start, end - block.columns.start))
            for block in self.blocks
            if block.columns.start <= begin and end <= block.columns.stop
        ]

    def weights(self, place: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(outputs, K) weights and (outputs,) biases of a head, for its tokens side by side, see :meth:`inputs`."""
        rate = self.rate[place * self.outputs].astype(np.float64)
        parts = [(block.first, block.w[:, columns] * rate) for block, columns in self._reads(place)]
        parts.sort(key=lambda part: -part[0] if part[0] >= 0 else 1)  # the deepest CLS last, then the mean patch
        begin = place * self.outputs
        return np.concatenate([w for _, w in parts]).T, self.bias[begin : begin + self.outputs] * rate

    def logits(self, blocks: TokenBlocks, rows: NDArray[np.int64] | slice) -> Floats:
        """(b, H outputs) logits."""
        return self._forward([blocks.tokens(block.first, block.last, rows) for block in self.blocks])

    def _forward(self, inputs: Sequence[Floats]) -> Floats:
        found = np.tile(self.bias, (len(inputs[0]), 1))
        for block, values in zip(self.blocks, inputs, strict=True):
            found[:, block.columns] += values @ block.w
        found *= self.rate
        return found

    def step(self, blocks: TokenBlocks, rows: NDArray[np.int64], y: NDArray[Any], *, summed: bool, rate: float) -> None:
        """One step of SGD with momentum on some rows; ``rate`` is the schedule's share of the learning rates."""
        inputs = [blocks.tokens(block.first, block.last, rows) for block in self.blocks]
        error = self._forward(inputs).reshape(len(rows), len(self.heads), self.outputs)
        _to_residual(error, y, summed=summed)
        flat = error.reshape(len(rows), -1)
        for block, values in zip(self.blocks, inputs, strict=True):
            pull = np.ascontiguousarray(flat[:, block.columns])
            size = max(64, _CHUNK // pull.shape[1])
            for begin in range(0, len(block.w), size):
                part = slice(begin, begin + size)
                gradient, momentum = values[:, part].T @ pull, block.v[part]
                momentum *= _MOMENTUM
                momentum += gradient
                np.multiply(momentum, np.float32(rate), out=gradient)
                block.w[part] -= gradient
        self._bias_v *= _MOMENTUM
        self._bias_v += flat.sum(axis=0)
        self.bias -= np.float32(rate) * self._bias_v


def _to_residual(logits: Floats, y: NDArray[Any], *, summed: bool) -> None:
    """Replace (b, H, C) logits by the derivatives of each head's loss.

    Classes: the mean cross-entropy. Labels: the mean of the binary cross-entropies of the known entries,
    ``summed`` times the number of rows.
    """
    if y.ndim == 1:
        logits -= logits.max(axis=2, keepdims=True)
        np.exp(logits, out=logits)
        logits /= logits.sum(axis=2, keepdims=True)
        logits[np.arange(len(y)), :, y] -= 1
        logits *= np.float32(1 / len(y))
        return
    known = ~np.isnan(y)
    with np.errstate(over="ignore"):
        np.exp(-logits, out=logits)
    logits += 1
    np.reciprocal(logits, out=logits)
    logits -= np.nan_to_num(y).astype(np.float32)[:, None]
    if not known.all():
        logits *= known[:, None]
    logits *= np.float32((len(y) if summed else 1) / max(1, int(known.sum())))


def batches(n: int, batch_size: int, n_iter: int, seed: int) -> Iterable[NDArray[np.int64]]:
    """Rows of each step: permutations one after the other, each cut into batches, the last of which may be short."""
    rng = np.random.default_rng(seed)
    left = n_iter
    while left > 0:
        order = rng.permutation(n)
        for begin in range(0, n, batch_size):
            if left == 0:
                return
            left -= 1
            yield order[begin : begin + batch_size]


def train_heads(
    bank: HeadBank,
    blocks: TokenBlocks,
    y: NDArray[Any],
    *,
    batch_size: int,
    n_iter: int,
    summed: bool,
    seed: int,
) -> None:
    """SGD with momentum 0.9 and a cosine from the learning rate to 0, step by step; changes ``bank``.

    Parameters
    ----------
    bank
        The heads.
    blocks, y
        Features; (n,) classes or (n, L) of 0, 1 and NaN.
    batch_size, n_iter
        Rows of a step, and steps.
    summed
        See :func:`_to_residual`: the study's loss of labels.
    seed
        Of the order of the rows.
    """
    for number, rows in enumerate(batches(len(blocks), batch_size, n_iter, seed)):
        share = (1 + np.cos(np.pi * number / n_iter)) / 2
        bank.step(blocks, rows, y[rows], summed=summed, rate=float(share))


def train_banks(banks: Sequence[HeadBank], blocks: TokenBlocks, y: NDArray[Any], **settings: Any) -> None:
    """:func:`train_heads` of several banks, each in a thread of its own from the first step to the last."""
    with row_workers() as workers:
        list(workers.map(lambda bank: train_heads(bank, blocks, y, **settings), banks))
