"""open_clip's image towers that are a timm network and a projection, from its checkpoints: BiomedCLIP.

The tower's tensors are ``visual.trunk.…`` (timm's names) and ``visual.head.proj.weight``; those of the text tower are
left out. What the authors call the image embedding, before it is brought to length 1, is ``cls``.
"""

from __future__ import annotations

from typing import Any

import timm
import torch

from featcache.errors import WeightsError
from featcache.models.checkpoints import load_strict, read_tensors, tensors_digest
from featcache.models.encoder import Encoder, square_grid
from featcache.models.spec import ModelSpec
from featcache.models.weights import WeightsSource
from featcache.registry import load_dotted

__all__ = ["build"]

_TRUNK, _PROJECTION = "visual.trunk.", "visual.head.proj.weight"


def build(spec: ModelSpec, source: WeightsSource, image_size: int) -> Encoder:
    """Load the image tower strictly; positions are resized as timm does.

    Raises
    ------
    WeightsError
        If the checkpoint has no such tower, or tensors of it are missing, surplus or of another shape.
    """
    if spec.name.startswith("open_clip:"):
        return load_dotted("featcache.models.open_clip_towers:build")(spec, source, image_size)  # type: ignore[no-any-return]
    if source.path is None:
        raise WeightsError(f"{spec.name} needs a checkpoint", remedy="Pass --weights FILE.")
    tensors = {name: tensor for name, tensor in read_tensors(source.path).items() if name.startswith("visual.")}
    if _PROJECTION not in tensors:
        raise WeightsError(
            f"{source.path} holds no image tower of open_clip: there is no {_PROJECTION}",
            remedy=f"Pass {spec.files[0]} of {spec.checkpoint}.",
        )
    trunk = timm.create_model(spec.architecture, pretrained=False, num_classes=0)
    projection = torch.nn.Linear(trunk.num_features, spec.dim or 0, bias=False)
    tower = torch.nn.ModuleDict({"trunk": trunk, "projection": projection})
    renamed = {
        "projection.weight" if name == _PROJECTION else name.removeprefix("visual."): tensor
        for name, tensor in tensors.items()
    }
    load_strict(tower, renamed, str(source.path))
    if image_size != spec.image_size:
        trunk.set_input_size(img_size=(image_size, image_size))
    return _TowerEncoder(spec, tower, tensors_digest(tensors), image_size)


class _TowerEncoder(Encoder):
    """Projected class token; patch tokens and their mean as the trunk's final norm leaves them."""

    def _features(self, pixels: torch.Tensor, layers: int = 1) -> dict[str, torch.Tensor]:
        tower: Any = self._module
        tokens = tower["trunk"].forward_features(pixels)
        patches = tokens[:, tower["trunk"].num_prefix_tokens :]
        pooled = tower["projection"](tower["trunk"].forward_head(tokens, pre_logits=True))
        return {"cls": pooled, "patch_mean": patches.mean(dim=1)} | square_grid(patches)
