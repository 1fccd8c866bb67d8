"""Parts of a batch in threads against the same parts one after the other."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers

from featcache.extraction.encoding import Encoding
from featcache.extraction.parts import PART, Parts
from featcache.models import Encoder, load_model
from tests.models.test_open_clip_towers import VIT as TOWER
from tests.models.test_open_clip_towers import saved as saved_tower
from tests.models.test_transformers_families import SHAPE, VIT, saved

pytestmark = pytest.mark.filterwarnings("ignore:.*has no preprocessor_config")

PIXELS = torch.randn(22, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def convolutional(_: Path) -> Encoder:
    return load_model("efficientnet_lite0_random", image_size=64)


def transformer(folder: Path) -> Encoder:
    torch.manual_seed(0)
    torch.save(timm.create_model("vit_tiny_patch16_224").state_dict(), folder / "vit.pth")
    return load_model("timm:vit_tiny_patch16_224", weights=folder / "vit.pth", image_size=64)


def hugging_face(folder: Path) -> Encoder:
    torch.manual_seed(0)
    saved(transformers.Dinov2Model(transformers.Dinov2Config(**VIT)), folder)
    return load_model(f"hf:{folder}", image_size=64)


def segment_anything(folder: Path) -> Encoder:
    torch.manual_seed(0)
    windows = {"mlp_dim": 64, "output_channels": 8, "global_attn_indexes": [1], "window_size": 2}
    saved(transformers.SamVisionModel(transformers.SamVisionConfig(**SHAPE, patch_size=16, **windows)), folder)
    return load_model(f"hf:{folder}", image_size=64)


def open_clips(folder: Path) -> Encoder:
    saved_tower(folder, TOWER)
    return load_model(f"open_clip:{folder}")


@pytest.mark.parametrize("build", [convolutional, transformer, hugging_face, segment_anything, open_clips])
def test_threads_give_the_bits_of_one_part_after_the_other(build: Any, tmp_path: Path) -> None:
    encoder = build(tmp_path)
    assert encoder.is_thread_safe
    torch.set_num_threads(1)
    one_by_one = [encoder.encode(part, patches=True) for part in torch.split(PIXELS, PART)]
    expected = {name: torch.cat([part[name] for part in one_by_one]) for name in one_by_one[0]}
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        with Parts(lambda pixels: encoder.encode(pixels, patches=True)) as parts:
            for _ in range(3):
                found = parts(PIXELS)
                assert set(found) == set(expected)
                assert all(torch.equal(found[name], rows) for name, rows in expected.items())
    whole = encoder.encode(PIXELS, patches=True)
    for name, rows in expected.items():
        assert (whole[name] - rows).norm() < 1e-5 * rows.norm()


def test_parts_compute_at_the_same_time_and_share_the_threads() -> None:
    meeting = threading.Barrier(3, timeout=60)
    seen = []

    def meet(pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        meeting.wait()
        seen.append((threading.get_ident(), torch.get_num_threads()))
        return {"cls": pixels}

    torch.set_num_threads(7)
    with Parts(meet) as parts:
        assert torch.equal(parts(PIXELS[: 3 * PART])["cls"], PIXELS[: 3 * PART])
        assert torch.get_num_threads() == 7
    assert len({thread for thread, _ in seen}) == 3
    assert {threads for _, threads in seen} == {2}
    later: list[int] = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert later == [7]
    assert not any(thread.name.startswith("featcache-encode") for thread in threading.enumerate())


def test_a_larger_batch_than_before_gets_more_threads() -> None:
    torch.set_num_threads(3)
    with Parts(lambda pixels: {"thread": torch.full((len(pixels),), threading.get_ident())}) as parts:
        parts(PIXELS[: 2 * PART])
        meeting = threading.Barrier(3, timeout=60)
        parts._encode = lambda pixels: {"met": torch.full((len(pixels),), meeting.wait())}
        assert sorted(set(parts(PIXELS[: 3 * PART])["met"].tolist())) == [0, 1, 2]


def test_an_error_of_a_part_is_raised_and_the_next_batch_goes_on() -> None:
    torch.set_num_threads(2)

    def picky(pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        if pixels.sum() < 0:
            raise ValueError("negative")
        return {"cls": pixels}

    with Parts(picky) as parts:
        with pytest.raises(ValueError, match="negative"):
            parts(-torch.ones(20, 3, 2, 2))
        assert len(parts(torch.ones(20, 3, 2, 2))["cls"]) == 20


def test_what_is_not_for_several_threads_is_encoded_as_a_whole(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(
        "import torch\n\n\ndef build():\n"
        "    network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())\n"
        "    network.image_size = 64\n"
        "    return network\n"
    )
    sizes = []
    encoder = load_model(f"{file}:build", image_size=64)
    real = encoder.encode
    encoder.encode = lambda pixels, **options: (sizes.append(len(pixels)), real(pixels, **options))[1]  # type: ignore[method-assign, func-returns-value]
    Encoding(encoder, "cpu", {"cls"}).start(PIXELS)
    assert (encoder.is_thread_safe, sizes) == (False, [22])
    assert not convolutional(tmp_path).compile("cpu").is_thread_safe
