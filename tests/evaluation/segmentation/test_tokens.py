"""Heads on tokens as extractions store them: several layers, in int8, projected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

import featcache
from featcache.datasets import Dataset, load_dataset
from featcache.errors import ProbeError
from featcache.evaluation.segmentation import HeadSettings, segment
from featcache.evaluation.segmentation.tokens import chosen_tokens
from featcache.extraction import write_masks
from featcache.store import FeatureStore
from tests.evaluation.segmentation.test_segmenting import write_scans

MODEL = "timm:vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Path]:
    """The scans, and weights of a small transformer: random but for the first layer, which passes brightness on."""
    folder = tmp_path_factory.mktemp("scans")
    root = write_scans(folder / "scans", n=7)
    classes = ["background", "organ", "core"]
    dataset = load_dataset("nifti", root=root, axis="axial", classes=classes, split_file=root / "split.csv")
    torch.manual_seed(0)
    network = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0)
    torch.save(network.state_dict(), folder / "vit.pth")
    return dataset, folder / "vit.pth"


def extracted(scans: tuple[Dataset, Path], **options: Any) -> FeatureStore:
    dataset, weights = scans
    options = {"weights": weights, "preprocess": "radiology-linear", "image_size": 160, "device": "cpu", **options}
    return featcache.open(featcache.extract(MODEL, dataset, patches=True, **options).store)


def test_heads_read_the_layers_that_an_extraction_stored(scans: tuple[Dataset, Path]) -> None:
    write_masks(scans[0])
    store = extracted(scans, layers=5)
    assert store["patches_l5"].shape[1:] == (5, 10, 10, 192)
    dice = {}
    for head in ("linear", "linear-ms", "unet"):
        settings = HeadSettings(head=head, learning_rates=(0.05, 0.5), epochs=6, device="cpu")  # type: ignore[arg-type]
        outcome = segment(store, settings, n_bootstrap=20)
        assert outcome.result.config["features"] == "patches_l5"
        dice[head] = outcome.result.runs[0].metrics["dice"].value
    # The organ covers a fifth of a slice: what shows it everywhere would have a Dice of a third.
    assert min(dice.values()) > 0.4, dice


def test_int8_tokens_segment_as_exact_ones_do(scans: tuple[Dataset, Path]) -> None:
    write_masks(scans[0])
    extracted(scans)
    store = extracted(scans, token_dtype="int8")
    ridge = HeadSettings(solver="ridge", batch_size=16)
    exact = segment(store, ridge, n_bootstrap=20).result
    coded = segment(store, HeadSettings(solver="ridge", batch_size=16, tokens="patches_int8"), n_bootstrap=20).result
    assert (exact.config["features"], coded.config["features"]) == ("patches", "patches_int8")
    assert coded.fingerprint != exact.fingerprint
    difference = coded.runs[0].metrics["dice"].value - exact.runs[0].metrics["dice"].value
    assert abs(difference) < 0.02


def test_tokens_are_chosen_by_what_a_head_reads_and_never_guessed(scans: tuple[Dataset, Path]) -> None:
    store = extracted(scans, image_size=32)
    assert chosen_tokens(store, None, layered=False) == "patches"
    store = extracted(scans, image_size=32, layers=2)
    assert chosen_tokens(store, None, layered=False) == "patches"
    assert chosen_tokens(store, None, layered=True) == "patches_l2"
    store = extracted(scans, image_size=32, layers=3, token_dtype="int8")
    assert chosen_tokens(store, None, layered=True) == "patches_l2", "the encoder's own numbers come first"
    assert chosen_tokens(store, "patches_l3_int8", layered=True) == "patches_l3_int8"
    store = extracted(scans, image_size=32, layers=4)
    with pytest.raises(ProbeError, match="several forms"):
        chosen_tokens(store, None, layered=True)
    with pytest.raises(ProbeError, match="no tokens 'patches_l9'"):
        chosen_tokens(store, "patches_l9", layered=True)
    np.testing.assert_array_equal(store["patches_l4"][:, 2:], store["patches_l2"][:])
