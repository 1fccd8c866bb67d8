"""Native geometry: what the preprocessing did with coordinates is undone exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from featcache.errors import ProbeError
from featcache.evaluation.segmentation import native
from featcache.evaluation.segmentation.native import input_box, to_input, to_native
from featcache.imaging import Preprocess, to_tensor

PLANES = [(30, 50), (50, 30), (41, 41), (7, 90)]


def recipe(resize: Any, side: int, crop: int) -> Preprocess:
    return Preprocess(resize, side, crop, (0.0,) * 3, (1.0,) * 3, interpolation="bilinear", antialias=False)


def as_spec(spec: Preprocess) -> dict[str, Any]:
    return spec.as_dict()


@pytest.mark.parametrize("size", PLANES)
@pytest.mark.parametrize(
    "spec",
    [
        recipe("squash", 64, 64),
        recipe("squash", 80, 64),
        recipe("letterbox", 64, 64),
        recipe("letterbox", 80, 64),
        recipe("shortest", 64, 64),
        recipe("shortest", 73, 64),
    ],
    ids=lambda spec: f"{spec.resize}-{spec.resize_to}-{spec.crop}",
)
def test_the_box_is_where_the_preprocessing_took_its_pixels_from(size: tuple[int, int], spec: Preprocess) -> None:
    """A ramp through the real preprocessing says which native coordinate each input pixel came from."""
    box = input_box(size, as_spec(spec))
    for axis, (start, extent) in enumerate(((box.top, box.height), (box.left, box.width))):
        ramp = (np.arange(size[axis], dtype=np.float32) + 0.5) / size[axis] + 1  # 1 to 2: bars are 0
        plane = np.broadcast_to(ramp[:, None] if axis == 0 else ramp, size)
        seen = to_tensor(np.ascontiguousarray(plane), (0.0, 3.0), spec)[0].numpy() * 3
        line = seen.max(axis=1 - axis)
        expected = start + (np.arange(spec.crop) + 0.5) / spec.crop * extent
        inside = (expected > 0.5 / size[axis]) & (expected < 1 - 0.5 / size[axis])  # edges are clamped
        assert inside.sum() > 3
        np.testing.assert_allclose(line[inside] - 1, expected[inside], atol=1e-4)
        bars = (expected < -0.02) | (expected > 1.02)
        assert (line[bars] == 0).all()


def blocks(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """A label map of large smooth structures."""
    from scipy.ndimage import gaussian_filter

    noise = np.random.default_rng(seed).normal(size=(3, *size))
    return np.stack([gaussian_filter(one, 4) for one in noise]).argmax(axis=0).astype(np.uint8)


@pytest.mark.parametrize("size", [(120, 200), (200, 120), (150, 150)])
@pytest.mark.parametrize("resize", ["squash", "letterbox"])
def test_a_mask_through_the_input_and_back_is_itself_but_for_its_outlines(size: tuple[int, int], resize: str) -> None:
    spec = {"resize": resize, "resize_to": 448, "crop": 448}
    truth = blocks(size)
    seen = to_input(truth, 448, spec)
    logits = np.stack([seen == label for label in range(3)]).astype(np.float32)
    back = to_native(logits, size, spec)
    assert (back == truth).mean() > 0.99
    from scipy.ndimage import maximum_filter, minimum_filter

    inner = maximum_filter(truth, 3) == minimum_filter(truth, 3)
    np.testing.assert_array_equal(back[inner], truth[inner])


@pytest.mark.parametrize("grid", [(32, 32), (448, 448)])
def test_squashed_logits_are_resized_as_torch_does(grid: tuple[int, int]) -> None:
    logits = np.random.default_rng(1).normal(size=(5, *grid)).astype(np.float32)
    spec = {"resize": "squash", "resize_to": 448, "crop": 448}
    for size in ((512, 333), (100, 90), (1, 700)):
        expected = functional.interpolate(torch.from_numpy(logits)[None], size, mode="bilinear", align_corners=False)[0]
        top = expected.topk(2, dim=0).values
        clear = ((top[0] - top[1]) > 1e-4).numpy()
        assert clear.mean() > 0.99
        found = to_native(logits, size, spec)
        np.testing.assert_array_equal(found[clear], expected.argmax(dim=0).numpy()[clear])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_tensors_and_arrays_give_the_same_labels(dtype: torch.dtype) -> None:
    logits = torch.from_numpy(np.random.default_rng(2).normal(size=(4, 16, 16))).to(dtype).requires_grad_()
    spec = {"resize": "letterbox", "resize_to": 224, "crop": 224}
    expected = to_native(logits.detach().float().numpy(), (90, 160), spec)
    np.testing.assert_array_equal(to_native(logits, (90, 160), spec), expected)
    # What runs on a device of its own, here on the processor.
    rows, columns = native._weights(90, 16, -7 / 18, 16 / 9), native._weights(160, 16, 0.0, 1.0)
    assert (native._on_device(logits, rows, columns) == expected).mean() > 0.999


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_tensors_on_a_gpu_give_the_same_labels() -> None:
    logits = np.random.default_rng(2).normal(size=(4, 16, 16)).astype(np.float32)
    spec = {"resize": "letterbox", "resize_to": 224, "crop": 224}
    found = to_native(torch.from_numpy(logits).cuda(), (90, 160), spec)
    assert (found == to_native(logits, (90, 160), spec)).mean() > 0.999


def test_masks_at_input_size_are_nearest_exact() -> None:
    mask = np.random.default_rng(3).integers(0, 9, (37, 91)).astype(np.uint8)
    for side in (14, 64, 448):
        expected = functional.interpolate(
            torch.from_numpy(mask)[None, None].float(), (side, side), mode="nearest-exact"
        )
        found = to_input(mask, side, {"resize": "squash", "resize_to": 448, "crop": 448})
        np.testing.assert_array_equal(found, expected[0, 0].numpy())


def test_the_bars_of_a_letterbox_are_no_class() -> None:
    mask = np.ones((10, 20), np.uint8)
    found = to_input(mask, 40, {"resize": "letterbox", "resize_to": 40, "crop": 40}, outside=255)
    assert (found[:10] == 255).all()
    assert (found[10:30] == 1).all()
    assert (found[30:] == 255).all()


def test_a_cropping_recipe_is_refused_or_its_border_is_background() -> None:
    spec = {"resize": "squash", "resize_to": 256, "crop": 224}
    logits = np.zeros((2, 16, 16), np.float32)
    logits[1] = 1
    with pytest.raises(ProbeError, match="radiology-seg"):
        to_native(logits, (256, 128), spec)
    found = to_native(logits, (256, 128), spec, border="background")
    expected = np.zeros((256, 128))
    expected[16:240, 8:120] = 1
    np.testing.assert_array_equal(found, expected)


def test_a_square_plane_loses_nothing_by_the_shortest_side() -> None:
    spec = {"resize": "shortest", "resize_to": 224, "crop": 224}
    assert input_box((100, 100), spec).whole
    assert not input_box((100, 120), spec).whole


@pytest.mark.parametrize("logits", [np.zeros((4, 4)), np.zeros((1, 4, 4)), np.zeros((2, 0, 4))])
def test_what_are_no_logits_is_refused(logits: np.ndarray) -> None:
    with pytest.raises(ProbeError, match="expected"):
        to_native(logits, (8, 8), {"resize": "squash", "resize_to": 4, "crop": 4})


def test_an_unknown_way_of_resizing_is_refused() -> None:
    with pytest.raises(ProbeError, match="stretch"):
        input_box((8, 8), {"resize": "stretch", "resize_to": 4, "crop": 4})
