"""The overlay sheet shows what it says: image, truth and prediction side by side, in the patient's proportions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from featcache.errors import ConfigurationError
from featcache.evaluation.segmentation.native_scores import score_predictions
from featcache.records import Selector, VolumeGeometry
from featcache.reports.predictions import class_colours
from featcache.reports.segmentation import OverlayCase, chosen_cases, draw_overlay, overlay_cases, shown_slice
from featcache.store import row_digest
from featcache.store.mask_writer import MaskRow, open_mask_writer
from featcache.store.masks import open_masks

CLASSES = ("background", "liver", "spleen")


def case(shape: tuple[int, int] = (260, 260), **facts: object) -> OverlayCase:
    rng = np.random.default_rng(0)
    truth, prediction = np.zeros((2, *shape), np.uint8)
    truth[: shape[0] // 2] = 1
    prediction[:, : shape[1] // 2] = 2
    image = rng.integers(0, 256, shape).astype(np.uint8)
    return OverlayCase(**{"caption": "best: a", "truth": truth, "prediction": prediction, "image": image, **facts})  # type: ignore[arg-type]


def panels(path: Path, height: int, width: int = 260) -> list[np.ndarray]:
    """The three panels of the first row."""
    sheet = np.asarray(PillowImage.open(path))
    return [sheet[34 : 34 + height, 8 + place * 268 : 8 + place * 268 + width] for place in range(3)]


def test_panels_are_the_image_and_the_image_tinted_by_class(tmp_path: Path) -> None:
    drawn = case()
    image, truth, prediction = panels(draw_overlay([drawn], tmp_path / "x" / "sheet.png", class_names=CLASSES), 260)
    grey = np.repeat(drawn.image[..., None], 3, axis=2)  # type: ignore[index]
    np.testing.assert_array_equal(image, grey)
    colours = class_colours(3).astype(float)
    for panel, labels in ((truth, drawn.truth), (prediction, drawn.prediction)):
        inside = labels > 0
        np.testing.assert_array_equal(panel[~inside], grey[~inside])
        tinted = 0.55 * grey[inside] + 0.45 * colours[labels[inside]]
        np.testing.assert_allclose(panel[inside], tinted, atol=0.51)


def test_planes_with_thick_slices_keep_the_patients_proportions(tmp_path: Path) -> None:
    drawn = case((20, 50), spacing=(2.5, 1.0), image=None)
    _, truth, _ = panels(draw_overlay([drawn], tmp_path / "sheet.png", class_names=CLASSES), 260)
    liver = class_colours(3)[1]
    assert (truth[:128] == liver).all()
    assert (truth[132:] == 0).all()
    tall = draw_overlay([case((20, 50), image=None)], tmp_path / "tall.png", class_names=CLASSES)
    assert PillowImage.open(tall).height < PillowImage.open(tmp_path / "sheet.png").height


def test_every_case_has_a_row(tmp_path: Path) -> None:
    one = PillowImage.open(draw_overlay([case()], tmp_path / "one.png", class_names=CLASSES, title="x" * 500))
    three = PillowImage.open(draw_overlay([case()] * 3, tmp_path / "three.png", class_names=CLASSES))
    assert three.width == one.width
    assert three.height - one.height == 2 * (260 + 17 + 8)


def test_large_images_in_colour_are_made_smaller(tmp_path: Path) -> None:
    drawn = case((900, 600), image=np.full((900, 600, 3), (10, 200, 30), np.uint8))
    image, _, _ = panels(draw_overlay([drawn], tmp_path / "sheet.png", class_names=CLASSES), 260, 173)
    assert (image == (10, 200, 30)).all()


def test_best_median_and_worst_are_chosen_without_repetition() -> None:
    scores = [0.5, 0.9, np.nan, 0.1, 0.7, 0.6, 0.2]
    assert chosen_cases(scores) == [("best", 1), ("median", 0), ("worst", 3)]
    assert chosen_cases(scores, each=2) == [
        ("best", 1),
        ("best", 4),
        ("median", 5),
        ("median", 0),
        ("worst", 3),
        ("worst", 6),
    ]
    assert chosen_cases([0.4]) == [("best", 0)]
    assert chosen_cases([0.4, 0.3]) == [("best", 0), ("worst", 1)]
    assert chosen_cases([np.nan]) == []


def test_the_slice_with_most_foreground_is_shown() -> None:
    planes = [np.zeros((4, 4), np.uint8) for _ in range(3)]
    planes[2][:2] = 1
    planes[1][0, 0] = 2
    empty = [np.zeros((4, 4), np.uint8)] * 3
    assert shown_slice(planes, empty) == 2
    assert shown_slice(empty, planes) == 2


def test_cases_of_volumes_are_their_fullest_slices_with_the_mean_dice(home: Path) -> None:
    with open_mask_writer(home, "data", "organs", CLASSES) as writer:
        for unit, foreground in (("a", (0, 3, 1)), ("b", (0, 0, 2))):
            geometry = VolumeGeometry((5, 4, 3), np.diag([1.0, 2, 3, 1]), (5, 4, 3), np.eye(4))
            for index, count in enumerate(foreground):
                plane = np.zeros((4, 5), np.uint8)
                plane.flat[:count] = 1
                name = f"{unit}{index}"
                text = Selector("axial", index).to_text()
                row = MaskRow(name, row_digest(b"0" * 16, name), text, (2.0, 1.0), unit, geometry)
                writer.add(row, plane)
        writer.commit()
    masks = open_masks(home, "data")
    predictions = {name: masks[name].copy() for name in masks}
    predictions["b2"][:] = 0
    predictions["a1"].flat[0] = 2
    scores = score_predictions(masks, predictions)
    cases = overlay_cases(
        masks, predictions, scores.units, scores.values["dice"], image_of=lambda name: np.full((4, 5), ord(name[0]))
    )
    # a: liver 2 x 3 / (4 + 3), spleen invented; b: liver missed.
    assert [found.caption for found in cases] == [
        "best: a, a1, mean Dice 0.429 (liver 0.857, spleen 0.000)",
        "worst: b, b2, mean Dice 0.000 (liver 0.000)",
    ]
    np.testing.assert_array_equal(cases[0].truth, masks["a1"])
    np.testing.assert_array_equal(cases[1].prediction, predictions["b2"])
    assert cases[0].spacing == (2.0, 1.0)
    assert cases[0].image is not None
    assert int(cases[1].image[0, 0]) == ord("b")  # type: ignore[index]


def test_nothing_and_sizes_that_differ_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no cases"):
        draw_overlay([], tmp_path / "sheet.png", class_names=CLASSES)
    with pytest.raises(ConfigurationError, match="expected one"):
        draw_overlay([case(image=np.zeros((3, 3), np.uint8))], tmp_path / "sheet.png", class_names=CLASSES)
    assert not (tmp_path / "sheet.png").exists()
