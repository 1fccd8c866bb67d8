"""What runs a network: OpenVINO, torch.compile and memory formats against plain PyTorch in float32."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from featcache.errors import ConfigurationError, MissingDependencyError
from featcache.models import Encoder, load_encoder, locate_weights, openvino_runtime, resolve_model, runtime_key
from featcache.models.compiled import compile_features, compile_mode, compiling_repays, cpp_compiler
from featcache.models.runtime import prefers_channels_last

needs_openvino = pytest.mark.skipif(openvino_runtime.openvino_version() is None, reason="openvino is not installed")
PIXELS = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def small(name: str) -> Encoder:
    spec = resolve_model(name)
    return load_encoder(spec, locate_weights(spec, None), image_size=64)


@pytest.fixture(scope="module")
def transformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of a real ViT-Ti/16, random numbers in every tensor."""
    torch.manual_seed(0)
    network = timm.create_model("vit_tiny_patch16_224", pretrained=False)
    for parameter in network.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape)
    path = tmp_path_factory.mktemp("weights") / "vit.pth"
    torch.save(network.state_dict(), path)
    return path


def vit(path: Path) -> Encoder:
    spec = resolve_model("timm:vit_tiny_patch16_224")
    return load_encoder(spec, locate_weights(spec, path), image_size=64)


def cosine(found: torch.Tensor, expected: torch.Tensor) -> float:
    return torch.nn.functional.cosine_similarity(found.flatten(1).double(), expected.flatten(1).double()).min().item()


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


@needs_openvino
@pytest.mark.parametrize("patches", [False, True])
def test_openvino_in_float32_gives_the_features_of_torch(transformer: Path, patches: bool) -> None:
    expected = vit(transformer).encode(PIXELS, patches=patches)
    found = vit(transformer).to("cpu", "fp32", runtime="openvino").encode(PIXELS, patches=patches)
    assert set(found) == set(expected)
    for name, rows in expected.items():
        assert found[name].shape == rows.shape
        assert relative(found[name], rows) < 1e-4, name


@needs_openvino
def test_openvino_in_bf16_stays_within_the_cosine_of_the_documentation(transformer: Path) -> None:
    expected = vit(transformer).encode(PIXELS)
    try:
        found = vit(transformer).to("cpu", "bf16", runtime="openvino").encode(PIXELS)
    except ConfigurationError as error:
        pytest.skip(error.message)
    for name, rows in expected.items():
        assert cosine(found[name], rows) > 0.999, name


@needs_openvino
def test_openvino_computes_every_batch_size_and_keeps_earlier_results() -> None:
    encoder = small("efficientnet_lite0").to("cpu", "fp32", runtime="openvino")
    expected = small("efficientnet_lite0").encode(PIXELS)["cls"]
    first = encoder.encode(PIXELS)["cls"]
    copy = first.clone()
    assert relative(encoder.encode(PIXELS[:1])["cls"], expected[:1]) < 1e-4
    encoder.encode(PIXELS.flip(0))
    torch.testing.assert_close(first, copy, rtol=0, atol=0)
    assert relative(first, expected) < 1e-4


_DROPPED = """
import gc, signal, subprocess, sys, threading, torch
from featcache.models.openvino_runtime import openvino_features

module = torch.nn.Flatten()
kept = [openvino_features(lambda pixels: {"cls": module(pixels)}, module, "fp32")]
kept[0](torch.zeros(1, 3, 4, 4))
thread = threading.Thread(target=lambda: (kept.clear(), gc.collect()))
thread.start()
thread.join()
signal.signal(signal.SIGCHLD, lambda *_: None)
for _ in range(3):
    subprocess.run([sys.executable, "-c", ""], check=True)
"""


