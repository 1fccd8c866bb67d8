"""What every probe has in common, and what importing one costs."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from featcache import probes
from featcache.errors import ProbeError, UnknownNameError
from featcache.probes import PROBES
from featcache.registry import load_dotted

# For sixty rows.
SETTINGS: dict[str, dict[str, Any]] = {
    "fewshot": {"shots": (1, 2), "n_episodes": 3},
    "knn": {"k": (3,)},
    "mlknn": {"k": (3,)},
}


@pytest.fixture(params=PROBES.names())
def probe(request: pytest.FixtureRequest) -> Any:
    return load_dotted(PROBES[request.param].loader)(**SETTINGS.get(request.param, {}))


def scores_of(probe: Any, X: Any) -> Any:
    scores = probe.predict_scores(X)
    return scores if isinstance(scores, np.ndarray) else next(iter(scores.values()))


@pytest.mark.parametrize("multi", [False, True])
def test_fit_returns_self_and_scores_are_probabilities(probe: Any, multi: bool) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 5)).astype(np.float16)
    y = rng.integers(0, 2, (60, 3)) if multi else rng.integers(0, 3, 60)
    before = X.copy(), y.copy()
    assert probe.fit(X, y) is probe
    scores = scores_of(probe, X[:7])
    assert scores.shape == (7, 3)
    assert scores.dtype == np.float64
    assert ((scores >= 0) & (scores <= 1)).all()
    np.testing.assert_array_equal(X, before[0])
    np.testing.assert_array_equal(y, before[1])
    np.testing.assert_array_equal(scores_of(probe.fit(X, y), X[:7]), scores)


def test_construction_only_stores(probe: Any) -> None:
    assert not [name for name in vars(probe) if name.endswith("_") or name.startswith("_")]


def test_every_probe_refuses_nan_and_use_before_fit(probe: Any) -> None:
    with pytest.raises(ProbeError, match="not fitted"):
        probe.predict_scores(np.eye(3))
    with pytest.raises(ProbeError, match="NaN"):
        probe.fit(np.full((6, 2), np.nan), [0, 1] * 3)


def test_an_unknown_probe_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="'knn'"):
        PROBES["kn"]


def test_exports_exist() -> None:
    assert dir(probes) == sorted(probes.__all__)
    assert all(hasattr(probes, name) for name in probes.__all__)
    assert not hasattr(probes, "nothing_of_that_name")


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import featcache.probes, featcache.metrics", ["faiss", "sklearn", "torch", "scipy", "pandas"]),
        ("from featcache.probes import LogisticProbe", ["sklearn", "faiss", "torch"]),
        (
            "from featcache.probes import KNNProbe; KNNProbe(k=(1,)).fit([[1., 0], [0, 1]], [0, 1])",
            ["sklearn", "torch"],
        ),
    ],
)
def test_importing_is_cheap(code: str, absent: list[str]) -> None:
    check = f"{code}\nimport sys\nprint([name for name in {absent!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
