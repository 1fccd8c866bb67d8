"""Clipping, composing and standardising against NumPy; presets in words; keys of earlier stores."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image as Picture

from featcache.errors import ConfigurationError, ImageError
from featcache.imaging import WINDOWS, Preprocess, prepare, preset
from featcache.models import resolve_model
from featcache.records import Image, Selector

RNG = np.random.default_rng(0)
VOLUME = RNG.integers(-1000, 1500, (20, 24, 9)).astype(np.int16)
IMAGE = Image(VOLUME, "volume", (float(VOLUME.min()), float(VOLUME.max())))
SLICE = Selector("axial", 4)
PLANE = VOLUME[:, :, 4].T[::-1, ::-1].astype(float)
NATIVE = resolve_model("pixels")
PLAIN = {"mean": (0.0,) * 3, "std": (1.0,) * 3}


def spec(**changes: object) -> Preprocess:
    """Nothing but the intensity: 20 x 24 squashed to 24 x 24 would blur, so the plane is cut square first."""
    return Preprocess("squash", 20, 20, **{**PLAIN, **changes})  # type: ignore[arg-type]


SQUARE = Selector("axial", 4, crop=(0, 0, 20, 20))
CUT = PLANE[:20, :20]


def scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return (np.clip(values, low, high) - low) / (high - low)


def close(found: torch.Tensor, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found.numpy(), np.broadcast_to(expected, (3, 20, 20)), atol=2e-6)


@pytest.mark.parametrize("name", sorted(WINDOWS))
def test_windows_are_centre_and_width(name: str) -> None:
    centre, width = WINDOWS[name]
    found = prepare(IMAGE, SQUARE, spec(clip="window", clip_at=(centre, width)))
    close(found, scaled(CUT, centre - width / 2, centre + width / 2))


def test_a_range_clips_and_the_study_scales_by_the_image_after_it() -> None:
    close(prepare(IMAGE, SQUARE, spec(clip="range", clip_at=(-500.0, 600.0))), scaled(CUT, -500, 600))
    clipped = np.clip(CUT, -300, 200)
    found = prepare(IMAGE, SQUARE, spec(clip="range", clip_at=(-300.0, 200.0), intensity="image"))
    close(found, scaled(clipped, clipped.min(), clipped.max()))


@pytest.mark.parametrize(("scope", "values"), [("plane", CUT), ("volume", VOLUME)])
def test_percentiles_are_of_the_plane_or_of_the_volume(scope: str, values: np.ndarray) -> None:
    low, high = np.percentile(values, (5, 95))
    close(prepare(IMAGE, SQUARE, spec(clip="percentile", clip_at=(5.0, 95.0), scope=scope)), scaled(CUT, low, high))


def test_percentile_zero_is_the_studys_rule_for_brain_tumours() -> None:
    low, high = np.percentile(CUT, (5, 95))
    values = np.minimum(CUT, high)
    values[low >= CUT] = 0
    found = prepare(IMAGE, SQUARE, spec(clip="percentile-zero", clip_at=(5.0, 95.0), intensity="image"))
    close(found, scaled(values, values.min(), values.max()))


@pytest.mark.parametrize(("scope", "values"), [("plane", CUT), ("volume", VOLUME)])
def test_zscore_is_minus_mean_by_deviation(scope: str, values: np.ndarray) -> None:
    found = prepare(IMAGE, SQUARE, spec(intensity="zscore", scope=scope))
    np.testing.assert_allclose(found[0].numpy(), (CUT - values.mean()) / values.std(), atol=2e-4)
    flat = Image(np.zeros((20, 24, 9), np.int16), "volume", (0.0, 0.0))
    assert (prepare(flat, SQUARE, spec(intensity="zscore", scope=scope)) == 0).all()


def test_neighbouring_slices_are_the_channels_and_the_ends_repeat() -> None:
    low, high = IMAGE.value_range
    for index in (0, 4, 8):
        found = prepare(IMAGE, Selector("axial", index, crop=(0, 0, 20, 20)), spec(rgb="neighbours"))
        for channel, place in enumerate((max(0, index - 1), index, min(8, index + 1))):
            expected = scaled(VOLUME[:, :, place].T[::-1, ::-1][:20, :20].astype(float), low, high)
            np.testing.assert_allclose(found[channel].numpy(), expected, atol=2e-6)


def test_three_windows_are_the_channels() -> None:
    flat = tuple(number for name in ("lung", "soft-tissue", "bone") for number in WINDOWS[name])
    found = prepare(IMAGE, SQUARE, spec(clip="window", clip_at=flat, rgb="windows"))
    for channel, name in enumerate(("lung", "soft-tissue", "bone")):
        centre, width = WINDOWS[name]
        expected = scaled(CUT, centre - width / 2, centre + width / 2)
        np.testing.assert_allclose(found[channel].numpy(), expected, atol=2e-6)


def test_a_letterbox_keeps_the_aspect_ratio_between_black_bars() -> None:
    plane = RNG.integers(1, 256, (30, 60), dtype=np.uint8)
    found = prepare(Image(plane, "plane", (0, 255)), Selector(), Preprocess("letterbox", 40, 40, **PLAIN))  # type: ignore[arg-type]
    inner = np.asarray(Picture.fromarray(plane).resize((40, 20), Picture.Resampling.BICUBIC), float) / 255
    np.testing.assert_allclose(found[0, 10:30].numpy(), inner, atol=1e-6)
    assert (found[:, :10] == 0).all()
    assert (found[:, 30:] == 0).all()


def test_what_an_image_does_not_have_is_refused_with_a_remedy() -> None:
    eight = Image(np.zeros((9, 9), np.uint8), "plane", (0, 255))
    colour = Image(np.zeros((9, 9, 3), np.uint8), "plane", (0, 255))
    for image, changes, message in (
        (eight, {"clip": "window", "clip_at": (40.0, 400.0)}, "Hounsfield"),
        (eight, {"rgb": "neighbours"}, "neighbouring slices"),
        (colour, {"clip": "percentile", "clip_at": (5.0, 95.0)}, "colour"),
    ):
        with pytest.raises(ImageError, match=message):
            prepare(image, Selector(), spec(**changes))


def test_recipes_are_changed_in_words() -> None:
    lung = preset("radiology,window=lung,scope=volume", NATIVE)
    assert (lung.clip, lung.clip_at, lung.scope, lung.intensity) == ("window", (-600.0, 1500.0), "volume", "image")
    three = preset("model,window=lung+soft-tissue+400/1800", NATIVE)
    assert (three.rgb, three.clip_at[4:]) == ("windows", (400.0, 1800.0))
    boxed = preset("dinov2,resize=letterbox,antialias=off", NATIVE, 98)
    assert (boxed.resize, boxed.resize_to, boxed.antialias) == ("letterbox", 98, False)
    assert preset("radiology-seg", NATIVE).crop == 448
    assert preset("radiology-linear", NATIVE).resize_to == NATIVE.image_size
    for wrong, message in (
        ("radiology,window=lnug", "lung"),
        ("radiology,windw=lung", "window"),
        ("radiology,scope=slice", "plane, volume"),
        ("radiology,percentile=95:5", "not in order"),
        ("radiologi", "radiology"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            preset(wrong, NATIVE)


def test_auto_goes_by_modality_where_there_are_more_than_eight_bits() -> None:
    assert preset("auto", NATIVE, modality="CT", deep=True).clip_at == WINDOWS["soft-tissue"]
    assert preset("auto", NATIVE, modality="MRI", deep=True).scope == "volume"
    for modality, deep in (("CT", False), ("X-ray", True), (None, True)):
        assert preset("auto", NATIVE, modality=modality, deep=deep) == preset("model", NATIVE)


def test_specifications_of_earlier_stores_keep_their_key() -> None:
    """What went into keys before clipping and composing existed."""
    earlier = {"resize", "resize_to", "crop", "mean", "std", "intensity", "interpolation", "antialias", "version"}
    for name in ("model", "dinov2", "radiology"):
        assert set(preset(name, NATIVE).as_dict()) == earlier
    assert set(preset("radiology,window=lung", NATIVE).as_dict()) == {*earlier, "clip", "clip_at"}
