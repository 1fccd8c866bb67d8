"""``breastmnist.npz`` and ``chestmnist.npz``: labels (n, 1) and (n, 14), images (n, 28, 28)."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def make(root: Path, *, name: str = "breastmnist", labels: int = 1, classes: int = 2) -> Path:
    """8 train, 4 val and 4 test images."""
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 8), ("val", 4), ("test", 4)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        numbers = np.arange(count * labels).reshape(count, labels) % classes
        arrays[f"{split}_labels"] = numbers.astype(np.uint8)
    root.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(root / f"{name}.npz", **arrays)
    return root
