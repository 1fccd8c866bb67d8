"""The linear head: a 1x1 convolution on tokens, then bilinear; all learning rates in one product. Imports torch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from featcache.probes.segmentation.losses import SegmentLoss, WideSlopes
from featcache.probes.segmentation.upsampling import bilinear_matrix

__all__ = ["LinearBank", "join_layers"]

_MOMENTUM = 0.9
_DEVIATION = 0.01
_CACHED = 1 << 19
"""Numbers of tokens that are float32 at a time: 2 MB."""


def join_layers(tokens: Tensor) -> Tensor:
    """(b, h, w, L D) of (b, L, h, w, D): layers side by side; tokens without layers as they are."""
    if tokens.ndim == 4:
        return tokens
    joined = tokens.permute(0, 2, 3, 1, 4)
    return joined.reshape(*joined.shape[:3], -1)


class LinearBank:
    """M linear heads that start alike: one product gives the logits of all, one their gradients.

    Upsampling is linear, so that a head's 1x1 convolution is done on the grid of tokens, and so is its gradient;
    :class:`featcache.probes.segmentation.losses.WideSlopes` is what is between.

    Parameters
    ----------
    width
        D (times L with several layers).
    n_classes
        C.
    size
        S of the targets.
    grid
        (h, w) of the tokens.
    learning_rates
        (M,) of SGD with momentum 0.9, without weight decay.
    loss
        Which loss.
    seed
        Of the weights: N(0, 0.01), biases 0.
    device
        Where the heads live.

    Examples
    --------
    >>> bank = LinearBank(3, 2, 8, (2, 2), [0.1, 0.01])
    >>> bank.step(torch.ones(1, 2, 2, 3), torch.ones(1, 8, 8, dtype=torch.uint8), 1.0)
    >>> bank.logits(torch.ones(1, 2, 2, 3), 0).shape
    torch.Size([1, 2, 2, 2])
    """

    def __init__(
        self,
        width: int,
        n_classes: int,
        size: int,
        grid: tuple[int, int],
        learning_rates: Sequence[float],
        *,
        loss: SegmentLoss = "dice+ce",
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        count = len(learning_rates)
        start = torch.randn(width, n_classes, generator=torch.Generator().manual_seed(seed)) * _DEVIATION
        self.weight = start.repeat(1, count).to(device)
        self.bias = torch.zeros(count * n_classes, device=device)
        self._speed = [torch.zeros_like(self.weight), torch.zeros_like(self.bias)]
        self._rates = torch.tensor(list(learning_rates), device=device).repeat_interleave(n_classes)
        self._loss = loss
        self._count, self._classes, self._grid = count, n_classes, grid
        self._rows = torch.from_numpy(bilinear_matrix(grid[0], size)).to(device)
        self._columns = torch.from_numpy(bilinear_matrix(grid[1], size).T.copy()).to(device)

    def step(self, tokens: Tensor, labels: Tensor, factor: float) -> None:
        """See :class:`featcache.probes.segmentation.training.HeadBank`."""
        planes = tokens.flatten(-3, -2).reshape(len(tokens), -1, self._grid[0] * self._grid[1], tokens.shape[-1])
        b, layers, cells, width = planes.shape
        weight = self.weight.view(layers, width, -1)
        product = self.bias.repeat(b, cells, 1)
        for image, layer, some, part in _singles(planes):
            product[image, some].addmm_(part, weight[layer])
        maps = product.view(b, *self._grid, self._count, self._classes).permute(0, 3, 4, 1, 2)
        slopes = WideSlopes(labels, self._classes, self._loss, self._rows)(maps @ self._columns) @ self._columns.T
        slope = slopes.permute(0, 3, 4, 1, 2).reshape(product.shape)
        change = torch.zeros_like(weight)
        for image, layer, some, part in _singles(planes):
            change[layer].addmm_(part.T, slope[image, some])
        for value, speed, gradient in zip(
            (self.weight, self.bias), self._speed, (change.view_as(self.weight), slope.sum(dim=(0, 1))), strict=True
        ):
            speed.mul_(_MOMENTUM).add_(gradient)
            value.sub_(speed * (self._rates * factor))

    def logits(self, tokens: Tensor, which: int) -> Tensor:
        """See :class:`featcache.probes.segmentation.training.HeadBank`."""
        columns = slice(which * self._classes, (which + 1) * self._classes)
        return (join_layers(tokens) @ self.weight[:, columns] + self.bias[columns]).movedim(-1, 1)


def _singles(planes: Tensor) -> Iterator[tuple[int, int, slice, Tensor]]:
    """Image, layer, cells and their (n, D) float32 tokens, of (b, L, cells, D): so few that they stay in the cache."""
    b, layers, cells, width = planes.shape
    step = max(1, min(cells, _CACHED // width)) if planes.device.type == "cpu" else cells
    buffer = torch.empty(step, width, device=planes.device)
    for image, layer, start in itertools.product(range(b), range(layers), range(0, cells, step)):
        some = slice(start, min(cells, start + step))
        yield image, layer, some, buffer[: some.stop - start].copy_(planes[image, layer, some])
