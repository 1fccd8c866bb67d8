"""``extract`` end to end on small images with the raw-pixels encoder and with real weights."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import featcache
from featcache.errors import ConfigurationError, UnknownNameError
from featcache.extraction import why
from featcache.imaging import to_tensor
from featcache.models import load_encoder, locate_weights, resolve_model
from featcache.records import Progress
from tests.conftest import WriteImages


def test_features_are_what_the_encoder_gives_for_each_image_alone(image_folder: WriteImages) -> None:
    """The reference: every image by itself, in order, without threads, batches or store."""
    root = image_folder(3)
    report = featcache.extract("efficientnet_lite0", "folder", root=root, image_size=64, batch_size=4)
    store = featcache.open(report.store)
    spec = resolve_model("efficientnet_lite0")
    encoder = load_encoder(spec, locate_weights(spec, None), image_size=64).to("cpu", "fp32")
    from featcache.imaging import preset

    recipe = preset("model", spec, 64)
    for row, name in enumerate(store.samples["path"]):
        pixels = to_tensor(np.asarray(Image.open(root / name)), (0, 255), recipe)[None]
        expected = encoder.encode(pixels)
        for array in store.names:
            found = torch.from_numpy(store[array][row].astype(np.float32))
            torch.testing.assert_close(found, expected[array][0].half().float(), rtol=2e-3, atol=2e-3)


def test_a_second_run_computes_nothing_and_imports_no_torch(image_folder: WriteImages) -> None:
    root = image_folder(2)
    first = featcache.extract("pixels", "folder", root=root)
    assert (first.computed, first.reused, first.failed, first.rows) == (12, 0, 0, 12)
    code = (
        "import sys, featcache; r = featcache.extract('pixels', 'folder', root=sys.argv[1]);"
        "print(r.computed, r.reused, r.rows, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(root)],
        capture_output=True,
        text=True,
        check=True,
        env=dict(os.environ),
    )
    assert done.stdout.split() == ["0", "12", "12", "False"]


def test_renaming_duplicating_and_relabelling_cost_no_forward_pass(image_folder: WriteImages) -> None:
    root = image_folder(3)
    before = featcache.open(featcache.extract("pixels", "folder", root=root, dataset_name="x").store)
    old = dict(zip(before.samples["path"], before["cls"][:], strict=True))
    (root / "train" / "other").mkdir()
    shutil.move(root / "train/dark/000.png", root / "train/other/moved.png")
    shutil.copy(root / "train/dark/001.png", root / "test/dark/copy.png")
    report = featcache.extract("pixels", "folder", root=root, dataset_name="x")
    assert (report.computed, report.rows) == (0, 19)
    after = featcache.open(report.store)
    new = dict(zip(after.samples["path"], after["cls"][:], strict=True))
    np.testing.assert_array_equal(new["train/other/moved.png"], old["train/dark/000.png"])
    np.testing.assert_array_equal(new["test/dark/copy.png"], old["train/dark/001.png"])
    assert set(after.samples["label"]) == {"dark", "bright", "other"}


def test_a_moved_root_costs_no_forward_pass(image_folder: WriteImages, tmp_path: Path) -> None:
    root = image_folder(2)
    featcache.extract("pixels", "folder", root=root, dataset_name="x")
    moved = root.rename(tmp_path / "elsewhere")
    assert featcache.extract("pixels", "folder", root=moved, dataset_name="x").computed == 0


def test_only_new_and_replaced_files_are_computed(image_folder: WriteImages) -> None:
    root = image_folder(3)
    report = featcache.extract("pixels", "folder", root=root)
    chunks = {path: path.read_bytes() for path in report.store.rglob("c/**/0") if path.is_file()}
    Image.fromarray(np.full((40, 40), 9, np.uint8)).save(root / "train/dark/000.png")
    Image.fromarray(np.eye(40, dtype=np.uint8)).save(root / "train/dark/new.png")
    again = featcache.extract("pixels", "folder", root=root)
    assert (again.computed, again.reused, again.rows) == (2, 17, 19)
    assert "no contrast" in again.notes[-1]
    assert all(path.read_bytes() == content for path, content in chunks.items())


def test_what_changes_features_changes_the_store(image_folder: WriteImages) -> None:
    root = image_folder(1)
    options = [
        {},
        {"image_size": 32},
        {"preprocess": "radiology"},
        {"dtype": "float32"},
        {"precision": "bf16"},
    ]
    stores = {featcache.extract("pixels", "folder", root=root, **option).store for option in options}  # type: ignore[arg-type]
    assert len(stores) == len(options)
    same = [{"batch_size": 2}, {"workers": 1}, {"device": "cpu"}]
    stores |= {featcache.extract("pixels", "folder", root=root, precision="fp32", **option).store for option in same}  # type: ignore[arg-type]
    assert len(stores) == len(options)


def test_automatic_precision_takes_the_store_there_is(image_folder: WriteImages) -> None:
    root = image_folder(1)
    first = featcache.extract("pixels", "folder", root=root, precision="bf16")
    again = featcache.extract("pixels", "folder", root=root)
    assert (again.store, again.computed, again.precision) == (first.store, 0, "bf16")
    assert "bf16" in again.notes[-1]


def test_bad_images_are_quarantined_and_the_rest_is_embedded(image_folder: WriteImages) -> None:
    root = image_folder(3)
    good = (root / "train/dark/000.png").read_bytes()
    (root / "train/dark/000.png").write_bytes(good[:50])
    (root / "train/bright/001.png").write_bytes(b"")
    (root / "val/dark/002.png").write_bytes(b"<html>")
    shutil.copy(root / "val/dark/002.png", root / "val/bright/copy.png")
    report = featcache.extract("pixels", "folder", root=root)
    assert (report.computed, report.failed, report.rows) == (15, 4, 15)
    assert {failure.path for failure in report.failures} == {
        "train/dark/000.png",
        "train/bright/001.png",
        "val/dark/002.png",
        "val/bright/copy.png",
    }
    assert all(failure.reason and failure.remedy for failure in report.failures)
    store = featcache.open(report.store)
    assert np.isfinite(store["cls"][:]).all()
    assert store["cls"][:].any(axis=1).all()
    assert {failure.id for failure in store.failures} == {failure.id for failure in report.failures}
    (root / "train/dark/000.png").write_bytes(good)
    repaired = featcache.extract("pixels", "folder", root=root)
    assert (repaired.computed, repaired.failed, repaired.rows) == (1, 3, 16)


def test_missing_and_foreign_files_of_a_table_are_quarantined(image_folder: WriteImages) -> None:
    root = image_folder(4)
    (root / "notes.txt").write_text("text")
    pd.DataFrame(
        {"path": ["train/dark/000.png", "gone.png", "notes.txt"], "label": ["a", "b", "a"], "split": "train"}
    ).to_csv(root / "t.csv", index=False)
    report = featcache.extract("pixels", "table", root=root)
    assert (report.computed, report.failed) == (1, 2)
    assert {failure.path for failure in report.failures} == {"gone.png", "notes.txt"}


def test_a_value_that_float16_cannot_hold_is_quarantined(image_folder: WriteImages) -> None:
    from featcache.imaging import Preprocess

    huge = Preprocess("squash", 16, 16, mean=(0.0,) * 3, std=(1e-6,) * 3)  # type: ignore[arg-type]
    root = image_folder(1)
    report = featcache.extract("pixels", "folder", root=root, preprocess=huge)
    assert report.failed == 6
    assert "--dtype float32" in report.failures[0].remedy
    kept = featcache.extract("pixels", "folder", root=root, preprocess=huge, dtype="float32")
    assert (kept.failed, kept.computed) == (0, 6)


def test_features_do_not_depend_on_workers_or_on_what_else_is_in_the_batch(image_folder: WriteImages) -> None:
    root = image_folder(12)
    whole = featcache.extract("efficientnet_lite0", "folder", root=root, image_size=64, batch_size=8, workers=4)
    expected = featcache.open(whole.store)["cls"][:]
    shutil.rmtree(whole.store)
    held_back = [path for path in sorted(root.rglob("*.png")) if path.stem in {"001", "007"}]
    contents = {path: path.read_bytes() for path in held_back}
    for path in held_back:
        path.unlink()
    featcache.extract("efficientnet_lite0", "folder", root=root, image_size=64, batch_size=8, workers=1)
    for path, content in contents.items():
        path.write_bytes(content)
    parts = featcache.extract("efficientnet_lite0", "folder", root=root, image_size=64, batch_size=8, workers=2)
    assert parts.computed == len(held_back)
    np.testing.assert_array_equal(featcache.open(parts.store)["cls"][:], expected)


_CHILD = """
import sys, featcache
featcache.extract("efficientnet_lite0", "folder", root=sys.argv[1], image_size=64, batch_size=16,
                  progress=lambda p: print(p.done, flush=True))
