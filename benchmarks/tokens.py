"""What keeping patch tokens in 8 bits or projected costs in Dice and saves on the disk, on real images.

    python benchmarks/tokens.py                       # brain_tissue and brain_lobes, 2 to 7 minutes
    python benchmarks/tokens.py --image-size 320 --step 4

EfficientNet-Lite0 with its ImageNet weights, the linear head in closed form, test slices at least 7 mm from those that
it learns from. Every row is a family of the same store; the first, float16, is what the others are compared with.
Intervals are paired: the same slabs are drawn for both.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "10")

import numpy as np

import featcache
from featcache.datasets import load_dataset
from featcache.evaluation.segmentation import HeadSettings, segment
from featcache.extraction import write_masks

FORMS: tuple[dict[str, Any], ...] = (
    {},
    {"token_dtype": "int8"},
    {"token_pca": 256},
    {"token_pca": 128},
    {"token_pca": 64},
    {"token_pca": 64, "token_dtype": "int8"},
    {"token_pca": 16},
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Dice and bytes of each form of patch tokens.")
    parser.add_argument("--step", type=int, default=2, help="Slices of a slab are so many mm apart, 1 to 4.")
    parser.add_argument("--image-size", type=int, default=640, help="Input of the encoder, a multiple of 32.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FEATCACHE_HOME"] = f"{folder}/home"
        os.environ["FEATCACHE_STATE"] = f"{folder}/state"
        for name in ("brain_tissue", "brain_lobes"):
            measure(name, options.step, options.image_size)


def measure(name: str, step: int, image_size: int) -> None:
    dataset = load_dataset(name, step=step)
    write_masks(dataset)
    print(f"\n{name}, {len(dataset.samples)} slices at {image_size} px\n")
    print("| tokens | KB an image | Dice | difference [95 % CI] |\n|---|---|---|---|")
    exact: np.ndarray[Any, Any] | None = None
    for form in FORMS:
        own: dict[str, Any] = {"preprocess": "radiology-seg", "image_size": image_size, "device": "cpu"}
        report = featcache.extract("efficientnet_lite0", dataset, patches=True, **own, **form)
        family = family_of(form)
        outcome = segment(report.store, HeadSettings(solver="ridge", tokens=family))
        dice = np.nanmean(outcome.scores.values["dice"], axis=-1)
        exact = dice if exact is None else exact
        size = stored_bytes(report.store / family) / len(dataset.samples) / 1e3
        print(f"| `{family}` | {size:.0f} | {dice.mean():.3f} | {paired(dice - exact)} |")


def family_of(form: dict[str, Any]) -> str:
    """The name under which a store keeps tokens of a form."""
    pca = f"_pca{form['token_pca']}" if "token_pca" in form else ""
    return f"patches{pca}{'_int8' if 'token_dtype' in form else ''}"


def stored_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def paired(differences: np.ndarray[Any, Any]) -> str:
    """Mean over slabs, and the percentiles of its bootstrap."""
    rng = np.random.default_rng(0)
    drawn = differences[rng.integers(0, len(differences), (2000, len(differences)))].mean(axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return f"{differences.mean():+.4f} [{low:+.4f}, {high:+.4f}]"


if __name__ == "__main__":
    main()
