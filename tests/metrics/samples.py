"""Small seeded tasks with ties and missing labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def single_label(n: int = 300, classes: int = 4, seed: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    """Class indices and scores with many ties."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    scores = rng.random((n, classes)) + 0.4 * np.eye(classes)[y]
    return y, np.round(scores, 1)


def multi_label(n: int = 300, labels: int = 5, seed: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    """Labels of 0, 1 and NaN, and scores between 0 and 1 with many ties."""
    rng = np.random.default_rng(seed)
    y = (rng.random((n, labels)) < 0.3).astype(float)
    scores = np.round(0.3 * y + 0.7 * rng.random((n, labels)), 1)
    y[rng.random((n, labels)) < 0.2] = np.nan
    return y, scores


def probabilities(scores: NDArray[Any]) -> NDArray[Any]:
    """Rows that sum to 1."""
    positive = scores + 0.1
    return np.asarray(positive / positive.sum(axis=1, keepdims=True))
