"""Where weights are looked for, in which order, and what is said when they are not there."""

from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub
import pytest
import torch
import transformers
from huggingface_hub import save_torch_state_dict
from safetensors.torch import save_file

from featcache.errors import ConfigurationError, FeatcacheWarning, WeightsError
from featcache.models import load_model, locate_weights, resolve_model
from featcache.models.fetched import RECORD

TENSORS = {"a": torch.zeros(3), "b": torch.ones(4)}
DINO, RESNET, RAD = (resolve_model(name) for name in ("dinov2_vits14", "resnet152", "rad_dino"))


@pytest.fixture(autouse=True)
def nothing_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def cache(root: Path, repository: str, files: list[str], revision: str = "a" * 40) -> Path:
    """A repository in a hub's cache, with a blob for each file as the client leaves it; returns the snapshot."""
    folder = root / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / revision
    for part in (snapshot, folder / "blobs", folder / "refs"):
        part.mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text(revision)
    for name in files:
        blob = folder / "blobs" / f"{name}-{revision[:3]}"
        if name.endswith(".json"):
            blob.write_text("{}")
        else:
            save_file(TENSORS, blob)
        (snapshot / name).symlink_to(blob)
    return snapshot


@pytest.mark.parametrize("name", ["model.safetensors", "weights.pth", "any name", "model.safetensors.index.json"])
def test_a_file_is_taken_as_it_is(tmp_path: Path, name: str) -> None:
    if name.endswith(".json"):
        save_torch_state_dict(TENSORS, tmp_path, max_shard_size=13)
    else:
        save_file(TENSORS, tmp_path / name)
    assert locate_weights(DINO, tmp_path / name).path == tmp_path / name


def test_the_identity_follows_every_shard(tmp_path: Path) -> None:
    save_torch_state_dict(TENSORS, tmp_path, max_shard_size=13)
    before = locate_weights(DINO, tmp_path)
    assert before.path == tmp_path / "model.safetensors.index.json"
    assert before.identity.count(".safetensors ") == 2
    save_file({"b": torch.zeros(9)}, tmp_path / "model-00002-of-00002.safetensors")
    assert locate_weights(DINO, tmp_path).identity != before.identity
    (tmp_path / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(WeightsError, match="1 of 2 shards"):
        locate_weights(DINO, tmp_path)


def test_a_folder_is_searched_for_what_is_known_to_be_of_the_model(tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    with pytest.raises(WeightsError, match="holds no checkpoint, and none"):
        locate_weights(DINO, folder)
    save_file(TENSORS, folder / "mine.pth")
    assert locate_weights(DINO, folder).path == folder / "mine.pth", "the only checkpoint there"
    save_file(TENSORS, folder / "other.bin")
    with pytest.raises(WeightsError, match=r"holds mine\.pth, other\.bin, and none"):
        locate_weights(DINO, folder)
    save_file(TENSORS, folder / "pytorch_model.bin")
    assert locate_weights(DINO, folder).path == folder / "pytorch_model.bin"
    save_file(TENSORS, folder / "dinov2_vits14_pretrain.pth")
    assert locate_weights(DINO, folder).path == folder / "dinov2_vits14_pretrain.pth"
    assert locate_weights(RESNET, folder).path == folder / "pytorch_model.bin"


@pytest.mark.parametrize("through", ["option", "variable"])
def test_one_folder_holds_several_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, through: str) -> None:
    places = {"dinov2_vits14": DINO, "resnet152.tv_in1k": RESNET, "rad_dino": RAD}
    for name in places:
        (tmp_path / "all" / name).mkdir(parents=True)
        save_file(TENSORS, tmp_path / "all" / name / "model.safetensors")
        (tmp_path / "all" / name / "config.json").write_text("{}")
    save_file(TENSORS, tmp_path / "all" / "dinov2_vitb14.safetensors")
    if through == "variable":
        monkeypatch.setenv("FEATCACHE_WEIGHTS", f"{tmp_path / 'nowhere'}:{tmp_path / 'all'}")
    weights = tmp_path / "all" if through == "option" else None
    for name, spec in places.items():
        found = locate_weights(spec, weights).path
        assert found == tmp_path / "all" / name / ("" if spec is RAD else "model.safetensors")
    other = locate_weights(resolve_model("dinov2_vitb14"), weights).path
    assert other == tmp_path / "all" / "dinov2_vitb14.safetensors"
    with pytest.raises(WeightsError):
        locate_weights(resolve_model("vgg19"), weights)


@pytest.mark.parametrize("root", ["cache", "elsewhere/hub", "elsewhere"])
def test_a_cache_of_the_hub_is_used_here_or_carried(tmp_path: Path, root: str) -> None:
    place = tmp_path / ("elsewhere/hub" if root == "elsewhere" else root)
    weights = None if root == "cache" else tmp_path / root
    dino = cache(place, DINO.checkpoint, ["config.json", "model.safetensors"])
    rad = cache(place, RAD.checkpoint, ["config.json", "model.safetensors"])
    found = locate_weights(DINO, weights)
    assert (found.path, found.revision) == (dino / "model.safetensors", "a" * 40)
    assert locate_weights(RAD, weights).path == rad


def test_the_revision_of_the_row_comes_before_the_newest(tmp_path: Path) -> None:
    spec = resolve_model("msn_large")
    assert spec.revision is not None
    newest = cache(tmp_path / "cache", spec.checkpoint, ["config.json", "model.safetensors"], "b" * 40)
    assert locate_weights(spec).path == newest, "better than none; its digest is in the key"
    pinned = cache(tmp_path / "cache", spec.checkpoint, ["config.json", "pytorch_model.bin"], spec.revision)
    (tmp_path / "cache" / "models--facebook--vit-msn-large" / "refs" / "main").write_text("b" * 40)
    assert locate_weights(spec).path == pinned


def test_a_cache_without_the_weights_is_no_model(tmp_path: Path) -> None:
    cache(tmp_path / "cache", RAD.checkpoint, ["config.json"])
    cache(tmp_path / "cache", DINO.checkpoint, ["config.json"])
    for spec in (RAD, DINO):
        with pytest.raises(WeightsError, match="not on this machine"):
            locate_weights(spec, download=False)


def test_controls_take_no_weights(tmp_path: Path) -> None:
    for name in ("pixels", "efficientnet_lite0_random"):
        assert locate_weights(resolve_model(name)).path is None
        with pytest.raises(ConfigurationError, match="takes no weights"):
            locate_weights(resolve_model(name), tmp_path)


def test_what_the_checkpoint_says_otherwise_than_the_row_is_a_warning(tmp_path: Path) -> None:
    config = transformers.Dinov2Config(
        hidden_size=768, num_hidden_layers=12, num_attention_heads=12, patch_size=14, image_size=518
    )
    config.save_pretrained(tmp_path)
    save_file(TENSORS, tmp_path / "model.safetensors")
    processor = {
        "size": {"shortest_edge": 518},
        "crop_size": {"height": 518, "width": 518},
        "do_center_crop": True,
        "resample": 3,
        "image_mean": [0.5307] * 3,
        "image_std": [0.2583] * 3,
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    assert locate_weights(RAD, tmp_path).path == tmp_path
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**processor, "image_mean": [0.5] * 3}))
    with pytest.warns(FeatcacheWarning, match=r"mean is \(0\.5307, .* in featcache and \(0\.5, 0\.5, 0\.5\)"):
        locate_weights(RAD, tmp_path)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (transformers.Dinov2Config(hidden_size=384, num_attention_heads=6, patch_size=14), "dim 384, expected 768"),
        (transformers.ViTConfig(patch_size=14), "architecture vit, expected dinov2"),
    ],
)
def test_a_folder_of_another_architecture_is_no_model_of_that_name(
    tmp_path: Path, config: transformers.PreTrainedConfig, expected: str
) -> None:
    config.save_pretrained(tmp_path)
    save_file(TENSORS, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=expected) as caught:
        locate_weights(RAD, tmp_path)
    assert f"hf:{tmp_path}" in str(caught.value.remedy)


