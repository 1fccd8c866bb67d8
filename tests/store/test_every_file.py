"""Every file of a dataset's folder, flipped, cut, grown and deleted: ``verify`` names it and does not stumble."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

import featcache
from featcache.store import open_mask_writer, verify_masks, verify_store
from featcache.store.mask_writer import MaskRow

RANDOM = random.Random(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with vectors and two families of tokens, its samples table, and masks."""
    root, home = tmp_path_factory.mktemp("images"), tmp_path_factory.mktemp("home")
    from PIL import Image

    pixels = np.random.default_rng(0)
    for name in ("a", "b"):
        (root / name).mkdir()
        for number in range(3):
            picture = pixels.integers(0, 255, (40, 40), dtype=np.uint8)
            Image.fromarray(picture).save(root / name / f"{number}.png")
    facts = {"root": root, "home": home, "image_size": 64, "patches": True}
    featcache.extract("efficientnet_lite0_random", "folder", **facts)  # type: ignore[arg-type]
    coded = featcache.extract("efficientnet_lite0_random", "folder", token_dtype="int8", token_pca=4, **facts)  # type: ignore[arg-type]
    folder = coded.store.parent
    with open_mask_writer(home, folder.name, "segmentation", ("background", "lung")) as writer:
        for number, name in enumerate(featcache.open(coded.store).samples["id"].tolist()):
            row = MaskRow(name, bytes([number]) * 16, "", None, None, None)
            writer.add(row, pixels.integers(0, 2, (40, 40), dtype=np.uint8))
        writer.commit()
    return folder


def faults(folder: Path) -> list[str]:
    (store,) = (path for path in folder.glob("*.zarr") if path.name != "masks.zarr")
    return [problem.file for problem in (*verify_store(store), *verify_masks(folder))]


@pytest.mark.parametrize("damage", ["flip", "cut", "grow", "delete"])
def test_no_damage_of_any_file_goes_unseen(folder: Path, damage: str) -> None:
    assert faults(folder) == []
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".lock"]
    assert {"samples.parquet", ".samples.parquet.sha256", "basis.npy", "zarr.json"} <= {path.name for path in files}
    unseen = []
    for path in files:
        content = path.read_bytes()
        for _ in range(6 if damage == "flip" else 1):
            place = RANDOM.randrange(len(content))
            flipped = bytes([content[place] ^ 1 << RANDOM.randrange(8)])
            bad = {
                "flip": content[:place] + flipped + content[place + 1 :],
                "cut": content[:-1],
                "grow": content + b"x",
            }
            if damage == "delete":
                path.unlink()
            else:
                path.write_bytes(bad[damage])
            if not faults(folder):
                unseen.append(f"{path.relative_to(folder)}, byte {place}")
            path.write_bytes(content)
    assert unseen == []
    assert faults(folder) == []


def test_a_damaged_samples_table_is_said_when_it_is_read(folder: Path) -> None:
    """Whatever the parser of Parquet stumbles over."""
    table = folder / "samples.parquet"
    content = table.read_bytes()
    (store,) = (path for path in folder.glob("*.zarr") if path.name != "masks.zarr")
    try:
        for place in RANDOM.sample(range(len(content)), 150):
            table.write_bytes(
                content[:place] + bytes([content[place] ^ 1 << RANDOM.randrange(8)]) + content[place + 1 :]
            )
            assert [problem.file for problem in verify_store(store)] == ["samples.parquet"]
    finally:
        table.write_bytes(content)
