"""Image towers of open_clip: its own transformers and residual networks, and those it takes from timm.

``cls`` is open_clip's ``encode_image`` before it is brought to length 1; of ``+pooled`` ids, what is projected to it.
Class tokens of earlier blocks are projected where the last is. The text tower is neither built nor loaded.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import timm
import torch

from featcache.errors import ConfigurationError, WeightsError
from featcache.models.checkpoints import check_fit, load_strict, read_tensors, tensors_digest
from featcache.models.direct import fill
from featcache.models.encoder import INTERMEDIATE_BLOCKS, Encoder, square_grid
from featcache.models.open_clip_configurations import POOLED, library, model_configuration
from featcache.models.runtime import compute_dtype
from featcache.models.spec import ModelSpec
from featcache.models.timm_networks import map_features, transformer_features
from featcache.models.weights import WeightsSource

__all__ = ["blueprint", "build"]

_TOWER = "visual."
# Tensors of checkpoints that belong to the text tower or to the loss.
_OTHER_PARTS = (
    "attn_mask",
    "ln_final.",
    "logit_bias",
    "logit_scale",
    "positional_embedding",
    "text.",
    "text_decoder.",
    "text_projection",
    "token_embedding.",
    "transformer.",
)


def build(spec: ModelSpec, source: WeightsSource, image_size: int) -> Encoder:
    """Build a vision tower, load its part of a checkpoint strictly, and set its input size as open_clip does."""
    if source.path is None:
        raise WeightsError(f"{spec.name} needs a checkpoint", remedy="Pass --weights FILE.")
    configuration = model_configuration(spec, source.path.parent)
    tensors = _tower_tensors(read_tensors(source.path), source.path)
    digest = _digest(tensors, configuration)
    native = int(configuration["vision_cfg"].get("image_size", 224))
    with torch.device("meta"):
        tower = _tower(configuration, native)
    check_fit(tower, tensors, str(source.path))
    is_projected = not spec.name.endswith(POOLED)
    try:
        if hasattr(tower, "trunk"):
            tower = _timm_tower(tower, configuration, tensors, source, image_size=image_size)
            return _TimmTower(spec, tower, digest, image_size, is_projected=is_projected)
        if hasattr(tower, "transformer"):
            tower = _own_transformer(configuration, tensors, source, image_size)
            return _TransformerTower(spec, tower, digest, image_size, is_projected=is_projected)
        fill(tower, tensors, str(source.path), source.precision)
        return _ResidualTower(spec, tower, digest, image_size, is_projected=is_projected)
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ConfigurationError(
            f"{spec.name} does not take {image_size} pixels: {str(error).splitlines()[0]}",
            remedy=f"Its own size is {spec.image_size}.",
        ) from error


def blueprint(spec: ModelSpec, image_size: int) -> torch.nn.Module:
    """The tower of an id at an input size, without weights, on torch's default device."""
    tower: torch.nn.Module = _sized(_tower(model_configuration(spec, Path(spec.checkpoint)), image_size), image_size)
    return tower


