"""The control without a network: the image itself."""

from __future__ import annotations

import torch

from featcache.models.encoder import Encoder
from featcache.models.spec import ModelSpec
from featcache.models.weights import WeightsSource

__all__ = ["build"]

SIDE = 16


class _Pixels(Encoder):
    """``cls`` is the grey image averaged to 16 x 16, ``patch_mean`` its mean, ``patches`` the same cells as a grid."""

    def _features(self, pixels: torch.Tensor, layers: int = 1) -> dict[str, torch.Tensor]:
        grey = pixels.mean(dim=1, keepdim=True)
        cells = torch.nn.functional.adaptive_avg_pool2d(grey, SIDE)
        return {
            "cls": cells.flatten(1),
            "patch_mean": grey.mean(dim=(1, 2, 3))[:, None],
            "patches": cells.movedim(1, -1),
        }


def build(spec: ModelSpec, source: WeightsSource, image_size: int) -> Encoder:
    """The encoder; it has no weights, so their digest is that of nothing."""
    from featcache.models.checkpoints import tensors_digest

    return _Pixels(spec, torch.nn.Identity(), tensors_digest({}), image_size)
