"""DINOv2 against transformers where all agree (518 px), and against the authors' resizing written out here."""

from __future__ import annotations

import functools
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
from transformers import Dinov2Config, Dinov2Model

from featcache.errors import ConfigurationError, WeightsError
from featcache.models import load_model
from featcache.models.checkpoints import load_strict
from featcache.models.dinov2 import canonical_tensors
from featcache.models.timm_networks import VisionTransformerEncoder


def randomized(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Every tensor random, layer scale and norms too, so that no part can be left out unnoticed."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        is_scale = "lambda1" in name or (("norm" in name) and name.endswith("weight"))
        parameter.data = 1 + 0.3 * noise if is_scale else 0.05 * noise
    return model.eval()


def authors_names(model: Dinov2Model) -> dict[str, torch.Tensor]:
    """The state dict as the authors' file has it, from transformers' network, tensor by tensor."""
    own = {"mask_token": torch.zeros(1, model.config.hidden_size)}
    embeddings = model.embeddings
    own["cls_token"], own["pos_embed"] = embeddings.cls_token.data, embeddings.position_embeddings.data
    projection = embeddings.patch_embeddings.projection
    own["patch_embed.proj.weight"], own["patch_embed.proj.bias"] = projection.weight.data, projection.bias.data
    for number, layer in enumerate(model.encoder.layer):
        attention = layer.attention
        for kind in ("weight", "bias"):
            parts = [getattr(getattr(attention, f"{part}_proj"), kind).data for part in "qkv"]
            own[f"blocks.{number}.attn.qkv.{kind}"] = torch.cat(parts)
            for here, there in (
                ("attn.proj", attention.o_proj),
                ("norm1", layer.norm1),
                ("norm2", layer.norm2),
                ("mlp.fc1", layer.mlp.fc1),
                ("mlp.fc2", layer.mlp.fc2),
            ):
                own[f"blocks.{number}.{here}.{kind}"] = getattr(there, kind).data
        own[f"blocks.{number}.ls1.gamma"] = layer.layer_scale1.lambda1.data
        own[f"blocks.{number}.ls2.gamma"] = layer.layer_scale2.lambda1.data
    own["norm.weight"], own["norm.bias"] = model.layernorm.weight.data, model.layernorm.bias.data
    return own


@pytest.fixture(scope="module")
def reference() -> Dinov2Model:
    config = Dinov2Config(hidden_size=384, num_hidden_layers=12, num_attention_heads=6, image_size=518, patch_size=14)
    return randomized(Dinov2Model(config))


@pytest.fixture(scope="module")
def checkpoints(reference: Dinov2Model, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("weights")
    reference.save_pretrained(folder / "hub")
    torch.save(authors_names(reference), folder / "dinov2_vits14_pretrain.pth")
    return {"authors": folder / "dinov2_vits14_pretrain.pth", "hub": folder / "hub" / "model.safetensors"}


def expected_features(model: Dinov2Model, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    with torch.inference_mode():
        states = model(pixel_values=pixels, output_hidden_states=True).hidden_states
        normed = [model.layernorm(state) for state in states]
    return {
        "cls": normed[-1][:, 0],
        "intermediate": torch.stack([normed[-4][:, 0], normed[-3][:, 0], normed[-2][:, 0]], dim=1),
        "patch_mean": normed[-1][:, 1:].mean(dim=1),
        "patches": normed[-1][:, 1:].unflatten(1, (pixels.shape[-1] // 14, -1)),
    }


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float(((found - expected).norm() / expected.norm()).detach())


@pytest.mark.parametrize("layout", ["authors", "hub"])
def test_at_518_pixels_it_is_transformers(reference: Dinov2Model, checkpoints: dict[str, Path], layout: str) -> None:
    pixels = torch.randn(1, 3, 518, 518, generator=torch.Generator().manual_seed(1))
    encoder = load_model("dinov2_vits14", weights=checkpoints[layout], image_size=518)
    found, expected = encoder.encode(pixels, patches=True), expected_features(reference, pixels)
    assert encoder.arrays == {"cls": (384,), "intermediate": (3, 384), "patch_mean": (384,)}
    for name, rows in expected.items():
        assert relative_error(found[name], rows) < 1e-5, name


@pytest.mark.parametrize("size", [224, 448])
def test_at_other_sizes_positions_are_resized_as_the_authors_do(
    reference: Dinov2Model, checkpoints: dict[str, Path], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The authors' ``interpolate_pos_encoding`` with interpolate_offset = 0.1, interpolate_antialias = False."""
    side = size // 14
    table = reference.embeddings.position_embeddings.detach()
    grid = table[0, 1:].T.reshape(1, 384, 37, 37)
    scaled = torch.nn.functional.interpolate(grid, scale_factor=(side + 0.1) / 37, mode="bicubic")
    assert scaled.shape[-2:] == (side, side)
    positions = torch.cat([table[:, :1], scaled.flatten(2).transpose(1, 2)], dim=1)
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    found = load_model("dinov2_vits14", weights=checkpoints["authors"], image_size=size).encode(pixels, patches=True)
    library = expected_features(reference, pixels)
    monkeypatch.setattr(reference.embeddings, "interpolate_pos_encoding", lambda *_: positions)
    for name, rows in expected_features(reference, pixels).items():
        assert relative_error(found[name], rows) < 1e-5, name
        assert relative_error(found[name], library[name]) > 1e-4, "transformers' own resizing differs: is it used?"


def test_the_digest_is_that_of_the_network_not_of_the_file(checkpoints: dict[str, Path]) -> None:
    digests = {load_model("dinov2_vits14", weights=path, image_size=28).weights_digest for path in checkpoints.values()}
    assert len(digests) == 1
    other = load_model("dinov2_vits14", weights=checkpoints["authors"], image_size=42)
    assert digests == {other.weights_digest}


def test_the_gated_mlp_of_the_giant_is_converted(tmp_path: Path) -> None:
    """The giant's SwiGLU at a small width, from transformers' file names, against transformers."""
    config = Dinov2Config(
        hidden_size=96, num_hidden_layers=2, num_attention_heads=4, image_size=56, patch_size=14, use_swiglu_ffn=True
    )
    model = randomized(Dinov2Model(config))
    model.save_pretrained(tmp_path)
    from safetensors.torch import load_file

    for tensors in (load_file(tmp_path / "model.safetensors"), dict(model.state_dict())):
        network = timm.create_model(
            "vit_giant_patch14_dinov2", num_classes=0, img_size=56, embed_dim=96, depth=2, num_heads=4
        )
        load_strict(network, canonical_tensors(tensors), "test")
        spec = load_model("pixels").spec
        encoder = VisionTransformerEncoder(spec, network, "", 56)
        pixels = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            states = model(pixel_values=pixels, output_hidden_states=True).hidden_states
            expected = model.layernorm(states[-1])[:, 0]
        assert relative_error(encoder.encode(pixels)["cls"], expected) < 1e-5


def test_another_size_of_checkpoint_lists_what_differs(checkpoints: dict[str, Path]) -> None:
    with pytest.raises(WeightsError, match=r"shape of cls_token: \(1, 1, 384\), expected \(1, 1, 768\)"):
        load_model("dinov2_vitb14", weights=checkpoints["authors"])


def test_a_missing_tensor_is_named(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    tensors = torch.load(checkpoints["authors"], weights_only=True)
    del tensors["blocks.3.ls1.gamma"]
    torch.save(tensors, tmp_path / "part.pth")
    with pytest.raises(WeightsError, match=r"missing: blocks\.3\.ls1\.gamma"):
        load_model("dinov2_vits14", weights=tmp_path / "part.pth")


def test_a_size_that_is_no_multiple_of_the_patch_names_the_nearest(checkpoints: dict[str, Path]) -> None:
    with pytest.raises(ConfigurationError, match="224 or 238"):
        load_model("dinov2_vits14", weights=checkpoints["authors"], image_size=225)


def test_weights_are_found_in_the_named_folder(checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATCACHE_WEIGHTS", str(checkpoints["authors"].parent))
    assert load_model("dinov2_vits14", image_size=28).arrays["cls"] == (384,)


def test_weights_are_found_in_the_hugging_face_cache(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache links a file's name to a blob that has no suffix."""
    repository = tmp_path / "models--facebook--dinov2-small"
    snapshot = repository / "snapshots" / ("a" * 40)
    for folder in (snapshot, repository / "blobs", repository / "refs"):
        folder.mkdir(parents=True)
    (repository / "refs" / "main").write_text("a" * 40)
    blob = repository / "blobs" / ("b" * 64)
    blob.write_bytes(checkpoints["hub"].read_bytes())
    (snapshot / "model.safetensors").symlink_to(blob)
    found = functools.partial(huggingface_hub.try_to_load_from_cache, cache_dir=tmp_path)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", found)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert load_model("dinov2_vits14", image_size=28).arrays["cls"] == (384,)
