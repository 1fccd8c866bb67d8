"""Each architecture of transformers against that library's own forward pass, from a checkpoint in its own format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from featcache.errors import ConfigurationError
from featcache.models import load_model
from tests.models.test_dinov2 import relative_error

pytestmark = pytest.mark.filterwarnings("ignore:.*has no preprocessor_config")

SHAPE: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 5, "num_attention_heads": 2, "image_size": 64}
VIT = {**SHAPE, "intermediate_size": 64, "patch_size": 16}
PIXELS = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def saved(network: Any, folder: Path) -> Any:
    """The network, evaluated, as a checkpoint in a folder."""
    network = network.eval()
    network.save_pretrained(folder)
    return network


def encoded(folder: Path, pixels: torch.Tensor = PIXELS) -> dict[str, torch.Tensor]:
    return load_model(f"hf:{folder}", image_size=pixels.shape[-1]).encode(pixels, patches=True)


def test_a_masked_autoencoder_sees_the_whole_image_in_order(tmp_path: Path) -> None:
    """Against the same network with mask ratio 0, whose shuffled tokens are put back by their positions."""
    torch.manual_seed(0)
    network = saved(transformers.ViTMAEForPreTraining(transformers.ViTMAEConfig(**VIT)), tmp_path)
    encoder = network.vit
    encoder.config.mask_ratio = 0.0
    with torch.inference_mode():
        shuffled = encoder(pixel_values=PIXELS)
        restored = shuffled.last_hidden_state[:, 1:].gather(
            1, shuffled.ids_restore[..., None].expand(-1, -1, VIT["hidden_size"])
        )
    found = encoded(tmp_path)
    assert relative_error(found["cls"], shuffled.last_hidden_state[:, 0]) < 1e-5
    assert relative_error(found["patches"].reshape(3, 16, -1), restored) < 1e-5
    assert torch.equal(found["cls"], encoded(tmp_path)["cls"])


@pytest.mark.parametrize("whole", [False, True], ids=["vision tower", "both towers"])
def test_siglip_gives_its_attention_head_and_normed_patches(tmp_path: Path, *, whole: bool) -> None:
    torch.manual_seed(0)
    if whole:
        text = {name: value for name, value in VIT.items() if name not in ("image_size", "patch_size")}
        config = transformers.SiglipConfig(text_config={**text, "vocab_size": 50}, vision_config=VIT)
        network = saved(transformers.SiglipModel(config), tmp_path).vision_model
    else:
        network = saved(transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**VIT)), tmp_path)
    with torch.inference_mode():
        expected = network(pixel_values=PIXELS)
    found = encoded(tmp_path)
    assert relative_error(found["cls"], expected.pooler_output) < 1e-5
    assert relative_error(found["patches"].reshape(3, 16, -1), expected.last_hidden_state) < 1e-5
    assert relative_error(found["patch_mean"], expected.last_hidden_state.mean(1)) < 1e-5


@pytest.mark.parametrize("size", [64, 96])
def test_dinov3_leaves_its_registers_out(tmp_path: Path, size: int) -> None:
    torch.manual_seed(0)
    network = saved(transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**VIT, num_register_tokens=4)), tmp_path)
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = network(pixel_values=pixels, output_hidden_states=True)
        earlier = torch.stack([network.norm(state[:, 0]) for state in expected.hidden_states[-4:-1]], dim=1)
    found = encoded(tmp_path, pixels)
    side = size // 16
    assert relative_error(found["cls"], expected.last_hidden_state[:, 0]) < 1e-5
    assert relative_error(found["patches"].reshape(2, side * side, -1), expected.last_hidden_state[:, 5:]) < 1e-5
    assert relative_error(found["intermediate"], earlier) < 1e-5


def test_dinov3s_convnext_gives_its_pooled_output_and_last_map(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.DINOv3ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1])
    network = saved(transformers.DINOv3ConvNextModel(config), tmp_path)
    with torch.inference_mode():
        expected = network(pixel_values=PIXELS)
    found = encoded(tmp_path)
    assert relative_error(found["cls"], expected.pooler_output) < 1e-5
    assert relative_error(found["patches"].reshape(3, 4, -1), expected.last_hidden_state[:, 1:]) < 1e-5


def test_sam_gives_the_mean_of_the_tokens_before_the_neck(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.SamVisionConfig(
        **SHAPE, patch_size=16, mlp_dim=64, output_channels=8, global_attn_indexes=[1], window_size=2
    )
    network = saved(transformers.SamVisionModel(config), tmp_path)
    seen: list[torch.Tensor] = []
    network.vision_encoder.neck.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        network(pixel_values=PIXELS)
    found = encoded(tmp_path)
    assert relative_error(found["patches"], seen[0]) < 1e-5
    assert relative_error(found["cls"], seen[0].mean((1, 2))) < 1e-5


def test_sam_takes_its_own_size_only(tmp_path: Path) -> None:
    config = transformers.SamVisionConfig(
        **SHAPE, patch_size=16, mlp_dim=64, output_channels=8, global_attn_indexes=[1]
    )
    saved(transformers.SamVisionModel(config), tmp_path)
    with pytest.raises(ConfigurationError, match="does not take 96 pixels"):
        load_model(f"hf:{tmp_path}", image_size=96)
