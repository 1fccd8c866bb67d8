"""Fitting a segmentation head on the streams of a store's splits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.evaluation.segmentation.heads import HeadSettings, Segmenter, make_segmenter, uses_layers
from featcache.evaluation.segmentation.rows import SegmentRows, joined_rows, stream_rows
from featcache.evaluation.segmentation.tokens import chosen_tokens
from featcache.probes.segmentation.token_stream import TokenStream
from featcache.store import FeatureStore, Masks

__all__ = ["FittingJob", "LastLayer"]


class FittingJob:
    """What all runs of one question share: the store's tokens, the input square, the memory.

    Parameters
    ----------
    store, masks
        Tokens and targets.
    settings
        Of the head; they say which layers are read.
    memory
        Bytes of rows that are kept between epochs, by the streams of train and of train + val together.

    Attributes
    ----------
    tokens
        What heads read, by row.
    size : int
        S of the encoder's input.
    preprocess : Mapping
        The store's specification.
    """

    def __init__(self, store: FeatureStore, masks: Masks, settings: HeadSettings, memory: int) -> None:
        self._store, self._masks, self._settings, self._memory = store, masks, settings, memory
        self.preprocess: Mapping[str, Any] = store.attributes["spec"]["preprocess"]
        self.size = int(self.preprocess["crop"])
        tokens = store[chosen_tokens(store, settings.tokens, layered=uses_layers(settings))]
        self.tokens: Any = tokens if tokens.ndim != 5 or uses_layers(settings) else LastLayer(tokens)

    def stream(self, rows: SegmentRows, *, keep: bool = True) -> TokenStream:
        """Tokens and targets of the rows; ``keep`` those that fit between epochs."""
        return stream_rows(
            self._store, self._masks, rows, self.size, self._memory // 2 if keep else 0, tokens=self.tokens
        )

    def fit(self, train: SegmentRows, val: SegmentRows, *, again: bool) -> Segmenter:
        """Make a head, fit it on ``train``, choose on ``val``, and with ``again`` fit it anew on both."""
        learning = self.stream(train)
        head = make_segmenter(self._settings, len(self._masks.class_names), learning)
        choosing = self.stream(val, keep=False) if len(val) else None
        both = self.stream(joined_rows(train, val)) if again and len(val) else None
        return head.fit(learning, choosing, both)


class LastLayer:
    """The deepest layer of (n, L, h, w, D) tokens."""

    def __init__(self, tokens: Any) -> None:
        self._tokens = tokens
        self.shape: tuple[int, ...] = (tokens.shape[0], *tokens.shape[2:])
        self.dtype: np.dtype[Any] = tokens.dtype

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        found: NDArray[Any] = self._tokens[rows][:, -1]
        return found
