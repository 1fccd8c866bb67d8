"""Memory that is said before loading against what a process really took."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch

import featcache
from featcache.extraction import estimate
from featcache.extraction.devices import free_memory
from featcache.models import MODELS, Footprint, footprint, resolve_model
from tests.conftest import WriteImages
from tests.models.test_direct import FAMILIES
from tests.models.test_transformers_families import saved

_PEAK = """
import gc, sys, timm, torch
from featcache.models.timm_networks import VisionTransformerEncoder
from featcache.models import resolve_model

def resident(field):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(field))

name, precision, images = sys.argv[1], sys.argv[2], int(sys.argv[3])
torch.set_num_threads(1)
network = timm.create_model(name, num_classes=0)
encoder = VisionTransformerEncoder(resolve_model("timm:" + name), network, "0" * 64, 224).to("cpu", precision)
encoder.encode(torch.zeros(1, 3, 224, 224))
gc.collect()
before = resident("VmRSS")
open("/proc/self/clear_refs", "w").write("5")  # the peak counts from now on
encoder.encode(torch.zeros(images, 3, 224, 224))
print((resident("VmHWM") - before) / images)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_activations_are_within_a_factor_of_two_of_the_measured_peak(precision: str) -> None:
    name, images = "vit_tiny_patch16_224", 24
    done = subprocess.run(
        [sys.executable, "-c", _PEAK, name, precision, str(images)], capture_output=True, text=True, check=True
    )
    counted = footprint(resolve_model(f"timm:{name}"), 224, precision)
    assert counted is not None
    assert 0.5 < counted.activations / float(done.stdout) < 2


def test_weights_are_the_bytes_of_the_state_dict() -> None:
    network = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    expected = sum(tensor.numel() for tensor in network.state_dict().values())
    for precision, size in (("fp32", 4), ("bf16", 2), ("fp16", 2)):
        counted = footprint(resolve_model("timm:vit_tiny_patch16_224"), 224, precision)  # type: ignore[arg-type]
        assert counted is not None
        assert counted.weights == size * expected


def test_giant_models_are_counted_without_their_memory() -> None:
    counted = footprint(MODELS["dinov2_vitg14"], 224, "bf16")
    assert counted is not None
    assert counted.weights == pytest.approx(2 * 1.1365e9, rel=0.01)  # 1.1 billion parameters (Oquab et al. 2023)


def test_what_only_the_checkpoint_knows_is_not_guessed() -> None:
    assert footprint(replace(MODELS["dinov2_vits14"], source="huggingface", name="hf:mine"), 224, "fp32") is None


@pytest.mark.parametrize("family", ["clip", "dinov3", "siglip", "vit"])
@pytest.mark.filterwarnings("ignore:.*has no preprocessor_config")
def test_a_local_configuration_is_counted_before_its_weights_are_read(tmp_path: Path, family: str) -> None:
    network = saved(FAMILIES[family](), tmp_path)
    tower = getattr(network, "vision_model", network)
    (tmp_path / "model.safetensors").unlink()
    counted = footprint(resolve_model(f"hf:{tmp_path}"), 64, "bf16")
    assert counted is not None
    held = sum(tensor.numel() for name, tensor in tower.state_dict().items() if "pooler" not in name)
    assert counted.weights == pytest.approx(2 * held, rel=0.02)
    larger = footprint(resolve_model(f"hf:{tmp_path}"), 96, "bf16")
    assert larger is not None
    assert larger.activations > counted.activations


@pytest.mark.parametrize("name", ["ViT-B-32", "RN50", "ViT-B-16-SigLIP"])
@pytest.mark.filterwarnings("ignore:.*does not say its preprocessing")
def test_towers_of_open_clip_are_counted_at_their_input_size(name: str) -> None:
    pytest.importorskip("open_clip")
    counted, larger = (footprint(resolve_model(f"open_clip:{name}"), size, "fp32") for size in (224, 448))
    assert counted is not None
    assert larger is not None
    assert larger.activations > 2 * counted.activations
    assert counted.weights > 4 * 38e6  # the smallest of these towers, RN50


def test_the_batch_is_halved_until_it_fits() -> None:
    model = Footprint(weights=1000, activations=10)
    assert model.largest_batch(free=10_000, wanted=32) == 32
    assert model.largest_batch(free=1_600, wanted=32) == 16
    assert model.largest_batch(free=10, wanted=32) == 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_free_memory_of_the_cpu_is_less_than_there_is() -> None:
    total = int(Path("/proc/meminfo").read_text(encoding="ascii").split()[1]) * 1024
    free = free_memory("cpu")
    assert free is not None
    assert 0 <= free <= total
    assert free_memory("mps") is None


def test_a_dry_run_says_the_memory_and_an_extraction_takes_a_batch_that_fits(
    image_folder: WriteImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = image_folder(2)
    counted = footprint(MODELS["efficientnet_lite0"], 64, "fp32")
    assert counted is not None
    (forecast,) = estimate(["efficientnet_lite0"], "folder", root=root, image_size=64, device="cpu")
    assert forecast.batch_size == 32
    assert forecast.device_bytes == counted.bytes_for(32)
    free = 2 * counted.bytes_for(4)
    monkeypatch.setattr("featcache.extraction.fitting_batch.free_memory", lambda device: free)
    report = featcache.extract("efficientnet_lite0", "folder", root=root, image_size=64, device="cpu")
    assert report.computed == 12
    assert report.batch_size == counted.largest_batch(free, 32) < 32
    assert counted.bytes_for(report.batch_size) < free


def test_a_batch_size_that_was_asked_for_stays(image_folder: WriteImages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featcache.extraction.fitting_batch.free_memory", lambda device: 1)
    report = featcache.extract("pixels", "folder", root=image_folder(1), batch_size=16, device="cpu")
    assert report.batch_size == 16


def test_counting_leaves_the_default_device_alone() -> None:
    footprint(MODELS["efficientnet_lite0"], 64, "fp32")
    assert torch.empty(1).device.type == "cpu"
