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
def test_squashing_bytes_is_pillows(plane: np.ndarray) -> None:
    spec = Preprocess("squash", 96, 96, **PLAIN)
    expected = np.asarray(Image.fromarray(plane).resize((96, 96), Image.Resampling.BICUBIC), np.float32)
    if expected.ndim == 2:
        expected = np.stack([expected] * 3, axis=-1)
    np.testing.assert_allclose(grey_levels(to_tensor(plane, (0, 255), spec)), expected, atol=1e-3)


@pytest.mark.parametrize("size", [(300, 411), (411, 300), (64, 1000)])
def test_the_dinov2_recipe_is_torchvisions(size: tuple[int, int]) -> None:
    plane = np.asarray(Image.fromarray(PHOTO).resize(size[::-1]))
    recipe = v2.Compose(
        [
            v2.Resize(256, interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
            v2.CenterCrop(224),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    spec = preset("dinov2", resolve_model("efficientnet_lite0"))
    torch.testing.assert_close(to_tensor(plane, (0, 255), spec), recipe(Image.fromarray(plane)), rtol=0, atol=1e-6)


def test_deep_data_agrees_with_pillow_to_one_grey_level() -> None:
    """The same picture with 12 more bits, against Pillow's resizing of the 8-bit one."""
    eight = PHOTO[:, :, 0]
    deep = eight.astype(np.int32) * 4096 - 300_000
    spec = Preprocess("squash", 64, 64, **PLAIN)
    found = to_tensor(deep, (-300_000, 255 * 4096 - 300_000), spec)
    expected = np.asarray(Image.fromarray(eight).resize((64, 64), Image.Resampling.BICUBIC), np.float32)
    assert np.abs(grey_levels(found)[:, :, 0] - expected).max() <= 1.01


def test_without_antialias_it_is_torchs_plain_interpolation() -> None:
    spec = Preprocess("squash", 64, 64, **PLAIN, antialias=False)
    noise = RNG.integers(0, 256, (300, 411, 3), dtype=np.uint8)
    pixels = torch.from_numpy(noise).movedim(-1, 0)[None].float()
    plain = torch.nn.functional.interpolate(pixels, (64, 64), mode="bicubic").clamp(0, 255)[0] / 255
    torch.testing.assert_close(to_tensor(noise, (0, 255), spec), plain)
    assert not torch.allclose(to_tensor(noise, (0, 255), Preprocess("squash", 64, 64, **PLAIN)), plain, atol=0.1)


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
