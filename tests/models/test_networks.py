"""timm, transformers and the controls against the libraries' own forward passes; every kind of bad weights."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
import transformers
from efficientnet_lite_pytorch import EfficientNet
from safetensors.torch import save_file

from featcache.errors import ConfigurationError, UnknownNameError, WeightsError
from featcache.models import load_model, locate_weights, resolve_model
from featcache.models.checkpoints import read_tensors, tensors_digest
from featcache.models.timm_networks import VisionTransformerEncoder, in_order_of
from tests.models.test_dinov2 import relative_error

pytestmark = pytest.mark.filterwarnings("ignore:.*has no preprocessor_config")

PIXELS = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))


def test_efficientnet_lite0_has_the_logits_of_the_packages_own_network() -> None:
    path = locate_weights(resolve_model("efficientnet_lite0")).path
    assert path is not None
    peer = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(path)).eval()
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    network.load_state_dict(in_order_of(network, read_tensors(path), "test"), strict=False)
    encoder = load_model("efficientnet_lite0")
    with torch.inference_mode():
        expected = peer(PIXELS)
        torch.testing.assert_close(network(PIXELS), expected, atol=1e-5, rtol=1e-5)
        logits = network.classifier(encoder.encode(PIXELS)["cls"])
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    assert encoder.arrays == {"cls": (1280,), "patch_mean": (1280,)}


def test_random_weights_are_reproducible_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = load_model("efficientnet_lite0_random", image_size=64)
    assert torch.rand(1) == expected
    torch.manual_seed(6)
    again = load_model("efficientnet_lite0_random", image_size=64)
    assert first.weights_digest == again.weights_digest != load_model("efficientnet_lite0").weights_digest
    small = PIXELS[:, :, :64, :64]
    assert torch.equal(first.encode(small)["cls"], again.encode(small)["cls"])


def test_pixels_are_averages() -> None:
    found = load_model("pixels").encode(PIXELS)
    assert float(found["cls"][1, 17]) == pytest.approx(float(PIXELS[1, :, 14:28, 14:28].mean()), abs=1e-6)


@pytest.mark.parametrize(
    ("name", "size"), [("vit_tiny_patch16_224", 224), ("vit_tiny_patch16_224", 160), ("resnet18", 96)]
)
def test_timm_ids_are_timms_own_forward(tmp_path: Path, name: str, size: int) -> None:
    torch.manual_seed(0)
    network = timm.create_model(name, pretrained=False).eval()
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    encoder = load_model(f"timm:{name}", weights=tmp_path / "weights.safetensors", image_size=size)
    if hasattr(network, "set_input_size") and size != 224:
        network.set_input_size(img_size=(size, size))
    pixels = PIXELS[:, :, :size, :size]
    with torch.inference_mode():
        last = network.forward_features(pixels)
        pooled = network.forward_head(last, pre_logits=True)
    found = encoder.encode(pixels)
    assert relative_error(found["cls"], last[:, 0] if last.ndim == 3 else pooled) < 1e-5
    tokens = last[:, 1:] if last.ndim == 3 else last.flatten(2).transpose(1, 2)
    assert relative_error(found["patch_mean"], tokens.mean(dim=1)) < 1e-5
    if last.ndim == 3:
        block = network.forward_intermediates(pixels, indices=[9], norm=True, return_prefix_tokens=True)[1][0]
        assert relative_error(found["intermediate"][:, 1], block[1][:, 0]) < 1e-5


TINY = {"hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 96}


@pytest.mark.parametrize(
    ("config", "model"),
    [
        (transformers.Dinov2Config(**TINY, image_size=70, patch_size=14), transformers.Dinov2Model),
        (
            transformers.Dinov2WithRegistersConfig(**TINY, image_size=70, patch_size=14),
            transformers.Dinov2WithRegistersModel,
        ),
        (transformers.ViTConfig(**TINY, image_size=64, patch_size=16), transformers.ViTModel),
        (transformers.ViTMSNConfig(**TINY, image_size=64, patch_size=16), transformers.ViTMSNModel),
        (transformers.CLIPVisionConfig(**TINY, image_size=64, patch_size=16), transformers.CLIPVisionModel),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_hf_folders_are_transformers_own_forward(tmp_path: Path, config: object, model: type) -> None:
    torch.manual_seed(0)
    network = model(config).eval()
    network.save_pretrained(tmp_path / "mine")
    encoder = load_model(f"hf:{tmp_path / 'mine'}", image_size=112)
    assert encoder.spec.name == "hf:mine"
    pixels = PIXELS[:, :, :112, :112]
    options = {} if "Dinov2" in model.__name__ else {"interpolate_pos_encoding": True}
    with torch.inference_mode():
        out = network(pixel_values=pixels, output_hidden_states=True, **options)
    found = encoder.encode(pixels)
    is_clip = model is transformers.CLIPVisionModel
    expected = out.pooler_output if is_clip else out.last_hidden_state[:, 0]
    assert relative_error(found["cls"], expected) < 1e-5
    assert found["intermediate"].shape == (2, 3, 48)
    if not is_clip:
        prefix = 5 if "Registers" in model.__name__ else 1
        assert relative_error(found["patch_mean"], out.last_hidden_state[:, prefix:].mean(dim=1)) < 1e-5


def test_hf_preprocessing_is_the_processors(tmp_path: Path) -> None:
    transformers.ViTModel(transformers.ViTConfig(**TINY, image_size=64, patch_size=16)).save_pretrained(tmp_path / "m")
    (tmp_path / "m" / "preprocessor_config.json").write_text(
        '{"size": {"shortest_edge": 80}, "crop_size": {"height": 64, "width": 64}, "do_center_crop": true,'
        ' "resample": 2, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}'
    )
    spec = resolve_model(f"hf:{tmp_path / 'm'}")
    assert (spec.resize, spec.image_size, spec.crop_fraction, spec.interpolation) == ("shortest", 64, 0.8, "bilinear")
    assert (spec.mean, spec.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("this must not run",))


def bad_weights(folder: Path) -> dict[str, bytes]:
    torch.save({"a": torch.zeros(1000)}, folder / "good.pth")
    save_file({"a": torch.zeros(1000)}, folder / "good.safetensors")
    torch.save([1, 2], folder / "list.pth")
    return {
        "empty.pth": b"",
        "page.pth": b"<!DOCTYPE html>",
        "page.safetensors": b"\n<html>",
        "cut.pth": (folder / "good.pth").read_bytes()[:500],
        "cut.safetensors": (folder / "good.safetensors").read_bytes()[:500],
        "code.pth": pickle.dumps(Harmful()),
        "list.pth": (folder / "list.pth").read_bytes(),
        "other.safetensors": (folder / "good.safetensors").read_bytes(),
    }


@pytest.mark.parametrize(
    "name",
    [
        "empty.pth",
        "page.pth",
        "page.safetensors",
        "cut.pth",
        "cut.safetensors",
        "code.pth",
        "list.pth",
        "other.safetensors",
    ],
)
def test_bad_weights_are_refused_with_a_remedy(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / name).write_bytes(bad_weights(tmp_path)[name])
    with pytest.raises(WeightsError) as caught:
        load_model("dinov2_vits14", weights=tmp_path / name)
    assert caught.value.remedy
    assert "must not run" not in capsys.readouterr().out


def test_weights_that_are_nowhere_say_what_to_put_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATCACHE_WEIGHTS", str(tmp_path))
    with pytest.raises(WeightsError, match=r"dinov2_vitb14_pretrain\.pth") as caught:
        locate_weights(resolve_model("dinov2_vitb14"), download=False)
    assert str(tmp_path) in str(caught.value)
    with pytest.raises(WeightsError, match="--weights"):
        locate_weights(resolve_model("timm:resnet18"), download=False)
    with pytest.raises(WeightsError, match="no such file"):
        locate_weights(resolve_model("dinov2_vitb14"), tmp_path / "nowhere.pth")


def test_unknown_models_name_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="dinov2_vitl14"):
        resolve_model("dino_vitl14")
    with pytest.raises(UnknownNameError, match="resnet18"):
        resolve_model("timm:resnet81")
    with pytest.raises(UnknownNameError, match="hf:<id or folder>"):
        resolve_model("onnx:x")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ConfigurationError, match="'bert' is not supported"):
        resolve_model(f"hf:{tmp_path}")


def test_an_incomplete_hf_folder_lists_what_is_missing(tmp_path: Path) -> None:
    transformers.ViTModel(transformers.ViTConfig(**TINY, image_size=64, patch_size=16)).save_pretrained(tmp_path)
    from safetensors.torch import load_file

    tensors = load_file(tmp_path / "model.safetensors")
    tensors.pop("layernorm.weight")
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"missing: layernorm\.weight"):
        load_model(f"hf:{tmp_path}")


def test_the_digest_knows_names_shapes_types_and_values() -> None:
    base = {"a": torch.zeros(2, 3), "b": torch.ones(4)}
    changed = [
        {"a": torch.zeros(3, 2), "b": torch.ones(4)},
        {"a": torch.zeros(2, 3), "c": torch.ones(4)},
        {"a": torch.zeros(2, 3), "b": torch.ones(4).half()},
        {"a": torch.zeros(2, 3), "b": torch.tensor([1, 1, 1, 2.0])},
    ]
    assert len({tensors_digest(tensors) for tensors in [base, *changed]}) == 5
    assert tensors_digest(base) == tensors_digest(dict(reversed(base.items())))


def test_reduced_precision_stays_close_to_full(tmp_path: Path) -> None:
    full = load_model("efficientnet_lite0").encode(PIXELS)["cls"]
    half = load_model("efficientnet_lite0").to("cpu", "bf16").encode(PIXELS)["cls"]
    assert half.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(full, half).min() > 0.99


def test_importing_the_package_loads_no_framework() -> None:
    code = "import sys, featcache.models; print([m for m in ('torch', 'timm', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_efficientnet_lite0_takes_timms_names_in_any_order(tmp_path: Path) -> None:
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    save_file(network.state_dict(), tmp_path / "sorted.safetensors")
    found = load_model("efficientnet_lite0", weights=tmp_path / "sorted.safetensors").encode(PIXELS)["cls"]
    with torch.inference_mode():
        expected = network.forward_head(network.forward_features(PIXELS), pre_logits=True)
    assert relative_error(found, expected) < 1e-5


@pytest.mark.parametrize(
    ("name", "size", "changes"),
    [
        ("deit_tiny_distilled_patch16_224", 64, {}),
        ("resnet18", 64, {"num_classes": 14}),
        ("swin_tiny_patch4_window7_224", 256, {}),
        ("vit_tiny_patch16_224", 64, {"class_token": False, "global_pool": "avg"}),
        ("vit_base_patch16_siglip_224", 64, {}),
    ],
)
def test_timm_networks_of_other_shapes(tmp_path: Path, name: str, size: int, changes: dict[str, object]) -> None:
    """Two heads, a head of the user's, windows, no class token with and without a pooling head."""
    torch.manual_seed(0)
    network = timm.create_model(name, pretrained=False, **changes).eval()
    for parameter in network.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape)
    if "class_token" in changes:
        spec = resolve_model(f"timm:{name}")
        encoder = VisionTransformerEncoder(spec, network, "", 224)
        size = 224
    else:
        save_file(network.state_dict(), tmp_path / "weights.safetensors")
        encoder = load_model(f"timm:{name}", weights=tmp_path / "weights.safetensors", image_size=size)
        if hasattr(network, "set_input_size"):
            network.set_input_size(img_size=(size, size))
    pixels = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        last = network.forward_features(pixels)
        pooled = network.forward_head(last, pre_logits=True)
    expected = last[:, 0] if "distilled" in name else pooled
    found = encoder.encode(pixels)
    assert relative_error(found["cls"], expected) < 1e-5
    if last.ndim == 3:
        assert relative_error(found["patch_mean"], last[:, network.num_prefix_tokens :].mean(dim=1)) < 1e-5


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("eva02_tiny_patch14_224", 225, "multiples of its patch of 14 pixels, not 225"),
        ("mixer_s32_224", 256, "does not take 256 pixels"),
    ],
)
def test_an_input_size_that_a_network_refuses_is_a_configuration_error(
    tmp_path: Path, name: str, size: int, message: str
) -> None:
    network = timm.create_model(name, pretrained=False)
    save_file({key: tensor.contiguous() for key, tensor in network.state_dict().items()}, tmp_path / "w.safetensors")
    with pytest.raises(ConfigurationError, match=message):
        load_model(f"timm:{name}", weights=tmp_path / "w.safetensors", image_size=size)


