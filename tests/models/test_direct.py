"""Loading straight in the compute precision: the same numbers, and half of the memory."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
import transformers
from safetensors.torch import save_file

from featcache.errors import WeightsError
from featcache.models import load_encoder, locate_weights, resolve_model
from tests.models.test_transformers_families import VIT, saved

TEXT = {name: value for name, value in VIT.items() if name not in ("image_size", "patch_size")}
pytestmark = pytest.mark.filterwarnings("ignore:.*has no preprocessor_config")

FAMILIES = {
    "dinov3": lambda: transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**VIT, num_register_tokens=4)),
    "clip": lambda: transformers.CLIPModel(
        transformers.CLIPConfig(text_config={**TEXT, "vocab_size": 50}, vision_config=VIT)
    ),
    "siglip": lambda: transformers.SiglipModel(
        transformers.SiglipConfig(text_config={**TEXT, "vocab_size": 50}, vision_config=VIT)
    ),
    "vit": lambda: transformers.ViTModel(transformers.ViTConfig(**VIT)),
    "mae": lambda: transformers.ViTMAEForPreTraining(transformers.ViTMAEConfig(**VIT)),
}

_PEAK = """
import sys, threading
from dataclasses import replace
from featcache.models import load_encoder, locate_weights, resolve_model
import featcache.models.timm_networks
if sys.argv[1].startswith("hf:"):
    from transformers import DINOv3ViTModel

def anonymous():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("RssAnon"))

name, path, precision, size = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
spec = resolve_model(name)
source = replace(locate_weights(spec, __import__("pathlib").Path(path) if path else None), precision=precision)
before = highest = anonymous()
done = threading.Event()

def watch():
    global highest
    while not done.wait(0.002):
        highest = max(highest, anonymous())

watcher = threading.Thread(target=watch)
watcher.start()
encoder = load_encoder(spec, source, image_size=size)
done.set()
watcher.join()
print(highest - before)
"""


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A ViT-B/14 of DINOv2 with random weights: 346 MB in float32, in both file formats."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    tensors = timm.create_model("vit_base_patch14_dinov2", num_classes=0, img_size=518).state_dict()
    torch.save(tensors, folder / "model.pth")
    save_file(tensors, folder / "model.safetensors")
    return {"pth": folder / "model.pth", "safetensors": folder / "model.safetensors"}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_a_large_network_never_exists_in_float32(checkpoints: dict[str, Path], kind: str) -> None:
    path = checkpoints[kind]
    code = [sys.executable, "-c", _PEAK, "dinov2_vitb14", str(path), "bf16", "28"]
    peak = float(subprocess.run(code, capture_output=True, text=True, check=True).stdout)
    in_bf16 = path.stat().st_size / 2
    assert 0.9 * in_bf16 < peak < 1.5 * in_bf16


@pytest.mark.parametrize("size", [28, 518])
def test_the_numbers_are_those_of_loading_in_float32_and_converting(tmp_path: Path, size: int) -> None:
    torch.manual_seed(0)
    network = timm.create_model("vit_small_patch14_dinov2", num_classes=0, img_size=518)
    torch.save(network.state_dict(), tmp_path / "model.pth")
    spec = resolve_model("dinov2_vits14")
    source = locate_weights(spec, tmp_path / "model.pth")
    whole = load_encoder(spec, source, image_size=size)
    direct = load_encoder(spec, replace(source, precision="bf16"), image_size=size)
    assert (whole.loaded_in, direct.loaded_in) == ("fp32", "bf16")
    assert direct.weights_digest == whole.weights_digest
    expected = whole.to("cpu", "bf16")._module.state_dict()
    found = direct._module.state_dict()
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == torch.bfloat16
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("family", ["dinov3", "clip", "siglip", "vit", "mae"])
def test_models_of_transformers_too_and_their_digest_is_that_of_the_file(tmp_path: Path, family: str) -> None:
    torch.manual_seed(0)
    saved(FAMILIES[family](), tmp_path)
    spec = resolve_model(f"hf:{tmp_path}")
    source = locate_weights(spec, None)
    whole = load_encoder(spec, source, image_size=32)
    direct = load_encoder(spec, replace(source, precision="bf16"), image_size=32)
    # transformers renames and rearranges the tensors of these two, so that only float32 tells the file's numbers.
    assert direct.loaded_in == ("fp32" if family in ("vit", "mae") else "bf16")
    assert direct.weights_digest == whole.weights_digest
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = whole.to("cpu", "bf16").encode(pixels, patches=True)
    found = direct.to("cpu", "bf16").encode(pixels, patches=True)
    assert set(found) == set(expected)
    for name, rows in expected.items():
        assert torch.equal(found[name], rows), name


def test_a_file_of_other_numbers_has_another_digest_in_every_precision(tmp_path: Path) -> None:
    digests = set()
    for seed in range(2):
        torch.manual_seed(seed)
        saved(FAMILIES["dinov3"](), tmp_path)
        spec = resolve_model(f"hf:{tmp_path}")
        source = replace(locate_weights(spec, None), precision="bf16")
        digests.add(load_encoder(spec, source, image_size=32).weights_digest)
    assert len(digests) == 2


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_large_model_of_transformers_never_exists_in_float32(tmp_path: Path) -> None:
    torch.manual_seed(0)
    size = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
    saved(transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**size, image_size=32, patch_size=16)), tmp_path)
    code = [sys.executable, "-c", _PEAK, f"hf:{tmp_path}", "", "bf16", "32"]
    peak = float(subprocess.run(code, capture_output=True, text=True, check=True).stdout)
    in_bf16 = (tmp_path / "model.safetensors").stat().st_size / 2
    assert 0.9 * in_bf16 < peak < 1.5 * in_bf16


def test_a_network_holds_copies_so_that_its_file_may_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save(timm.create_model("vit_tiny_patch16_224", pretrained=False).state_dict(), path)
    spec = resolve_model("timm:vit_tiny_patch16_224")
    encoder = load_encoder(spec, locate_weights(spec, path), image_size=32)
    pixels = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    before = encoder.encode(pixels)["cls"].clone()
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert torch.equal(encoder.encode(pixels)["cls"], before)


def test_a_checkpoint_of_another_size_is_still_refused_with_its_tensors(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save(timm.create_model("vit_small_patch16_224", pretrained=False).state_dict(), path)
    spec = resolve_model("timm:vit_tiny_patch16_224")
    with pytest.raises(WeightsError, match="shape of cls_token"):
        load_encoder(spec, locate_weights(spec, path), image_size=32)