def _tower_tensors(tensors: dict[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    """The vision tower's part of a checkpoint; what belongs to no known part stays, to be reported as surplus."""
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(_OTHER_PARTS)}
    if not any(name.startswith(_TOWER) for name in kept):
        raise WeightsError(
            f"{path} is no checkpoint of open_clip: none of its {len(tensors)} tensors begins with {_TOWER!r}",
            remedy="Pass open_clip's own file (open_clip_model.safetensors, open_clip_pytorch_model.bin); files in "
            "transformers' layout load by hf:FOLDER.",
        )
    return {name.removeprefix(_TOWER): tensor for name, tensor in kept.items()}


def _digest(tensors: dict[str, torch.Tensor], configuration: dict[str, Any]) -> str:
    """SHA-256 of the tensors' digest and of what the configuration says about the arithmetic."""
    vision = {
        name: value for name, value in configuration["vision_cfg"].items() if name not in ("timm_model_pretrained",)
    }
    told = {"quick_gelu": bool(configuration.get("quick_gelu")), "vision_cfg": vision}
    canonical = json.dumps([tensors_digest(tensors), told], sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _tower(configuration: dict[str, Any], image_size: int) -> Any:
    """The network of a configuration, without pretrained parts."""
    library()
    from open_clip.model import (  # type: ignore[import-untyped]
        _build_vision_tower,  # the one place that knows which class a configuration means
    )

    vision = {**configuration["vision_cfg"], "image_size": image_size, "timm_model_pretrained": False}
    vision |= {"output_tokens": False, "patch_dropout": 0.0}
    return _build_vision_tower(int(configuration["embed_dim"]), vision, bool(configuration.get("quick_gelu")))


def _own_transformer(
    configuration: dict[str, Any], tensors: dict[str, torch.Tensor], source: WeightsSource, image_size: int
) -> Any:
    """open_clip's transformer at an input size, its positions resized by the library's own function."""
    from open_clip.model import resize_pos_embed

    with torch.device("meta"):
        tower = _tower(configuration, image_size)
    name = "positional_embedding"
    positions = {f"{_TOWER}{name}": tensors.pop(name).float()}
    resize_pos_embed(positions, SimpleNamespace(visual=tower))
    fill(tower, tensors | {name: positions[f"{_TOWER}{name}"]}, str(source.path), source.precision)
    return tower


def _timm_tower(
    tower: Any,
    configuration: dict[str, Any],
    tensors: dict[str, torch.Tensor],
    source: WeightsSource,
    *,
    image_size: int,
) -> Any:
    """A network of timm with open_clip's head, its positions resized by timm, as open_clip does."""
    if isinstance(tower.trunk, timm.models.VisionTransformer):
        fill(tower, tensors, str(source.path), source.precision)
    else:  # others compute some of their buffers when they are made
        tower = _tower(configuration, image_size)
        load_strict(tower, tensors, str(source.path))
    return _sized(tower, image_size).to(compute_dtype(source.precision))


def _sized(tower: Any, image_size: int) -> Any:
    """A tower at an input size: the configuration's does not reach a network of timm, whose own is in its name."""
    trunk: Any = getattr(tower, "trunk", None)
    if hasattr(trunk, "set_input_size"):
        native = getattr(getattr(trunk, "patch_embed", None), "img_size", None) or trunk.default_cfg["input_size"][1:]
        if tuple(native) != (image_size, image_size):
            trunk.set_input_size(img_size=(image_size, image_size))
    return tower


class _Tower(Encoder):
    """A tower whose class tokens are projected or not."""

    def __init__(
        self, spec: ModelSpec, module: torch.nn.Module, weights_digest: str, image_size: int, *, is_projected: bool
    ) -> None:
        self._is_projected = is_projected
        super().__init__(spec, module, weights_digest, image_size)


class _TransformerTower(_Tower):
    """open_clip's ``VisionTransformer``."""

    def _depth(self) -> int:
        tower: Any = self._module
        return len(tower.transformer.resblocks) if tower.attn_pool is None else 1

    def _features(self, pixels: torch.Tensor, layers: int = 1) -> dict[str, torch.Tensor]:
        tower: Any = self._module
        kept = max(min(len(tower.transformer.resblocks), INTERMEDIATE_BLOCKS + 1), layers)
        tokens, blocks = tower.transformer.forward_intermediates(tower._embeds(pixels), indices=kept)
        pooled, _ = tower._pool(tokens)
        features = {"cls": self._embedding(pooled)}
        if tower.attn_pool is not None:  # its norm follows the pooling, so that tokens have none
            patches = tokens[:, 1:]
            return features | {"patch_mean": patches.mean(dim=1)} | square_grid(patches)
        normed = [tower.ln_post(block) for block in blocks]
        earlier = normed[-INTERMEDIATE_BLOCKS - 1 : -1]
        if tower.pool_type == "tok" and earlier:
            features["intermediate"] = self._embedding(torch.stack([block[:, 0] for block in earlier], dim=1))
        patches = normed[-1][:, 1:]
        grid = patches if layers == 1 else torch.stack([block[:, 1:] for block in normed[-layers:]], dim=1)
        return features | {"patch_mean": patches.mean(dim=1)} | square_grid(grid)

    def _embedding(self, pooled: torch.Tensor) -> torch.Tensor:
        tower: Any = self._module
        embedding: torch.Tensor = pooled @ tower.proj if self._is_projected else pooled
        return embedding


class _ResidualTower(_Tower):
    """open_clip's ``ModifiedResNet``: its attention pooling projects, so that nothing comes before the projection."""

    def _features(self, pixels: torch.Tensor, layers: int = 1) -> dict[str, torch.Tensor]:
        tower: Any = self._module
        last = tower.layer4(tower.layer3(tower.layer2(tower.layer1(tower.stem(pixels)))))
        return {"cls": tower.attnpool(last), "patch_mean": last.mean(dim=(2, 3)), "patches": last.movedim(1, -1)}


class _TimmTower(_Tower):
    """open_clip's ``TimmModel``: a network of timm, and a head that may pool and project."""

    def _depth(self) -> int:
        trunk: Any = self._module.trunk
        return len(trunk.blocks) if isinstance(trunk, timm.models.VisionTransformer) else 1

    def _features(self, pixels: torch.Tensor, layers: int = 1) -> dict[str, torch.Tensor]:
        tower: Any = self._module
        trunk = tower.trunk
        if isinstance(trunk, timm.models.VisionTransformer):
            features, last = transformer_features(trunk, pixels, layers)
        else:
            last = trunk.forward_features(pixels)
            features = map_features(trunk, last)
        pools_in_head = hasattr(tower.head, "pool")
        if self._is_projected or pools_in_head:
            features["cls"] = tower.head(trunk.forward_head(last))
        else:
            features["cls"] = trunk.forward_head(last, pre_logits=True)
        if "intermediate" in features:
            if trunk.global_pool != "token":
                del features["intermediate"]  # class tokens are not what is pooled
            elif self._is_projected:
                features["intermediate"] = tower.head(trunk.head(trunk.fc_norm(features["intermediate"])))
        return features