def test_a_record_is_compared_before_anything_is_loaded(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors")
    size = (tmp_path / "model.safetensors").stat().st_size
    record = {"revision": "d" * 40, "files": {"model.safetensors": {"size": size, "sha256": "0" * 64}}}
    (tmp_path / RECORD).write_text(json.dumps(record))
    assert locate_weights(DINO, tmp_path).revision == "d" * 40
    record["files"]["config.json"] = {"size": 2, "sha256": "0" * 64}  # type: ignore[index]
    (tmp_path / RECORD).write_text(json.dumps(record))
    with pytest.raises(WeightsError, match=r"1 files differ: config\.json"):
        locate_weights(DINO, tmp_path)


def test_the_digest_in_the_key_is_that_of_what_was_loaded(tmp_path: Path) -> None:
    """The same tensors in a file, in shards and inside of a training checkpoint are the same weights."""
    import timm

    torch.manual_seed(0)
    tensors = timm.create_model("test_resnet", pretrained=False).state_dict()
    save_file(tensors, tmp_path / "one.safetensors")
    (tmp_path / "shards").mkdir()
    save_torch_state_dict(tensors, tmp_path / "shards", max_shard_size=500_000)
    assert (tmp_path / "shards" / "model.safetensors.index.json").is_file()
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in tensors.items()}}, tmp_path / "two.pth")
    places = [tmp_path / "one.safetensors", tmp_path / "shards", tmp_path / "two.pth"]
    digests = {load_model("timm:test_resnet", weights=place).weights_digest for place in places}
    assert len(digests) == 1
    tensors["conv1.0.weight"][0] += 1e-3
    torch.save(tensors, tmp_path / "two.pth")
    assert load_model("timm:test_resnet", weights=tmp_path / "two.pth").weights_digest not in digests
