"""Streaming tokens: each row once an epoch, its own target, and no more memory than was granted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from featcache.errors import ProbeError
from featcache.probes.segmentation.token_stream import TokenStream


class Counting:
    """Tokens whose first number is their row, and which rows were read."""

    def __init__(self, rows: int) -> None:
        self.array = np.zeros((rows, 2, 3, 4), np.float16)
        self.array[:, 0, 0, 0] = np.arange(rows)
        self.shape, self.dtype = self.array.shape, self.array.dtype
        self.read: list[int] = []

    def __getitem__(self, key: Any) -> NDArray[Any]:
        self.read += np.asarray(key).tolist()
        return self.array[key]


def target(row: int) -> NDArray[np.uint8]:
    return np.full((4, 4), row, np.uint8)


def test_an_epoch_has_every_row_once_with_its_own_target() -> None:
    rows = np.array([7, 3, 11, 0, 5, 9, 2])
    stream = TokenStream(Counting(12), target, rows, size=4)
    batches = list(stream.batches(3, seed=(4, 0)))
    assert [len(batch.tokens) for batch in batches] == [3, 3, 1]
    places = np.concatenate([batch.places for batch in batches])
    assert sorted(places.tolist()) == list(range(7))
    for batch in batches:
        np.testing.assert_array_equal(batch.tokens[:, 0, 0, 0], rows[batch.places])
        np.testing.assert_array_equal(batch.labels[:, 1, 2], rows[batch.places])


def test_the_seed_decides_the_order_and_epochs_differ() -> None:
    stream = TokenStream(Counting(30), target, np.arange(30), size=4)
    orders = [
        np.concatenate([batch.places for batch in stream.batches(7, seed=seed)]).tolist()
        for seed in ((0, 0), (0, 0), (0, 1), (1, 0))
    ]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert orders[0] != orders[3]


@pytest.mark.parametrize("granted", [0, 4, 10])
def test_what_is_kept_stays_below_the_memory_granted_and_is_not_read_again(granted: int) -> None:
    source = Counting(10)
    row_bytes = 2 * 3 * 4 * 2 + 4 * 4
    stream = TokenStream(source, target, np.arange(10), size=4, memory=granted * row_bytes)
    for epoch in range(3):
        for batch in stream.batches(4, seed=epoch):
            np.testing.assert_array_equal(batch.tokens[:, 0, 0, 0], batch.labels[:, 0, 0])
    assert stream.kept == granted
    assert len(source.read) == 10 + 2 * (10 - granted)


def test_targets_of_another_grid_and_missing_rows_are_refused() -> None:
    with pytest.raises(ProbeError, match=r"shape \(4, 4\), expected \(8, 8\)"):
        list(TokenStream(Counting(3), target, [0, 1], size=8).batches(2))
    with pytest.raises(ProbeError, match="no rows"):
        TokenStream(Counting(3), target, [], size=4)
    with pytest.raises(ProbeError, match="rows, h, w, D"):
        TokenStream(np.zeros((3, 5), np.float32), target, [0], size=4)
