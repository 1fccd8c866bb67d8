"""``featcache models``: the table, one row, and fetching to carry, as a user runs them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
import zarr
from safetensors.torch import save

import featcache
from featcache.models import MODELS, ModelSpec, resolve_model
from tests.cli.test_commands import loaded_by, run
from tests.conftest import WriteImages
from tests.models.hub_server import TOKEN, FakeHub, fake_hub


@pytest.fixture
def nowhere(tmp_path: Path) -> dict[str, str]:
    """An environment in which no weights are on this machine, and no token."""
    return {"HF_HOME": str(tmp_path / "hf"), "TORCH_HOME": str(tmp_path / "torch"), "HF_TOKEN": ""}


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    torch.manual_seed(0)
    with fake_hub() as found:
        for name, network in (("timm:test_resnet", "test_resnet"), ("resnet152", "test_resnet")):
            tensors = timm.create_model(network, pretrained=False).state_dict()
            found.repositories[resolve_model(name).checkpoint] = {"model.safetensors": bytes(save(tensors))}
        yield found


def test_json_has_every_field_of_every_row(nowhere: dict[str, str]) -> None:
    rows = {row["name"]: row for row in json.loads(run("models", "--json", **nowhere).stdout)["models"]}
    assert list(rows) == MODELS.names()
    fields = {field.name for field in dataclasses.fields(ModelSpec)}
    for spec in MODELS:
        row = rows[spec.name]
        assert fields <= row.keys()
        assert tuple(row["mean"]) == spec.mean
        assert (row["flops"], row["parameters"], row["revision"]) == (spec.flops, spec.parameters, spec.revision)
        assert row["available"] == (row["remedy"] is None)
    assert rows["pixels"]["available"]
    assert not rows["medsiglip"]["available"]
    assert "models get medsiglip" in rows["medsiglip"]["remedy"]


def test_the_table_says_what_decides(tmp_path: Path, nowhere: dict[str, str]) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "dinov2_vitl14_pretrain.pth").write_bytes(b"x")
    lines = run("models", FEATCACHE_WEIGHTS=str(tmp_path / "weights"), **nowhere).stdout.splitlines()
    header = lines[0].split()
    assert header == ["name", "source", "dim", "patch", "size", "parameters", "GFLOPs", "gated", "here", "licence"]
    rows = {line.split()[0]: line.split() for line in lines[1 : len(MODELS) + 1]}
    assert list(rows) == MODELS.names()
    assert rows["dinov2_vitl14"][1:] == [
        "dinov2",
        "1024",
        "14",
        "224",
        "304.4",
        "M",
        "162.0",
        "no",
        "yes",
        "Apache-2.0",
    ]
    assert rows["dinov2_vitb14"][8:10] == ["no", "no"]
    assert rows["dinov3_vit7b16"][1:10] == ["huggingface", "4096", "16", "224", "6716.0", "M", "2725.5", "yes", "no"]


def test_a_name_shows_all_facts_of_one_row(nowhere: dict[str, str]) -> None:
    told = run("models", "rad_dino", **nowhere).stdout
    for fact in ("microsoft/rad-dino", "0.5307, 0.5307, 0.5307", "518", "MIT", "303.1", "Pérez-García"):
        assert fact in told
    for arguments in (("rad_dino", "--json"), ("--json", "rad_dino")):
        assert json.loads(run("models", *arguments, **nowhere).stdout)["model"]["dim"] == 768
    wrong = run("models", "rad_dinno", check=False)
    assert wrong.returncode == 1
    assert "did you mean 'rad_dino'" in wrong.stderr


def test_listing_loads_no_framework() -> None:
    assert not loaded_by("models") & {"torch", "timm", "transformers"}
    assert not loaded_by("models", "rad_dino") & {"torch", "timm", "transformers"}


def test_fetched_here_extracted_there(
    hub: FakeHub, nowhere: dict[str, str], tmp_path: Path, image_folder: WriteImages
) -> None:
    done = run("models", "get", "timm:test_resnet", "--to", tmp_path / "carry", HF_ENDPOINT=hub.url, **nowhere)
    assert hub.revision in done.stdout
    assert "model.safetensors" in done.stderr
    (tmp_path / "carry").rename(tmp_path / "there")
    extract = ("extract", "--model", "timm:test_resnet", "--dataset", "folder", "--root", image_folder(2), "--json")
    offline = {**nowhere, "HF_HUB_OFFLINE": "1"}
    report = json.loads(run(*extract, "--weights", tmp_path / "there", **offline).stdout)
    assert report["computed"] == 12
    provenance = zarr.open_group(report["store"], mode="r").attrs["featcache"]["provenance"]  # type: ignore[index,call-overload]
    assert provenance["revision"] == hub.revision
    assert featcache.open(report["store"])["cls"].shape == (12, 96)


def test_a_second_get_needs_no_network(hub: FakeHub, nowhere: dict[str, str], tmp_path: Path) -> None:
    arguments = ("models", "get", "resnet152", "--to", tmp_path, "--json")
    first = json.loads(run(*arguments, HF_ENDPOINT=hub.url, **nowhere).stdout)
    again = json.loads(run(*arguments, HF_ENDPOINT="http://127.0.0.1:9", **nowhere).stdout)
    assert again == {**first, "reused": True}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, ("gated, and there is no token here", "HF_TOKEN")),
        ({"HF_TOKEN": "hf_" + "z" * 34}, ("the token of this machine has no access", "conditions")),
        ({"HF_HUB_OFFLINE": "1"}, ("HF_HUB_OFFLINE", "Unset HF_HUB_OFFLINE")),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, ("cannot be reached", "models get")),
    ],
    ids=["no token", "foreign token", "offline", "no network"],
)
def test_a_refusal_is_one_error_with_a_remedy(
    hub: FakeHub, nowhere: dict[str, str], tmp_path: Path, environment: dict[str, str], expected: tuple[str, str]
) -> None:
    hub.gated = True
    arguments = ("models", "get", "resnet152", "--to", tmp_path / "carry")
    done = run(*arguments, check=False, **{"HF_ENDPOINT": hub.url, **nowhere, **environment})
    assert done.returncode == 1
    message, remedy = done.stderr.strip().splitlines()[-2:]
    assert expected[0] in message
    assert expected[1] in remedy
    assert "Traceback" not in done.stderr
    assert not [path for path in (tmp_path / "carry").iterdir() if not path.name.startswith(".")]


def test_a_token_opens_a_gated_repository(hub: FakeHub, nowhere: dict[str, str], tmp_path: Path) -> None:
    hub.gated = True
    environment = {**nowhere, "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN}
    done = run("models", "get", "resnet152", "--to", tmp_path, "--json", **environment)
    assert json.loads(done.stdout)["revision"] == hub.revision
