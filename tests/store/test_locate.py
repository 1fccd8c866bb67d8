"""``locate_rows`` against a dictionary."""

from __future__ import annotations

import numpy as np
import pytest

from featcache.store.backend import locate_rows


@pytest.mark.parametrize("seed", range(30))
def test_rows_are_those_of_a_dictionary(seed: int) -> None:
    rng = np.random.default_rng(seed)
    digests = rng.integers(0, 4 if seed % 2 else 256, (rng.integers(0, 300), 16), dtype=np.uint8)
    if seed % 3 == 0:
        digests[:, :8] = rng.integers(0, 2, (len(digests), 1))  # equal first halves
    digests[len(digests) // 2 :] = digests[: len(digests) - len(digests) // 2]  # committed again
    digests[~digests.any(axis=1), 0] = 1
    rows = rng.permutation(10 * len(digests))[: len(digests)].astype(np.int64)
    wanted = np.concatenate([digests[::3], rng.integers(0, 256, (50, 16), dtype=np.uint8), np.zeros((2, 16), np.uint8)])
    expected = {digest.tobytes(): row for digest, row in zip(digests, rows, strict=True)}
    found = locate_rows(digests, rows, wanted)
    assert found.tolist() == [expected.get(digest.tobytes(), -1) for digest in wanted]
