"""Bases and Hessians against their definitions, by dense float64 algebra."""

from __future__ import annotations

import numpy as np
import pytest

from featcache.probes.curvature import inverse_hessian
from featcache.probes.eigenbasis import eigenbasis, moments


@pytest.mark.parametrize(("n", "width"), [(300, 12), (10, 40)])
def test_the_basis_turns_centred_rows_to_their_principal_directions(n: int, width: int) -> None:
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(n, width)) * np.arange(1, width + 1) + 5).astype(np.float32)
    mean, scale = moments([X[:4], X[4:]])
    np.testing.assert_allclose(mean, X.astype(float).mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(scale, X.astype(float).std(axis=0), rtol=1e-6)
    basis = eigenbasis([X[:4], X[4:]], mean, scale)
    standard = (X.astype(float) - mean) / scale
    values = np.sort(np.linalg.eigvalsh(standard.T @ standard / n))[::-1][: min(n - 1, width)]
    np.testing.assert_allclose(basis.variance[:-1][: len(values)], values, rtol=1e-4, atol=1e-6)
    assert basis.variance[-1] == 1
    weights = rng.normal(size=(2, len(basis.variance)))
    coef, intercept = basis.turn_back(weights.T)
    np.testing.assert_allclose(standard @ coef.T + intercept, basis.rows @ weights.T, atol=1e-4)
    np.testing.assert_allclose(basis.turn(coef)[:-1], weights.T[:-1], atol=1e-4)


def test_few_curved_rows_give_the_exact_inverse() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(5000, 8)).astype(np.float32)
    curvature = np.zeros(5000, np.float32)
    curvature[:30] = rng.uniform(0.1, 0.2, 30)
    penalty = np.full(8, 0.01)
    found = inverse_hessian(rows, curvature, penalty, total=30.0, seed=0)
    hessian = (rows.T * curvature).astype(float) @ rows / 30 + np.diag(penalty)
    assert found is not None
    np.testing.assert_allclose(found @ hessian, np.eye(8), atol=1e-4)


def test_a_sample_is_near_the_hessian() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(20000, 50)).astype(np.float32)
    curvature = rng.uniform(0, 0.25, 20000).astype(np.float32) ** 2
    penalty = np.full(50, 1e-4)
    hessian = (rows.T * curvature).astype(float) @ rows / 20000 + np.diag(penalty)
    found = inverse_hessian(rows, curvature, penalty, total=20000.0, seed=0)
    assert found is not None
    spectrum = np.linalg.eigvals(found @ hessian).real
    assert spectrum.min() > 0.1
    assert spectrum.max() < 4


def test_no_curvature_and_no_penalty_has_no_inverse() -> None:
    assert inverse_hessian(np.ones((5, 2), np.float32), np.zeros(5, np.float32), np.zeros(2), total=5.0, seed=0) is None


def test_columns_that_take_long_reach_the_same_minimum_with_their_own_hessian() -> None:
    from sklearn.linear_model import LogisticRegression

    from featcache.probes import LogisticSweep

    rng = np.random.default_rng(0)
    # Few columns, many rows, nearly separable: more than 24 passes, where a Hessian of their own is allowed.
    X = rng.normal(size=(2000, 100)).astype(np.float32)
    score = X @ rng.normal(size=100) / 10 + 0.1 * rng.normal(size=2000)
    for y in ((score > 1.8).astype(int), np.digitize(score, [-1.8, 1.8])):
        sweep = LogisticSweep((1.0, 1e3)).fit(X, y)
        assert sweep.converged_.all()
        assert sweep.n_iter_.max() > 24
        for place, C in enumerate(sweep.C_):
            model = LogisticRegression(C=C, tol=1e-10, max_iter=1000, solver="newton-cholesky").fit(X.astype(float), y)
            np.testing.assert_allclose(sweep.coef_[place], model.coef_, atol=5e-3 * np.abs(model.coef_).max())
