"""BiomedCLIP's image tower, written out here from timm's network and the projection, from its checkpoint's format."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

from featcache.errors import WeightsError
from featcache.models import load_model
from tests.models.test_dinov2 import relative_error


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> tuple[torch.nn.Module, torch.Tensor, Path]:
    """A random network and projection, and the file in which open_clip would keep them beside the text tower."""
    torch.manual_seed(0)
    trunk = timm.create_model("vit_base_patch16_224", num_classes=0).eval()
    projection = torch.randn(512, 768) / 768**0.5
    tensors = {f"visual.trunk.{name}": tensor for name, tensor in trunk.state_dict().items()}
    tensors |= {
        "visual.head.proj.weight": projection,
        "logit_scale": torch.ones(()),
        "text.proj.0.weight": torch.ones(2, 2),
    }
    path = tmp_path_factory.mktemp("weights") / "open_clip_pytorch_model.bin"
    torch.save(tensors, path)
    return trunk, projection, path


def test_biomedclip_is_the_projected_class_token(tower: tuple[torch.nn.Module, torch.Tensor, Path]) -> None:
    trunk, projection, path = tower
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        tokens = trunk.norm(trunk.blocks(trunk.norm_pre(trunk._pos_embed(trunk.patch_embed(pixels)))))
    encoder = load_model("biomedclip", weights=path)
    found = encoder.encode(pixels, patches=True)
    assert encoder.arrays == {"cls": (512,), "patch_mean": (768,)}
    assert relative_error(found["cls"], tokens[:, 0] @ projection.T) < 1e-5
    assert relative_error(found["patches"].reshape(2, 196, 768), tokens[:, 1:]) < 1e-5


def test_a_missing_tensor_is_named(tower: tuple[torch.nn.Module, torch.Tensor, Path], tmp_path: Path) -> None:
    tensors = torch.load(tower[2], weights_only=True)
    del tensors["visual.trunk.blocks.3.mlp.fc1.bias"]
    torch.save(tensors, tmp_path / "cut.bin")
    with pytest.raises(WeightsError, match=r"blocks\.3\.mlp\.fc1\.bias"):
        load_model("biomedclip", weights=tmp_path / "cut.bin")


def test_a_checkpoint_without_the_tower_is_refused(tmp_path: Path) -> None:
    torch.save({"visual.conv1.weight": torch.ones(3)}, tmp_path / "other.bin")
    with pytest.raises(WeightsError, match="no image tower"):
        load_model("biomedclip", weights=tmp_path / "other.bin")
