"""The linear head: a 1x1 convolution on tokens, then bilinear; all learning rates in one product. Imports torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from featcache.probes.segmentation.losses import CompiledSlope, SegmentLoss, one_hot, segment_slope
from featcache.probes.segmentation.upsampling import bilinear_matrix

__all__ = ["LinearBank", "join_layers"]

_MOMENTUM = 0.9
_DEVIATION = 0.01


def join_layers(tokens: Tensor) -> Tensor:
    """(b, h, w, L D) of (b, L, h, w, D): layers side by side; tokens without layers as they are."""
    if tokens.ndim == 4:
        return tokens
    joined = tokens.permute(0, 2, 3, 1, 4)
    return joined.reshape(*joined.shape[:3], -1)


class LinearBank:
    """M linear heads that start alike: one product gives the logits of all, one their gradients.

    Upsampling is linear, so that a head's 1x1 convolution is done on the grid of tokens. Each step holds the S x S maps
    of one head at a time; the gradients of all heads meet on the grid of tokens.

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
    >>> bank.step(torch.ones(1, 2, 2, 3), torch.ones(1, 8, 8, dtype=torch.long), 1.0)
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
        self._count, self._classes = count, n_classes
        self._rows = torch.from_numpy(bilinear_matrix(grid[0], size)).to(device)
        self._columns = torch.from_numpy(bilinear_matrix(grid[1], size).T.copy()).to(device)

    def step(self, tokens: Tensor, labels: Tensor, factor: float) -> None:
        """See :class:`featcache.probes.segmentation.training.HeadBank`."""
        tokens = join_layers(tokens)
        flat = tokens.reshape(-1, tokens.shape[-1])
        product = torch.addmm(self.bias, flat, self.weight).view(*tokens.shape[:3], self._count, self._classes)
        maps = product.permute(3, 0, 4, 1, 2).contiguous()
        slopes = torch.empty_like(maps)
        slope_of = self._slope_of(labels)
        b, size = len(labels), len(self._rows)
        wide = tokens.new_empty(b, self._classes, tokens.shape[1], size)
        large = tokens.new_empty(b, self._classes, size, size)  # one for all heads: fresh memory is slow to touch
        for head in range(self._count):
            torch.matmul(maps[head], self._columns, out=wide)
            torch.matmul(self._rows, wide, out=large)
            torch.matmul(self._rows.T, slope_of(large), out=wide)
            torch.matmul(wide, self._columns.T, out=slopes[head])
        slope = slopes.permute(1, 3, 4, 0, 2).reshape(len(flat), -1)
        for value, speed, change in zip(
            (self.weight, self.bias), self._speed, (flat.T @ slope, slope.sum(dim=0)), strict=True
        ):
            speed.mul_(_MOMENTUM).add_(change)
            value.sub_(speed * (self._rates * factor))

    def _slope_of(self, labels: Tensor) -> Callable[[Tensor], Tensor]:
        """From large logits to the loss's gradient there: compiled loops on the CPU, PyTorch's operators elsewhere."""
        if labels.device.type == "cpu":
            return CompiledSlope(labels, self._classes, self._loss)
        truth = one_hot(labels, self._classes)
        return lambda large: segment_slope(large, truth, self._loss)

    def logits(self, tokens: Tensor, which: int) -> Tensor:
        """See :class:`featcache.probes.segmentation.training.HeadBank`."""
        columns = slice(which * self._classes, (which + 1) * self._classes)
        return (join_layers(tokens) @ self.weight[:, columns] + self.bias[columns]).movedim(-1, 1)
