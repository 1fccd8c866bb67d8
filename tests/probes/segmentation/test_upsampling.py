"""Resampling matrices against torch's interpolation and against counting pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from featcache.probes.segmentation.selection import best_of, class_maps, selection_dice
from featcache.probes.segmentation.token_stream import TokenStream
from featcache.probes.segmentation.upsampling import area_shares, upsampled


@pytest.mark.parametrize(("grid", "size"), [((5, 7), 20), ((1, 3), 9), ((16, 16), 448), ((9, 4), 6)])
def test_upsampling_is_bilinear_interpolation(grid: tuple[int, int], size: int) -> None:
    maps = np.random.default_rng(0).normal(size=(2, 3, *grid)).astype(np.float32)
    expected = functional.interpolate(torch.from_numpy(maps), size=(size, size), mode="bilinear", align_corners=False)
    np.testing.assert_allclose(upsampled(maps, size), expected.numpy(), atol=2e-5)


def test_shares_are_counted_where_cells_are_whole_pixels_and_add_up_where_they_are_not() -> None:
    labels = np.random.default_rng(1).integers(0, 3, (2, 12, 12)).astype(np.uint8)
    found = area_shares(labels, 3, (3, 4))
    for row in range(3):
        for column in range(4):
            cell = labels[1, row * 4 : row * 4 + 4, column * 3 : column * 3 + 3]
            np.testing.assert_allclose(found[1, row, column], np.bincount(cell.ravel(), minlength=3) / 12, atol=1e-6)
    uneven = area_shares(labels, 3, (5, 7))
    np.testing.assert_allclose(uneven.sum(axis=-1), 1, atol=1e-6)
    np.testing.assert_allclose(
        uneven.mean(axis=(1, 2)), [np.bincount(one.ravel(), minlength=3) / 144 for one in labels], atol=1e-6
    )


def test_the_dice_of_a_split_is_pooled_class_by_class() -> None:
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 3, (5, 8, 8)).astype(np.uint8)
    tokens = rng.normal(size=(5, 4, 4, 3)).astype(np.float32)
    stream = TokenStream(tokens, lambda row: labels[row], np.arange(5), size=8)
    found = selection_dice(stream, 3, lambda some: [sign * np.moveaxis(some, -1, 1) for sign in (1, -1)], batch_size=2)
    for place, sign in enumerate((1, -1)):
        guess = class_maps(sign * np.moveaxis(tokens, -1, 1), 8)
        parts = [2 * ((guess == c) & (labels == c)).sum() / ((guess == c).sum() + (labels == c).sum()) for c in (1, 2)]
        assert found[place] == pytest.approx(np.mean(parts))
    assert best_of(found) == int(found[1] > found[0])
