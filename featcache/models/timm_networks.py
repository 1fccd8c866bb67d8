"""Networks of timm: any that it can build, with weights from a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch

from featcache.errors import ConfigurationError, UnknownNameError, WeightsError
from featcache.models.checkpoints import load_strict, read_tensors, tensors_digest
from featcache.models.direct import fill
from featcache.models.encoder import INTERMEDIATE_BLOCKS, Encoder, square_grid
from featcache.models.runtime import compute_dtype
from featcache.models.spec import ModelSpec
from featcache.models.weights import WeightsSource
from featcache.registry import nearest

__all__ = ["VisionTransformerEncoder", "build", "describe", "map_features", "transformer_features"]


def describe(name: str) -> ModelSpec:
    """The facts about ``timm:<name>``, from timm's own configuration."""
    if not timm.is_model(name):
        raise UnknownNameError(
            f"timm has no model {name!r}{nearest(name, timm.list_models())}", remedy="See timm.list_models()."
        )
    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    network = _create(name)
    is_transformer = isinstance(network, timm.models.VisionTransformer)
    return ModelSpec(
        name=f"timm:{name}",
        source="timm",
        architecture=name,
        summary="timm network with weights of the user's",
        checkpoint=config.hf_hub_id or "",
        files=(),
        licence=config.license or "see its authors",
        gated=False,
        dim=network.num_features,
        depth=len(network.blocks) if is_transformer else None,
        patch=_patch(network),
        image_size=int(config.input_size[-1]),
        resize="squash" if config.crop_mode == "squash" else "shortest",
        crop_fraction=float(config.crop_pct),
        interpolation="bilinear" if config.interpolation == "bilinear" else "bicubic",
        mean=tuple(config.mean),
        std=tuple(config.std),
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        float16_safe=True,
        citation="timm: Wightman, PyTorch Image Models (2019)",
    )


def build(spec: ModelSpec, source: WeightsSource, image_size: int) -> Encoder:
    """Build a network, load its weights strictly, and set its input size as timm does."""
    if spec.random_seed is None:
        if source.path is None:
            raise WeightsError(f"{spec.name} needs a checkpoint", remedy="Pass --weights FILE.")
        with torch.device("meta"):
            network = timm.create_model(spec.architecture, pretrained=False)
        directly = isinstance(network, timm.models.VisionTransformer)
        if not directly:  # others compute some of their buffers when they are made
            network = timm.create_model(spec.architecture, pretrained=False)
        tensors = read_tensors(source.path)
        if spec.name == "efficientnet_lite0":
            tensors = in_order_of(network, tensors, str(source.path))
        digest = tensors_digest(tensors)
        heads = _classifiers(network)
        network.reset_classifier(0)
        body = {name: tensor for name, tensor in tensors.items() if not name.startswith(heads)}
        del tensors
        if directly:
            fill(network, body, str(source.path), source.precision)
        else:
            load_strict(network, body, str(source.path))
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(spec.random_seed)
            network = _create(spec.architecture)
        digest = tensors_digest(network.state_dict())
    if isinstance(network, timm.models.VisionTransformer):
        if image_size != network.patch_embed.img_size[0]:
            network.set_input_size(img_size=(image_size, image_size))
        network.to(compute_dtype(source.precision))
        return VisionTransformerEncoder(spec, network, digest, image_size)
    try:
        if image_size != spec.image_size and hasattr(network, "set_input_size"):
            network.set_input_size(img_size=(image_size, image_size))
        return _PooledEncoder(spec, network, digest, image_size)
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ConfigurationError(
            f"{spec.name} does not take {image_size} pixels: {error}", remedy=f"Its own size is {spec.image_size}."
        ) from error


