"""DINOv2 as its authors compute it, from the authors' files or from Hugging Face's.

The network is timm's ``VisionTransformer``, which at the native 518 px computes what the authors' code does. What
differs between libraries is how the position embedding is brought to another size, so that is done here, once,
as in the authors' repository: bicubic by the scale factor (n + 0.1) / 37, without antialiasing; for the models with
registers to the exact size, with antialiasing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import timm
import torch

from featcache.errors import WeightsError
from featcache.models.checkpoints import check_fit, read_tensors, tensors_digest
from featcache.models.direct import fill
from featcache.models.encoder import Encoder
from featcache.models.runtime import compute_dtype
from featcache.models.spec import ModelSpec
from featcache.models.timm_networks import VisionTransformerEncoder
from featcache.models.weights import WeightsSource

__all__ = ["authors_position_embedding", "build", "canonical_tensors", "registers_position_embedding"]

NATIVE_SIZE = 518
OFFSET = 0.1

_FROM_HUGGING_FACE = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.register_tokens": "reg_token",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "attention.output.dense": "attn.proj",
    "attention.o_proj": "attn.proj",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
    "mlp.weights_in": "mlp.fc1",
    "mlp.weights_out": "mlp.fc2",
    "mlp.down_proj": "mlp.fc2",
    "layernorm": "norm",
}
_FROM_AUTHORS = {"register_tokens": "reg_token", "mlp.w12": "mlp.fc1", "mlp.w3": "mlp.fc2"}
# Parts that are one matrix here, in the order in which they are stacked.
_STACKED = {
    "attn.qkv": (
        ("attention.attention.query", "attention.attention.key", "attention.attention.value"),
        ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
    ),
    "mlp.fc1": (("mlp.gate_proj", "mlp.up_proj"),),
}
# Trained beside the encoder and not used by it.
_NOT_ENCODER = ("mask_token", "embeddings.mask_token", "classifier.", "head.")


def build(spec: ModelSpec, source: WeightsSource, image_size: int) -> Encoder:
    """Load a checkpoint in any of the known layouts and set the input size as the authors do."""
    if source.path is None:
        raise WeightsError(f"{spec.name} needs a checkpoint", remedy="Pass --weights FILE.")
    path = source.path
    if path.is_dir():
        files = [path / name for name in spec.files[1:] if (path / name).is_file()]
        if not files:
            raise WeightsError(f"{path} has none of {', '.join(spec.files[1:])}", remedy="Pass the checkpoint file.")
        path = files[0]
    with torch.device("meta"):
        network = timm.create_model(spec.architecture, pretrained=False, num_classes=0, img_size=NATIVE_SIZE)
    tensors = canonical_tensors(read_tensors(path))
    has_registers = "reg_token" in tensors
    if has_registers and {"cls_token", "pos_embed"} <= set(tensors):  # what is missing is listed below
        _add_class_position(tensors)
    check_fit(network, tensors, str(path))
    digest = tensors_digest(tensors)
    fill(network, tensors, str(path), source.precision)
    if image_size != NATIVE_SIZE:
        resize = registers_position_embedding if has_registers else authors_position_embedding
        resized = resize(network.pos_embed.detach(), image_size // network.patch_embed.patch_size[0])
        network.patch_embed.set_input_size(img_size=(image_size, image_size))
        network.pos_embed = torch.nn.Parameter(resized)
    network.to(compute_dtype(source.precision))
    return VisionTransformerEncoder(spec, network, digest, image_size)


def canonical_tensors(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename a state dict of the authors' or of Hugging Face's to timm's names, query, key and value stacked."""
    renamed: dict[str, torch.Tensor] = {}
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for original, tensor in tensors.items():
        name = original.removeprefix("dinov2.")
        if name.startswith(_NOT_ENCODER):
            continue
        name = re.sub(r"^encoder\.layer\.(\d+)\.", r"blocks.\1.", name)
        for target, alternatives in _STACKED.items():
            for part in (part for names in alternatives for part in names):
                if f".{part}." in name:
                    parts.setdefault(name.replace(part, target), {})[part] = tensor
                    break
            else:
                continue
            break
        else:
            renamed[_renamed(name)] = tensor
    for name, found in parts.items():
        target = next(target for target in _STACKED if f".{target}." in name)
        complete = [names for names in _STACKED[target] if set(names) == set(found)]
        if not complete:
            raise WeightsError(f"the checkpoint has only {', '.join(found)} of {name}", remedy="Download it again.")
        renamed[name] = torch.cat([found[part] for part in complete[0]])
    return renamed


def _renamed(name: str) -> str:
    for original, here in (_FROM_HUGGING_FACE | _FROM_AUTHORS).items():
        if re.search(rf"(^|\.){re.escape(original)}($|\.)", name):
            return re.sub(rf"(^|\.){re.escape(original)}($|\.)", rf"\g<1>{here}\g<2>", name)
    return name


def authors_position_embedding(embedding: torch.Tensor, side: int) -> torch.Tensor:
    """Resize a position embedding as facebookresearch/dinov2 does for the models without registers.

    Parameters
    ----------
    embedding
        (1, 1 + N * N, D) float32: class token first, then the native grid.
    side
        Patches on a side of the new grid.

    Returns
    -------
    Tensor
        (1, 1 + side * side, D).
    """
    class_token, grid = embedding[:, :1], embedding[:, 1:]
    native = round(grid.shape[1] ** 0.5)
    if side == native:
        return embedding
    grid = grid.reshape(1, native, native, -1).permute(0, 3, 1, 2)
    factor = (side + OFFSET) / native
    resized = torch.nn.functional.interpolate(grid, scale_factor=(factor, factor), mode="bicubic", antialias=False)
    return torch.cat([class_token, resized.permute(0, 2, 3, 1).reshape(1, side * side, -1)], dim=1)


def registers_position_embedding(embedding: torch.Tensor, side: int) -> torch.Tensor:
    """Resize a position embedding as facebookresearch/dinov2 does for the models with registers.

    Parameters
    ----------
    embedding
        (1, N * N, D) float32, the native grid.
    side
        Patches on a side of the new grid.

    Returns
    -------
    Tensor
        (1, side * side, D).
    """
    native = round(embedding.shape[1] ** 0.5)
    if side == native:
        return embedding
    grid = embedding.reshape(1, native, native, -1).permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(grid, size=(side, side), mode="bicubic", antialias=True)
    return resized.permute(0, 2, 3, 1).reshape(1, side * side, -1)


def _add_class_position(tensors: dict[str, torch.Tensor]) -> None:
    """The class token's position belongs to the token in timm's network with registers, which have no position."""
    positions = tensors["pos_embed"]
    tensors["cls_token"] = tensors["cls_token"] + positions[:, :1]
    tensors["pos_embed"] = positions[:, 1:]
