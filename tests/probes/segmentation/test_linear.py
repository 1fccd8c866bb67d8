"""The linear head on streamed tokens against a plain torch loop on tokens in memory."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from featcache.errors import ProbeError
from featcache.probes.segmentation.linear import LinearBank
from featcache.probes.segmentation.losses import SegmentLoss, one_hot, segment_loss, segment_slope
from featcache.probes.segmentation.token_stream import TokenStream
from featcache.probes.segmentation.training import GradientSegmenter, train_bank

RATES = (1e-3, 1e-2, 1e-1)


def scenes(n: int = 12, seed: int = 0) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
    """Tokens (n, 5, 5, 6) that show, with noise, which class most of their pixels (20 x 20) have."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 3, (n, 5, 5))
    tokens = rng.normal(0, 0.3, (n, 5, 5, 6))
    tokens[..., :3] += np.eye(3)[coarse]
    return tokens.astype(np.float16), coarse.repeat(4, axis=1).repeat(4, axis=2).astype(np.uint8)


def stream_of(tokens: Any, labels: NDArray[np.uint8], rows: Any = None) -> TokenStream:
    return TokenStream(tokens, lambda row: labels[row], np.arange(len(tokens)) if rows is None else rows, size=20)


def loss_by_hand(logits: torch.Tensor, labels: torch.Tensor, kind: SegmentLoss) -> torch.Tensor:
    """Cross-entropy by nn; soft Dice class by class, as it is written in textbooks."""
    total = nn.CrossEntropyLoss()(logits, labels) if "ce" in kind.split("+") else torch.zeros(())
    if "dice" in kind:
        shares = logits.softmax(dim=1)
        ratios = []
        for number in (1, 2):
            truth = (labels == number).float()
            ratios.append((2 * (shares[:, number] * truth).sum() + 1) / (shares[:, number].sum() + truth.sum() + 1))
        total = total + 1 - sum(ratios) / 2
    return total


@pytest.mark.parametrize("kind", ["ce", "dice", "dice+ce"])
def test_every_head_of_the_grid_equals_a_plain_torch_loop(kind: SegmentLoss) -> None:
    tokens, labels = scenes()
    stream = stream_of(tokens, labels)
    bank = LinearBank(6, 3, 20, (5, 5), RATES, loss=kind, seed=3)
    start = bank.weight[:, :3].clone()
    train_bank(bank, stream, epochs=4, batch_size=5, seed=1, device="cpu")
    steps = 4 * math.ceil(12 / 5)
    for place, rate in enumerate(RATES):
        head = nn.Conv2d(6, 3, 1)
        with torch.no_grad():
            head.weight.copy_(start.T[:, :, None, None])
            head.bias.zero_()
        optimizer = torch.optim.SGD(head.parameters(), lr=rate, momentum=0.9)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for epoch in range(4):
            order = np.concatenate([batch.places for batch in stream.batches(5, seed=(1, epoch))])
            for first in range(0, 12, 5):
                some = order[first : first + 5]
                images = torch.from_numpy(tokens[some]).float().permute(0, 3, 1, 2)
                large = functional.interpolate(head(images), size=(20, 20), mode="bilinear", align_corners=False)
                optimizer.zero_grad()
                loss_by_hand(large, torch.from_numpy(labels[some]).long(), kind).backward()
                optimizer.step()
                schedule.step()
        images = torch.from_numpy(tokens).float()
        with torch.no_grad():
            expected = head(images.permute(0, 3, 1, 2))
        assert not torch.allclose(expected, functional.conv2d(images.permute(0, 3, 1, 2), start.T[:, :, None, None]))
        torch.testing.assert_close(bank.logits(images, place), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["ce", "dice", "dice+ce"])
def test_the_gradient_is_that_of_autograd_on_the_loss_written_by_hand(kind: SegmentLoss) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 3, 7, 9, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 3, (3, 7, 9), generator=generator)
    loss = loss_by_hand(logits, labels, kind)
    torch.testing.assert_close(segment_loss(logits, labels, kind), loss, rtol=1e-6, atol=1e-6)
    (expected,) = torch.autograd.grad(loss, logits)
    found = segment_slope(logits.detach().float(), one_hot(labels, 3), kind)
    torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=1e-7)


def test_the_rate_is_chosen_on_val_and_one_head_is_trained_anew_on_both() -> None:
    tokens, labels = scenes(30)
    made: list[tuple[float, ...]] = []

    def bank(rates: Any) -> LinearBank:
        made.append(tuple(rates))
        return LinearBank(6, 3, 20, (5, 5), rates)

    head = GradientSegmenter(bank, 3, learning_rates=(1e-6, 1e-1), epochs=8, batch_size=4)
    parts = [stream_of(tokens, labels, np.arange(*ends)) for ends in ((0, 12), (12, 20), (0, 20))]
    head.fit(*parts)
    assert made == [(1e-6, 1e-1), (1e-1,)]
    assert head.lr_ == 1e-1
    assert head.selection_[1]["dice"] > head.selection_[0]["dice"]
    found = head.logits(tokens[20:].astype(np.float32)).argmax(axis=1)
    assert (found == labels[20:, 2::4, 2::4]).mean() > 0.85
    single = GradientSegmenter(lambda rates: LinearBank(6, 3, 20, (5, 5), rates), 3, learning_rates=[0.1], epochs=8)
    single.batch_size = 4
    np.testing.assert_allclose(
        head.logits(tokens[20:].astype(np.float32)),
        single.fit(parts[2]).logits(tokens[20:].astype(np.float32)),
        atol=1e-5,
    )


def test_several_rates_without_a_val_split_are_refused() -> None:
    tokens, labels = scenes()
    head = GradientSegmenter(lambda rates: LinearBank(6, 3, 20, (5, 5), rates), 3, learning_rates=RATES)
    with pytest.raises(ProbeError, match="no validation split"):
        head.fit(stream_of(tokens, labels))


def test_layers_are_joined_as_further_features() -> None:
    tokens, labels = scenes()
    several = np.stack([tokens, tokens[::-1]], axis=1)
    joined = np.concatenate([tokens, tokens[::-1]], axis=-1)
    banks = []
    for source in (several, joined):
        bank = LinearBank(12, 3, 20, (5, 5), RATES)
        train_bank(bank, stream_of(source, labels), epochs=2, batch_size=4, seed=0, device="cpu")
        banks.append(bank.logits(torch.from_numpy(source).float(), 1))
    torch.testing.assert_close(*banks)
