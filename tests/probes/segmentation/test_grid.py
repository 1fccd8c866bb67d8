"""Linear segmentation without a learning rate: the closed form and L-BFGS against scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, Ridge

from featcache.errors import ProbeError
from featcache.probes.segmentation.lbfgs import LBFGSSegmenter
from featcache.probes.segmentation.ridge import RidgeSegmenter
from featcache.probes.segmentation.token_stream import TokenStream
from tests.probes.segmentation.test_linear import scenes, stream_of


def ragged(n: int = 10) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
    """Tokens far from the origin; targets whose borders lie inside tokens."""
    tokens, labels = scenes(n)
    return (tokens + np.float16(3)), np.roll(labels, 2, axis=2)


def shares(labels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(tokens, 3) by counting the 4 x 4 pixels of each."""
    blocks = labels.reshape(len(labels), 5, 4, 5, 4).transpose(0, 1, 3, 2, 4).reshape(-1, 16)
    return np.stack([(blocks == number).mean(axis=1) for number in range(3)], axis=1)


def test_ridge_is_that_of_scikit_learn_on_the_shares_of_each_token() -> None:
    tokens, labels = ragged()
    rows, target = tokens.reshape(-1, 6).astype(np.float64), shares(labels)
    level = np.linalg.eigvalsh(np.cov(rows.T, bias=True)).mean()
    for penalty in (1e-3, 0.5):
        found = RidgeSegmenter(3, penalties=[penalty], batch_size=3).fit(stream_of(tokens, labels))
        expected = Ridge(alpha=penalty * level * len(rows)).fit(rows, target)
        np.testing.assert_allclose(found.coef_, expected.coef_.T, atol=1e-5)
        np.testing.assert_allclose(found.intercept_, expected.intercept_, atol=1e-4)


def test_lbfgs_finds_the_minimum_that_scikit_learn_finds_with_weighted_copies() -> None:
    tokens, labels = ragged()
    rows, target = tokens.reshape(-1, 6).astype(np.float64), shares(labels)
    penalty = 1e-2
    found = LBFGSSegmenter(3, penalties=[penalty], batch_size=4).fit(stream_of(tokens, labels))
    scaled = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    reference = LogisticRegression(C=1 / (penalty * len(rows)), tol=1e-8, max_iter=5000)
    classes = np.repeat(np.arange(3), len(rows))
    reference.fit(np.tile(scaled, (3, 1)), classes, sample_weight=target.T.ravel())
    expected = reference.predict_proba(scaled)
    logits = np.moveaxis(found.logits(tokens.astype(np.float32)), 1, -1).reshape(-1, 3)
    power = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(power / power.sum(axis=1, keepdims=True), expected, atol=2e-3)
    assert found.notes_ == ()


@pytest.mark.parametrize("kind", [RidgeSegmenter, LBFGSSegmenter])
def test_the_penalty_is_chosen_on_val_and_the_solution_is_that_of_all_rows(kind: Any) -> None:
    tokens, labels = scenes(30)
    parts: list[TokenStream] = [stream_of(tokens, labels, np.arange(*ends)) for ends in ((0, 10), (10, 20), (0, 20))]
    head = kind(3, penalties=[1e-3, 1e6]).fit(*parts)
    assert head.penalty_ == 1e-3
    scores = {one["penalty"]: one["dice"] for one in head.selection_}
    assert scores[1e-3] > scores[1e6]
    alone = kind(3, penalties=[1e-3]).fit(parts[2])
    np.testing.assert_allclose(head.coef_, alone.coef_, atol=2e-3)
    found = head.logits(tokens[20:].astype(np.float32)).argmax(axis=1)
    assert (found == labels[20:, 2::4, 2::4]).mean() > 0.85
    with pytest.raises(ProbeError, match="no validation split"):
        kind(3).fit(parts[0])
