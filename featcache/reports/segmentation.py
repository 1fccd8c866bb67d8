"""A sheet of images with truth and prediction laid over them: the best, the median and the worst cases."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

from featcache.errors import ConfigurationError
from featcache.reports.predictions import class_colours

__all__ = ["OverlayCase", "chosen_cases", "draw_overlay", "overlay_cases", "shown_slice"]

_SIDE = 260
_MARGIN = 8
_LINE = 17
_OPACITY = 0.45
_TITLES = ("image", "truth", "prediction")


class LabelSource(Protocol):
    """What is needed of a dataset's masks; :class:`featcache.store.Masks` has it."""

    class_names: tuple[str, ...]

    def __getitem__(self, sample: str) -> NDArray[np.uint8]:
        """(H, W) class numbers."""

    def spacing(self, sample: str) -> tuple[float, float] | None:
        """(row, column) in mm."""


class ScoredUnit(Protocol):
    """A volume or a picture; :class:`featcache.evaluation.segmentation.native_scores.Unit` is one."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def members(self) -> tuple[str, ...]:
        """Its samples in order."""


@dataclass(frozen=True, slots=True)
class OverlayCase:
    """One row of the sheet."""

    caption: str
    """What it is: ``worst: spleen_12, slice 31, Dice 0.42``."""
    truth: NDArray[np.uint8]
    """(H, W) class numbers."""
    prediction: NDArray[np.uint8]
    """(H, W) class numbers."""
    image: NDArray[np.uint8] | None = None
    """(H, W) grey or (H, W, 3); None draws the labels on black."""
    spacing: tuple[float, float] | None = None
    """(row, column) in mm, so that the picture has the patient's proportions."""