"""


def test_a_killed_run_resumes_to_the_same_bytes(image_folder: WriteImages) -> None:
    root = image_folder(60)  # 360 images, segments of 64 rows
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(root)], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    assert child.stdout is not None
    for line in child.stdout:
        if int(line) >= 200:
            child.send_signal(signal.SIGKILL)
            break
    child.wait()
    assert child.returncode == -signal.SIGKILL
    options = {"root": root, "image_size": 64, "batch_size": 16}
    resumed = featcache.extract("efficientnet_lite0", "folder", **options)  # type: ignore[arg-type]
    assert 0 < resumed.computed < 360
    assert resumed.rows == 360
    store = featcache.open(resumed.store)
    arrays = {name: store[name][:] for name in store.names}
    shutil.rmtree(resumed.store)
    whole = featcache.extract("efficientnet_lite0", "folder", **options)  # type: ignore[arg-type]
    assert whole.computed == 360
    uninterrupted = featcache.open(whole.store)
    for name, array in arrays.items():
        assert array.tobytes() == uninterrupted[name][:].tobytes()


def test_an_interrupt_commits_the_finished_batches(image_folder: WriteImages) -> None:
    root = image_folder(20)

    def interrupt(progress: Progress) -> None:
        if progress.done >= 80:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        featcache.extract("pixels", "folder", root=root, batch_size=16, progress=interrupt)
    report = featcache.extract("pixels", "folder", root=root, batch_size=16)
    assert (report.computed, report.reused) == (40, 80)


def test_progress_counts_up_to_the_total(image_folder: WriteImages) -> None:
    seen: list[Progress] = []
    featcache.extract("pixels", "folder", root=image_folder(5), batch_size=8, progress=seen.append)
    assert [progress.done for progress in seen] == [8, 16, 24, 30]
    assert {progress.total for progress in seen} == {30}


def test_wrong_names_and_options_are_explained(image_folder: WriteImages) -> None:
    root = image_folder(1)
    with pytest.raises(UnknownNameError, match="dinov2_vits14"):
        featcache.extract("dinov2_vits", "folder", root=root)
    with pytest.raises(ConfigurationError, match="radiology"):
        featcache.extract("pixels", "folder", root=root, preprocess="radiolgy")
    with pytest.raises(ConfigurationError, match="precision"):
        featcache.extract("pixels", "folder", root=root, precision="int8")
    with pytest.raises(ConfigurationError, match="doctor"):
        featcache.extract("pixels", "folder", root=root, device="cuda:99")


def test_a_home_that_cannot_be_written_is_explained(image_folder: WriteImages, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(featcache.FeatcacheError, match="--home"):
        featcache.extract("pixels", "folder", root=image_folder(1), home=blocked)


def test_labels_and_missing_files_detach_no_features(image_folder: WriteImages) -> None:
    """A share that is not mounted: every file is gone for a moment."""
    from featcache.extraction import update_labels
    from featcache.store import plan_gc

    root = image_folder(3)
    frame = pd.DataFrame({"path": sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))})
    table = root.parent / "t.csv"
    frame.assign(label=["a", "b"] * 9, split="train").to_csv(table, index=False)
    report = featcache.extract("pixels", "table", root=root, table=table, dataset_name="t")
    moved = root.rename(root.with_name("unmounted"))
    root.mkdir()
    _, rows, failures = update_labels("table", root=root, table=table, dataset_name="t")
    assert (rows, len(failures)) == (18, 18)
    assert len(featcache.open(report.store)) == 18
    assert plan_gc(report.store).dead_rows == 0
    root.rmdir()
    moved.rename(root)
    assert featcache.extract("pixels", "table", root=root, table=table, dataset_name="t").computed == 0


def test_a_file_that_changes_during_the_run_is_no_feature(
    image_folder: WriteImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib

    module = importlib.import_module("featcache.extraction.computing")

    root = image_folder(3)
    target = root / "train/dark/001.png"
    content = target.read_bytes()
    real = module.run_pipeline

    def replaced_after_planning(*arguments: object, **options: object) -> object:
        target.write_bytes((root / "train/bright/000.png").read_bytes())
        return real(*arguments, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(module, "run_pipeline", replaced_after_planning)
        report = featcache.extract("pixels", "folder", root=root)
    assert [failure.path for failure in report.failures] == ["train/dark/001.png"]
    assert "changed" in report.failures[0].reason
    target.write_bytes(content)
    assert featcache.extract("pixels", "folder", root=root).computed == 1


def test_other_weights_under_the_same_size_and_time_are_noticed(image_folder: WriteImages, tmp_path: Path) -> None:
    import timm
    from safetensors.torch import save_file

    root = image_folder(1)
    weights = tmp_path / "w.safetensors"
    options = {"root": root, "weights": weights, "image_size": 32}
    for seed in (0, 1):
        torch.manual_seed(seed)
        save_file(timm.create_model("resnet10t", pretrained=False).state_dict(), weights)
        os.utime(weights, (1, 1))
        if seed == 0:
            first = featcache.extract("timm:resnet10t", "folder", **options)  # type: ignore[arg-type]
    Image.fromarray(np.eye(40, dtype=np.uint8)).save(root / "train/dark/new.png")
    with pytest.raises(featcache.FeatcacheError, match="weights of timm:resnet10t changed"):
        featcache.extract("timm:resnet10t", "folder", **options)  # type: ignore[arg-type]
    again = featcache.extract("timm:resnet10t", "folder", **options)  # type: ignore[arg-type]
    assert again.store != first.store
    assert again.computed == 7


def test_one_name_for_two_datasets_is_a_clash(image_folder: WriteImages, tmp_path: Path) -> None:
    first = image_folder(2, seed=0).rename(tmp_path / "first")
    second = image_folder(2, seed=1).rename(tmp_path / "second")
    featcache.extract("pixels", "folder", root=first, dataset_name="study")
    with pytest.raises(ConfigurationError, match="--name"):
        featcache.extract("pixels", "folder", root=second, dataset_name="study")
    assert featcache.extract("pixels", "folder", root=first, dataset_name="study").computed == 0


def test_the_key_follows_the_tensors_and_not_the_file_format(image_folder: WriteImages, tmp_path: Path) -> None:
    import timm
    from safetensors.torch import save_file

    root = image_folder(1)
    torch.manual_seed(0)
    tensors = timm.create_model("resnet10t", pretrained=False).state_dict()
    save_file(tensors, tmp_path / "one.safetensors")
    torch.save(dict(reversed(tensors.items())), tmp_path / "two.pth")
    name = next(name for name in tensors if name.endswith("conv1.weight"))
    save_file(tensors | {name: tensors[name] + 1e-3}, tmp_path / "other.safetensors")
    reports = [
        featcache.extract("timm:resnet10t", "folder", root=root, weights=tmp_path / file, image_size=32)
        for file in ("one.safetensors", "two.pth", "other.safetensors")
    ]
    assert [report.computed for report in reports] == [6, 0, 6]
    assert reports[0].store == reports[1].store != reports[2].store


def test_a_bumped_decoder_or_preprocessing_version_is_another_key(
    image_folder: WriteImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = image_folder(1)
    first = featcache.extract("pixels", "folder", root=root)
    monkeypatch.setitem(featcache.imaging.DECODER_VERSIONS, "raster", 99)
    other = featcache.extract("pixels", "folder", root=root)
    assert (other.computed, other.store == first.store) == (6, False)
    found = why("pixels", "folder", root=root)
    assert found.nearest == first.store
    assert found.differences == ("decoders.raster: 99, there 2",)
    monkeypatch.setitem(featcache.imaging.DECODER_VERSIONS, "nifti", 99)  # not used by this dataset
    assert featcache.extract("pixels", "folder", root=root).computed == 0


_ASKS_EARLY = """
import os, sys

class Watch:
    def find_spec(self, name, *_):
        if name == "torch":
            print("huge pages:", os.environ.get("THP_MEM_ALLOC_ENABLE"))

sys.meta_path.insert(0, Watch())
import featcache
featcache.extract("efficientnet_lite0", "folder", root=sys.argv[1], image_size=64)
"""


def test_huge_pages_are_asked_for_before_torch_looks_which_is_at_its_first_allocation(
    image_folder: WriteImages,
) -> None:
    """Too late, and a small CNN takes thirty times as many page faults."""
    environment = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    command = [sys.executable, "-c", _ASKS_EARLY, str(image_folder(1))]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.splitlines() == ["huge pages: 1"]


def test_a_pipe_among_the_images_is_listed_and_not_waited_for(image_folder: WriteImages) -> None:
    root = image_folder(2, splits=("train",))
    os.mkfifo(root / "train" / "dark" / "pipe.png")
    report = featcache.extract("pixels", "folder", root=root)
    assert (report.computed, report.failed) == (4, 0)
    assert any("pipes, sockets or devices were left out" in note for note in report.notes)
