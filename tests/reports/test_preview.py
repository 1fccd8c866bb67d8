"""The sheet: every tile's pixels are on it, and what does not fit is shortened."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featcache.errors import ConfigurationError
from featcache.records import Failure, PreviewTile
from featcache.reports import draw_preview

RNG = np.random.default_rng(0)


def tile(side: int, name: str = "a", label: str = "l") -> PreviewTile:
    return PreviewTile(name, label, RNG.integers(0, 256, (side, side, 3), dtype=np.uint8), None)


def holds(sheet: np.ndarray, pixels: np.ndarray) -> bool:
    side = len(pixels)
    corners = np.argwhere((sheet == pixels[0, 0]).all(axis=-1))
    return any(np.array_equal(sheet[row : row + side, column : column + side], pixels) for row, column in corners)


def test_every_tile_is_on_the_sheet_pixel_by_pixel(tmp_path: Path) -> None:
    tiles = [tile(168, f"sample-{number}") for number in range(5)]
    path = draw_preview(tiles, tmp_path / "deep" / "sheet.png", title="five")
    sheet = np.asarray(Image.open(path))
    for one in tiles:
        assert one.pixels is not None
        assert holds(sheet, one.pixels)
    assert [entry.name for entry in path.parent.iterdir()] == ["sheet.png"]


def test_small_inputs_are_magnified_without_blur(tmp_path: Path) -> None:
    one = tile(32)
    sheet = np.asarray(Image.open(draw_preview([one], tmp_path / "s.png")))
    assert one.pixels is not None
    assert holds(sheet, one.pixels.repeat(5, axis=0).repeat(5, axis=1))


def test_a_failure_is_drawn_with_its_reason_and_long_texts_stay_in_their_column(tmp_path: Path) -> None:
    good = tile(168, "x/" * 300, "label " * 100)
    bad = PreviewTile("b", "l", None, Failure("b", "b", "the file is damaged " * 40 + "W" * 400, ""))
    sheet = np.asarray(Image.open(draw_preview([good, bad], tmp_path / "s.png", title="t" * 900)).convert("L"))
    assert sheet.shape[1] == 2 * (168 + 8) + 8
    between = sheet[24:, 8 + 168 : 8 + 168 + 8]  # the gap between the two columns
    assert (between == 255).all()
    square = sheet[24 : 24 + 168, 184 : 184 + 168]
    assert len(np.unique(square)) > 3


def test_labels_in_any_script_are_drawn(tmp_path: Path) -> None:
    written = draw_preview([tile(168, "läsion", "胸水 اختبار")], tmp_path / "s.png", title="… ±")
    plain = draw_preview([tile(168, "", "")], tmp_path / "plain.png", title="… ±")
    with Image.open(written) as sheet, Image.open(plain) as without:
        assert sheet.size == without.size
        assert (np.asarray(sheet) != np.asarray(without)).any()


def test_nothing_to_draw_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no samples"):
        draw_preview([], tmp_path / "s.png")
