"""Patch tokens of several last blocks: blocks run one by one here, and the final norm put on each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from safetensors.torch import save_file

from featcache.errors import ConfigurationError
from featcache.models import Encoder, load_model
from tests.models.test_dinov2 import randomized, relative_error

pytestmark = pytest.mark.filterwarnings("ignore:.*has no preprocessor_config")

SHAPE: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 6, "num_attention_heads": 2, "intermediate_size": 64}
PIXELS = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
FAMILIES: dict[str, tuple[type, type, int, str]] = {  # configuration, network, tokens before the patches, final norm
    "vit": (transformers.ViTConfig, transformers.ViTModel, 1, "layernorm"),
    "clip": (transformers.CLIPVisionConfig, transformers.CLIPVisionModel, 1, "post_layernorm"),
    "siglip": (transformers.SiglipVisionConfig, transformers.SiglipVisionModel, 0, "post_layernorm"),
    "dinov2": (transformers.Dinov2Config, transformers.Dinov2Model, 1, "layernorm"),
    "registers": (transformers.Dinov2WithRegistersConfig, transformers.Dinov2WithRegistersModel, 5, "layernorm"),
    "dinov3": (transformers.DINOv3ViTConfig, transformers.DINOv3ViTModel, 1, "norm"),
}


def outputs_of_blocks(network: torch.nn.Module, blocks: Any, pixels: torch.Tensor) -> list[torch.Tensor]:
    """What each block hands to the next, seen by hooks."""
    seen: list[torch.Tensor] = []

    def note(_: object, __: object, output: Any) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)

    hooks = [block.register_forward_hook(note) for block in blocks]
    with torch.inference_mode():
        network(pixels)
    for hook in hooks:
        hook.remove()
    return seen


def check(encoder: Encoder, expected: torch.Tensor, pixels: torch.Tensor) -> None:
    """``expected`` (B, n, T, D)."""
    count = expected.shape[1]
    one, several = encoder.encode(pixels, patches=True), encoder.encode(pixels, patches=True, layers=count)
    side = int(expected.shape[2] ** 0.5)
    assert several["patches"].shape == (len(pixels), count, side, side, expected.shape[-1])
    assert encoder.patches == (side, side, expected.shape[-1])
    assert relative_error(several["patches"].flatten(2, 3), expected) < 1e-5
    assert torch.equal(several["patches"][:, -1], one["patches"])
    for name in encoder.arrays:
        assert torch.equal(several[name], one[name]), name


@pytest.mark.parametrize("count", [2, 6])
@pytest.mark.parametrize("family", FAMILIES)
def test_patches_of_the_last_blocks_of_transformers(tmp_path: Path, family: str, count: int) -> None:
    config, model, prefix, norm = FAMILIES[family]
    own = {"num_register_tokens": 0} if family == "dinov3" else {}
    network: Any = randomized(model(config(**SHAPE, **own, image_size=64, patch_size=16)))
    network.save_pretrained(tmp_path)
    blocks = next(part for name, part in network.named_modules() if name.rpartition(".")[2] in ("layer", "layers"))
    seen = outputs_of_blocks(network, blocks, PIXELS)
    with torch.inference_mode():
        expected = torch.stack([network.get_submodule(norm)(block[:, prefix:]) for block in seen[-count:]], dim=1)
    encoder = load_model(f"hf:{tmp_path}", image_size=64)
    assert encoder.max_layers == 6
    check(encoder, expected, PIXELS)


@pytest.mark.parametrize(
    ("name", "prefix"), [("dinov2_vits14", 1), ("dinov2_vits14_reg", 5), ("timm:vit_tiny_patch16_224", 1)]
)
def test_patches_of_the_last_blocks_of_timm(tmp_path: Path, name: str, prefix: int) -> None:
    size = 518 if name.startswith("dinov2") else 224
    architecture = {1: "vit_small_patch14_dinov2", 5: "vit_small_patch14_reg4_dinov2"}[prefix]
    network: Any
    if size == 224:
        network = randomized(timm.create_model("vit_tiny_patch16_224"))
        tensors = network.state_dict()
    else:
        network = randomized(timm.create_model(architecture, num_classes=0))
        tensors = dict(network.state_dict())
        if prefix == 5:  # the authors' file has a position for the class token
            tensors["pos_embed"] = torch.cat([torch.zeros(1, 1, 384), tensors["pos_embed"]], dim=1)
            tensors["register_tokens"] = tensors.pop("reg_token")
    save_file(tensors, tmp_path / "weights.safetensors")
    pixels = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))
    seen = outputs_of_blocks(network, network.blocks, pixels)
    with torch.inference_mode():
        expected = torch.stack([network.norm(block)[:, prefix:] for block in seen[-5:]], dim=1)
    encoder = load_model(name, weights=tmp_path / "weights.safetensors", image_size=size)
    assert encoder.max_layers == 12
    check(encoder, expected, pixels)


def test_networks_and_numbers_that_cannot_are_refused(tmp_path: Path) -> None:
    pixels = torch.zeros(1, 3, 64, 64)
    control = load_model("efficientnet_lite0_random", image_size=64)
    assert control.max_layers == 1
    with pytest.raises(ConfigurationError, match="last layer only, asked for 2"):
        control.encode(pixels, patches=True, layers=2)
    transformers.ViTModel(transformers.ViTConfig(**SHAPE, image_size=64, patch_size=16)).save_pretrained(tmp_path)
    encoder = load_model(f"hf:{tmp_path}", image_size=64)
    for layers in (0, -1, 7):
        with pytest.raises(ConfigurationError, match="has 6 blocks"):
            encoder.encode(pixels, patches=True, layers=layers)
    with pytest.raises(ConfigurationError, match="not asked for"):
        encoder.encode(pixels, layers=2)


def test_layers_follow_the_network_to_another_precision(tmp_path: Path) -> None:
    transformers.ViTModel(transformers.ViTConfig(**SHAPE, image_size=64, patch_size=16)).save_pretrained(tmp_path)
    encoder = load_model(f"hf:{tmp_path}", image_size=64)
    full = encoder.encode(PIXELS, patches=True, layers=3)["patches"]
    half = encoder.to("cpu", "bf16").encode(PIXELS, patches=True, layers=3)["patches"]
    assert not torch.equal(full, half)
    assert relative_error(half, full) < 0.05
