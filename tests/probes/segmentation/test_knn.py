"""Retrieval of tokens against brute force in float64."""

from __future__ import annotations

import numpy as np
import pytest

from featcache.errors import ProbeError
from featcache.probes.segmentation.knn import KNNSegmenter
from tests.probes.segmentation.test_grid import shares
from tests.probes.segmentation.test_linear import scenes, stream_of


def test_votes_are_those_of_brute_force() -> None:
    tokens, labels = scenes(8)
    head = KNNSegmenter(3, k=5, batch_size=3).fit(stream_of(tokens, labels, np.arange(5)))
    assert head.n_tokens_ == 5 * 25
    bank, queries = (part.reshape(-1, 6).astype(np.float64) for part in (tokens[:5], tokens[5:]))
    bank, queries = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (bank, queries))
    cosine = queries @ bank.T
    truth = shares(labels[:5])
    expected = np.empty((len(queries), 3))
    for row, line in enumerate(cosine):
        near = np.argsort(-line)[:5]
        weight = np.exp(line[near] / 0.07)
        expected[row] = weight @ truth[near] / weight.sum()
    found = np.moveaxis(head.logits(tokens[5:].astype(np.float32)), 1, -1).reshape(-1, 3)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_bank_is_bounded_seeded_and_takes_the_same_number_of_each_image() -> None:
    tokens, labels = scenes(10)
    one, same, other = (
        KNNSegmenter(3, k=3, max_tokens=40, seed=seed).fit(stream_of(tokens, labels)) for seed in (0, 0, 1)
    )
    assert one.n_tokens_ == 40
    query = tokens[:1].astype(np.float32)
    np.testing.assert_array_equal(one.logits(query), same.logits(query))
    assert not np.array_equal(one.logits(query), other.logits(query))


def test_a_token_without_direction_is_background_and_a_bank_of_such_is_refused() -> None:
    tokens, labels = scenes(4)
    head = KNNSegmenter(3, k=3).fit(stream_of(tokens, labels))
    np.testing.assert_array_equal(head.logits(np.zeros((1, 5, 5, 6), np.float32)).argmax(axis=1), 0)
    with pytest.raises(ProbeError, match="all training tokens are zero"):
        KNNSegmenter(3).fit(stream_of(np.zeros_like(tokens), labels))