def chosen_cases(scores: ArrayLike, each: int = 1) -> list[tuple[str, int]]:
    """The best, the median and the worst units.

    Parameters
    ----------
    scores
        (n,) one score a unit, higher is better; NaN is left out. Of several classes, their mean.
    each
        How many of each kind, at most.

    Returns
    -------
    list of (str, int)
        ``best``, ``median`` or ``worst``, and the unit's place; no unit twice.

    Examples
    --------
    >>> chosen_cases([0.5, 0.9, float("nan"), 0.1, 0.7])
    [('best', 1), ('median', 0), ('worst', 3)]
    """
    values = np.asarray(scores, dtype=np.float64)
    order = np.argsort(-values, kind="stable")
    order = order[~np.isnan(values[order])].tolist()
    best, worst = order[:each], order[::-1][:each]
    start = max(0, (len(order) - each + 1) // 2)
    middle = order[start : start + each]
    found: dict[int, str] = {}
    for kind, places in (("best", best), ("worst", worst), ("median", middle)):
        for place in places:
            found.setdefault(place, kind)
    ranks = {"best": 0, "median": 1, "worst": 2}
    return sorted(((kind, place) for place, kind in found.items()), key=lambda one: ranks[one[0]])


def shown_slice(truths: Sequence[NDArray[np.uint8]], predictions: Sequence[NDArray[np.uint8]]) -> int:
    """Which slice of a volume to show: the one with most foreground in the truth, else in the prediction.

    Examples
    --------
    >>> nothing, something = np.zeros((2, 2), np.uint8), np.ones((2, 2), np.uint8)
    >>> shown_slice([nothing, something, nothing], [nothing] * 3), shown_slice([nothing] * 2, [nothing, something])
    (1, 1)
    """
    counts = [np.count_nonzero(plane) for plane in truths]
    if not any(counts):
        counts = [np.count_nonzero(plane) for plane in predictions]
    return int(np.argmax(counts))


def overlay_cases(
    masks: LabelSource,
    predictions: Mapping[str, NDArray[np.uint8]],
    units: Sequence[ScoredUnit],
    scores: ArrayLike,
    *,
    image_of: Callable[[str], NDArray[np.uint8] | None] | None = None,
    each: int = 1,
) -> list[OverlayCase]:
    """Choose the best, the median and the worst volumes or pictures, and of each volume its fullest slice.

    Parameters
    ----------
    masks
        The dataset's masks.
    predictions
        (H, W) class numbers by sample id, on native grids.
    units, scores
        What was scored, and its (n, C - 1) Dice of the foreground classes, as
        :func:`featcache.evaluation.segmentation.native_scores.score_predictions` returns them. The mean over the
        defined ones ranks.
    image_of
        Gives the (H, W) or (H, W, 3) uint8 picture of a sample, None if there is none.
    each
        How many of each kind.

    Returns
    -------
    list of OverlayCase
        For :func:`draw_overlay`.
    """
    table = np.asarray(scores, dtype=np.float64)
    defined = ~np.isnan(table)
    means = np.full(len(table), np.nan)
    some = defined.any(axis=1)
    means[some] = np.nansum(table[some], axis=1) / defined[some].sum(axis=1)
    found = []
    for kind, place in chosen_cases(means, each):
        members = units[place].members
        truths = [masks[name] for name in members]
        drawn = [predictions[name] for name in members]
        shown = shown_slice(truths, drawn)
        name = members[shown]
        parts = ", ".join(
            f"{one} {value:.3f}"
            for one, value, there in zip(masks.class_names[1:], table[place].tolist(), defined[place], strict=True)
            if there
        )
        what = units[place].name if units[place].name == name else f"{units[place].name}, {name}"
        caption = f"{kind}: {what}, mean Dice {means[place]:.3f} ({parts})"
        image = None if image_of is None else image_of(name)
        found.append(OverlayCase(caption, truths[shown], drawn[shown], image, masks.spacing(name)))
    return found


def draw_overlay(cases: Sequence[OverlayCase], path: Path, *, class_names: Sequence[str], title: str = "") -> Path:
    """Draw one row a case: image, truth, prediction; a legend of the classes that occur below.

    Parameters
    ----------
    cases
        From top to bottom.
    path
        The PNG to write; its folder is made, and the file is replaced only when it is complete.
    class_names
        By class number, the background first.
    title
        A line above the sheet.

    Raises
    ------
    ConfigurationError
        If there is no case, or the arrays of one differ in size.
    """
    if not cases:
        raise ConfigurationError("there is nothing to draw: no cases")
    font = ImageFont.load_default(12)
    colours = class_colours(len(class_names))
    present = [np.union1d(case.truth, case.prediction) for case in cases]
    legend = [int(number) for number in np.unique(np.concatenate(present)) if number > 0]
    sizes = [_size(case) for case in cases]
    width = 3 * (_SIDE + _MARGIN) + _MARGIN
    columns = max(1, (width - _MARGIN) // 190)
    bottom = _MARGIN + _LINE * math.ceil(len(legend) / columns)
    height = 2 * _LINE + sum(size[1] + _LINE + _MARGIN for size in sizes) + bottom + _MARGIN
    sheet = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((_MARGIN, 3), _fitting(title, width - 2 * _MARGIN, font), "black", font)
    for place, name in enumerate(_TITLES):
        pen.text((_MARGIN + place * (_SIDE + _MARGIN), _LINE + 2), name, "#444444", font)
    top = 2 * _LINE
    for case, size in zip(cases, sizes, strict=True):
        for place, picture in enumerate(_pictures(case, colours, size)):
            sheet.paste(picture, (_MARGIN + place * (_SIDE + _MARGIN), top))
        pen.text((_MARGIN, top + size[1] + 1), _fitting(case.caption, width - 2 * _MARGIN, font), "black", font)
        top += size[1] + _LINE + _MARGIN
    for place, number in enumerate(legend):
        left, line = _MARGIN + place % columns * 190, top + _MARGIN + place // columns * _LINE
        pen.rectangle((left, line + 2, left + 10, line + 12), fill=tuple(colours[number].tolist()))
        pen.text((left + 15, line), _fitting(class_names[number], 170, font), "black", font)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    sheet.save(partial, format="png")
    partial.replace(path)
    return path


def _size(case: OverlayCase) -> tuple[int, int]:
    """(width, height) in pixels of the sheet: as wide as a column or as high, in the patient's proportions."""
    shapes = {case.truth.shape, case.prediction.shape, *(() if case.image is None else (case.image.shape[:2],))}
    if len(shapes) > 1 or 0 in case.truth.shape:
        raise ConfigurationError(
            f"{case.caption}: image, truth and prediction have the sizes {sorted(map(str, shapes))}, expected one"
        )
    row, column = case.spacing or (1.0, 1.0)
    high, wide = case.truth.shape[0] * row, case.truth.shape[1] * column
    scale = _SIDE / max(high, wide)
    return max(1, round(wide * scale)), max(1, round(high * scale))


def _pictures(case: OverlayCase, colours: NDArray[np.uint8], size: tuple[int, int]) -> list[Image.Image]:
    """Resized first, then coloured: outlines of labels stay sharp, images are not aliased."""
    grey: NDArray[Any] = np.zeros((size[1], size[0], 3), np.uint8)
    opacity = 1.0
    if case.image is not None:
        picture = Image.fromarray(np.ascontiguousarray(case.image)).convert("RGB")
        smaller = picture.width > size[0] or picture.height > size[1]
        grey = np.asarray(picture.resize(size, Image.Resampling.BOX if smaller else Image.Resampling.NEAREST))
        opacity = _OPACITY
    found = [Image.fromarray(grey)]
    for plane in (case.truth, case.prediction):
        labels = np.asarray(Image.fromarray(np.ascontiguousarray(plane)).resize(size, Image.Resampling.NEAREST))
        mixed = np.where(labels[..., None] > 0, (1 - opacity) * grey + opacity * colours[labels], grey)
        found.append(Image.fromarray(np.rint(mixed).astype(np.uint8)))
    return found


def _fitting(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    text = " ".join(text.split())[:300]
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