def test_the_checkpoint_in_a_folder_is_checked_like_any_other(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"surplus: a \(1,\)"):
        load_model("timm:resnet18", weights=tmp_path)


def test_legacy_checkpoints_damaged_anywhere_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    torch.save({"a": torch.zeros(20)}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    for length in range(1, len(whole), 3):
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsError):
            read_tensors(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"size": 80, "crop_size": 64, "do_center_crop": true, "resample": 3}', ("shortest", 0.8, "bicubic")),
        ('{"size": {"shortest_edge": 80}, "crop_size": {"height": 64, "width": 64}}', ("shortest", 0.8, "bicubic")),
    ],
)
def test_clips_older_processor_files_are_read(tmp_path: Path, text: str, expected: tuple[object, ...]) -> None:
    (tmp_path / "config.json").write_text(
        '{"model_type": "clip_vision_model", "hidden_size": 48, "num_hidden_layers": 4, "patch_size": 16}'
    )
    (tmp_path / "preprocessor_config.json").write_text(text)
    spec = resolve_model(f"hf:{tmp_path}")
    assert (spec.resize, spec.crop_fraction, spec.interpolation) == expected
    assert spec.image_size == 64


@pytest.mark.parametrize(("text", "interpolation"), [('{"size": 64}', "bilinear"), ('{"resample": 3}', "bicubic")])
def test_the_resampling_of_vit_is_bilinear_unless_said(tmp_path: Path, text: str, interpolation: str) -> None:
    (tmp_path / "config.json").write_text(
        '{"model_type": "vit", "hidden_size": 48, "num_hidden_layers": 4, "patch_size": 16, "image_size": 64}'
    )
    (tmp_path / "preprocessor_config.json").write_text(text)
    assert resolve_model(f"hf:{tmp_path}").interpolation == interpolation
    (tmp_path / "preprocessor_config.json").write_text('{"resample": 1}')
    with pytest.raises(ConfigurationError, match="method 1"):
        resolve_model(f"hf:{tmp_path}")


def test_preprocessing_is_not_made_up_when_the_hub_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text(
        '{"model_type": "vit", "hidden_size": 48, "num_hidden_layers": 4, "patch_size": 16, "image_size": 64}'
    )

    def download(name: str, file: str) -> str:
        if file != "config.json":
            raise ConnectionError
        return str(tmp_path / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(WeightsError, match=r"preprocessor_config\.json could not be had"):
        resolve_model("hf:some/model")
