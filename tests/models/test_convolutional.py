"""The study's CNNs from whole checkpoints of timm's, against that library's forward pass and torchvision's networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from featcache.models import MODELS, load_model
from tests.models.test_dinov2 import relative_error


@pytest.mark.parametrize(("name", "size"), [("resnet152", 64), ("densenet201", 96), ("vgg19", 224)])
def test_a_row_is_timms_pooled_features_and_last_map(tmp_path: Path, name: str, size: int) -> None:
    torch.manual_seed(0)
    network: Any = timm.create_model(name, pretrained=False).eval()
    for part in network.modules():  # statistics as after training, so that none can be left out unnoticed
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.uniform_(-0.1, 0.1)
            part.running_var.uniform_(0.5, 1.5)
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    pixels = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        last = network.forward_features(pixels)
        pooled = network.forward_head(last, pre_logits=True)
        logits = network(pixels)
    encoder = load_model(name, weights=tmp_path, image_size=size)
    found = encoder.encode(pixels, patches=True)
    assert encoder.arrays["cls"] == (MODELS[name].dim,)
    assert relative_error(found["cls"], pooled.flatten(1)) < 1e-5
    assert relative_error(found["patches"], last.permute(0, 2, 3, 1)) < 1e-5
    assert relative_error(found["patch_mean"], last.mean(dim=(2, 3))) < 1e-5
    # torchvision's classifier on `cls` has timm's logits, and its network has them from the pixels.
    peer: Any = getattr(torchvision.models, name)().eval()
    own = list(network.state_dict().values())
    peer.load_state_dict(
        {
            key: tensor.reshape(theirs.shape)
            for (key, theirs), tensor in zip(peer.state_dict().items(), own, strict=True)
        }
    )
    classifier = peer.fc if name == "resnet152" else peer.classifier
    last_layer = classifier[-1] if isinstance(classifier, torch.nn.Sequential) else classifier
    with torch.inference_mode():
        assert relative_error(last_layer(found["cls"]), logits) < 1e-5
        assert relative_error(last_layer(found["cls"]), peer(pixels)) < 1e-5
