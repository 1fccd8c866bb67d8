"""Brier score and calibration error against scikit-learn and their formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import brier_score_loss

from featcache.errors import ProbeError
from featcache.metrics import bootstrap, brier, ece, per_class
from featcache.metrics import entries as entries_module
from tests.metrics.samples import multi_label, probabilities, single_label


def literal_ece(probability: NDArray[Any], truth: NDArray[Any], bins: int) -> float:
    """Bin after bin, as the paper writes it."""
    error = 0.0
    for k in range(bins):
        low, high = k / bins, (k + 1) / bins
        inside = (probability > low) & (probability <= high) | ((k == 0) & (probability == 0))
        if inside.any():
            error += inside.mean() * abs(probability[inside].mean() - truth[inside].mean())
    return error


@pytest.mark.parametrize("classes", [2, 4])
def test_brier_of_classes_equals_scikit_learn(classes: int) -> None:
    y, score = single_label(classes=classes)
    p = probabilities(score)
    expected = brier_score_loss(y, p[:, 1]) if classes == 2 else np.mean(((p - np.eye(classes)[y]) ** 2).sum(axis=1))
    assert brier(y, p) == pytest.approx(expected, abs=1e-14)
    each = [brier_score_loss(y == c, p[:, c]) for c in range(classes)]
    np.testing.assert_allclose(per_class(brier, y, p), each, atol=1e-14)


def test_brier_of_labels_equals_scikit_learn_on_the_known_rows() -> None:
    y, p = multi_label()
    known = ~np.isnan(y)
    each = [brier_score_loss(y[k, j], p[k, j]) for j, k in enumerate(known.T)]
    assert brier(y, p) == pytest.approx(np.mean(each), abs=1e-14)
    assert brier(y, p, average="micro") == pytest.approx(brier_score_loss(y[known], p[known]), abs=1e-14)


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_calibration_error_equals_its_definition(bins: int) -> None:
    rng = np.random.default_rng(0)
    y, score = single_label()
    p = probabilities(score)
    expected = literal_ece(p.max(axis=1), p.argmax(axis=1) == y, bins)
    assert ece(y, p, bins=bins) == pytest.approx(expected, abs=1e-14)
    each = [literal_ece(p[:, c], y == c, bins) for c in range(4)]
    np.testing.assert_allclose(per_class(ece, y, p, bins=bins), each, atol=1e-14)
    labels, _ = multi_label()
    p = rng.random(labels.shape)
    p[:20] = 0
    p[20:30] = 1
    known = ~np.isnan(labels)
    each = [literal_ece(p[k, j], labels[k, j], bins) for j, k in enumerate(known.T)]
    assert ece(labels, p, bins=bins) == pytest.approx(np.mean(each), abs=1e-14)
    pooled = literal_ece(p[known], labels[known], bins)
    assert ece(labels, p, bins=bins, average="micro") == pytest.approx(pooled, abs=1e-14)


@pytest.mark.parametrize("metric", [brier, ece])
@pytest.mark.parametrize("average", ["macro", "micro"])
def test_compiled_sums_give_the_bits_of_numpy(metric: Any, average: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    y, p = multi_label(400)
    weights = np.random.default_rng(1).poisson(1.0, (100, len(y)))
    monkeypatch.setattr(entries_module, "worth_compiling", lambda steps: False)
    expected = metric(y, p, weights, average=average)
    monkeypatch.setattr(entries_module, "worth_compiling", lambda steps: True)
    np.testing.assert_array_equal(metric(y, p, weights, average=average), expected)


def test_a_calibrated_score_has_a_smaller_error_than_an_overconfident_one() -> None:
    rng = np.random.default_rng(4)
    p = rng.random((4000, 1))
    y = (rng.random((4000, 1)) < p).astype(float)
    sharp = p**3 / (p**3 + (1 - p) ** 3)
    calibrated, overconfident = bootstrap(ece, y, p, n=200), bootstrap(ece, y, sharp, n=200)
    assert calibrated.high < overconfident.low


@pytest.mark.parametrize("metric", [brier, ece])
@pytest.mark.parametrize(
    ("y", "score", "message"),
    [
        ([0, 1], [[1.2, -0.2], [0.5, 0.5]], "reaches from -0.2 to 1.2"),
        ([0, 1], [[0.5, 0.5], [0.5, 0.9]], "1 rows do not sum to 1: row 1 sums to 1.4"),
        ([[0], [1]], [[0.5], [1.5]], "reaches from 0.5 to 1.5"),
    ],
)
def test_scores_that_are_no_probabilities_are_refused(metric: Any, y: Any, score: Any, message: str) -> None:
    with pytest.raises(ProbeError, match=message):
        metric(y, score)


def test_no_bin_is_refused() -> None:
    with pytest.raises(ProbeError, match="at least one bin"):
        ece([[0]], [[0.5]], bins=0)


@pytest.mark.parametrize("metric", [brier, ece])
def test_rounding_is_no_reason_to_refuse(metric: Any) -> None:
    assert metric([1, 1], [[-1e-9, 1 + 1e-9], [1e-4, 0.9998]]) == pytest.approx(0.0, abs=1e-3)
    assert metric([[1]], [[np.nextafter(1, 2)]]) == pytest.approx(0.0, abs=1e-12)
