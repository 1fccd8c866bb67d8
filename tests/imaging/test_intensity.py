"""Windows against pydicom, statistics against NumPy, resizing of deep data against Pillow's floats."""

from __future__ import annotations

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture
from pydicom.dataset import Dataset
from pydicom.pixels import apply_windowing

from featcache.errors import ConfigurationError, ImageError
from featcache.imaging import WINDOWS, Preprocess, intensity, prepare, preset
from featcache.models import resolve_model
from featcache.records import Image, Selector

RNG = np.random.default_rng(1)
PLAIN = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
SIDE = 16


def spec(**changes: object) -> Preprocess:
    """No resizing: only the intensity."""
    return Preprocess("squash", SIDE, SIDE, **{**PLAIN, **changes})  # type: ignore[arg-type]


def plane(values: np.ndarray, **facts: object) -> Image:
    return Image(values, "plane", (float(values.min()), float(values.max())), **facts)  # type: ignore[arg-type]


CT = RNG.integers(-1024, 3000, (SIDE, SIDE)).astype(np.int16)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # pydicom's own
@pytest.mark.parametrize("window", [(40.0, 400.0), (-600.0, 1500.0), (128.0, 2.0)])
def test_the_files_own_window_is_what_pydicom_applies(function: str, window: tuple[float, float]) -> None:
    header = Dataset()
    header.WindowCenter, header.WindowWidth = window
    header.VOILUTFunction = function
    header.PhotometricInterpretation = "MONOCHROME2"
    header.BitsStored, header.PixelRepresentation = 16, 1
    lowest, highest = -(2**15), 2**15 - 1  # what pydicom scales to
    expected = (apply_windowing(CT, header) - lowest) / (highest - lowest)
    image = plane(CT, windows=(window, (1.0, 5.0)), window_function=function)
    found = prepare(image, Selector(), spec(clip="dicom-window"))[0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (plane(CT), "recommends no window"),
        (plane(CT, voi_lut=(0, np.arange(9))), r"only a table \(VOI LUT\)"),
        (plane(CT, windows=((40.0, 0.0),)), "width 0"),
    ],
)
def test_a_file_without_a_usable_window_of_its_own_is_refused(image: Image, message: str) -> None:
    with pytest.raises(ImageError, match=message) as caught:
        prepare(image, Selector(), spec(clip="dicom-window"))
    assert "window=400/40" in (caught.value.remedy or "")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (plane(CT.astype(np.uint8)), "8 bits"),
        (plane(CT.astype(np.int8)), "8 bits"),
        (plane(CT.astype(np.uint16)), "unsigned"),
        (plane(CT, modality="MR"), "modality is MR"),
        (plane(CT, modality="CT", unit="OD"), "in OD"),
    ],
)
def test_a_ct_window_is_refused_where_there_are_no_hounsfield_units(image: Image, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        prepare(image, Selector(), spec(clip="window", clip_at=(40.0, 400.0)))


@pytest.mark.parametrize(
    "image",
    [
        plane(CT),
        plane(CT, modality="CT"),
        plane(CT.astype(np.float32)),
        plane(np.abs(CT).astype(np.uint16), modality="CT", unit="HU"),
    ],
    ids=["no unit", "modality CT", "float", "HU"],
)
def test_a_ct_window_is_applied_to_hounsfield_units_and_to_deep_signed_data(image: Image) -> None:
    expected = (np.clip(image.array.astype(float), -160, 240) + 160) / 400
    found = prepare(image, Selector(), spec(clip="window", clip_at=(40.0, 400.0)))[0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_zero_below_the_lower_percentile_has_one_scale_for_all_slices_of_a_volume() -> None:
    array = RNG.integers(50, 900, (SIDE, SIDE, 5)).astype(np.int16)
    array[:, :, 0] //= 3
    image = Image(array, "volume", (float(array.min()), float(array.max())))
    low, high = np.percentile(array, (5, 95))
    for index in (0, 3):
        shown = array[:, :, index].T[::-1, ::-1].astype(float)
        expected = np.where(shown <= low, 0, np.minimum(shown, high)) / high
        recipe = spec(clip="percentile-zero", clip_at=(5.0, 95.0), scope="volume")
        np.testing.assert_allclose(prepare(image, Selector("axial", index), recipe)[0].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("clip", [("none", ()), ("window", (40.0, 400.0)), ("percentile-zero", (5.0, 95.0))])
def test_zscore_of_a_volume_counts_its_clipped_values(
    clip: tuple[str, tuple[float, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intensity, "_SLAB", 700)  # several slabs of unequal size
    array = RNG.integers(-1024, 2000, (SIDE, SIDE, 7)).astype(np.int16)
    image = Image(array, "volume", (float(array.min()), float(array.max())))
    values = array.astype(float)
    if clip[0] == "window":
        values = np.clip(values, -160, 240)
    elif clip[0] == "percentile-zero":
        low, high = np.percentile(values, (5, 95))
        values = np.where(values <= low, 0, np.minimum(values, high))
    expected = (values[:, :, 2].T[::-1, ::-1] - values.mean()) / values.std()
    recipe = spec(clip=clip[0], clip_at=clip[1], scope="volume", intensity="zscore")
    np.testing.assert_allclose(prepare(image, Selector("axial", 2), recipe)[0].numpy(), expected, atol=2e-5)


def test_a_volumes_statistic_is_computed_once_by_however_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    array = RNG.integers(0, 900, (SIDE, SIDE, 40)).astype(np.int16)
    image = Image(array, "volume", (0.0, 900.0))
    calls, percentile, gate = [], np.percentile, threading.Barrier(8)

    def counted(values: np.ndarray, at: tuple[float, ...]) -> np.ndarray:
        calls.append(values.shape)
        return percentile(values, at)

    def one(index: int) -> None:
        gate.wait()
        prepare(image, Selector("axial", index), spec(clip="percentile", clip_at=(1.0, 99.0), scope="volume"))

    monkeypatch.setattr(np, "percentile", counted)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(8)))
    assert calls == [array.shape]


def test_a_stack_of_volumes_has_neighbours_and_statistics_within_each_volume() -> None:
    array = RNG.integers(0, 4000, (3, 5, SIDE, SIDE)).astype(np.int16)
    stack = Image(array, "stack", (0.0, 4000.0))
    for item in (0, 2):
        low, high = np.percentile(array[item], (5, 95))
        recipe = spec(clip="percentile", clip_at=(5.0, 95.0), scope="volume", rgb="neighbours")
        found = prepare(stack, Selector(frame=item, index=4), recipe).numpy()
        expected = (np.clip(array[item, [3, 4, 4]].astype(float), low, high) - low) / (high - low)
        np.testing.assert_allclose(found, expected, atol=1e-6)
    frames = Image(array[:, 0], "stack", (0.0, 4000.0))
    with pytest.raises(ImageError, match="neighbouring slices"):
        prepare(frames, Selector(frame=1), spec(rgb="neighbours"))


@pytest.mark.parametrize("shape", [(300, 411), (64, 1000), (30, 40)])
@pytest.mark.parametrize("clip", [{}, {"clip": "range", "clip_at": (1000.0, 50000.0)}], ids=["source", "clipped"])
def test_resizing_16_bits_is_pillows_bicubic_of_floats(shape: tuple[int, int], clip: dict[str, object]) -> None:
    smooth = Picture.fromarray(RNG.uniform(0, 65535, (12, 17)).astype(np.float32)).resize(shape[::-1])
    deep = np.clip(np.asarray(smooth), 0, 65535).astype(np.uint16)
    low, high = (1000, 50000) if clip else (int(deep.min()), int(deep.max()))
    levels = ((np.clip(deep.astype(float), low, high) - low) * 255 / (high - low)).astype(np.float32)
    expected = np.asarray(Picture.fromarray(levels).resize((96, 96), Picture.Resampling.BICUBIC)).clip(0, 255)
    found = prepare(plane(deep), Selector(), Preprocess("squash", 96, 96, **PLAIN, **clip))  # type: ignore[arg-type]
    assert np.abs(found[0].numpy() * 255 - expected).max() < 0.05


def test_the_bars_of_a_letterbox_do_not_change_the_contrast_of_the_image() -> None:
    wide = RNG.integers(100, 200, (8, SIDE), dtype=np.uint8)
    recipe = Preprocess("letterbox", SIDE, SIDE, **PLAIN, intensity="image")  # type: ignore[arg-type]
    found = prepare(plane(wide), Selector(), recipe)[0].numpy()
    low, high = float(wide.min()), float(wide.max())
    np.testing.assert_allclose(found[4:12], (wide - low) / (high - low), atol=1e-6)
    assert (found[:4] == 0).all()
    assert (found[12:] == 0).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"clip": "window"},
        {"clip": "window", "clip_at": (40.0, 400.0), "rgb": "windows"},
        {"clip": "window", "clip_at": (40.0, 0.0)},
        {"clip": "range", "clip_at": (5.0, 5.0)},
        {"clip": "percentile", "clip_at": (-1.0, 50.0)},
        {"rgb": "windows"},
        {"resize": "squish"},
        {"crop": SIDE + 1},
        {"crop": 0},
    ],
    ids=str,
)
def test_a_specification_that_means_nothing_is_refused_when_it_is_made(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        replace(spec(), **changes)


def test_a_specification_is_hashable_and_its_dict_gives_it_back() -> None:
    made = spec(clip="window", clip_at=(40.0, 400.0), intensity="zscore")
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in made.as_dict().items()}
    assert {made: 1}[Preprocess(**fields)] == 1


def test_the_documents_table_of_windows_is_the_codes() -> None:
    text = (Path(__file__).parents[2] / "docs" / "preprocessing.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w-]+)` \| (-?\d+) \| (\d+) \|", text, re.MULTILINE)
    assert {name: (float(level), float(width)) for name, level, width in rows} == WINDOWS


def test_a_window_by_name_and_by_its_numbers_is_one_key() -> None:
    native = resolve_model("pixels")
    named, numbers = preset("model,window=lung", native), preset("model,window=1500/-600", native)
    assert named == numbers
    assert named.as_dict() == numbers.as_dict()
