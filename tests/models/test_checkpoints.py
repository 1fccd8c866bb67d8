"""Every form in which a checkpoint is handed around, and every way in which it is damaged."""

from __future__ import annotations

import argparse
import json
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import save_file

from featcache.errors import WeightsError
from featcache.models.checkpoints import check_file, load_strict, read_tensors, shards_of

TENSORS = {"blocks.0.weight": torch.arange(6.0).reshape(2, 3), "norm.bias": torch.ones(4)}


def same(found: dict[str, torch.Tensor]) -> bool:
    return found.keys() == TENSORS.keys() and all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)


def prefixed(prefix: str) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in TENSORS.items()}


@pytest.mark.parametrize(
    "content",
    [
        TENSORS,
        {"model": TENSORS},
        {"state_dict": TENSORS, "epoch": 3, "optimizer": {"lr": 0.1}},
        {"state_dict": prefixed("module.")},
        {"student": prefixed("module.backbone."), "teacher": prefixed("module.backbone.")},
        {"teacher": {**prefixed("backbone."), "dino_head.mlp.0.weight": torch.ones(1), "ibot_head.x": torch.ones(1)}},
        {"model": {"state_dict": prefixed("_orig_mod.")}},
        {"model": TENSORS, "args": argparse.Namespace(lr=0.1, output="x")},
    ],
    ids=["plain", "model", "training", "parallel", "teacher", "dinov2-training", "compiled", "arguments"],
)
@pytest.mark.parametrize("name", ["weights.pth", "weights.pt", "pytorch_model.bin"])
def test_a_state_dict_is_found_wherever_training_scripts_put_it(tmp_path: Path, content: object, name: str) -> None:
    torch.save(content, tmp_path / name)
    assert same(read_tensors(tmp_path / name))


def test_content_decides_the_format_not_the_name(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "b1f2c3")  # a blob in the hub's cache has no suffix
    torch.save(TENSORS, tmp_path / "torch.weights")
    torch.save(TENSORS, tmp_path / "old", _use_new_zipfile_serialization=False)
    for name in ("b1f2c3", "torch.weights", "old"):
        assert same(read_tensors(tmp_path / name)), name


def sharded(folder: Path) -> Path:
    """Two shards and their index, written by huggingface_hub."""
    save_torch_state_dict(TENSORS, folder, max_shard_size=24)
    assert len(list(folder.glob("*.safetensors"))) == 2
    return folder / "model.safetensors.index.json"


def test_shards_are_read_by_their_index_or_their_folder(tmp_path: Path) -> None:
    index = sharded(tmp_path)
    assert same(read_tensors(index))
    assert same(read_tensors(tmp_path))
    assert sorted(name for names in shards_of(index).values() for name in names) == sorted(TENSORS)


def test_missing_shards_are_listed(tmp_path: Path) -> None:
    index = sharded(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"1 of 2 shards.*model-00002-of-00002\.safetensors"):
        read_tensors(index)


def test_a_shard_of_another_revision_is_refused(tmp_path: Path) -> None:
    index = sharded(tmp_path)
    save_file({"something.else": torch.ones(1)}, tmp_path / "model-00001-of-00002.safetensors")
    with pytest.raises(WeightsError, match="lacks 1 tensors that"):
        read_tensors(index)


def test_an_index_cannot_point_out_of_its_folder(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../other.safetensors"}}))
    with pytest.raises(WeightsError, match="outside of its folder"):
        read_tensors(index)
    for text in ("[]", "{", '{"weight_map": []}', '{"weight_map": {}}'):
        index.write_text(text)
        with pytest.raises(WeightsError, match="index"):
            read_tensors(index)


def test_a_folder_prefers_safetensors_and_says_what_it_looked_for(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="holds no checkpoint") as caught:
        read_tensors(tmp_path)
    assert "pytorch_model.bin" in str(caught.value.remedy)
    torch.save({"other": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    save_file(TENSORS, tmp_path / "model.safetensors")
    assert same(read_tensors(tmp_path))


class Harmful:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("this must not run",))


@pytest.mark.parametrize("place", ["alone", "in torch's archive", "in the arguments"])
def test_code_in_a_pickle_is_named_and_not_run(tmp_path: Path, place: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "weights.pth"
    if place == "alone":
        path.write_bytes(pickle.dumps(Harmful()))
    elif place == "in torch's archive":
        torch.save({"model": TENSORS, "extra": Harmful()}, path)
    else:
        torch.save({"model": TENSORS, "args": argparse.Namespace(hook=Harmful())}, path)
    with pytest.raises(WeightsError, match=r"code|run builtins\.print|run __builtin__\.print") as caught:
        read_tensors(path)
    assert "safetensors" in str(caught.value.remedy)
    assert "this must not run" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"\xef\xbb\xbf\n <html>", "web page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 346\n", "Git LFS pointer"),
        (b"Entry not found", "."),
        (b'{"error":"Repository not found"}', "."),
        (b"\x93NUMPY", "."),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".bin"])
def test_what_is_no_checkpoint_is_named_with_a_remedy(
    tmp_path: Path, content: bytes, message: str, suffix: str
) -> None:
    (tmp_path / f"weights{suffix}").write_bytes(content)
    with pytest.raises(WeightsError, match=message) as caught:
        read_tensors(tmp_path / f"weights{suffix}")
    assert caught.value.remedy


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "a.safetensors")
    torch.save(TENSORS, tmp_path / "a.pth")
    for name in ("a.safetensors", "a.pth"):
        whole = (tmp_path / name).read_bytes()
        cut = tmp_path / f"cut{Path(name).suffix}"
        for length in range(0, len(whole), max(1, len(whole) // 40)):
            cut.write_bytes(whole[:length])
            with pytest.raises(WeightsError):
                read_tensors(cut)
            if name.endswith(".safetensors"):
                with pytest.raises(WeightsError):
                    check_file(cut)
        check_file(tmp_path / name)


def test_an_archive_of_something_else_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(WeightsError):
        read_tensors(tmp_path / "a.pth")


def test_what_differs_is_counted_and_the_list_is_capped() -> None:
    network = torch.nn.Sequential(*(torch.nn.Linear(2, 2) for _ in range(20)))
    tensors = dict(network.state_dict())
    for number in range(15):
        del tensors[f"{number}.bias"]
    tensors["19.weight"] = torch.zeros(3, 3)
    tensors["extra"] = torch.zeros(1)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(WeightsError) as caught:
        load_strict(network, tensors, "mine.pth")
    text = str(caught.value)
    assert "15 missing, 1 surplus, 1 of another shape of its 40 tensors" in text
    assert "missing: 0.bias (2,)" in text
    assert "and 7 more missing" in text
    assert "surplus: extra (1,)" in text
    assert "shape of 19.weight: (3, 3), expected (2, 2)" in text
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items()), "nothing is loaded"
