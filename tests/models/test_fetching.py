"""``featcache models get`` against a hub on this machine: what arrives, what is kept, what is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
import transformers
from filelock import FileLock
from safetensors.torch import save, save_file

from featcache.errors import ConfigurationError, WeightsError
from featcache.models import load_model, locate_weights, resolve_model
from featcache.models.fetching import fetch_model
from featcache.models.hub import needed_files
from tests.models.hub_server import TOKEN, FakeHub, fake_hub


@pytest.fixture(scope="module")
def resnet() -> bytes:
    torch.manual_seed(0)
    return bytes(save(timm.create_model("resnet18", pretrained=False).state_dict()))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """Serves ``timm:resnet18``; the client's own cache and token are those of an empty folder."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, place in (("HF_TOKEN_PATH", "token"), ("HF_HUB_CACHE", "hub"), ("HF_STORED_TOKENS_PATH", "tokens")):
        monkeypatch.setattr(huggingface_hub.constants, name, str(tmp_path / "hf" / place))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    with fake_hub() as found:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", found.url)
        monkeypatch.setattr(
            huggingface_hub.constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            found.url + "/{repo_id}/resolve/{revision}/{filename}",
        )
        yield found


@pytest.fixture
def files(hub: FakeHub, resnet: bytes) -> dict[str, bytes]:
    checkpoint = resolve_model("timm:resnet18").checkpoint
    hub.repositories[checkpoint] = {
        "README.md": b"words",
        "LICENSE": b"terms",
        "config.json": b'{"architecture": "resnet18"}',
        "pytorch_model.bin": b"p" * 5000,
        "model.safetensors": resnet,
        "training/optimizer.pt": b"o" * 5000,
    }
    return hub.repositories[checkpoint]


def test_a_fetched_folder_is_carried_and_used(
    hub: FakeHub, files: dict[str, bytes], resnet: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = fetch_model("timm:resnet18", tmp_path / "carry")
    assert set(found.files) == {"model.safetensors", "config.json", "LICENSE"}, "one form of the weights, nothing else"
    assert found.revision == hub.revision
    assert not found.reused
    assert sorted(path.name for path in (tmp_path / "carry").iterdir()) == [found.folder.name]
    record = json.loads((found.folder / "featcache.json").read_text())
    assert record["revision"] == hub.revision
    assert record["files"]["model.safetensors"] == {
        "size": len(resnet),
        "sha256": hashlib.sha256(resnet).hexdigest(),
    }
    assert {path.name for path in found.folder.iterdir()} == {*found.files, "featcache.json"}
    (tmp_path / "carry").rename(tmp_path / "elsewhere")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    save_file({}, tmp_path / "unused.safetensors")
    spec = resolve_model("timm:resnet18")
    expected = hashlib.sha256(resnet).hexdigest()
    for weights in (tmp_path / "elsewhere", tmp_path / "elsewhere" / found.folder.name):
        source = locate_weights(spec, weights)
        assert source.path is not None
        assert hashlib.sha256(source.path.read_bytes()).hexdigest() == expected
        assert source.revision == hub.revision
    monkeypatch.setenv("FEATCACHE_WEIGHTS", str(tmp_path / "elsewhere"))
    assert load_model("timm:resnet18", image_size=32).arrays["cls"] == (512,)


@pytest.mark.usefixtures("files")
def test_a_second_call_checks_and_asks_nothing_of_the_hub(hub: FakeHub, tmp_path: Path) -> None:
    first = fetch_model("timm:resnet18", tmp_path)
    hub.requests.clear()
    again = fetch_model("timm:resnet18", tmp_path)
    assert again.reused
    assert (again.folder, again.files, again.revision) == (first.folder, first.files, first.revision)
    assert not hub.requests


def test_only_what_was_damaged_is_fetched_again(hub: FakeHub, files: dict[str, bytes], tmp_path: Path) -> None:
    folder = fetch_model("timm:resnet18", tmp_path).folder
    flipped = bytearray((folder / "config.json").read_bytes())
    flipped[3] ^= 1
    (folder / "config.json").write_bytes(flipped)
    hub.requests.clear()
    assert not fetch_model("timm:resnet18", tmp_path).reused
    assert "config.json" in hub.downloads()
    assert "model.safetensors" not in hub.downloads(), "whole, and the hub knows its SHA-256"
    assert (folder / "config.json").read_bytes() == files["config.json"]
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("hf")) == [folder.name]


