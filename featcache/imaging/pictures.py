"""Planes as eight-bit pictures for people: the look of an image at its own size, whatever a model sees of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featcache.imaging.planes import select
from featcache.imaging.reader import read, unit_of
from featcache.records import Image, Selector

__all__ = ["picture_of", "picture_reader"]


def picture_of(image: Image, selector: Selector) -> NDArray[np.uint8]:
    """A plane at native size from black to white between its 0.5th and 99.5th percentile; 8 bits stay as they are.

    Returns
    -------
    (H, W) or (H, W, 3) uint8

    Raises
    ------
    ImageError
        If the selector lies outside.
    """
    plane = np.ascontiguousarray(select(image, selector))
    if plane.dtype == np.uint8:
        return plane
    low, high = np.percentile(plane, (0.5, 99.5))
    if plane.ndim == 3:
        low, high = image.value_range
    scale = 255.0 / (high - low) if high > low else 0.0
    picture: NDArray[np.uint8] = np.rint((plane.astype(np.float64) - low) * scale).clip(0, 255).astype(np.uint8)
    return picture


def picture_reader() -> Callable[[Path, Selector], NDArray[np.uint8]]:
    """A function of path and selector to a picture that keeps the last file open for its next slice."""
    kept: dict[tuple[Path, Selector], Image] = {}

    def picture(path: Path, selector: Selector) -> NDArray[np.uint8]:
        place = (path, unit_of(path, selector))
        if place not in kept:
            image = read(path, selector)
            kept.clear()
            kept[place] = image
        return picture_of(kept[place], selector)

    return picture
