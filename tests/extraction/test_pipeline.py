"""The pipeline as a whole: several models, too little memory, slow and failing stages."""

from __future__ import annotations

import multiprocessing
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import featcache
from featcache.errors import ConfigurationError, StoreError
from featcache.extraction import estimate, reading
from featcache.extraction.encoding import Encoding
from featcache.imaging import cropped, read
from featcache.models import Encoder
from featcache.store import StoreWriter
from tests.conftest import WriteImages

SMALL: dict[str, Any] = {"image_size": 64, "batch_size": 8}


def arrays_of(store: Path) -> dict[str, bytes]:
    opened = featcache.open(store)
    return {name: opened[name][:].tobytes() for name in opened.names}


def test_several_models_decode_each_image_once_and_give_what_each_gives_alone(
    image_folder: WriteImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = image_folder(4)
    models = ("efficientnet_lite0", "efficientnet_lite0_random", "pixels")
    alone = {
        model: arrays_of(featcache.extract(model, "folder", root=root, home=tmp_path / "a", **SMALL).store)
        for model in models
    }
    decoded = multiprocessing.get_context("fork").SimpleQueue()

    def noted(*arguments: Any) -> Any:
        decoded.put(arguments[0].name)
        return read(*arguments)

    monkeypatch.setattr(reading, "read", noted)
    reports = featcache.extract_models(models, "folder", root=root, home=tmp_path / "b", **SMALL)
    count = 0
    while not decoded.empty():
        decoded.get()
        count += 1
    assert count == 24
    assert [report.computed for report in reports] == [24, 24, 24]
    for report in reports:
        assert arrays_of(report.store) == alone[report.model]


def test_models_that_see_the_same_share_the_preprocessing(
    image_folder: WriteImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = multiprocessing.get_context("fork").SimpleQueue()

    def noted(*arguments: Any) -> Any:
        prepared.put(arguments[1].to_text())
        return cropped(*arguments)

    monkeypatch.setattr(reading, "cropped", noted)
    models = ("efficientnet_lite0", "efficientnet_lite0_random")
    featcache.extract_models(models, "folder", root=image_folder(2), **SMALL)
    count = 0
    while not prepared.empty():
        prepared.get()
        count += 1
    assert count == 12


def test_a_model_that_has_its_rows_is_not_run_again_beside_one_that_lacks_them(image_folder: WriteImages) -> None:
    root = image_folder(3)
    featcache.extract("efficientnet_lite0", "folder", root=root, **SMALL)
    reports = featcache.extract_models(("efficientnet_lite0", "pixels"), "folder", root=root, **SMALL)
    assert [report.computed for report in reports] == [0, 18]
    assert [report.bottleneck is None for report in reports] == [True, False]


def test_the_same_model_twice_is_refused(image_folder: WriteImages) -> None:
    with pytest.raises(ConfigurationError, match="pixels, pixels"):
        featcache.extract_models(("pixels", "pixels"), "folder", root=image_folder(1))


def test_a_batch_too_large_for_the_device_is_halved_and_the_run_goes_on(
    image_folder: WriteImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = image_folder(4)
    whole = featcache.extract("efficientnet_lite0", "folder", root=root, dtype="float32", **SMALL)
    expected = featcache.open(whole.store)["cls"][:]
    real, seen = Encoder.encode, Counter[int]()

    def short_of_memory(self: Encoder, pixels: torch.Tensor, **options: Any) -> Any:
        seen[len(pixels)] += 1
        if len(pixels) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return real(self, pixels, **options)

    monkeypatch.setattr(Encoder, "encode", short_of_memory)
    report = featcache.extract(
        "efficientnet_lite0", "folder", root=root, home=whole.store.parent / "other", dtype="float32", **SMALL
    )
    assert (report.computed, report.failed, report.batch_size) == (24, 0, 2)
    assert (seen[8], seen[2]) == (0, 12)
    assert 1 <= seen[4] <= 2, "the parts of one batch, which are encoded side by side"
    assert any("--batch-size 2" in note for note in report.notes)
    found = featcache.open(report.store)["cls"][:]
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_a_device_that_does_not_hold_one_image_is_said() -> None:
    encoding = Encoding(_Named(), "cpu", {"cls"})  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="does not hold one image of huge"):
        encoding.start(torch.zeros(4, 3, 8, 8))


class _Named:
    """An encoder that no memory holds."""

    is_thread_safe = False

    class spec:  # noqa: N801 - an attribute of encoders
        name = "huge"

    def encode(self, pixels: torch.Tensor, *, patches: bool) -> Any:
        raise torch.OutOfMemoryError("out of memory")


@pytest.mark.parametrize("batch_size", [1, 5, 24])
def test_the_batch_size_changes_features_by_less_than_a_hundred_thousandth(
    image_folder: WriteImages, tmp_path: Path, batch_size: int
) -> None:
    """Before storage, that is in float32, relative to the largest value of the row."""
    root = image_folder(4)
    options: dict[str, Any] = {"root": root, "image_size": 64, "dtype": "float32"}
    one = featcache.open(
        featcache.extract("efficientnet_lite0", "folder", home=tmp_path / "a", batch_size=8, **options).store
    )
    other = featcache.open(
        featcache.extract("efficientnet_lite0", "folder", home=tmp_path / "b", batch_size=batch_size, **options).store
    )
    for name in one.names:
        expected, found = one[name][:], other[name][:]
        error = np.abs(found - expected).reshape(len(found), -1).max(1)
        assert (error <= 1e-5 * np.abs(expected).reshape(len(found), -1).max(1)).all()


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_the_number_of_readers_changes_no_bit(image_folder: WriteImages, tmp_path: Path, workers: int) -> None:
    root = image_folder(5)
    one = featcache.extract("efficientnet_lite0", "folder", root=root, home=tmp_path / "a", workers=1, **SMALL)
    other = featcache.extract("efficientnet_lite0", "folder", root=root, home=tmp_path / "b", workers=workers, **SMALL)
    assert arrays_of(one.store) == arrays_of(other.store)


def test_a_full_disk_ends_the_run_and_keeps_what_was_committed(
    image_folder: WriteImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = image_folder(40)  # 240 images, segments of 64 rows
    real, commits = StoreWriter.commit, Counter[str]()

    def full(self: StoreWriter, *arguments: Any) -> None:
        commits["tried"] += 1
        if commits["tried"] == 2:
            raise StoreError("No space left on device", remedy="Free some.")
        real(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(StoreWriter, "commit", full)
        with pytest.raises(StoreError, match="No space left"):
            featcache.extract("pixels", "folder", root=root, batch_size=8)
    report = featcache.extract("pixels", "folder", root=root, batch_size=8)
    assert (report.reused, report.computed) == (64, 176)


def test_an_encoder_that_fails_ends_the_run_with_its_error(
    image_folder: WriteImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ValueError("the encoder broke")

    root = image_folder(2)
    monkeypatch.setattr(Encoding, "start", broken)
    with pytest.raises(ValueError, match="the encoder broke"):
        featcache.extract("pixels", "folder", root=root)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("stage", ["decode", "preprocess", "encode", "write"])
def test_the_slow_stage_is_named_and_what_would_relieve_it(
    image_folder: WriteImages, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """Each stage in turn is held up by a quarter of a second an image or batch, far more than the others take."""
    root = image_folder(4)
    featcache.extract("pixels", "folder", root=image_folder(1, seed=1), dataset_name="warm")

    def held_up(real: Any) -> Any:
        def slow(*arguments: Any, **options: Any) -> Any:
            time.sleep(0.25)
            return real(*arguments, **options)

        return slow

    owner, name = {
        "decode": (reading, "read"),
        "preprocess": (reading, "cropped"),
        "encode": (Encoding, "_encode"),
        "write": (StoreWriter, "commit"),
    }[stage]
    monkeypatch.setattr(owner, name, held_up(getattr(owner, name)))
    monkeypatch.setattr("featcache.store.creating.chunk_rows_for", lambda *_: 2)
    report = featcache.extract("pixels", "folder", root=root, batch_size=2, workers=1, dataset_name=stage)
    assert report.bottleneck == stage
    assert report.advice
    assert set(report.busy) == {"read", "decode", "preprocess", "transfer", "encode", "write"}
    assert report.busy[stage] == max(report.busy.values())
    assert report.busy[stage] <= 1, "nobody's waiting counts as work"


def test_a_forecast_says_what_the_run_then_does(image_folder: WriteImages, home: Path) -> None:
    root = image_folder(10)
    models = ("efficientnet_lite0", "pixels")
    before = estimate(models, "folder", root=root, **SMALL)
    assert not home.exists()
    assert [(found.forward_passes, found.saved, found.rows) for found in before] == [(60, 0, 60), (60, 0, 60)]
    reports = featcache.extract_models(models, "folder", root=root, **SMALL)
    for found, report in zip(before, reports, strict=True):
        assert found.store == report.store
        opened = featcache.open(report.store)
        assert found.stored_bytes == sum(opened[name][:].nbytes for name in opened.names)
        assert found.seconds > 0
        assert found.images_per_second is not None
    after = estimate(models, "folder", root=root, **SMALL)
    assert [(found.forward_passes, found.saved, found.seconds) for found in after] == [(0, 60, 0.0), (0, 60, 0.0)]


def test_a_forecast_of_a_shard_is_of_its_rows_and_of_kept_pixels_what_they_take(image_folder: WriteImages) -> None:
    options: dict[str, Any] = {"root": image_folder(10), "dataset_name": "d", **SMALL}
    names = {"root", "image_size", "batch_size"}
    own = {name: value for name, value in options.items() if name in names}
    facts: dict[str, Any] = {**own, "dataset_options": {"dataset_name": "d"}}
    models = ("efficientnet_lite0", "efficientnet_lite0_random")
    for shard in ("1/3", "2/3"):
        (before,) = estimate(["pixels"], "folder", shard=shard, **facts)
        report = featcache.extract("pixels", "folder", shard=shard, **options)
        assert (before.rows, before.forward_passes) == (report.rows, report.computed) == (20, 20)
        (after,) = estimate(["pixels"], "folder", shard=shard, **facts)
        assert (after.rows, after.forward_passes, after.saved) == (20, 0, 20)
    (several,) = estimate(["pixels"], "folder", devices="cpu,cpu", **facts)
    assert (several.device, several.forward_passes, several.saved) == ("cpu, cpu", 20, 40)
    plain = estimate(models, "folder", **facts)
    kept = estimate(models, "folder", pixels="keep", **facts)
    more = [one.stored_bytes - other.stored_bytes for one, other in zip(kept, plain, strict=True)]
    assert more == [60 * 3 * 64 * 64, 0], "both see the same pixels"
    featcache.extract(models[0], "folder", pixels="keep", **options)
    (later,) = estimate([models[1]], "folder", pixels="keep", **facts)
    assert later.stored_bytes == plain[1].stored_bytes
    with pytest.raises(ConfigurationError, match="pixels, pixels"):
        estimate(["pixels", "pixels"], "folder", **facts)
    with pytest.raises(ConfigurationError, match="no shard 0"):
        estimate(["pixels"], "folder", shard="0/2", **facts)
