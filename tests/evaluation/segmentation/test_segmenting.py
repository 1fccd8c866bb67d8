"""``segment``: from a store with tokens and masks to scores, and questions that it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest

import featcache
from featcache.datasets import load_dataset
from featcache.errors import ConfigurationError, ProbeError, StoreNotFoundError
from featcache.evaluation.segmentation import HeadSettings, segment
from featcache.evaluation.segmentation.rows import (
    Shots,
    draw_shots,
    segmentation_task,
    select_segment_rows,
)
from featcache.extraction import write_masks
from featcache.metrics import score_volume
from featcache.store import FeatureStore, open_masks

RIDGE = HeadSettings(solver="ridge", batch_size=16)


def write_scans(root: Path, n: int = 8) -> Path:
    """Volumes of 8 slices with a bright organ and, in it, a brighter core; the split deals 4, 2 and 2 of them."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.arange(48), np.arange(64), np.arange(8), indexing="ij"), axis=-1)
    root.mkdir(exist_ok=True)
    for number in range(n):
        centre = np.array([24, 32, 4]) + rng.uniform(-6, 6, 3) * [1, 1, 0.1]
        distance = (((grid - centre) / np.array([12, 15, 5])) ** 2).sum(axis=-1)
        labels = (distance < 1).astype(np.uint8) + (distance < 0.25)
        image = (np.array([0, 600, 900])[labels] + rng.integers(0, 40, labels.shape)).astype(np.int16)
        image[0, 0, :], image[0, 1, :] = 0, 940  # the same scale in every slice
        for name, data in ((f"v{number}", image), (f"v{number}_seg", labels.astype(np.uint8))):
            nibabel.Nifti1Image(data, np.diag([-1.5, -1.0, 4.0, 1.0])).to_filename(root / f"{name}.nii.gz")
    splits = ["train"] * (n - 4) + ["val"] * 2 + ["test"] * 2
    table = pd.DataFrame({"volume": [f"v{number}" for number in range(n)], "split": splits})
    table.to_csv(root / "split.csv", index=False)
    return root


def made(root: Path, *, patches: bool = True, masks: bool = True, **options: Any) -> FeatureStore:
    options = {"axis": "axial", "classes": ["background", "organ", "core"], "split_file": root / "split.csv"} | options
    dataset = load_dataset("nifti", root=root, **options)
    if masks:
        (report,) = write_masks(dataset)
        assert report.failures == ()
    extracted = featcache.extract("pixels", dataset, preprocess="radiology-linear", patches=patches)
    return featcache.open(extracted.store)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return made(write_scans(tmp_path / "scans"))


def test_scores_are_those_of_the_predictions_on_native_grids_volume_by_volume(store: FeatureStore) -> None:
    outcome = segment(store, RIDGE, n_bootstrap=50)
    (run,) = outcome.result.runs
    masks, predictions = outcome.masks, outcome.predictions
    assert predictions is not None
    names = [name for name, split in zip(store.samples["id"], store.samples["split"], strict=True) if split == "test"]
    assert list(predictions) == names
    expected = []
    for volume in ("v6", "v7"):
        members = masks.members(volume)
        truth, guess = (np.stack([source[name] for name in members]) for source in (masks, predictions))
        assert truth.shape == (8, 64, 48)
        expected.append(score_volume(truth, guess, 3, spacing=(4.0, 1.0, 1.5)))
    for metric in ("dice", "iou", "hd95", "surface_dice"):
        table = np.array([one[metric] for one in expected])
        assert run.metrics[metric].value == pytest.approx(table.mean())
        assert run.per_class[metric]["core"].value == pytest.approx(table[:, 1].mean())
        assert [part.metrics[f"{metric} organ"].value for part in run.subgroups] == pytest.approx(table[:, 0].tolist())
    assert [(part.column, part.value, part.n) for part in run.subgroups] == [("volume", "v6", 8), ("volume", "v7", 8)]
    assert outcome.result.config["n_train"] == 32
    assert run.metrics["dice"].low <= run.metrics["dice"].value <= run.metrics["dice"].high


