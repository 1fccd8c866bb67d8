"""``dinov2_vit*14`` and ``_reg`` from either file are the authors' network, written out in ``authors_dinov2``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers

from featcache.errors import WeightsError
from featcache.models import load_model
from featcache.models.checkpoints import load_strict
from featcache.models.dinov2 import canonical_tensors
from featcache.models.timm_networks import VisionTransformerEncoder
from tests.models.authors_dinov2 import dinov2_features
from tests.models.test_dinov2 import authors_names, randomized, relative_error

SMALL = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "image_size": 518, "patch_size": 14}
NAMES = {"plain": "dinov2_vits14", "registers": "dinov2_vits14_reg"}


@pytest.fixture(scope="module")
def tensors() -> dict[str, dict[str, torch.Tensor]]:
    """State dicts under the authors' names."""
    return {kind: state(model) for kind, model in models().items()}


def models() -> dict[str, Any]:
    return {
        "plain": randomized(transformers.Dinov2Model(transformers.Dinov2Config(**SMALL))),
        "registers": randomized(
            transformers.Dinov2WithRegistersModel(
                transformers.Dinov2WithRegistersConfig(**SMALL, num_register_tokens=4)
            ),
            seed=1,
        ),
    }


def state(model: Any) -> dict[str, torch.Tensor]:
    own = authors_names(model)
    if hasattr(model.embeddings, "register_tokens"):
        own["register_tokens"] = model.embeddings.register_tokens.data
    return own


@pytest.fixture(scope="module")
def checkpoints(
    tensors: dict[str, dict[str, torch.Tensor]], tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str], Path]:
    folder = tmp_path_factory.mktemp("dinov2")
    found = {}
    for kind, model in models().items():
        model.save_pretrained(folder / kind)
        found[kind, "hub"] = folder / kind / "model.safetensors"
        found[kind, "authors"] = folder / f"{kind}.pth"
        torch.save(tensors[kind], found[kind, "authors"])
    return found


@pytest.mark.parametrize("size", [224, 448, 518])
@pytest.mark.parametrize("kind", NAMES)
def test_every_feature_is_the_authors(
    tensors: dict[str, dict[str, torch.Tensor]], checkpoints: dict[tuple[str, str], Path], kind: str, size: int
) -> None:
    pixels = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(size))
    with torch.inference_mode():
        expected = dinov2_features(tensors[kind], pixels, heads=6, depth=12)
    layouts = ("authors", "hub") if size == 224 else ("authors",)
    for layout in layouts:
        encoder = load_model(NAMES[kind], weights=checkpoints[kind, layout], image_size=size)
        found = encoder.encode(pixels, patches=True)
        assert found.keys() == expected.keys()
        for name, rows in expected.items():
            assert relative_error(found[name], rows) < 1e-5, (layout, name)


def test_with_registers_transformers_agrees_at_518_pixels(checkpoints: dict[tuple[str, str], Path]) -> None:
    pixels = torch.randn(1, 3, 518, 518, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        expected = models()["registers"](pixel_values=pixels).last_hidden_state
    encoder = load_model("dinov2_vits14_reg", weights=checkpoints["registers", "hub"], image_size=518)
    found = encoder.encode(pixels, patches=True)
    assert encoder.patches == (37, 37, 384)
    assert relative_error(found["cls"], expected[:, 0]) < 1e-5
    assert relative_error(found["patches"].flatten(1, 2), expected[:, 5:]) < 1e-5


def test_the_digest_is_the_same_from_both_files_and_for_all_sizes(checkpoints: dict[tuple[str, str], Path]) -> None:
    digests = {
        load_model("dinov2_vits14_reg", weights=checkpoints["registers", layout], image_size=size).weights_digest
        for layout, size in (("authors", 28), ("hub", 28), ("hub", 42))
    }
    assert len(digests) == 1


def test_files_with_and_without_registers_are_not_taken_for_each_other(
    checkpoints: dict[tuple[str, str], Path],
) -> None:
    with pytest.raises(WeightsError, match="missing: reg_token"):
        load_model("dinov2_vits14_reg", weights=checkpoints["plain", "authors"])
    with pytest.raises(WeightsError, match="surplus: reg_token"):
        load_model("dinov2_vits14", weights=checkpoints["registers", "authors"])


def test_the_giants_gated_mlp_is_the_authors() -> None:
    """At a small width, under the authors' names ``w12`` and ``w3``."""
    generator = torch.Generator().manual_seed(3)
    network = timm.create_model(
        "vit_giant_patch14_dinov2", num_classes=0, img_size=518, embed_dim=96, depth=5, num_heads=4
    )
    tensors = {
        name.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3"): 0.1
        * torch.randn(tensor.shape, generator=generator)
        for name, tensor in network.state_dict().items()
    }
    load_strict(network, canonical_tensors(tensors), "test")
    pixels = torch.randn(1, 3, 518, 518, generator=generator)
    encoder = VisionTransformerEncoder(load_model("pixels").spec, network, "", 518)
    with torch.inference_mode():
        expected = dinov2_features(tensors, pixels, heads=4, depth=5)
    found = encoder.encode(pixels, patches=True)
    for name, rows in expected.items():
        assert relative_error(found[name], rows) < 1e-5, name
