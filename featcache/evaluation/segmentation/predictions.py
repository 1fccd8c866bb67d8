"""Predictions on native grids that are computed when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.evaluation.segmentation.heads import Segmenter
from featcache.evaluation.segmentation.native import Border, to_native
from featcache.evaluation.segmentation.rows import SegmentRows
from featcache.store import Masks

__all__ = ["NativePredictions"]


class NativePredictions(Mapping[str, NDArray[np.uint8]]):
    """Predicted classes of samples on their native grids, computed when they are asked for.

    Parameters
    ----------
    head
        A fitted head.
    tokens
        The store's tokens, by row.
    rows
        Samples.
    masks
        For the native sizes.
    preprocess
        The store's specification.
    border
        As in :func:`featcache.evaluation.segmentation.native.to_native`.
    """

    def __init__(
        self,
        head: Segmenter,
        tokens: Any,
        rows: SegmentRows,
        masks: Masks,
        preprocess: Mapping[str, Any],
        *,
        border: Border = "refuse",
    ) -> None:
        self._head, self._tokens, self._masks = head, tokens, masks
        self._preprocess, self._border = preprocess, border
        self._row = dict(zip(rows.ids, rows.rows.tolist(), strict=True))

    def __len__(self) -> int:
        return len(self._row)

    def __iter__(self) -> Iterator[str]:
        return iter(self._row)

    def __getitem__(self, sample: str) -> NDArray[np.uint8]:
        """(H, W) uint8 class numbers."""
        tokens = self._tokens[[self._row[sample]]].astype(np.float32)
        shape = self._masks.shape(sample)
        return to_native(self._head.logits(tokens)[0], shape, self._preprocess, border=self._border)
