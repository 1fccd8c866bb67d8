"""The shapes of the networks that transformers builds: what their ``config.json`` says, for counting without it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["CONFIGURATIONS", "CONFIGURED_CLASSES"]

CONFIGURED_CLASSES: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {
    "clip": ("CLIPVisionConfig", "CLIPVisionModel", {}),
    "clip_vision_model": ("CLIPVisionConfig", "CLIPVisionModel", {}),
    "dinov2": ("Dinov2Config", "Dinov2Model", {}),
    "dinov2_with_registers": ("Dinov2WithRegistersConfig", "Dinov2WithRegistersModel", {}),
    "dinov3_convnext": ("DINOv3ConvNextConfig", "DINOv3ConvNextModel", {}),
    "dinov3_vit": ("DINOv3ViTConfig", "DINOv3ViTModel", {}),
    "sam": ("SamVisionConfig", "SamVisionModel", {}),
    "sam_vision_model": ("SamVisionConfig", "SamVisionModel", {}),
    "siglip": ("SiglipVisionConfig", "SiglipVisionModel", {}),
    "siglip_vision_model": ("SiglipVisionConfig", "SiglipVisionModel", {}),
    "vit": ("ViTConfig", "ViTModel", {"add_pooling_layer": False}),
    "vit_mae": ("ViTMAEConfig", "ViTMAEModel", {}),
    "vit_msn": ("ViTMSNConfig", "ViTMSNModel", {}),
}
"""Architecture -> classes of transformers for its configuration and its vision tower, and the latter's options."""


def _transformer(dim: int, depth: int, heads: int, hidden: int | None = None, **more: Any) -> dict[str, Any]:
    shape = {"hidden_size": dim, "num_hidden_layers": depth, "num_attention_heads": heads}
    return {**shape, "intermediate_size": hidden or 4 * dim, **more}


def _dinov3(dim: int, depth: int, heads: int, hidden: int | None = None, **more: Any) -> dict[str, Any]:
    return _transformer(dim, depth, heads, hidden, patch_size=16, num_register_tokens=4, **more)


_VIT_LARGE = _transformer(1024, 24, 16, patch_size=16)

CONFIGURATIONS: Mapping[str, Mapping[str, Any]] = {
    "dinov3_vits16": _dinov3(384, 12, 6),
    "dinov3_vits16plus": _dinov3(384, 12, 6, use_gated_mlp=True),
    "dinov3_vitb16": _dinov3(768, 12, 12),
    "dinov3_vitl16": _dinov3(1024, 24, 16),
    "dinov3_vith16plus": _dinov3(1280, 32, 20, use_gated_mlp=True),
    "dinov3_vit7b16": _dinov3(4096, 40, 32, 8192, use_gated_mlp=True, query_bias=False, value_bias=False),
    "dinov3_convnext_tiny": {"hidden_sizes": [96, 192, 384, 768], "depths": [3, 3, 9, 3]},
    "dinov3_convnext_small": {"hidden_sizes": [96, 192, 384, 768], "depths": [3, 3, 27, 3]},
    "dinov3_convnext_base": {"hidden_sizes": [128, 256, 512, 1024], "depths": [3, 3, 27, 3]},
    "dinov3_convnext_large": {"hidden_sizes": [192, 384, 768, 1536], "depths": [3, 3, 27, 3]},
    "rad_dino": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "patch_size": 14},
    "mae_large": {**_VIT_LARGE, "mask_ratio": 0.0},
    "msn_large": _VIT_LARGE,
    "clip_large": _transformer(1024, 24, 16, patch_size=14),
    "openclip_huge": _transformer(1280, 32, 16, patch_size=14),
    "siglip2_base": _transformer(768, 12, 12, patch_size=16),
    "siglip2_large": _transformer(1024, 24, 16, patch_size=16),
    "siglip2_so400m": _transformer(1152, 27, 16, 4304, patch_size=16),
    "medsiglip": _transformer(1152, 27, 16, 4304, patch_size=14),
    "vit_base_in21k": _transformer(768, 12, 12, patch_size=16),
    "vit_large_in21k": _VIT_LARGE,
    "sam_large": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "mlp_dim": 4096,
        "global_attn_indexes": [5, 11, 17, 23],
    },
}
"""Row -> the fields of its configuration that shape the network; the rest are transformers' defaults."""
