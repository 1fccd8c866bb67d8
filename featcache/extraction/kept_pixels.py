"""Decoded pixels that are kept (``--pixels keep``): a model that comes later and sees the same needs no image file.

They lie in a store of their own beside the features, with a key of their own: the preprocessing without a model's
mean and standard deviation. Kept are the pixels of 8-bit images, which resizing leaves 8-bit, so that features from
kept pixels are the same to the last bit as features from files. Others are decoded anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featcache.imaging import Preprocess
from featcache.store import KEPT_PIXELS, FeatureStore, Key, is_store

__all__ = ["KeptPixels", "pixel_key", "pixel_recipe"]


def pixel_recipe(recipe: Preprocess) -> Preprocess:
    """What all models that see the same pixels share: the recipe without their mean and standard deviation."""
    return replace(recipe, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def pixel_key(recipe: Preprocess, decoders: Mapping[str, int]) -> Key:
    """The key under which pixels are kept."""
    return Key(
        model=KEPT_PIXELS,
        weights="0" * 64,
        precision="uint8",
        runtime="none",
        dtype="uint8",
        preprocess=pixel_recipe(recipe).as_dict(),
        decoders=dict(decoders),
        encoder=1,
    )


class KeptPixels:
    """The pixels that a store holds of the jobs of a run.

    Parameters
    ----------
    path
        The store; if it is not there, nothing is kept yet.
    digests
        Of each job.
    """

    def __init__(self, path: Path, digests: Sequence[bytes]) -> None:
        wanted = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16)
        self._array = FeatureStore(path).array_of("pixels", wanted) if is_store(path) else None
        self.there = np.zeros(len(digests), bool) if self._array is None else self._array.rows >= 0
        """Which jobs' pixels are kept."""

    def get(self, number: int) -> NDArray[np.uint8] | None:
        """(3, S, S) uint8 of a job by its number, checked against their checksum; None if they are not kept."""
        if self._array is None or not self.there[number]:
            return None
        pixels: NDArray[np.uint8] = self._array[number]
        return pixels
