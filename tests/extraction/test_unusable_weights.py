"""Weights and sizes that cannot be used end an extraction with a remedy, before any image is opened."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
import transformers
from safetensors.torch import save_file

import featcache
from featcache.errors import ConfigurationError, FeatcacheError, WeightsError
from featcache.models import resolve_model
from tests.conftest import WriteImages
from tests.models.hub_server import fake_hub

OPENED: list[str] = []
WATCHED: list[str] = []


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if WATCHED and event == "open" and isinstance(arguments[0], str | bytes) and WATCHED[0] in str(arguments[0]):
        OPENED.append(str(arguments[0]))


sys.addaudithook(_watch)


@pytest.fixture
def images(image_folder: WriteImages, home: Path) -> Iterator[Path]:
    """A folder of images; every opening of one of them is noted. At the end, neither has a store been made."""
    root = image_folder(2)
    OPENED.clear()
    WATCHED[:] = [str(root)]
    yield root
    WATCHED.clear()
    assert not list(home.rglob("*.parquet"))
    assert not list(home.rglob("zarr.json"))


class Harmful:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("this must not run",))


def refuse(images: Path, model: str, weights: Path | None = None, **options: object) -> FeatcacheError:
    with pytest.raises(FeatcacheError) as caught:
        featcache.extract(model, "folder", root=images, weights=weights, **options)  # type: ignore[arg-type]
    assert caught.value.remedy
    assert not OPENED, "an image was opened first"
    return caught.value


def test_opened_images_are_noticed(image_folder: WriteImages) -> None:
    root = image_folder(2)
    WATCHED[:] = [str(root)]
    OPENED.clear()
    featcache.extract("pixels", "folder", root=root)
    WATCHED.clear()
    assert len({path for path in OPENED if path.endswith(".png")}) == 12


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_checkpoint_of_another_architecture(images: Path, tmp_path: Path, suffix: str) -> None:
    tensors = timm.create_model("test_resnet", pretrained=False).state_dict()
    path = tmp_path / f"other{suffix}"
    save_file(tensors, path) if suffix == ".safetensors" else torch.save(tensors, path)
    error = refuse(images, "dinov2_vits14", path)
    assert isinstance(error, WeightsError)
    assert "missing: cls_token (1, 1, 384)" in str(error)
    assert "surplus: conv1." in str(error)
    assert " missing, " in error.message.splitlines()[0]
    assert "another architecture" in str(error.remedy)


def test_a_checkpoint_of_another_size(images: Path, tmp_path: Path) -> None:
    network = timm.create_model("test_vit", pretrained=False, num_classes=0, embed_dim=96)
    save_file(network.state_dict(), tmp_path / "wide.safetensors")
    error = refuse(images, "timm:test_vit", tmp_path / "wide.safetensors")
    assert "shape of cls_token: (1, 1, 96), expected (1, 1, 64)" in str(error)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".bin"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_a_truncated_file(images: Path, tmp_path: Path, suffix: str, share: float) -> None:
    tensors = timm.create_model("test_resnet", pretrained=False).state_dict()
    path = tmp_path / f"whole{suffix}"
    save_file(tensors, path) if suffix == ".safetensors" else torch.save(tensors, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    error = refuse(images, "timm:test_resnet", path)
    assert str(path) in error.message
    assert "Download it again" in str(error.remedy)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"<!DOCTYPE html><html><body>Sign in to continue</body></html>", "is a web page, not a checkpoint"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 9\n", "is a Git LFS pointer"),
        (b"", "is empty"),
    ],
)
def test_something_else_saved_under_the_name(images: Path, tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "dinov2_vits14_pretrain.pth").write_bytes(content)
    assert expected in refuse(images, "dinov2_vits14", tmp_path / "dinov2_vits14_pretrain.pth").message


def test_code_in_a_pickle_does_not_run(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(Harmful(), protocol=2))
    torch.save({"model": {"a": torch.ones(1)}, "hook": Harmful()}, tmp_path / "archive.pth")
    for name in ("raw.pth", "archive.pth"):
        error = refuse(images, "dinov2_vits14", tmp_path / name)
        assert "which featcache refuses" in error.message
        assert "safetensors" in str(error.remedy)
    assert "this must not run" not in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["cut", "page", "code", "other"])
@pytest.mark.filterwarnings("ignore:.*has no preprocessor_config")
def test_a_folder_of_transformers_with_unusable_weights(
    images: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = transformers.ViTConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96, image_size=32, patch_size=16
    )
    transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "m")
    weights = tmp_path / "m" / "model.safetensors"
    if kind == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif kind == "page":
        weights.write_bytes(b"<!DOCTYPE html>")
    elif kind == "other":
        save_file({"a": torch.zeros(1)}, weights, metadata={"format": "pt"})
    else:
        weights.unlink()
        torch.save({"a": torch.zeros(1), "hook": Harmful()}, tmp_path / "m" / "pytorch_model.bin")
    error = refuse(images, f"hf:{tmp_path / 'm'}")
    assert isinstance(error, WeightsError)
    assert str(tmp_path / "m") in error.message
    assert "this must not run" not in capsys.readouterr().out


def test_a_gated_repository_without_a_token(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HF_TOKEN_PATH", "HF_HUB_CACHE", "HF_STORED_TOKENS_PATH"):
        monkeypatch.setattr(huggingface_hub.constants, name, str(tmp_path / name))
    with fake_hub() as hub:
        hub.gated = True
        spec = resolve_model("dinov3_vits16")
        hub.repositories[spec.checkpoint] = {"config.json": b"{}", "model.safetensors": b"x" * 5000}
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
        error = refuse(images, "dinov3_vits16")
    assert "is gated, and there is no token here" in error.message
    assert f"{hub.url}/facebook/dinov3-vits16-pretrain-lvd1689m" in str(error.remedy)
    assert "HF_TOKEN" in str(error.remedy)


def test_no_network_and_no_weights(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    error = refuse(images, "resnet152")
    assert "HF_HUB_OFFLINE" in error.message
    assert "featcache models get resnet152 --to DIR" in str(error.remedy)


@pytest.mark.parametrize("remembered", [False, True])
def test_an_input_size_that_is_no_multiple_of_the_patch(images: Path, tmp_path: Path, remembered: bool) -> None:
    """Also where the weights' digest is known from an earlier run, so that nothing has to be loaded."""
    network = timm.create_model("test_vit", pretrained=False)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    if remembered:
        one = tmp_path / "one"
        (one / "a").mkdir(parents=True)
        (one / "a" / "0.png").write_bytes(next(images.rglob("*.png")).read_bytes())
        OPENED.clear()
        featcache.extract("timm:test_vit", "folder", root=one, weights=tmp_path / "w.safetensors", home=tmp_path / "h")
    error = refuse(images, "timm:test_vit", tmp_path / "w.safetensors", image_size=150)
    assert isinstance(error, ConfigurationError)
    assert "multiples of its patch of 16 pixels, not 150" in error.message
    assert "--image-size 144 or 160" in str(error.remedy)