def test_a_question_asked_again_is_answered_from_the_ledger(store: FeatureStore) -> None:
    first = segment(store, RIDGE, n_bootstrap=20)
    again = segment(store, RIDGE, n_bootstrap=20)
    assert again.predictions is None
    assert again.result.id == first.result.id != ""
    assert again.result.runs[0].metrics == first.result.runs[0].metrics
    other = segment(store, HeadSettings(head="knn", k=3), n_bootstrap=20)
    assert other.result.id != first.result.id


@pytest.mark.parametrize(
    "settings",
    [
        RIDGE,
        HeadSettings(solver="lbfgs", penalties=(1e-4,)),
        HeadSettings(learning_rates=(1e-2, 1.0), epochs=6, loss="ce"),
        HeadSettings(head="knn", k=5),
    ],
    ids=lambda one: f"{one.head} {one.solver}",
)
def test_every_head_finds_an_organ_that_its_tokens_show(store: FeatureStore, settings: HeadSettings) -> None:
    outcome = segment(store, settings, protocol="study", n_bootstrap=20)
    found = outcome.result.runs[0].per_class["pooled_dice"]
    assert max(one.value for one in found.values()) > 0.6
    assert outcome.result.runs[0].n == 16


def test_the_study_s_dice_pools_the_pixels_of_the_split_at_input_size(store: FeatureStore) -> None:
    from featcache.evaluation.segmentation.native import to_input

    study = segment(store, RIDGE, protocol="study", n_bootstrap=20).result.runs[0]
    outcome = segment(store, RIDGE, n_bootstrap=20)
    assert outcome.predictions is not None
    recipe = store.attributes["spec"]["preprocess"]
    both = sizes = 0
    for name, guess in outcome.predictions.items():
        truth, drawn = to_input(outcome.masks[name], 224, recipe), to_input(guess, 224, recipe)
        both += sum(((truth == label) & (drawn == label)).sum() for label in (1, 2))
        sizes += (truth > 0).sum() + (drawn > 0).sum()
    assert study.metrics["pooled_dice"].value == pytest.approx(2 * both / sizes, abs=0.02)  # edges are resampled twice


def test_few_shots_are_nested_and_count_images_or_volumes(store: FeatureStore) -> None:
    masks = open_masks(store.path.parent.parent, store.dataset)
    train = select_segment_rows(store, masks, segmentation_task(store, None), "train")
    sets = [set(draw_shots(train, Shots(count, by_volume=True), 3).ids) for count in (1, 2, 4)]
    assert [len(one) for one in sets] == [8, 16, 32]
    assert sets[0] < sets[1] < sets[2]
    assert draw_shots(train, Shots(4, protocol="study"), 0).ids == train.ids[::8]
    with pytest.raises(ProbeError, match="has 4 volumes"):
        draw_shots(train, Shots(5, by_volume=True), 0)
    outcome = segment(store, RIDGE, shots=(1, 4), by_volume=True, n_bootstrap=20)
    assert [run.parameters["shots"] for run in outcome.result.runs] == [1, 4]


def test_heads_of_several_layers_say_how_to_get_them(store: FeatureStore) -> None:
    for head in ("linear-ms", "unet"):
        with pytest.raises(ProbeError, match="extract --patches --layers 5"):
            segment(store, HeadSettings(head=head))  # type: ignore[arg-type]


def test_stores_without_tokens_or_masks_say_what_to_run(tmp_path: Path) -> None:
    root = write_scans(tmp_path / "scans")
    store = made(root, patches=False, masks=False)
    with pytest.raises(StoreNotFoundError, match="featcache masks"):
        segment(store, RIDGE)
    with pytest.raises(ProbeError, match="--patches"):
        segment(made(root, patches=False), RIDGE)


def test_a_volume_without_mask_in_train_is_refused_and_in_test_left_out(tmp_path: Path) -> None:
    root = write_scans(tmp_path / "scans")
    (root / "v7_seg.nii.gz").unlink()
    outcome = segment(made(root), RIDGE, n_bootstrap=20)
    assert [part.value for part in outcome.result.runs[0].subgroups] == ["v6"]
    assert any("without a mask, neither learnt from nor scored: test 8." in note for note in outcome.result.notes)
    (root / "v1_seg.nii.gz").unlink()
    with pytest.raises(ProbeError, match="1 volumes of split 'train' have no mask: v1"):
        segment(made(root), RIDGE)


