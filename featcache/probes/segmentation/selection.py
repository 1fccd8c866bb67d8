"""Which of several heads segments the validation split best."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from featcache.errors import ProbeError
from featcache.metrics.segmentation import dice, overlap_counts
from featcache.metrics.weighted import defined_mean
from featcache.probes.segmentation.token_stream import TokenStream
from featcache.probes.segmentation.upsampling import upsampled

__all__ = ["best_of", "class_maps", "selection_dice"]

Candidates = Callable[[NDArray[np.float32]], Iterable[NDArray[np.float32]]]
"""From (b, ..., h, w, D) tokens to the (b, C, h', w') logits of each head in turn."""


def class_maps(logits: NDArray[np.float32], size: int) -> NDArray[np.uint8]:
    """(b, S, S) classes of (b, C, h, w) logits: bilinear, then the largest.

    Examples
    --------
    >>> class_maps(np.array([[[[1.0, 0.0]], [[0.0, 1.0]]]], np.float32), 2)
    array([[[0, 1],
            [0, 1]]], dtype=uint8)
    """
    found: NDArray[np.uint8] = upsampled(logits, size).argmax(axis=1).astype(np.uint8)
    return found


def selection_dice(
    stream: TokenStream, n_classes: int, candidates: Candidates, *, batch_size: int = 8
) -> NDArray[np.float64]:
    """Dice of each head on a split: pixels pooled at S x S class by class, then the mean over foreground classes.

    Classes that neither the split nor the head has are left out of the mean.

    Parameters
    ----------
    stream
        The validation rows.
    n_classes
        C, with the background.
    candidates
        The heads; batch by batch and one after another, so that the maps of one head are in memory.
    batch_size
        Images at a time.

    Returns
    -------
    (M,) float64
        NaN where there is no foreground at all.
    """
    totals: list[NDArray[np.int64]] = []
    for batch in stream.batches(batch_size):
        for place, logits in enumerate(candidates(batch.tokens.astype(np.float32))):
            if place == len(totals):
                totals.append(np.zeros((n_classes, 3), np.int64))
            totals[place] += overlap_counts(batch.labels, class_maps(logits, stream.size), n_classes)
    return np.asarray(defined_mean(dice(np.stack(totals, axis=1)[1:])), dtype=np.float64)


def best_of(scores: NDArray[np.float64]) -> int:
    """Place of the best score; of equal ones the first.

    Raises
    ------
    ProbeError
        If no score is defined.

    Examples
    --------
    >>> best_of(np.array([0.2, np.nan, 0.5, 0.5]))
    2
    """
    if np.isnan(scores).all():
        raise ProbeError(
            "no head has a Dice on the validation split: it has no foreground, and none was predicted",
            remedy="Choose a validation split that shows the classes.",
        )
    return int(np.nanargmax(scores))
