"""``preview``: the choice of samples, and that the tiles are what an extraction embeds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import featcache
from featcache.datasets import load_dataset
from featcache.errors import ConfigurationError
from featcache.extraction import preview
from featcache.extraction.preview import chosen_rows
from featcache.imaging import Preprocess
from tests.conftest import WriteImages


def test_classes_take_turns_and_a_seed_decides(image_folder: WriteImages) -> None:
    root = image_folder(6)
    seen = preview("folder", root=root, n=9)
    assert [tile.label for tile in seen.tiles] == ["bright", "dark"] * 4 + ["bright"]
    ids = [tile.id for tile in seen.tiles]
    assert len(set(ids)) == 9
    assert ids == [tile.id for tile in preview("folder", root=root, n=9).tiles]
    assert ids != [tile.id for tile in preview("folder", root=root, n=9, seed=1).tiles]
    assert len(preview("folder", root=root, n=999).tiles) == 36
    with pytest.raises(ConfigurationError, match="0 samples"):
        preview("folder", root=root, n=0)


def test_labels_of_a_multilabel_task_are_the_names_of_the_findings(image_folder: WriteImages) -> None:
    root = image_folder(2, splits=("train",))
    paths = sorted(str(path.relative_to(root)) for path in root.rglob("*.png"))
    frame = pd.DataFrame({"path": paths, "mass": [1, 0, 1, None], "effusion": [1, 0, 0, None]})
    frame.to_csv(root / "t.csv", index=False)
    options = {"table": "t.csv", "label_columns": ("mass", "effusion")}
    found = {tile.id: tile.label for tile in preview("table", root=root, **options).tiles}  # type: ignore[arg-type]
    assert list(map(found.get, paths)) == ["mass, effusion", "none of the labels", "mass", "?"]


def test_volumes_take_turns_without_a_task(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, depth in (("a", 30), ("b", 4), ("c", 9)):
        volume = rng.integers(-1000, 1000, (8, 8, depth)).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / f"{name}.nii.gz")
    dataset = load_dataset("nifti", root=tmp_path)
    volumes = dataset.samples["volume"].iloc[chosen_rows(dataset, 6, seed=3)]
    assert sorted(Counter(volumes).values()) == [2, 2, 2]
    window = preview(dataset, registry_name="nifti", n=3, preprocess="model,window=lung+soft-tissue+bone")
    assert all(tile.failure is None for tile in window.tiles)


def test_tiles_are_the_pixels_that_the_model_gets(image_folder: WriteImages) -> None:
    """Without resizing, the normalisation undone gives back the file's own bytes."""
    root = image_folder(2, size=32)
    recipe = Preprocess("squash", 32, 32, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    for tile in preview("folder", root=root, preprocess=recipe).tiles:
        expected = np.asarray(Image.open(root / tile.id).convert("RGB"))
        assert tile.pixels is not None
        np.testing.assert_array_equal(tile.pixels, expected)


def test_standardised_values_are_shown_between_three_deviations(image_folder: WriteImages) -> None:
    root = image_folder(1, splits=("train",), size=32)
    recipe = Preprocess("squash", 32, 32, (0.5,) * 3, (0.5,) * 3, intensity="zscore")  # type: ignore[arg-type]
    for tile in preview("folder", root=root, preprocess=recipe).tiles:
        values = np.asarray(Image.open(root / tile.id), float)
        scores = (values - values.mean()) / values.std()
        assert tile.pixels is not None
        assert np.abs(tile.pixels[:, :, 1] - np.clip((scores + 3) / 6, 0, 1) * 255).max() <= 0.51


def test_what_cannot_be_read_is_a_tile_with_the_reason(image_folder: WriteImages) -> None:
    root = image_folder(2, splits=("train",))
    (root / "train/dark/000.png").write_bytes(b"<html>")
    (root / "train/dark/001.png").write_bytes(b"")
    failed = {tile.id: tile.failure for tile in preview("folder", root=root).tiles if tile.pixels is None}
    assert {name: failure.reason.split(" (")[0] for name, failure in failed.items() if failure} == {
        "train/dark/000.png": "the content is no image that Pillow knows",
        "train/dark/001.png": "the file is empty",
    }


def test_a_preview_leaves_nothing_in_the_home(image_folder: WriteImages, home: Path) -> None:
    preview("folder", root=image_folder(1))
    assert not home.exists()
    assert featcache.list_stores() == []
