"""Heads over bags, trained by AdamW: one for each learning rate, all in one pass over the rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from featcache.probes.bags import BagPool, Bags
from featcache.probes.gated_attention import Parameters, attend, attention_gradient, initial_attention

__all__ = ["BagHeads", "bag_losses", "bag_scores"]

Singles: TypeAlias = NDArray[np.float32]

_MOMENTS = (0.9, 0.999)
_TINY = 1e-8
_ROWS_AT_ONCE = 2**15
"""Rows pooled at a time when scoring: what attention keeps of each row bounds the memory."""


class BagHeads:
    """Linear layers on pooled bags, and with ``attention`` what pools them.

    Parameters
    ----------
    pool
        How a bag becomes a vector. All but ``attention`` have nothing to learn.
    width, n_classes
        D, and C scores of a bag.
    multilabel
        Whether the scores are of labels, each by itself, or of exclusive classes.
    learning_rates
        One head each (M).
    hidden
        H, of the attention.
    weight_decay
        Of AdamW, of all weights but the intercepts.
    seed
        Of the initial numbers and of the order of the bags.

    References
    ----------
    Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, algorithm 2.
    """

    def __init__(
        self,
        pool: BagPool,
        width: int,
        n_classes: int,
        *,
        multilabel: bool,
        learning_rates: Sequence[float],
        hidden: int,
        weight_decay: float,
        seed: int,
    ) -> None:
        self.pool, self.multilabel, self.weight_decay = pool, multilabel, weight_decay
        self.rng = np.random.default_rng(seed)
        self.rates = np.asarray(learning_rates, dtype=np.float32)
        count = len(self.rates)
        self.parameters: Parameters = {
            "W": np.zeros((count, width, n_classes), np.float32),
            "b": np.zeros((count, n_classes), np.float32),
        }
        if pool == "attention":
            self.parameters |= initial_attention(count, width, hidden, self.rng)
        self._first = {name: np.zeros_like(value) for name, value in self.parameters.items()}
        self._second = {name: np.zeros_like(value) for name, value in self.parameters.items()}
        self._steps = 0

    def epoch(self, bags: Bags, y: NDArray[Any], batch: int) -> None:
        """Go once through the bags in a random order."""
        fixed = None if self.pool == "attention" else bags.pooled(self.pool)
        order = self.rng.permutation(len(bags))
        for start in range(0, len(order), batch):
            which = order[start : start + batch]
            part = bags.take(which) if fixed is None else None
            passed = None if part is None else attend(part, self.parameters)
            pooled = passed.pooled if passed is not None else fixed[which][None]  # type: ignore[index]
            outer = _outer(self._score(pooled), y[which], multilabel=self.multilabel)
            gradient: Parameters = {"b": outer.sum(axis=1)}
            gradient["W"] = np.matmul(np.swapaxes(pooled, 1, 2), outer)
            if part is not None and passed is not None:
                back = np.matmul(outer, np.swapaxes(self.parameters["W"], 1, 2))
                gradient |= attention_gradient(part, self.parameters, passed, back)
            self._adam(gradient)

    def logits(self, bags: Bags) -> Singles:
        """(M, B, C)."""
        if self.pool != "attention":
            return self._score(bags.pooled(self.pool)[None])
        parts = [self._score(attend(part, self.parameters).pooled) for part in _portions(bags)]
        return np.concatenate(parts, axis=1)

    def attention(self, bags: Bags) -> Singles:
        """(N, M) weights of the rows; they sum to 1 in each bag."""
        return np.concatenate([attend(part, self.parameters).weights for part in _portions(bags)])

    def _score(self, pooled: Singles) -> Singles:
        return np.asarray(np.matmul(pooled, self.parameters["W"]) + self.parameters["b"][:, None, :])

    def _adam(self, gradient: Parameters) -> None:
        self._steps += 1
        one, two = _MOMENTS
        for name in self.parameters:
            value = self.parameters[name]
            first, second, slope = self._first[name], self._second[name], gradient[name]
            first += (1 - one) * (slope - first)
            second += (1 - two) * (slope * slope - second)
            rate = self.rates.reshape(-1, *[1] * (value.ndim - 1))
            if name != "b":
                value *= 1 - rate * self.weight_decay
            size = np.sqrt(second / (1 - two**self._steps)) + _TINY
            value -= (rate / (1 - one**self._steps)) * first / size


def bag_losses(logits: Singles, y: NDArray[Any], *, multilabel: bool) -> NDArray[np.float64]:
    """(M,) mean log loss of the bags, or of the labels that are known.

    Parameters
    ----------
    logits
        (M, B, C).
    y
        (B,) class indices, or (B, C) 0, 1 and NaN for missing.
    multilabel
        Which of the two.

    Examples
    --------
    >>> bag_losses(np.zeros((1, 1, 2), dtype=np.float32), np.array([0]), multilabel=False).round(3).tolist()
    [0.693]
    """
    wide = logits.astype(np.float64)
    if multilabel:
        known = ~np.isnan(y)
        loss = np.logaddexp(0, wide) - np.where(known, y, 0) * wide
        return np.asarray((loss * known).sum(axis=(1, 2)) / max(1, known.sum()))
    top = wide.max(axis=2, keepdims=True)
    normal = (top + np.log(np.exp(wide - top).sum(axis=2, keepdims=True)))[:, :, 0]
    return np.asarray((normal - wide[:, np.arange(len(y)), y]).mean(axis=1))


def bag_scores(logits: Singles, *, multilabel: bool) -> NDArray[np.float64]:
    """(B, C) probabilities of (B, C) logits.

    Examples
    --------
    >>> bag_scores(np.zeros((1, 2), dtype=np.float32), multilabel=False).tolist()
    [[0.5, 0.5]]
    """
    wide = logits.astype(np.float64)
    if multilabel:
        return np.asarray(np.exp(-np.logaddexp(0, -wide)))
    power = np.exp(wide - wide.max(axis=1, keepdims=True))
    return np.asarray(power / power.sum(axis=1, keepdims=True))


def _outer(logits: Singles, y: NDArray[Any], *, multilabel: bool) -> Singles:
    """(M, B, C) gradient of the mean loss with respect to the logits."""
    if multilabel:
        known = ~np.isnan(y)
        chance = 0.5 * (1 + np.tanh(0.5 * logits))
        return np.asarray((chance - np.where(known, y, 0)) * known / max(1, known.sum()), dtype=np.float32)
    power = np.exp(logits - logits.max(axis=2, keepdims=True))
    power /= power.sum(axis=2, keepdims=True)
    power[:, np.arange(len(y)), y] -= 1
    return np.asarray(power / len(y), dtype=np.float32)


def _portions(bags: Bags) -> Iterator[Bags]:
    """The bags, some at a time."""
    portion = np.cumsum(bags.sizes) // _ROWS_AT_ONCE
    for number in np.unique(portion):
        yield bags.take(np.flatnonzero(portion == number))
