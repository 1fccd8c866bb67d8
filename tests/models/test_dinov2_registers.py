"""DINOv2 with registers against transformers at 518 px, and against the authors' resizing written out here."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from featcache.models import load_model
from tests.models.test_dinov2 import authors_names, randomized, relative_error

MODEL = "dinov2_vits14_reg"


@pytest.fixture(scope="module")
def reference() -> Dinov2WithRegistersModel:
    config = Dinov2WithRegistersConfig(
        hidden_size=384, num_hidden_layers=12, num_attention_heads=6, image_size=518, patch_size=14
    )
    assert config.num_register_tokens == 4
    return randomized(Dinov2WithRegistersModel(config))


@pytest.fixture(scope="module")
def checkpoints(reference: Dinov2WithRegistersModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("weights")
    reference.save_pretrained(folder / "hub")
    own = authors_names(reference) | {"register_tokens": reference.embeddings.register_tokens.data}
    torch.save(own, folder / "dinov2_vits14_reg4_pretrain.pth")
    return {"authors": folder / "dinov2_vits14_reg4_pretrain.pth", "hub": folder / "hub" / "model.safetensors"}


def expected_features(model: Dinov2WithRegistersModel, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Class tokens of the last four blocks, and the patch tokens that follow it and four registers."""
    with torch.inference_mode():
        states = model(pixel_values=pixels, output_hidden_states=True).hidden_states
        normed = [model.layernorm(state) for state in states]
    side = pixels.shape[-1] // 14
    return {
        "cls": normed[-1][:, 0],
        "intermediate": torch.stack([state[:, 0] for state in normed[-4:-1]], dim=1),
        "patch_mean": normed[-1][:, 5:].mean(dim=1),
        "patches": normed[-1][:, 5:].reshape(len(pixels), side, side, -1),
    }


@pytest.mark.parametrize("layout", ["authors", "hub"])
def test_at_518_pixels_it_is_transformers(
    reference: Dinov2WithRegistersModel, checkpoints: dict[str, Path], layout: str
) -> None:
    pixels = torch.randn(1, 3, 518, 518, generator=torch.Generator().manual_seed(1))
    found = load_model(MODEL, weights=checkpoints[layout], image_size=518).encode(pixels, patches=True)
    for name, rows in expected_features(reference, pixels).items():
        assert relative_error(found[name], rows) < 1e-5, name


@pytest.mark.parametrize("size", [224, 448])
def test_at_other_sizes_positions_are_resized_to_the_exact_size_with_antialiasing(
    reference: Dinov2WithRegistersModel, checkpoints: dict[str, Path], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The authors' ``interpolate_pos_encoding`` with interpolate_offset = 0, interpolate_antialias = True."""
    side = size // 14
    table = reference.embeddings.position_embeddings.detach()
    grid = table[0, 1:].T.reshape(1, 384, 37, 37)
    scaled = torch.nn.functional.interpolate(grid, size=(side, side), mode="bicubic", antialias=True)
    positions = torch.cat([table[:, :1], scaled.flatten(2).transpose(1, 2)], dim=1)
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    found = load_model(MODEL, weights=checkpoints["authors"], image_size=size).encode(pixels, patches=True)
    monkeypatch.setattr(reference.embeddings, "interpolate_pos_encoding", lambda *_: positions)
    for name, rows in expected_features(reference, pixels).items():
        assert relative_error(found[name], rows) < 1e-5, name
