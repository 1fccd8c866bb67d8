"""Image towers of open_clip: ``open_clip:<folder or architecture>``, built by that library, weights from a file.

``cls`` is open_clip's ``encode_image`` before it is brought to length 1. The text tower is neither built nor loaded.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import timm
import torch

from featcache.errors import (
    ConfigurationError,
    FeatcacheWarning,
    MissingDependencyError,
    UnknownNameError,
    WeightsError,
)
from featcache.models.checkpoints import load_strict, read_tensors, tensors_digest
from featcache.models.encoder import INTERMEDIATE_BLOCKS, Encoder, square_grid
from featcache.models.spec import CLIP_MEAN, CLIP_STD, ModelSpec
from featcache.models.weights import WeightsSource
from featcache.registry import nearest

__all__ = ["build", "describe"]

_CONFIGURATION = "open_clip_config.json"
_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_TOWER = "visual."


def describe(name: str) -> ModelSpec:
    """The facts about ``open_clip:<name>``, from its ``open_clip_config.json`` or open_clip's own list."""
    config, preprocessing = _configuration(name)
    vision = _vision(config, name)
    is_folder = Path(name).is_dir()
    if not preprocessing:
        warnings.warn(
            f"open_clip:{name} says nothing of its images: CLIP's mean and deviation and a bicubic resizing of the "
            "shorter side are assumed for the preset `model`",
            FeatcacheWarning,
            stacklevel=2,
        )
    resize = preprocessing.get("resize_mode", "shortest")
    interpolation = preprocessing.get("interpolation", "bicubic")
    if resize not in ("shortest", "squash") or interpolation not in ("bicubic", "bilinear"):
        raise ConfigurationError(
            f"open_clip:{name}: its images are resized by {resize!r}, {interpolation!r}, which is not supported",
            remedy="Supported: shortest or squash, bicubic or bilinear.",
        )
    trunk = vision.get("timm_model_name")
    patch = _timm_patch(trunk) if trunk else int(vision["patch_size"])
    return ModelSpec(
        name=f"open_clip:{Path(name).resolve().name if is_folder else name}",
        source="open_clip",
        architecture=str(trunk) if trunk else f"ViT/{patch}",
        summary="image tower of open_clip, image embedding after the projection",
        checkpoint=str(Path(name).resolve()) if is_folder else name,
        files=_FILES,
        licence="see its model card",
        gated=False,
        dim=int(config["embed_dim"]),
        depth=None if trunk else int(vision["layers"]),
        patch=patch,
        image_size=int(vision["image_size"]),
        resize=resize,
        crop_fraction=1.0,
        interpolation=interpolation,
        mean=tuple(preprocessing.get("mean", CLIP_MEAN)),
        std=tuple(preprocessing.get("std", CLIP_STD)),
        parameters=None,
        float16_safe=True,
        citation="Ilharco et al., OpenCLIP (2021), doi 10.5281/zenodo.5143773; see its model card",
    )


def build(spec: ModelSpec, source: WeightsSource, image_size: int) -> Encoder:
    """Load the image tower strictly; positions are resized as open_clip does.

    Raises
    ------
    WeightsError
        If tensors of the tower are missing, surplus or of another shape.
    ConfigurationError
        For a tower that is pooled in a way that gives no features of patches.
    """
    if source.path is None:
        raise WeightsError(f"{spec.name} needs a checkpoint", remedy="Pass --weights FILE.")
    config, _ = _configuration(spec.checkpoint)
    vision = _vision(config, spec.checkpoint)
    tensors = {name: tensor for name, tensor in read_tensors(source.path).items() if name.startswith(_TOWER)}
    tower = _tower(config, vision)
    own = {name.removeprefix(_TOWER): tensor for name, tensor in tensors.items()}
    load_strict(tower, own, str(source.path))
    if image_size != spec.image_size:
        if hasattr(tower, "trunk"):
            tower.set_input_size(image_size)
        else:
            tower = _tower(config, vision | {"image_size": image_size})
            table = {"visual.positional_embedding": own["positional_embedding"]}
            _library().model.resize_pos_embed(table, SimpleNamespace(visual=tower))
            load_strict(tower, own | {"positional_embedding": table["visual.positional_embedding"]}, str(source.path))
    told = json.dumps([tensors_digest(tensors), config["embed_dim"], config.get("quick_gelu"), vision], sort_keys=True)
    kind = _TimmTower if hasattr(tower, "trunk") else _Tower
    return kind(spec, tower, hashlib.sha256(told.encode()).hexdigest(), image_size)


def _library() -> Any:
    if importlib.util.find_spec("open_clip") is None:
        raise MissingDependencyError(
            "open_clip: models need the package open_clip_torch, which is not installed",
            remedy="pip install open_clip_torch.",
        )
    return importlib.import_module("open_clip")


