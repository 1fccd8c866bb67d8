"""From label files and cached tokens to scores and files, without any step made up."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

import featcache
from featcache.datasets import load_dataset
from featcache.evaluation.segmentation.native import to_native
from featcache.evaluation.segmentation.native_scores import score_predictions
from featcache.extraction import write_masks
from featcache.imaging.pictures import picture_reader
from featcache.metrics import mean_over_volumes
from featcache.records import Selector
from featcache.reports import draw_overlay, overlay_cases, save_predictions
from featcache.store import open_masks


def write_scans(root: Path) -> None:
    """Three volumes that are not square, stored left-posterior, with one bright organ each; it is the label."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.arange(48), np.arange(64), np.arange(6), indexing="ij"), axis=-1)
    for number in range(3):
        centre, radii = np.array([16 + 6 * number, 40 - 6 * number, 3]), np.array([9, 13, 4])
        organ = (((grid - centre) / radii) ** 2).sum(axis=-1) < 1
        image = (organ * 900 + rng.integers(0, 60, organ.shape)).astype(np.int16)
        for name, data in ((f"v{number}", image), (f"v{number}_seg", organ.astype(np.uint8))):
            nibabel.Nifti1Image(data, np.diag([-1.5, -1.0, 4.0, 1.0])).to_filename(root / f"{name}.nii.gz")


@pytest.mark.parametrize("resize", ["squash", "letterbox"])
@pytest.mark.parametrize("axis", ["axial", "sagittal"])
def test_tokens_that_show_the_organ_find_it_where_it_is(tmp_path: Path, home: Path, resize: str, axis: str) -> None:
    write_scans(tmp_path)
    dataset = load_dataset("nifti", root=tmp_path, axis=axis, classes=["background", "organ"])
    (report,) = write_masks(dataset)
    assert report.failures == ()
    extracted = featcache.extract("pixels", dataset, preprocess=f"radiology-linear,resize={resize}", patches=True)
    store = featcache.open(extracted.store)
    masks = open_masks(home, dataset.name)
    recipe = store.attributes["spec"]["preprocess"]
    tokens = store["patches"][:].astype(np.float32)[..., 0]
    middle = (tokens.min() + tokens.max()) / 2
    predictions = {
        name: to_native(np.stack([middle - found, found - middle]), masks.shape(name), recipe)
        for name, found in zip(store.samples["id"], tokens, strict=True)
    }
    has_organ = {name: masks[name].any() for name in masks}  # a slice of noise is stretched to black and white
    predictions = {name: found * np.uint8(has_organ[name]) for name, found in predictions.items()}
    scores = score_predictions(masks, predictions, tolerance=4.0)
    assert [unit.name for unit in scores.units] == ["v0", "v1", "v2"]
    mean, _ = mean_over_volumes(scores.values["dice"], ["a", "b", "c"], n=50)
    assert mean.value > 0.85  # tokens are 3 to 4 pixels wide
    assert (scores.values["surface_dice"] > 0.95).all()
    saved = save_predictions(tmp_path / "out", masks, predictions)
    for name, path in saved.volumes.items():
        found, label = nibabel.load(path), nibabel.load(tmp_path / f"{name}_seg.nii.gz")
        np.testing.assert_array_equal(found.affine, label.affine)
        centres = [np.argwhere(np.asarray(file.dataobj)).mean(axis=0) for file in (found, label)]
        np.testing.assert_allclose(*centres, atol=0.6)
    paths = dict(zip(dataset.samples["id"], dataset.samples["path"], strict=True))
    texts = dict(zip(dataset.samples["id"], dataset.samples["selector"], strict=True))
    picture = picture_reader()
    cases = overlay_cases(
        masks,
        predictions,
        scores.units,
        scores.values["dice"],
        image_of=lambda name: picture(dataset.root / paths[name], Selector.from_text(texts[name])),
    )
    assert [case.caption.split(":")[0] for case in cases] == ["best", "median", "worst"]
    for case in cases:
        assert case.image is not None
        assert case.image[case.truth > 0].min() > case.image[case.truth == 0].max()
    assert draw_overlay(cases, tmp_path / "out" / "cases.png", class_names=masks.class_names).is_file()
