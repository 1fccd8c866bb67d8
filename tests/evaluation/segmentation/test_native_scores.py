"""Volumes are scored from the predictions of their slices as they would be from whole label volumes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from featcache.errors import ProbeError
from featcache.evaluation.segmentation.native_scores import score_predictions, units_of
from featcache.imaging import select
from featcache.metrics import hd95, score_volume
from featcache.records import Axis, Image, Selector, VolumeGeometry
from featcache.store import row_digest
from featcache.store.mask_writer import MaskRow, MaskWriter, open_mask_writer
from featcache.store.masks import Masks, open_masks

CLASSES = ("background", "liver", "spleen")
SIZES = (0.7, 0.9, 2.5)
GEOMETRY = VolumeGeometry((9, 8, 6), np.diag([*SIZES, 1.0]), (9, 8, 6), np.diag([*SIZES, 1.0]))
PLANE_SPACING = {"axial": (0.9, 0.7), "coronal": (2.5, 0.7), "sagittal": (2.5, 0.9)}


def volume(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 3, (9, 8, 6)).astype(np.uint8)


def planes(array: np.ndarray, axis: Axis, index: list[int], **part: object) -> list[np.ndarray]:
    image = Image(array, "volume", (0.0, 2.0))
    return [np.ascontiguousarray(select(image, Selector(axis, place, **part))) for place in index]  # type: ignore[arg-type]


def add(
    writer: MaskWriter,
    name: str,
    array: np.ndarray,
    axis: Axis = "axial",
    index: list[int] | None = None,
    **part: object,
) -> None:
    index = list(range(6)) if index is None else index
    for place, plane in zip(index, planes(array, axis, index, **part), strict=True):
        sample, text = f"{name}_{axis}_{place}", Selector(axis, place, **part).to_text()  # type: ignore[arg-type]
        row = MaskRow(sample, row_digest(b"0" * 16, sample), text, PLANE_SPACING[axis], name, GEOMETRY)
        writer.add(row, plane)


def predicted(
    name: str, array: np.ndarray, axis: Axis = "axial", index: list[int] | None = None, **part: object
) -> dict[str, np.ndarray]:
    index = list(range(6)) if index is None else index
    names = [f"{name}_{axis}_{place}" for place in index]
    return dict(zip(names, planes(array, axis, index, **part), strict=True))


@pytest.fixture
def masks(home: Path) -> Masks:
    with open_mask_writer(home, "scans", "organs", CLASSES) as writer:
        add(writer, "a", volume(1))
        add(writer, "b", volume(2))
        add(writer, "thin", volume(3), index=[0, 2, 4])
        add(writer, "uneven", volume(4), index=[0, 1, 4])
        add(writer, "one", volume(5), index=[3])
        add(writer, "cut", volume(6), index=[1, 2], crop=(1, 2, 4, 5))
        add(writer, "cor", volume(7), "coronal")
        add(writer, "both", volume(8), "axial")
        add(writer, "both", volume(8), "sagittal")
        for number in range(3):
            picture = volume(9)[:, :, number]
            writer.add(MaskRow(f"p{number}", row_digest(b"1" * 16, f"p{number}"), ""), picture)
        writer.commit()
    return open_masks(home, "scans")


@pytest.mark.parametrize(("name", "axis", "seed"), [("a", "axial", 1), ("b", "axial", 2), ("cor", "coronal", 7)])
def test_a_volume_has_the_scores_of_its_label_volume(masks: Masks, name: str, axis: Axis, seed: int) -> None:
    other = volume(50 + seed)
    found = score_predictions(masks, predicted(name, other, axis), tolerance=1.5)
    truth = volume(seed)
    if axis == "coronal":  # slices 0 to 5 of 8
        truth, other = truth[:, :6], other[:, :6]
    expected = score_volume(truth, other, 3, spacing=SIZES, tolerance=1.5)
    assert [unit.name for unit in found.units] == [name]
    for metric, values in expected.items():
        np.testing.assert_allclose(found.values[metric][0], values, rtol=1e-12, err_msg=metric)
    assert found.notes == ()


def test_every_second_slice_is_a_coarser_volume(masks: Masks) -> None:
    other = volume(60)
    found = score_predictions(masks, predicted("thin", other, index=[0, 2, 4]))
    part = (slice(None), slice(None), slice(0, 6, 2))
    expected = hd95(volume(3)[part] == 1, other[part] == 1, (0.7, 0.9, 5.0))
    assert found.values["hd95"][0, 0] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "index", "part"), [("uneven", [0, 1, 4], {}), ("cut", [1, 2], {"crop": (1, 2, 4, 5)})]
)
def test_gaps_and_crops_have_overlap_but_no_surface(
    masks: Masks, name: str, index: list[int], part: dict[str, object]
) -> None:
    seed = {"uneven": 4, "cut": 6}[name]
    found = score_predictions(masks, predicted(name, volume(61), index=index, **part))
    truth, other = (np.stack(planes(volume(which), "axial", index, **part)) for which in (seed, 61))
    expected = score_volume(truth, other, 3, surfaces=False)
    np.testing.assert_allclose(found.values["dice"][0], expected["dice"])
    assert np.isnan(found.values["hd95"]).all()
    assert "uneven distances" in found.notes[0]


def test_a_single_slice_is_scored_as_a_plane_in_millimetres(masks: Masks) -> None:
    other = volume(62)
    found = score_predictions(masks, predicted("one", other, index=[3]))
    expected = hd95(volume(5)[:, :, 3] == 2, other[:, :, 3] == 2, (0.7, 0.9))
    assert found.values["hd95"][0, 1] == pytest.approx(expected)


def test_pictures_are_units_with_distances_in_pixels(masks: Masks) -> None:
    other = {f"p{number}": volume(63)[:, :, number] for number in range(3)}
    found = score_predictions(masks, other)
    assert [unit.name for unit in found.units] == ["p0", "p1", "p2"]
    assert found.values["hd95"][1, 0] == hd95(volume(9)[:, :, 1] == 1, volume(63)[:, :, 1] == 1)
    assert "in pixels" in found.notes[0]


def test_slices_without_geometry_are_put_together_by_the_samples_table(masks: Masks) -> None:
    other = {f"p{number}": volume(63)[:, :, number] for number in range(3)}
    found = score_predictions(masks, other, volumes={"p0": "v", "p1": "v"})
    assert [(unit.name, unit.members) for unit in found.units] == [("v", ("p0", "p1")), ("p2", ("p2",))]
    expected = score_volume(volume(9)[:, :, :2], volume(63)[:, :, :2], 3, surfaces=False)
    np.testing.assert_allclose(found.values["dice"][0], expected["dice"])
    assert np.isnan(found.values["hd95"][0]).all()


def test_a_volume_sliced_along_two_axes_is_two_units(masks: Masks) -> None:
    names = [name for name in masks if name.startswith("both")]
    assert [unit.name for unit in units_of(masks, names)] == ["both (axial)", "both (sagittal)"]


def test_each_prediction_is_asked_for_once_in_the_order_of_the_units(masks: Masks) -> None:
    asked: list[str] = []
    content = {**predicted("a", volume(1)), **predicted("b", volume(2))}

    class Lazy(dict):  # type: ignore[type-arg]
        def __getitem__(self, name: str) -> np.ndarray:
            asked.append(name)
            return content[name]

    names = [name for pair in zip(predicted("a", volume(1)), predicted("b", volume(1)), strict=True) for name in pair]
    found = score_predictions(masks, Lazy(), ids=names)
    assert asked == list(content)
    assert (found.values["dice"] == 1).all()
    assert (found.values["hd95"] == 0).all()


def test_classes_that_are_nowhere_are_said(masks: Masks) -> None:
    nothing = {f"p{number}": np.zeros((9, 8), np.uint8) for number in range(3)}
    found = score_predictions(masks, nothing)
    assert (found.values["dice"] == 0).all()
    assert not any("neither" in note for note in found.notes)


def test_samples_without_a_mask_and_wrong_sizes_are_refused(masks: Masks) -> None:
    with pytest.raises(ProbeError, match="no mask: zz"):
        score_predictions(masks, {"zz": np.zeros((2, 2), np.uint8)})
    with pytest.raises(ProbeError, match="to_native"):
        score_predictions(masks, {"p0": np.zeros((2, 2), np.uint8)})