def _configuration(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What open_clip calls ``model_cfg`` and ``preprocess_cfg``; the latter is empty for a bare architecture."""
    if not Path(name).is_dir():
        library = _library()
        config = library.get_model_config(name)
        if config is None:
            raise UnknownNameError(
                f"open_clip has no architecture {name!r}, and there is no such folder"
                f"{nearest(name, library.list_models())}",
                remedy=f"Pass open_clip:FOLDER with {_CONFIGURATION} and {_FILES[0]}, or a name of "
                "open_clip.list_models() with --weights FILE.",
            )
        return dict(config), {}
    path = Path(name) / _CONFIGURATION
    if not path.is_file():
        raise WeightsError(f"{name} has no {_CONFIGURATION}", remedy="Download it beside the weights.")
    try:
        content = json.loads(path.read_bytes())
        return dict(content["model_cfg"]), dict(content.get("preprocess_cfg", {}))
    except (ValueError, LookupError, TypeError) as error:
        raise WeightsError(f"{path} is no configuration of open_clip ({error})", remedy="Download it again.") from error


def _vision(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The tower's configuration, its defaults filled in; nothing is to be fetched while it is built."""
    defaults = vars(_library().CLIPVisionCfg())
    given = config.get("vision_cfg")
    if not isinstance(given, Mapping) or "embed_dim" not in config or not set(given) <= set(defaults):
        raise ConfigurationError(
            f"open_clip:{name}: its configuration describes no image tower that this open_clip knows",
            remedy="Update open_clip_torch, or check the folder.",
        )
    vision = {**defaults, **given, "timm_model_pretrained": False}
    is_plain = (
        isinstance(vision["layers"], int)
        and isinstance(vision["image_size"], int)
        and not vision["attentional_pool"]
        and not vision["final_ln_after_pool"]
        and vision["pool_type"] in ("tok", "avg")
    )
    is_trunk = vision["timm_model_name"] and vision["timm_pool"] not in ("abs_attn", "rot_attn")
    if not is_trunk and (vision["timm_model_name"] or not is_plain):
        raise ConfigurationError(
            f"open_clip:{name}: its tower (a modified ResNet, or pooled by attention) is not supported",
            remedy="Supported: vision transformers with a class or mean token, and timm networks.",
        )
    return vision


def _tower(config: Mapping[str, Any], vision: Mapping[str, Any]) -> Any:
    tower = _library().model._build_vision_tower(
        int(config["embed_dim"]), dict(vision), quick_gelu=bool(config.get("quick_gelu", False))
    )
    size = getattr(getattr(getattr(tower, "trunk", None), "patch_embed", None), "img_size", None)
    if size is not None and size[0] != vision["image_size"] and hasattr(tower.trunk, "set_input_size"):
        tower.set_input_size(vision["image_size"])
    return tower


def _timm_patch(trunk: str) -> int | None:
    with torch.device("meta"):
        network = timm.create_model(trunk, num_classes=0)
    size = getattr(getattr(network, "patch_embed", None), "patch_size", None)
    return int(size[0]) if isinstance(size, tuple) else size


class _Tower(Encoder):
    """open_clip's own vision transformer: the embedding, class tokens and patch tokens after the final norm."""

    def _depth(self) -> int:
        tower: Any = self._module
        return len(tower.transformer.resblocks)

    def _features(self, pixels: torch.Tensor, layers: int = 1) -> dict[str, torch.Tensor]:
        tower: Any = self._module
        kept = max(min(self._depth(), INTERMEDIATE_BLOCKS + 1), layers)
        _, blocks = tower.transformer.forward_intermediates(tower._embeds(pixels), indices=kept)
        normed = [tower.ln_post(tokens) for tokens in blocks]
        pooled, _ = tower._global_pool(normed[-1])
        features = {"cls": pooled if tower.proj is None else pooled @ tower.proj}
        earlier = normed[-INTERMEDIATE_BLOCKS - 1 : -1]
        if tower.pool_type == "tok" and earlier:
            features["intermediate"] = torch.stack([tokens[:, 0] for tokens in earlier], dim=1)
        patches = normed[-1][:, 1:]
        grid = patches if layers == 1 else torch.stack([tokens[:, 1:] for tokens in normed[-layers:]], dim=1)
        return features | {"patch_mean": patches.mean(dim=1)} | square_grid(grid)


class _TimmTower(Encoder):
    """A timm network with open_clip's projection: the embedding, and the last tokens or the last map."""

    def _features(self, pixels: torch.Tensor, layers: int = 1) -> dict[str, torch.Tensor]:
        tower: Any = self._module
        last = tower.trunk.forward_features(pixels)
        embedding = {"cls": tower.head(tower.trunk.forward_head(last))}
        if last.ndim == 3:
            tokens = last[:, int(getattr(tower.trunk, "num_prefix_tokens", 0)) :]
            return embedding | {"patch_mean": tokens.mean(dim=1)} | square_grid(tokens)
        if str(getattr(tower.trunk, "output_fmt", "NCHW")) != "NHWC":
            last = last.movedim(1, -1)
        return embedding | {"patch_mean": last.mean(dim=(1, 2)), "patches": last}
