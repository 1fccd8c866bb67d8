"""The U-Net style head: tokens of the deepest block upwards, those of the earlier blocks as skips. Imports torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from featcache.errors import ProbeError
from featcache.probes.segmentation.losses import SegmentLoss, segment_loss

__all__ = ["TokenUNet", "UNetBank"]

_BLOCKS = 4
_GROUPS = 8
_MOMENTUM = 0.9


class TokenUNet(nn.Module):
    """Four blocks, each: twice the size by a transposed convolution, join a skip, two 3x3 convolutions.

    Skips are tokens of earlier blocks, projected by a 1x1 convolution and resampled bilinearly; the block before the
    last joins first. Where the layers are fewer than five, the later blocks have no skip. Group normalisation, so that
    a head does not depend on the batch that it is applied to.

    Parameters
    ----------
    layers
        L, at least 2; the last is the deepest.
    width
        D.
    n_classes
        C.
    channels
        Of the four blocks, each a multiple of 8.
    """

    def __init__(self, layers: int, width: int, n_classes: int, channels: Sequence[int] = (128, 64, 32, 16)) -> None:
        super().__init__()
        if layers < 2:
            raise needs_layers("unet")
        before = channels[0]
        self.bottleneck = nn.Conv2d(width, before, 1)
        self.ups, self.skips, self.joins = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for place, after in enumerate(channels[:_BLOCKS]):
            skips = place < layers - 1
            self.ups.append(nn.ConvTranspose2d(before, after, 2, stride=2))
            self.skips.append(nn.Conv2d(width, after, 1) if skips else nn.Identity())
            self.joins.append(
                nn.Sequential(
                    nn.Conv2d(2 * after if skips else after, after, 3, padding=1, bias=False),
                    nn.GroupNorm(_GROUPS, after),
                    nn.ReLU(),
                    nn.Conv2d(after, after, 3, padding=1, bias=False),
                    nn.GroupNorm(_GROUPS, after),
                    nn.ReLU(),
                )
            )
            before = after
        self.head = nn.Conv2d(before, n_classes, 1)
        self._layers = layers

    def forward(self, tokens: Tensor) -> Tensor:
        """(b, C, 16 h, 16 w) logits of (b, L, h, w, D) tokens."""
        planes = tokens.permute(1, 0, 4, 2, 3)
        found: Tensor = self.bottleneck(planes[-1])
        for place, (up, skip, join) in enumerate(zip(self.ups, self.skips, self.joins, strict=True)):
            found = up(found)
            if place < self._layers - 1:
                projected = skip(planes[self._layers - 2 - place])
                large = functional.interpolate(projected, size=found.shape[-2:], mode="bilinear", align_corners=False)
                found = torch.cat([found, large], dim=1)
            found = join(found)
        logits: Tensor = self.head(found)
        return logits


class UNetBank:
    """U-Nets that start alike and see the same batches, one a learning rate.

    Parameters
    ----------
    layers, width, n_classes
        As in :class:`TokenUNet`.
    size
        S of the targets.
    learning_rates
        (M,) of SGD with momentum 0.9.
    loss
        Which loss.
    seed
        Of the weights.
    device
        Where the heads live.
    """

    def __init__(
        self,
        layers: int | None,
        width: int,
        n_classes: int,
        size: int,
        learning_rates: Sequence[float],
        *,
        loss: SegmentLoss = "dice+ce",
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        if layers is None or layers < 2:
            raise needs_layers("unet")
        self.heads: list[TokenUNet] = []
        with torch.random.fork_rng(devices=[]):
            for _ in learning_rates:
                torch.manual_seed(seed)
                self.heads.append(TokenUNet(layers, width, n_classes).to(device))
        self._rates = tuple(learning_rates)
        self._optimizers = [
            torch.optim.SGD(head.parameters(), lr=rate, momentum=_MOMENTUM)
            for head, rate in zip(self.heads, self._rates, strict=True)
        ]
        self._loss = loss
        self._size = size

    def step(self, tokens: Tensor, labels: Tensor, factor: float) -> None:
        """See :class:`featcache.probes.segmentation.training.HeadBank`."""
        tokens, labels = tokens.float(), labels.long()
        for head, optimizer, rate in zip(self.heads, self._optimizers, self._rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * factor
            optimizer.zero_grad()
            large = functional.interpolate(
                head(tokens), size=(self._size, self._size), mode="bilinear", align_corners=False
            )
            segment_loss(large, labels, self._loss).backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    def logits(self, tokens: Tensor, which: int) -> Tensor:
        """See :class:`featcache.probes.segmentation.training.HeadBank`."""
        found: Tensor = self.heads[which](tokens)
        return found


def needs_layers(head: str) -> ProbeError:
    """The error of a head that needs several layers."""
    return ProbeError(
        f"the head {head!r} reads the tokens of several blocks, the store has those of the last one",
        remedy="Extract them: featcache extract --patches --layers 5. Or use the head `linear`.",
    )
