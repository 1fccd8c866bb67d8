"""Rounding of bf16 and fp16 on a real architecture, against fp32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from featcache.models import Precision, load_model

PIXELS = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("precision", "lowest"), [("bf16", 0.98), ("fp16", 0.999)])
def test_half_precision_stays_near_float32_and_comes_out_as_float32(precision: Precision, lowest: float) -> None:
    expected = load_model("efficientnet_lite0", image_size=64).encode(PIXELS)["cls"]
    found = load_model("efficientnet_lite0", image_size=64).to("cpu", precision).encode(PIXELS)["cls"]
    assert found.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(found, expected).min() > lowest
    assert not torch.equal(found, expected)


def test_transformers_networks_use_fused_attention(tmp_path: Path) -> None:
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=16
    )
    transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    with pytest.warns(match="preprocessor_config"):
        encoder = load_model(f"hf:{tmp_path}", image_size=32)
    assert encoder._module.config._attn_implementation == "sdpa"
