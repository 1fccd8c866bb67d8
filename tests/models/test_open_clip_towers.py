"""Tiny networks of open_clip against its own ``encode_image``, and against transformers' CLIP with the same weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file

from featcache.errors import UnknownNameError, WeightsError
from featcache.models import footprint, load_model, resolve_model
from tests.models.test_dinov2 import relative_error

open_clip = pytest.importorskip("open_clip")

TEXT = {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1}
VIT: dict[str, Any] = {"image_size": 64, "layers": 5, "width": 32, "head_width": 16, "patch_size": 16}
TIMM: dict[str, Any] = {"timm_model_name": "resnet18", "timm_pool": "", "timm_proj": "linear", "image_size": 64}
PREPROCESSING = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "resize_mode": "squash", "interpolation": "bilinear"}
PIXELS = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def saved(folder: Path, vision: dict[str, Any], **more: Any) -> Any:
    """A random model of both towers, saved as open_clip lays its repositories out."""
    torch.manual_seed(0)
    config = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": TEXT, **more}
    is_timm = "timm_model_name" in vision
    model = (open_clip.CustomTextCLIP if is_timm else open_clip.CLIP)(**config).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    content = {"model_cfg": config, "preprocess_cfg": PREPROCESSING}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    return model


@pytest.mark.parametrize(
    ("vision", "more"),
    [
        (VIT, {}),
        (VIT, {"quick_gelu": True}),
        ({**VIT, "pool_type": "avg", "no_ln_pre": True}, {}),
        (TIMM, {}),
        ({"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "token", "image_size": 64}, {}),
    ],
    ids=["vit", "quick", "mean token", "resnet", "timm vit"],
)
def test_cls_is_open_clips_encode_image(tmp_path: Path, vision: dict[str, Any], more: dict[str, Any]) -> None:
    model_size = vision["image_size"]
    if vision.get("timm_model_name", "").startswith("vit"):
        vision, model_size = {**vision, "image_size": 224}, 224
    model = saved(tmp_path, vision, **more)
    pixels = torch.randn(2, 3, model_size, model_size, generator=torch.Generator().manual_seed(1))
    encoder = load_model(f"open_clip:{tmp_path}")
    found = encoder.encode(pixels, patches=True)
    with torch.inference_mode():
        assert relative_error(found["cls"], model.encode_image(pixels)) < 1e-5
    assert encoder.spec.dim == 24
    assert relative_error(found["patches"].mean(dim=(1, 2)), found["patch_mean"]) < 1e-5


def test_the_tower_is_transformers_clip_with_the_weights_renamed(tmp_path: Path) -> None:
    visual = saved(tmp_path, VIT).visual
    config = transformers.CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=128,
        num_hidden_layers=5,
        num_attention_heads=2,
        image_size=64,
        patch_size=16,
        hidden_act="gelu",
        projection_dim=24,
    )
    peer: Any = transformers.CLIPVisionModelWithProjection(config).eval()
    names = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    names |= {"attn.out_proj": "self_attn.out_proj"}
    tensors = {
        "embeddings.class_embedding": visual.class_embedding,
        "embeddings.patch_embedding.weight": visual.conv1.weight,
        "embeddings.position_embedding.weight": visual.positional_embedding,
    }
    for kind in ("weight", "bias"):
        tensors[f"pre_layrnorm.{kind}"] = getattr(visual.ln_pre, kind)
        tensors[f"post_layernorm.{kind}"] = getattr(visual.ln_post, kind)
        for number, block in enumerate(visual.transformer.resblocks):
            for own, theirs in names.items():
                tensors[f"encoder.layers.{number}.{theirs}.{kind}"] = getattr(block.get_submodule(own), kind)
            stacked = getattr(block.attn, f"in_proj_{kind}").chunk(3)
            for part, tensor in zip("qkv", stacked, strict=True):
                tensors[f"encoder.layers.{number}.self_attn.{part}_proj.{kind}"] = tensor
    tower = peer.vision_model
    loaded = tower.load_state_dict({name: tensor.data for name, tensor in tensors.items()}, strict=False)
    assert not loaded.unexpected_keys
    assert all("position_ids" in name for name in loaded.missing_keys)
    peer.visual_projection.weight.data = visual.proj.data.T.contiguous()
    with torch.inference_mode():
        expected = peer(pixel_values=PIXELS, output_hidden_states=True)
        normed = [tower.post_layernorm(state) for state in expected.hidden_states]
    found = load_model(f"open_clip:{tmp_path}").encode(PIXELS, patches=True, layers=2)
    assert relative_error(found["cls"], expected.image_embeds) < 1e-5
    with torch.inference_mode():
        earlier = peer.visual_projection(torch.stack([state[:, 0] for state in normed[-4:-1]], dim=1))
    assert relative_error(found["intermediate"], earlier) < 1e-5
    patches = torch.stack([state[:, 1:] for state in normed[-2:]], dim=1)
    assert relative_error(found["patches"].flatten(2, 3), patches) < 1e-5
    assert relative_error(found["patch_mean"], patches[:, -1].mean(dim=1)) < 1e-5


def test_positions_are_resized_as_open_clip_resizes_them(tmp_path: Path) -> None:
    """Its ``resize_pos_embed``, written out: bicubic to the exact size, with antialiasing."""
    visual = saved(tmp_path, VIT).visual
    table = visual.positional_embedding.data
    grid = table[1:].T.reshape(1, 32, 4, 4)
    resized = torch.nn.functional.interpolate(grid, size=(6, 6), mode="bicubic", antialias=True)
    visual.positional_embedding.data = torch.cat([table[:1], resized.flatten(2)[0].T])
    pixels = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = visual(pixels)
    found = load_model(f"open_clip:{tmp_path}", image_size=96).encode(pixels)
    assert relative_error(found["cls"], expected) < 1e-5


def test_preprocessing_and_digest_are_those_of_the_configuration(tmp_path: Path) -> None:
    network = saved(tmp_path, VIT)
    spec = resolve_model(f"open_clip:{tmp_path}")
    assert (spec.mean, spec.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert (spec.resize, spec.interpolation, spec.image_size, spec.patch) == ("squash", "bilinear", 64, 16)
    counted = footprint(spec, 64, "fp32")
    assert counted is not None
    assert counted.weights == sum(4 * tensor.numel() for tensor in network.visual.state_dict().values())
    first = load_model(f"open_clip:{tmp_path}").weights_digest
    path = tmp_path / "open_clip_config.json"
    content = json.loads(path.read_text())
    content["model_cfg"]["quick_gelu"] = True
    path.write_text(json.dumps(content))
    assert load_model(f"open_clip:{tmp_path}").weights_digest != first


@pytest.mark.filterwarnings("ignore:.*says nothing of its images")
def test_what_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="ViT-B-32"):
        resolve_model("open_clip:ViT-B-23")
    saved(tmp_path, VIT)
    with pytest.raises(WeightsError, match="does not fit the network"):
        load_model("open_clip:ViT-B-32", weights=tmp_path / "open_clip_model.safetensors")
    tensors = dict(saved(tmp_path, VIT).state_dict())
    del tensors["visual.transformer.resblocks.3.ln_1.weight"]
    save_file(tensors, tmp_path / "open_clip_model.safetensors")
    with pytest.raises(WeightsError, match=r"missing: transformer\.resblocks\.3\.ln_1\.weight"):
        load_model(f"open_clip:{tmp_path}")
    (tmp_path / "open_clip_config.json").write_text("[]")
    with pytest.raises(WeightsError, match="no configuration of open_clip"):
        resolve_model(f"open_clip:{tmp_path}")
