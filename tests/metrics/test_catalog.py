"""Metrics by name, and as scorers of resamples."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import featcache.metrics as package
from featcache.errors import ProbeError, UnknownNameError
from featcache.metrics import DEFAULT_METRICS, METRICS, PROBABILITY_METRICS, bootstrap, per_class, select_metrics
from featcache.metrics.catalog import scorer
from featcache.metrics.weighted import Weights
from tests.metrics.samples import multi_label, probabilities, single_label


def test_names_are_sorted_and_each_plain_name_is_the_exported_function() -> None:
    assert list(METRICS) == sorted(METRICS)
    for name, metric in METRICS.items():
        if not isinstance(metric, partial):
            assert getattr(package, name) is metric
    assert set(DEFAULT_METRICS) | PROBABILITY_METRICS <= set(METRICS)


@pytest.mark.parametrize("name", sorted(METRICS))
@pytest.mark.parametrize("data", [single_label(50), single_label(50, 2), multi_label(50, 3)])
def test_the_prepared_metric_is_the_metric(name: str, data: tuple[NDArray[Any], NDArray[Any]]) -> None:
    y, score = data
    score = probabilities(score) if y.ndim == 1 else score
    weights = np.random.default_rng(1).poisson(1.0, (9, len(y)))
    prepared = scorer(METRICS[name], y, score)
    np.testing.assert_array_equal(prepared(Weights(weights.T.astype(np.uint8))), METRICS[name](y, score, weights))


@pytest.mark.parametrize("name", sorted(METRICS))
def test_exactly_the_metrics_of_probabilities_refuse_margins(name: str) -> None:
    y, score = single_label()
    refuses = False
    try:
        METRICS[name](y, 5 * score - 2)
    except ProbeError as error:
        refuses = "needs probabilities" in error.message
    assert refuses == (name in PROBABILITY_METRICS)


def test_an_unknown_name_says_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'auroc"):
        select_metrics(["aurocs"])


def test_per_class_needs_a_metric_of_this_package() -> None:
    with pytest.raises(ProbeError, match="no value for each class"):
        per_class(lambda y, s: 0.0, [0, 1], [[0.1, 0.9], [0.5, 0.5]])


def test_a_metric_of_ones_own_with_weights_gets_a_block_of_them() -> None:
    shapes = []

    def own(y: Any, score: Any, weights: Any = None) -> Any:
        shapes.append(None if weights is None else weights.shape)
        return 0.0 if weights is None else np.zeros(len(weights))

    bootstrap(own, [0, 1, 1], [[0.1, 0.9]] * 3, n=20)
    assert shapes == [(1, 3), (20, 3)]


def test_importing_metrics_loads_nothing_heavy() -> None:
    heavy = ("numba", "scipy", "sklearn", "torch", "pandas")
    code = f"import sys, featcache.metrics; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
