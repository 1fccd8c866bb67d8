"""Precision, runtime and compilation of an extraction: what ``auto`` means, and what is in the key."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import featcache
from featcache.errors import ConfigurationError
from featcache.extraction.arithmetic import settle_arithmetic
from featcache.models import runtime_key
from featcache.models.compiled import cpp_compiler
from featcache.models.openvino_runtime import openvino_version
from featcache.store import Key, key_of
from tests.conftest import WriteImages

ASKED = Key("m", "0" * 64, "auto", "auto", "float16", {"crop": 64}, {"raster": 1}, 1)
FP32 = replace(ASKED, precision="fp32", runtime="torch")
needs_openvino = pytest.mark.skipif(openvino_version() is None, reason="openvino is not installed")


def test_auto_on_a_cpu_is_torch_in_float32() -> None:
    assert settle_arithmetic(ASKED, [], "cpu") == (FP32, ())


def test_auto_continues_the_one_store_that_fits() -> None:
    bf16 = replace(FP32, precision="bf16")
    key, notes = settle_arithmetic(ASKED, [bf16, replace(FP32, weights="1" * 64)], "cpu")
    assert key == bf16
    assert "bf16" in notes[0]
    assert settle_arithmetic(ASKED, [bf16, FP32], "cpu")[0] == FP32  # two fit: none is guessed


def test_a_store_of_a_runtime_that_is_not_here_is_not_continued() -> None:
    elsewhere = replace(FP32, runtime="openvino 1999.1")
    assert settle_arithmetic(ASKED, [elsewhere], "cpu")[0] == FP32


def test_what_was_asked_for_is_kept() -> None:
    asked = replace(ASKED, precision="bf16", runtime="torch")
    assert settle_arithmetic(asked, [FP32], "cpu") == (asked, ())


@pytest.mark.parametrize("changes", [{"precision": "fp8"}, {"runtime": "onnx"}])
def test_an_unknown_name_is_refused(changes: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(changes.values()))):
        settle_arithmetic(replace(ASKED, **changes), [], "cpu")  # type: ignore[arg-type]


@needs_openvino
def test_an_extraction_by_openvino_gets_a_store_of_its_own_and_is_continued(image_folder: WriteImages) -> None:
    root = image_folder(1)
    facts = {"root": root, "image_size": 64, "device": "cpu", "precision": "fp32"}
    plain = featcache.extract("efficientnet_lite0", "folder", **facts)
    other = featcache.extract("efficientnet_lite0", "folder", runtime="openvino", **facts)
    assert (other.computed, other.reused) == (6, 0)
    assert key_of(other.store).difference(key_of(plain.store)) == [f"runtime: {runtime_key('openvino')}, there torch"]
    np.testing.assert_allclose(
        featcache.open(other.store)["cls"][:].astype(float),
        featcache.open(plain.store)["cls"][:].astype(float),
        atol=2e-3,
        rtol=2e-3,
    )
    again = featcache.extract("efficientnet_lite0", "folder", runtime="openvino", **facts)
    assert (again.computed, again.reused) == (0, 6)


@pytest.mark.skipif(cpp_compiler() is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_a_compiled_extraction_shares_the_store_of_an_eager_one(image_folder: WriteImages) -> None:
    root = image_folder(1)
    eager = featcache.extract("pixels", "folder", root=root, device="cpu", compile="off", home=root.parent / "a")
    compiled = featcache.extract("pixels", "folder", root=root, device="cpu", compile="on", home=root.parent / "b")
    assert eager.key == compiled.key
    np.testing.assert_allclose(
        featcache.open(compiled.store)["cls"][:].astype(float),
        featcache.open(eager.store)["cls"][:].astype(float),
        atol=1e-3,
    )


def test_an_unknown_choice_of_compiling_is_refused_before_anything_is_read(image_folder: WriteImages) -> None:
    with pytest.raises(ConfigurationError, match="auto, on, off"):
        featcache.extract("pixels", "folder", root=image_folder(1), compile="maybe")
