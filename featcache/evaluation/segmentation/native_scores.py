"""Scores of whole volumes and pictures from the predictions of their planes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featcache.errors import ProbeError
from featcache.metrics.segmentation import DEFAULT_TOLERANCE, SEGMENTATION_METRICS, dice, iou, overlap_counts
from featcache.metrics.surfaces import label_distances
from featcache.store.masks import Masks

__all__ = ["SegmentationScores", "Unit", "score_predictions", "units_of"]


@dataclass(frozen=True, slots=True)
class Unit:
    """What is scored as one: a volume, or a picture."""

    name: str
    """The volume's name, or the sample's id."""
    members: tuple[str, ...]
    """Its samples, ordered by index."""
    step: float | None
    """Distance of neighbouring members in mm (in slices where that is unknown); None for a picture, and where the
    members are not evenly spaced or show parts of slices: then the unit has no surface in three dimensions."""


@dataclass(frozen=True, slots=True)
class SegmentationScores:
    """Scores of n units and C classes."""

    units: tuple[Unit, ...]
    """What was scored."""
    class_names: tuple[str, ...]
    """The C classes, the background first."""
    counts: NDArray[np.int64]
    """(n, C, 3) from :func:`featcache.metrics.overlap_counts`."""
    values: Mapping[str, NDArray[np.float64]]
    """Metric name to (n, C - 1) values of the foreground classes, NaN where undefined."""
    notes: tuple[str, ...]
    """What a reader of the numbers must know."""


def units_of(masks: Masks, ids: Iterable[str], volumes: Mapping[str, str] | None = None) -> tuple[Unit, ...]:
    """Put the samples of each volume together; a picture is a unit of its own.

    Parameters
    ----------
    masks
        The dataset's masks.
    ids
        Samples, all of which have a mask.
    volumes
        By sample, the volume of slices whose files know no geometry (``volume`` in the samples table).

    Returns
    -------
    tuple of Unit
        In the order in which they first occur. A volume that was sliced along several axes is one unit an axis.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for name in ids:
        axis = masks.selector(name).axis or ""
        volume = masks.volume(name) or (volumes or {}).get(name)
        found.setdefault((volume, axis) if volume else (name, "picture"), []).append(name)
    axes: dict[str, int] = {}
    for volume, _ in found:
        axes[volume] = axes.get(volume, 0) + 1
    return tuple(
        _unit(masks, f"{volume} ({axis})" if axes[volume] > 1 else volume, members, picture=axis == "picture")
        for (volume, axis), members in found.items()
    )


def score_predictions(
    masks: Masks,
    predictions: Mapping[str, NDArray[np.uint8]],
    *,
    ids: Sequence[str] | None = None,
    volumes: Mapping[str, str] | None = None,
    tolerance: float | Sequence[float] = DEFAULT_TOLERANCE,
) -> SegmentationScores:
    """Score predictions on native grids, a volume at a time.

    Parameters
    ----------
    masks
        The dataset's masks.
    predictions
        (H, W) uint8 class numbers by sample id, as :func:`featcache.evaluation.segmentation.native.to_native` gives
        them. Each is asked for once, unit by unit: a mapping that computes them keeps one volume in memory.
    ids
        Samples to score; default all of ``predictions``.
    volumes
        As in :func:`units_of`.
    tolerance
        Of surface Dice in mm: one, or one for each foreground class.

    Returns
    -------
    SegmentationScores
        Distances are in mm, or in pixels where the file knows no spacing; in three dimensions for volumes, in two for
        pictures.

    Raises
    ------
    ProbeError
        If a sample has no mask, or its prediction another size.
    """
    names = list(predictions) if ids is None else list(ids)
    lacking = [name for name in names if name not in masks]
    if lacking or not names:
        raise ProbeError(
            f"{len(lacking)} of {len(names)} samples to be scored have no mask: {', '.join(lacking[:3])}",
            remedy="Score samples with masks only, or write them: featcache masks --dataset D.",
        )
    units = units_of(masks, names, volumes)
    n_classes = len(masks.class_names)
    limits = np.broadcast_to(np.asarray(tolerance, dtype=np.float64), (n_classes - 1,))
    counts = np.zeros((len(units), n_classes, 3), np.int64)
    values = {name: np.full((len(units), n_classes - 1), np.nan) for name in SEGMENTATION_METRICS}
    flat = pixels = 0
    for place, unit in enumerate(units):
        pairs = [_pair(masks, predictions, name) for name in unit.members]
        counts[place] = sum(overlap_counts(*pair, n_classes) for pair in pairs)
        spacing = _spacing(masks, unit)
        if spacing is None:
            flat += 1
            continue
        pixels += masks.spacing(unit.members[0]) is None
        truth, prediction = (np.stack(planes) for planes in zip(*pairs, strict=True))
        if len(spacing) == 2:
            truth, prediction = truth[0], prediction[0]
        for label, distances in label_distances(truth, prediction, spacing).items():
            values["hd95"][place, label - 1] = distances.hd95()
            values["surface_dice"][place, label - 1] = distances.surface_dice(float(limits[label - 1]))
    values["dice"], values["iou"] = dice(counts[:, 1:]), iou(counts[:, 1:])
    return SegmentationScores(units, masks.class_names, counts, values, _notes(masks, units, values, flat, pixels))