@needs_openvino
def test_signals_arrive_after_openvinos_network_was_dropped_in_another_thread() -> None:
    done = subprocess.run([sys.executable, "-c", _DROPPED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@needs_openvino
def test_openvino_is_refused_on_another_device_and_with_torch_compile() -> None:
    with pytest.raises(ConfigurationError, match="runs on the CPU"):
        small("pixels").to("cuda", "fp32", runtime="openvino")
    with pytest.raises(ConfigurationError, match=r"torch\.compile"):
        small("pixels").to("cpu", "fp32", runtime="openvino").compile("cpu")


def test_a_runtime_that_is_not_installed_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    found = openvino_runtime.importlib.util.find_spec

    def without(name: str) -> Any:
        return None if name == "openvino" else found(name)

    monkeypatch.setattr(openvino_runtime.importlib.util, "find_spec", without)
    with pytest.raises(MissingDependencyError, match="openvino"):
        runtime_key("openvino")
    with pytest.raises(MissingDependencyError, match="openvino"):
        small("pixels").to("cpu", "fp32", runtime="openvino")


def test_the_key_of_torch_is_without_its_version_and_an_unknown_runtime_is_refused() -> None:
    assert runtime_key("torch") == "torch"
    with pytest.raises(ConfigurationError, match="unknown runtime"):
        runtime_key("onnx")


@pytest.mark.skipif(cpp_compiler() is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_a_compiled_network_stays_within_the_tolerance_that_keeps_it_out_of_the_key() -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 8, stride=8), torch.nn.GELU(), torch.nn.Flatten(2)).eval()

    def features(pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        tokens = torch.nn.functional.layer_norm(network(pixels).mT, (8,))
        return {"cls": tokens.mean(dim=1), "patches": tokens}

    with torch.inference_mode():
        expected = features(PIXELS)
        found = compile_features(features, "cpu", "default")(PIXELS)
    for name, rows in expected.items():
        assert relative(found[name], rows) < 1e-5, name


def test_compiling_without_a_compiler_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingDependencyError, match="compiler"):
        small("pixels").compile("cpu")


def test_compiling_repays_long_runs_only_and_small_cuda_batches_get_graphs() -> None:
    assert not compiling_repays(60)
    assert compiling_repays(600)
    assert compile_mode("cuda:1", 8) == "reduce-overhead"
    assert compile_mode("cuda:1", 256) == compile_mode("cpu", 8) == "default"


def test_channels_go_innermost_in_convolutional_networks_only(transformer: Path) -> None:
    assert prefers_channels_last(small("efficientnet_lite0")._module, "cpu")
    assert not prefers_channels_last(small("efficientnet_lite0")._module, "mps")
    assert not prefers_channels_last(vit(transformer)._module, "cpu")


def test_channels_last_leaves_the_features_as_they_are() -> None:
    expected = small("efficientnet_lite0").encode(PIXELS, patches=True)  # as loaded: channels first
    encoder = small("efficientnet_lite0").to("cpu", "fp32")
    assert encoder._module.conv_stem.weight.is_contiguous(memory_format=torch.channels_last)
    for name, rows in encoder.encode(PIXELS, patches=True).items():
        assert relative(rows, expected[name]) < 1e-5, name


@needs_openvino
def test_the_converter_reports_nothing_over_the_network() -> None:
    """Where openvino-telemetry is installed, it is not even loaded."""
    openvino_runtime._openvino()
    assert sys.modules["openvino_telemetry"] is None


_RELEASED_ELSEWHERE = """
import gc, signal, subprocess, threading
import torch
from featcache.models import load_model

held = [load_model("efficientnet_lite0_random", image_size=64).to("cpu", "fp32", runtime="openvino")]
held[0].encode(torch.rand(2, 3, 64, 64))
release = threading.Thread(target=lambda: (held.clear(), gc.collect()))
release.start()
release.join()
handled = []
signal.signal(signal.SIGCHLD, lambda *_: handled.append(True))
subprocess.run(["true"], check=True)
print("handled", len(handled))
"""


@needs_openvino
def test_signals_are_handled_after_a_network_was_released_in_another_thread() -> None:
    """OpenVINO then unmapped the stack on which the first thread runs its signal handlers."""
    done = subprocess.run([sys.executable, "-c", _RELEASED_ELSEWHERE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "handled 1\n"), done.stderr


@pytest.mark.parametrize("allowed", [True, False])
def test_an_encoder_on_cuda_computes_without_tensorfloat32_and_leaves_the_setting(
    allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the setting does needs a GPU; that it is made and taken back does not."""
    encoder = small("efficientnet_lite0_random")
    seen: list[tuple[bool, bool]] = []
    run = encoder._features
    monkeypatch.setattr(encoder, "_runs", {1: lambda pixels: (seen.append(_tf32()), run(pixels))[1]})
    before = _tf32()
    _choose_tf32(allowed, allowed)
    try:
        encoder.encode(PIXELS)
        monkeypatch.setattr(encoder, "_is_on_cuda", True)
        encoder.encode(PIXELS)
        assert seen == [(allowed, allowed), (False, False)]
        assert _tf32() == (allowed, allowed)
    finally:
        _choose_tf32(*before)


def _choose_tf32(convolutions: bool, products: bool) -> None:
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = convolutions, products


def _tf32() -> tuple[bool, bool]:
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
