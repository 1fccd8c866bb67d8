"""The U-Net style head: shapes, what it can learn that needs its skips, and stores of one layer."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from featcache.errors import ProbeError
from featcache.probes.segmentation.training import GradientSegmenter
from featcache.probes.segmentation.unet import TokenUNet, UNetBank
from tests.probes.segmentation.test_linear import scenes, stream_of


@pytest.mark.parametrize("layers", [2, 5])
def test_every_layer_reaches_the_output_at_sixteen_times_the_grid(layers: int) -> None:
    net = TokenUNet(layers, 6, 3)
    tokens = torch.randn(2, layers, 3, 4, 6, requires_grad=True)
    found = net(tokens)
    assert found.shape == (2, 3, 48, 64)
    (slope,) = torch.autograd.grad(found.square().sum(), tokens)
    assert (slope.abs().amax(dim=(0, 2, 3, 4)) > 0).all()


def test_it_learns_from_a_skip_what_the_deepest_block_does_not_show() -> None:
    tokens, labels = scenes(16)
    several = np.stack([tokens, np.zeros_like(tokens)], axis=1)
    head = GradientSegmenter(
        lambda rates: UNetBank(2, 6, 3, 20, rates), 3, learning_rates=(1e-6, 0.1), epochs=12, batch_size=4
    )
    head.fit(stream_of(several, labels, np.arange(10)), stream_of(several, labels, np.arange(10, 16)))
    assert head.lr_ == 0.1
    assert head.selection_[1]["dice"] > 0.6  # chance is a third


def test_a_store_of_one_layer_is_told_how_to_get_more() -> None:
    with pytest.raises(ProbeError, match="extract --patches --layers 5"):
        UNetBank(None, 6, 3, 20, [0.1])