def test_an_interrupted_download_leaves_no_model_and_is_continued(
    hub: FakeHub, files: dict[str, bytes], resnet: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files["model.safetensors"] = resnet
    hub.cuts = [len(resnet) // 3, *[0] * 20]  # more often than the client tries again by itself
    monkeypatch.setattr("time.sleep", lambda _: None)  # between the client's own attempts
    folder = tmp_path / "carry" / resolve_model("timm:resnet18").checkpoint.split("/")[1]
    with pytest.raises(WeightsError):
        fetch_model("timm:resnet18", tmp_path / "carry")
    assert not folder.exists(), "nothing under the final name"
    hub.cuts.clear()
    hub.ranges.clear()
    fetch_model("timm:resnet18", tmp_path / "carry")
    assert (folder / "model.safetensors").read_bytes() == resnet
    assert hub.ranges
    assert int(hub.ranges[0].removeprefix("bytes=").split("-")[0]) > 1_000_000, "continued, not begun anew"


def test_other_bytes_than_announced_are_thrown_away(
    hub: FakeHub, files: dict[str, bytes], resnet: bytes, tmp_path: Path
) -> None:
    files["model.safetensors"] = resnet
    hub.lie = b"x" * len(resnet)
    with pytest.raises(WeightsError, match="the hub announced") as caught:
        fetch_model("timm:resnet18", tmp_path / "carry")
    assert caught.value.remedy
    assert [path.name for path in (tmp_path / "carry").iterdir() if not path.name.startswith(".")] == []
    assert fetch_model("timm:resnet18", tmp_path / "carry").files["model.safetensors"] == len(resnet)


@pytest.mark.usefixtures("files")
def test_a_folder_that_was_copied_in_part_is_refused(tmp_path: Path) -> None:
    folder = fetch_model("timm:resnet18", tmp_path).folder
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(1000)
    (folder / "LICENSE").unlink()
    with pytest.raises(WeightsError, match=r"2 files differ: model\.safetensors, LICENSE") as caught:
        locate_weights(resolve_model("timm:resnet18"), tmp_path)
    assert "models get" in str(caught.value.remedy)
    (folder / "featcache.json").write_text("{")
    with pytest.raises(WeightsError, match=r"featcache\.json is damaged"):
        locate_weights(resolve_model("timm:resnet18"), tmp_path)


@pytest.mark.usefixtures("files")
def test_a_gated_repository_says_whose_consent_is_missing(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.gated = True
    with pytest.raises(WeightsError, match="gated, and there is no token here") as caught:
        fetch_model("timm:resnet18", tmp_path)
    assert "HF_TOKEN" in str(caught.value.remedy)
    assert f"{hub.url}/timm/resnet18" in str(caught.value.remedy)
    monkeypatch.setenv("HF_TOKEN", "hf_" + "y" * 34)
    with pytest.raises(WeightsError, match="the token of this machine has no access"):
        fetch_model("timm:resnet18", tmp_path)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert fetch_model("timm:resnet18", tmp_path).revision == hub.revision


def test_what_the_hub_does_not_have_is_said(hub: FakeHub, files: dict[str, bytes], tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"has no model timm/resnet34"):
        fetch_model("timm:resnet34", tmp_path)
    files.clear()
    files["README.md"] = b"no weights"
    with pytest.raises(WeightsError, match=r"holds none of model\.safetensors"):
        fetch_model("timm:resnet18", tmp_path)
    hub.repositories["facebook/vit-msn-large"] = files
    with pytest.raises(WeightsError, match="no commit 1c37addaa34368c505a987e93dd7d771eef90b02"):
        fetch_model("msn_large", tmp_path)


def test_without_a_network_the_remedy_is_to_carry_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens on `discard`
    with pytest.raises(WeightsError, match="cannot be reached") as caught:
        fetch_model("resnet152", tmp_path, endpoint="http://127.0.0.1:9")
    assert "featcache models get resnet152 --to DIR" in str(caught.value.remedy)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE") as caught:
        fetch_model("resnet152", tmp_path)
    assert "Unset HF_HUB_OFFLINE" in str(caught.value.remedy)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE"):
        locate_weights(resolve_model("resnet152"))


def test_shards_are_fetched_with_their_index_and_nothing_twice(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    tensors = timm.create_model("test_resnet", pretrained=False).state_dict()
    huggingface_hub.save_torch_state_dict(tensors, tmp_path / "made", max_shard_size=600_000)
    made = {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()}
    assert len(made) > 2
    other = {"pytorch_model.bin": b"p" * 5000, "model.fp16.safetensors": b"h" * 5000, "model-00001-of-00002.bin": b"x"}
    hub.repositories[resolve_model("timm:test_resnet").checkpoint] = {**made, **other}
    found = fetch_model("timm:test_resnet", tmp_path / "carry")
    assert set(found.files) == set(made)
    assert load_model("timm:test_resnet", weights=tmp_path / "carry").arrays["cls"] == (96,)


def test_any_model_of_the_hub_is_carried_by_its_id(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = transformers.ViTConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96, image_size=32, patch_size=16
    )
    torch.manual_seed(0)
    transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "made")
    (tmp_path / "made" / "preprocessor_config.json").write_text('{"size": 32, "resample": 2}')
    hub.repositories["someone/tiny"] = {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()}
    found = fetch_model("hf:someone/tiny", tmp_path / "carry")
    assert found.folder == tmp_path / "carry" / "tiny"
    assert {"config.json", "preprocessor_config.json", "model.safetensors"} == set(found.files)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert load_model(f"hf:{found.folder}").arrays["cls"] == (48,)
    assert locate_weights(resolve_model(f"hf:{found.folder}")).revision == hub.revision


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("openclip_huge", ["model.safetensors", "config.json", "preprocessor_config.json"]),
        (
            "biomedclip",
            ["open_clip_model.safetensors", "config.json", "preprocessor_config.json", "open_clip_config.json"],
        ),
        ("dinov2_vits14", ["model.safetensors", "config.json", "preprocessor_config.json"]),
    ],
)
def test_of_several_forms_the_one_is_taken_that_the_source_reads(name: str, expected: list[str]) -> None:
    """As OpenCLIP's repositories are: the same weights four times."""
    available = [
        "README.md",
        "config.json",
        "preprocessor_config.json",
        "model.safetensors",
        "pytorch_model.bin",
        "open_clip_model.safetensors",
        "open_clip_pytorch_model.bin",
        "tokenizer.json",
    ]
    available += ["open_clip_config.json"] if name == "biomedclip" else []
    assert needed_files(resolve_model(name), available) == expected


@pytest.mark.usefixtures("files", "hub")
def test_two_processes_do_not_fetch_into_one_folder(tmp_path: Path) -> None:
    name = resolve_model("timm:resnet18").checkpoint.split("/")[1]
    with FileLock(tmp_path / f".{name}.lock"), pytest.raises(WeightsError, match="another process"):
        fetch_model("timm:resnet18", tmp_path)
    assert fetch_model("timm:resnet18", tmp_path).files


@pytest.mark.usefixtures("files", "hub")
def test_a_folder_of_the_users_is_not_touched(tmp_path: Path) -> None:
    name = resolve_model("timm:resnet18").checkpoint.split("/")[1]
    (tmp_path / name).mkdir()
    (tmp_path / name / "mine.txt").write_text("mine")
    with pytest.raises(ConfigurationError, match="did not make it"):
        fetch_model("timm:resnet18", tmp_path)
    assert [path.name for path in (tmp_path / name).iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(("name", "reason"), [("pixels", "needs no weights"), ("efficientnet_lite0", "comes with")])
def test_models_without_a_repository_are_not_fetched(name: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        fetch_model(name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_extraction_downloads_into_the_hubs_cache(hub: FakeHub, files: dict[str, bytes]) -> None:
    source = locate_weights(resolve_model("timm:resnet18"))
    assert source.path is not None
    assert source.revision == hub.revision
    assert source.path.read_bytes() == files["model.safetensors"]
    assert sorted(hub.downloads()) == ["LICENSE", "config.json", "model.safetensors"]
    hub.requests.clear()
    assert locate_weights(resolve_model("timm:resnet18")) == source
    assert not hub.requests, "the second time it is in the cache"