def _unit(masks: Masks, name: str, members: Sequence[str], *, picture: bool) -> Unit:
    selectors = {member: masks.selector(member) for member in members}
    ordered = sorted(members, key=lambda member: (selectors[member].index or 0, member))
    if picture:
        return Unit(name, tuple(ordered), None)
    volume = masks.volume(ordered[0])
    cut = any(selectors[member].crop is not None or selectors[member].mirror for member in ordered)
    index = [selectors[member].index for member in ordered]
    if volume is None or cut or len(index) == 1 or len({masks.shape(member) for member in ordered}) > 1:
        return Unit(name, tuple(ordered), None)
    steps = set(np.diff(np.array(index, dtype=np.int64)).tolist())
    even = len(steps) == 1 and min(steps) > 0
    return Unit(name, tuple(ordered), min(steps) * (masks.thickness(volume) or 1.0) if even else None)


def _spacing(masks: Masks, unit: Unit) -> tuple[float, ...] | None:
    """Of the stack of a unit's planes, or of its only one; None where it has no surface."""
    plane = masks.spacing(unit.members[0]) or (1.0, 1.0)
    if unit.step is not None:
        return (unit.step, *plane)
    return plane if len(unit.members) == 1 else None


def _pair(
    masks: Masks, predictions: Mapping[str, NDArray[np.uint8]], name: str
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    truth, prediction = masks[name], predictions[name]
    if truth.shape != prediction.shape:
        raise ProbeError(
            f"the prediction of {name!r} has shape {prediction.shape}, its mask {truth.shape}",
            remedy="Resample it to the native grid first: featcache.evaluation.segmentation.native.to_native.",
        )
    return truth, prediction


def _notes(
    masks: Masks, units: Sequence[Unit], values: Mapping[str, NDArray[np.float64]], flat: int, pixels: int
) -> tuple[str, ...]:
    notes = []
    if flat:
        notes.append(
            f"{flat} of {len(units)} volumes have slices at uneven distances, parts of slices, or no geometry: Dice "
            "and IoU count their pixels, HD95 and surface Dice are undefined."
        )
    if pixels:
        notes.append(f"{pixels} of {len(units)} units say no spacing: their distances and the tolerance are in pixels.")
    absent = np.isnan(values["dice"]).sum(axis=0)
    if absent.any():
        shown = ", ".join(
            f"{name} {count}" for name, count in zip(masks.class_names[1:], absent.tolist(), strict=True) if count
        )
        notes.append(f"Undefined, since neither truth nor prediction has the class (units of {len(units)}): {shown}.")
    return tuple(notes)