def test_without_val_a_single_setting_is_needed(tmp_path: Path) -> None:
    root = write_scans(tmp_path / "scans")
    table = pd.read_csv(root / "split.csv")
    table.loc[table["split"] == "val", "split"] = "train"
    table.to_csv(root / "split.csv", index=False)
    store = made(root)
    with pytest.raises(ProbeError, match="no validation split"):
        segment(store, RIDGE)
    outcome = segment(store, HeadSettings(solver="ridge", penalties=(1e-3,)), n_bootstrap=20)
    assert outcome.result.config["n_train"] == 48


def test_a_class_that_training_lacks_is_said_and_no_foreground_is_refused(tmp_path: Path) -> None:
    root = write_scans(tmp_path / "scans")
    for number in range(4):
        path = root / f"v{number}_seg.nii.gz"
        label = nibabel.load(path)
        data = np.minimum(np.asarray(label.dataobj), 1).astype(np.uint8)
        nibabel.Nifti1Image(data, label.affine).to_filename(path)
    outcome = segment(made(root), HeadSettings(head="knn"), n_bootstrap=20)
    assert any("no training mask shows core" in note for note in outcome.result.notes)
    for number in range(4):
        path = root / f"v{number}_seg.nii.gz"
        label = nibabel.load(path)
        nibabel.Nifti1Image(np.zeros(label.shape, np.uint8), label.affine).to_filename(path)
    with pytest.raises(ProbeError, match="no training mask shows any foreground"):
        segment(made(root), RIDGE)


def test_settings_that_fit_nothing_are_refused(store: FeatureStore) -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'linear'"):
        HeadSettings(head="linea")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="of linear heads"):
        HeadSettings(head="knn", solver="ridge")
    with pytest.raises(ProbeError, match="learns from train"):
        segment(store, split="train")


def test_a_recipe_that_crops_is_refused_before_training_or_its_border_is_background(tmp_path: Path) -> None:
    root = write_scans(tmp_path / "scans")
    dataset = load_dataset("nifti", root=root, axis="axial", split_file=root / "split.csv")
    write_masks(dataset)
    store = featcache.open(featcache.extract("pixels", dataset, preprocess="radiology", patches=True).store)
    with pytest.raises(ProbeError, match="radiology-seg"):
        segment(store, RIDGE)
    outcome = segment(store, RIDGE, border="background", n_bootstrap=20)
    assert outcome.predictions is not None
    for drawn in outcome.predictions.values():
        assert not drawn[:3].any()


class Layered:
    """Tokens (n, 2, h, w, D) whose second layer are those of an array and whose first are its squares."""

    def __init__(self, array: Any) -> None:
        self._array = array
        self.shape, self.dtype, self.ndim = (array.shape[0], 2, *array.shape[1:]), array.dtype, 5

    def __getitem__(self, rows: Any) -> Any:
        found = self._array[rows]
        return np.stack([found**2, found], axis=1)


class LayeredStore(FeatureStore):
    """A store whose tokens have a layer axis."""

    def __getitem__(self, name: str) -> Any:
        return Layered(super().__getitem__(name)) if name == "patches" else super().__getitem__(name)


def test_heads_of_several_layers_read_them_and_linear_reads_the_last(store: FeatureStore) -> None:
    layered = LayeredStore(store.path)
    asked: dict[str, Any] = {"protocol": "study", "n_bootstrap": 10, "fresh": True, "record": False}
    plain, last, several = (
        segment(one, settings, **asked).result.runs[0].metrics["pooled_dice"].value
        for one, settings in (
            (store, RIDGE),
            (layered, RIDGE),
            (layered, HeadSettings(head="linear-ms", solver="ridge", batch_size=16)),
        )
    )
    assert last == plain
    assert several > plain + 0.01  # a straight line cannot tell three levels of grey, a parabola can
    unet = HeadSettings(head="unet", learning_rates=(1e-2,), epochs=2, batch_size=4)
    (run,) = segment(layered, unet, shots=(1,), by_volume=True, **asked).result.runs
    assert run.parameters == {"head": "unet", "shots": 1, "lr": 1e-2}
    assert 0 < run.metrics["pooled_dice"].value <= 1