def in_order_of(network: torch.nn.Module, tensors: Mapping[str, torch.Tensor], origin: str) -> dict[str, torch.Tensor]:
    """Rename tensors that correspond to a network's in order, BatchNorm's counters left out on both sides."""
    counter = "num_batches_tracked"
    names = [name for name in network.state_dict() if not name.endswith(counter)]
    given = [name for name in tensors if not name.endswith(counter)]
    if set(names) == set(given):  # timm's own names; a .safetensors does not keep the network's order
        return {name: tensors[name] for name in names}
    if len(names) != len(given):
        raise WeightsError(
            f"{origin} holds {len(given)} tensors, the network has {len(names)}",
            remedy="It is the checkpoint of another architecture.",
        )
    return {name: tensors[original] for name, original in zip(names, given, strict=True)}


def _create(name: str) -> Any:
    return timm.create_model(name, pretrained=False, num_classes=0)


def _patch(network: Any) -> int | None:
    size = getattr(getattr(network, "patch_embed", None), "patch_size", None)
    return int(size[0]) if isinstance(size, tuple) else size


def _classifiers(network: Any) -> tuple[str, ...]:
    """Prefixes of the classifiers' tensors, as timm's configuration says; a distilled network has two."""
    names = network.pretrained_cfg.get("classifier") or ()
    return tuple(f"{name}." for name in ((names,) if isinstance(names, str) else names))


class VisionTransformerEncoder(Encoder):
    """timm's ``VisionTransformer``: class tokens of the last blocks, mean of the patch tokens."""

    def _depth(self) -> int:
        network: Any = self._module
        return len(network.blocks)

    def _features(self, pixels: torch.Tensor, layers: int = 1) -> dict[str, torch.Tensor]:
        return transformer_features(self._module, pixels, layers)[0]


def transformer_features(
    network: Any, pixels: torch.Tensor, layers: int = 1
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Features of a ``VisionTransformer``, and all of the last block's tokens (B, n, D) after the final norm."""
    kept = max(min(len(network.blocks), INTERMEDIATE_BLOCKS + 1), layers)
    blocks = network.forward_intermediates(
        pixels, indices=kept, return_prefix_tokens=True, norm=True, output_fmt="NLC", intermediates_only=True
    )
    if network.num_prefix_tokens == 0:  # then there are no pairs, and the last layer is all that the head sees
        pooled = network.forward_head(blocks[-1], pre_logits=True)
        return {"cls": pooled, "patch_mean": blocks[-1].mean(dim=1)} | _grid(blocks[-layers:]), blocks[-1]
    patches, prefix = blocks[-1]
    tokens = torch.cat([prefix, patches], dim=1)
    features = {"patch_mean": patches.mean(dim=1)} | _grid([inner for inner, _ in blocks[-layers:]])
    if network.cls_token is None:
        return {"cls": network.forward_head(tokens, pre_logits=True), **features}, tokens
    classes = torch.stack([prefix[:, 0] for _, prefix in blocks[-INTERMEDIATE_BLOCKS - 1 :]], dim=1)
    earlier = {"intermediate": classes[:, :-1]} if classes.shape[1] > 1 else {}
    return {"cls": classes[:, -1], **earlier, **features}, tokens


def _grid(blocks: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    """``patches`` of one block, or of several along a new axis."""
    return square_grid(blocks[0] if len(blocks) == 1 else torch.stack(list(blocks), dim=1))


class _PooledEncoder(Encoder):
    """Any other timm network: pooled features before the classifier, mean of the last feature map."""

    def _features(self, pixels: torch.Tensor, layers: int = 1) -> dict[str, torch.Tensor]:
        network: Any = self._module
        last = network.forward_features(pixels)
        return {"cls": network.forward_head(last, pre_logits=True), **map_features(network, last)}


def map_features(network: Any, last: torch.Tensor) -> dict[str, torch.Tensor]:
    """``patch_mean`` and ``patches`` of any timm network's last map or tokens."""
    if last.ndim == 3:
        tokens = last[:, int(getattr(network, "num_prefix_tokens", 0)) :]
        return {"patch_mean": tokens.mean(dim=1)} | square_grid(tokens)
    if str(getattr(network, "output_fmt", "NCHW")) == "NHWC":
        return {"patch_mean": last.mean(dim=(1, 2)), "patches": last}
    return {"patch_mean": last.mean(dim=(2, 3)), "patches": last.movedim(1, -1)}
