"""Fixtures: every test has a home and a state folder of its own; small images are made on the fly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

WriteImages = Callable[..., Path]


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of this test; the user's own folders are never touched."""
    folder = tmp_path_factory.mktemp("featcache")
    monkeypatch.setenv("FEATCACHE_HOME", str(folder / "home"))
    monkeypatch.setenv("FEATCACHE_STATE", str(folder / "state"))
    for name in ("FEATCACHE_DATA", "FEATCACHE_WEIGHTS"):
        monkeypatch.delenv(name, raising=False)
    return folder / "home"


@pytest.fixture
def image_folder(tmp_path: Path) -> WriteImages:
    """Make ``root/<split>/<class>/<n>.png`` with grey noise; class 1 is brighter. Returns the root."""

    def write(
        per_class: int = 6, splits: tuple[str, ...] = ("train", "val", "test"), seed: int = 0, size: int = 40
    ) -> Path:
        rng = np.random.default_rng(seed)
        root = tmp_path / "images"
        for split in splits:
            for label, level in (("dark", 60), ("bright", 150)):
                folder = root / split / label
                folder.mkdir(parents=True, exist_ok=True)
                for number in range(per_class):
                    pixels = rng.integers(level, level + 80, (size, size), dtype=np.uint8)
                    Image.fromarray(pixels).save(folder / f"{number:03}.png")
        return root

    return write
