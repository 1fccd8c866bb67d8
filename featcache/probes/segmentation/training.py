"""Heads that gradients train on streamed tokens: a grid of learning rates in one pass, one refit. Imports torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featcache.errors import ProbeError
from featcache.probes.segmentation.selection import best_of, selection_dice
from featcache.probes.segmentation.token_stream import TokenStream

__all__ = ["STUDY_RATES", "GradientSegmenter", "HeadBank", "train_bank"]

STUDY_RATES = (1e-4, 5e-4, 1e-3, 5e-3, 1e-2, 5e-2, 1e-1)
"""Learning rates of the study (Baharoon et al., arXiv 2312.02366)."""


class HeadBank(Protocol):
    """Heads of one kind that differ in their learning rate and see the same batches."""

    def step(self, tokens: Tensor, labels: Tensor, factor: float) -> None:
        """One step of every head: (b, ..., h, w, D) as stored, (b, S, S) uint8, share of the learning rates."""

    def logits(self, tokens: Tensor, which: int) -> Tensor:
        """(b, C, h', w') of one head, on its own grid."""


def train_bank(bank: HeadBank, stream: TokenStream, *, epochs: int, batch_size: int, seed: int, device: str) -> None:
    """Train all heads of a bank, with the learning rate falling to 0 by a half cosine.

    Parameters
    ----------
    bank
        Is changed.
    stream
        Training rows; the order of epoch e is that of the seed ``(seed, e)``.
    epochs, batch_size
        Passes and rows of a step.
    seed
        Of the order.
    device
        Where batches are put.
    """
    steps = epochs * math.ceil(len(stream) / batch_size)
    done = 0
    for epoch in range(epochs):
        for batch in stream.batches(batch_size, seed=(seed, epoch)):
            tokens = torch.from_numpy(batch.tokens).to(device)
            labels = torch.from_numpy(batch.labels).to(device)
            bank.step(tokens, labels, 0.5 * (1 + math.cos(math.pi * done / steps)))
            done += 1


class GradientSegmenter:
    """Choose the learning rate on a validation split, then train one head on all rows.

    Parameters
    ----------
    make_bank
        From learning rates to a bank whose heads start alike.
    n_classes
        C, with the background.
    learning_rates
        Tried together in one pass; a single one needs no validation.
    epochs, batch_size, seed, device
        As in :func:`train_bank`.

    Attributes
    ----------
    lr_ : float
        The chosen learning rate.
    selection_ : list of dict
        ``lr`` and ``dice`` on the validation split of each; empty where there was nothing to choose.
    """

    def __init__(
        self,
        make_bank: Callable[[Sequence[float]], HeadBank],
        n_classes: int,
        *,
        learning_rates: Sequence[float] = STUDY_RATES,
        epochs: int = 20,
        batch_size: int = 8,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        if not learning_rates or min(learning_rates) <= 0 or epochs < 1:
            raise ProbeError(
                f"learning rates {tuple(learning_rates)} over {epochs} epochs cannot train a head",
                remedy="Give positive learning rates and at least one epoch.",
            )
        self.make_bank = make_bank
        self.n_classes = n_classes
        self.learning_rates = tuple(learning_rates)
        self.epochs = epochs
        self.batch_size = batch_size
        self.seed = seed
        self.device = device

    def fit(self, train: TokenStream, val: TokenStream | None = None, both: TokenStream | None = None) -> Self:
        """Train the grid on ``train``, choose on ``val``, train the chosen rate anew on ``both``.

        Without ``both`` the chosen head of the grid is kept (few-shot: the support stays the training set).

        Raises
        ------
        ProbeError
            If there are several learning rates and nothing to choose on.
        """
        if val is None and len(self.learning_rates) > 1:
            raise ProbeError(
                f"{len(self.learning_rates)} learning rates and no validation split to choose on",
                remedy="Give the dataset a val split (--split-file), or one rate: --learning-rates 0.01.",
            )
        self.selection_: list[dict[str, float]] = []
        place = 0
        if val is not None or both is None:
            self._train(self.learning_rates, train)
        if val is not None:
            found = selection_dice(val, self.n_classes, self._candidates)
            place = best_of(found)
            rates = zip(self.learning_rates, found.tolist(), strict=True)
            self.selection_ = [{"lr": rate, "dice": score} for rate, score in rates]
        self.lr_, self._place = self.learning_rates[place], place
        if both is not None:
            self._train((self.lr_,), both)
            self._place = 0
        self.chosen_ = {"lr": self.lr_}
        return self

    def logits(self, tokens: NDArray[np.float32]) -> NDArray[np.float32]:
        """(b, C, h', w') float32 logits of (b, ..., h, w, D) tokens."""
        return self._logits(tokens, self._place)

    def _train(self, rates: Sequence[float], stream: TokenStream) -> None:
        self._bank = self.make_bank(rates)
        train_bank(
            self._bank, stream, epochs=self.epochs, batch_size=self.batch_size, seed=self.seed, device=self.device
        )

    def _candidates(self, tokens: NDArray[np.float32]) -> Sequence[NDArray[np.float32]]:
        return [self._logits(tokens, place) for place in range(len(self.learning_rates))]

    def _logits(self, tokens: NDArray[np.float32], place: int) -> NDArray[np.float32]:
        with torch.no_grad():
            given = torch.from_numpy(np.ascontiguousarray(tokens, dtype=np.float32)).to(self.device)
            found: NDArray[np.float32] = self._bank.logits(given, place).cpu().numpy()
        return found
