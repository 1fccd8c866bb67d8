"""``to_tensor`` against Pillow and torchvision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from featcache.errors import ConfigurationError
from featcache.imaging import Preprocess, preset, to_tensor
from featcache.models import resolve_model

RNG = np.random.default_rng(0)
PHOTO = np.asarray(
    Image.fromarray(RNG.integers(0, 256, (12, 17, 3), dtype=np.uint8)).resize((411, 300), Image.Resampling.BICUBIC)
)
PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def grey_levels(tensor: torch.Tensor) -> np.ndarray:
    return (tensor * 255).numpy().transpose(1, 2, 0)


@pytest.mark.parametrize("plane", [PHOTO, PHOTO[:, :, 0]], ids=["colour", "grey"])
def test_squashing_agrees_with_pillow_to_one_grey_level(plane: np.ndarray) -> None:
    spec = Preprocess("squash", 96, 96, **PLAIN)
    expected = np.asarray(Image.fromarray(plane).resize((96, 96), Image.Resampling.BICUBIC), np.float32)
    if expected.ndim == 2:
        expected = np.stack([expected] * 3, axis=-1)
    assert np.abs(grey_levels(to_tensor(plane, (0, 255), spec)) - expected).max() <= 1.01


@pytest.mark.parametrize("size", [(300, 411), (411, 300), (64, 1000)])
def test_the_dinov2_recipe_is_torchvisions(size: tuple[int, int]) -> None:
    plane = np.asarray(Image.fromarray(PHOTO).resize(size[::-1]))
    recipe = v2.Compose(
        [
            v2.Resize(256, interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
            v2.CenterCrop(224),
            v2.ToTensor(),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    spec = preset("dinov2", resolve_model("efficientnet_lite0"))
    difference = to_tensor(plane, (0, 255), spec) - recipe(Image.fromarray(plane))
    assert difference.abs().max() * 0.229 * 255 <= 1.2  # one grey level, rounding included


def test_deep_data_gives_what_the_same_picture_gives_in_eight_bits() -> None:
    eight = np.zeros((50, 50), np.uint8)
    eight[10:40, 5:30] = 255
    deep = eight.astype(np.int16) * 4 - 300
    spec = Preprocess("squash", 32, 32, **PLAIN)
    expected = to_tensor(eight, (0, 255), spec)
    found = to_tensor(deep, (float(deep.min()), float(deep.max())), spec)
    assert (expected - found).abs().max() * 255 <= 1.01


def test_the_source_range_is_that_of_the_whole_file() -> None:
    half = np.full((8, 8), 50, np.int16)
    spec = Preprocess("squash", 4, 4, **PLAIN)
    assert to_tensor(half, (0, 100), spec).mean() == pytest.approx(0.5, abs=1e-6)


def test_image_intensity_stretches_what_is_left_after_the_crop() -> None:
    spec = preset("radiology", resolve_model("efficientnet_lite0"))
    plain = Preprocess("squash", 256, 224, **PLAIN, intensity="image")
    assert spec.intensity == "image"
    tensor = to_tensor(PHOTO // 2 + 20, (0, 255), plain)
    assert (float(tensor.min()), float(tensor.max())) == (0.0, 1.0)


@pytest.mark.parametrize("intensity", ["source", "image"])
def test_a_constant_image_is_finite(intensity: str) -> None:
    spec = Preprocess("squash", 8, 8, **PLAIN, intensity=intensity)  # type: ignore[arg-type]
    assert torch.isfinite(to_tensor(np.full((9, 9), 7, np.int16), (7, 7), spec)).all()


def test_a_preset_scales_with_the_image_size() -> None:
    spec = preset("model", resolve_model("efficientnet_lite0"), 112)
    assert (spec.resize_to, spec.crop, spec.mean) == (128, 112, (0.5, 0.5, 0.5))


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match="radiology"):
        preset("radiologie", resolve_model("efficientnet_lite0"))
