"""Linear segmentation in closed form: ridge regression of the share that each class has in each token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from featcache.errors import ProbeError
from featcache.probes.segmentation.selection import best_of, selection_dice
from featcache.probes.segmentation.token_stream import TokenStream
from featcache.probes.segmentation.upsampling import area_shares

__all__ = ["DEFAULT_PENALTIES", "RidgeSegmenter", "flat_tokens"]

DEFAULT_PENALTIES = tuple(float(f"1e{power}") for power in range(-6, 3))
"""Multiples of the mean eigenvalue of the tokens' covariance."""


def flat_tokens(tokens: NDArray[np.float32]) -> NDArray[np.float32]:
    """(b h w, D) of (b, h, w, D) tokens; (b h w, L D) of (b, L, h, w, D).

    Examples
    --------
    >>> flat_tokens(np.zeros((2, 5, 3, 3, 4), np.float32)).shape
    (18, 20)
    """
    if tokens.ndim == 5:
        b, layers, h, w, width = tokens.shape
        return np.ascontiguousarray(tokens.transpose(0, 2, 3, 1, 4)).reshape(b * h * w, layers * width)
    return tokens.reshape(-1, tokens.shape[-1])


class RidgeSegmenter:
    """Least squares on soft targets at the resolution of the tokens: one pass, no learning rate.

    The moments of tokens and targets are summed in float64 over one pass, block by block, so that neither the number of
    rows nor their order matters; one eigenvalue decomposition gives the solutions for all penalties. The intercept is
    not penalised.

    Parameters
    ----------
    n_classes
        C, with the background.
    penalties
        Ridge penalties as multiples of the mean variance of the tokens' features; chosen on the validation split.
    batch_size
        Rows of a block.

    Attributes
    ----------
    coef_ : (D, C) float64
        Weights.
    intercept_ : (C,) float64
        Intercepts.
    penalty_ : float
        The one that was chosen.
    selection_ : list of dict
        ``penalty`` and ``dice`` on the validation split.

    References
    ----------
    Hoerl and Kennard, "Ridge regression", Technometrics 12(1), 1970.
    """

    def __init__(self, n_classes: int, *, penalties: Sequence[float] = DEFAULT_PENALTIES, batch_size: int = 8) -> None:
        if not penalties or min(penalties) <= 0:
            raise ProbeError(f"penalties {tuple(penalties)} are not all positive", remedy="Give positive numbers.")
        self.n_classes = n_classes
        self.penalties = tuple(penalties)
        self.batch_size = batch_size

    def fit(self, train: TokenStream, val: TokenStream | None = None, both: TokenStream | None = None) -> Self:
        """Solve on ``train``, choose the penalty on ``val``, solve on ``both`` where it is given.

        Raises
        ------
        ProbeError
            If there are several penalties and nothing to choose on.
        """
        if val is None and len(self.penalties) > 1:
            raise ProbeError(
                f"{len(self.penalties)} penalties and no validation split to choose on",
                remedy="Give the dataset a val split (--split-file), or one penalty: --penalties 0.001.",
            )
        self.selection_: list[dict[str, float]] = []
        place = 0
        solved: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
        if val is not None or both is None:
            solved = self._solve(train, self.penalties)
        if val is not None:
            found = selection_dice(val, self.n_classes, lambda some: [_scores(some, *pair) for pair in solved])
            place = best_of(found)
            pairs = zip(self.penalties, found.tolist(), strict=True)
            self.selection_ = [{"penalty": penalty, "dice": score} for penalty, score in pairs]
        self.penalty_ = self.penalties[place]
        chosen = solved[place] if both is None else self._solve(both, (self.penalty_,))[0]
        self.coef_, self.intercept_ = chosen
        self.chosen_ = {"penalty": self.penalty_}
        return self

    def logits(self, tokens: NDArray[np.float32]) -> NDArray[np.float32]:
        """(b, C, h, w) float32 predicted shares of (b, ..., h, w, D) tokens."""
        return _scores(tokens, self.coef_, self.intercept_)

    def _solve(
        self, stream: TokenStream, penalties: Sequence[float]
    ) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        width = stream.width * (stream.layers or 1)
        square, cross = np.zeros((width, width)), np.zeros((width, self.n_classes))
        total, shares, count = np.zeros(width), np.zeros(self.n_classes), 0
        origin: NDArray[np.float32] | None = None
        for batch in stream.batches(self.batch_size):
            rows = flat_tokens(batch.tokens.astype(np.float32))
            origin = rows.mean(axis=0) if origin is None else origin
            rows = rows - origin  # so that float32 products lose nothing to a large common mean
            target = area_shares(batch.labels, self.n_classes, stream.grid).reshape(len(rows), -1)
            square += rows.T @ rows
            cross += rows.T @ target
            total += rows.sum(axis=0, dtype=np.float64)
            shares += target.sum(axis=0, dtype=np.float64)
            count += len(rows)
        square -= np.outer(total, total) / count
        cross -= np.outer(total, shares) / count
        values, vectors = np.linalg.eigh(square / count)
        values = values.clip(0)
        level = values.mean() or 1.0
        turned = vectors.T @ (cross / count)
        middle = total / count + (0.0 if origin is None else origin)
        found = []
        for penalty in penalties:
            coef = vectors @ (turned / (values + penalty * level)[:, None])
            found.append((coef, shares / count - middle @ coef))
        return found


def _scores(
    tokens: NDArray[np.float32], coef: NDArray[np.float64], intercept: NDArray[np.float64]
) -> NDArray[np.float32]:
    rows = flat_tokens(tokens) @ coef.astype(np.float32) + intercept.astype(np.float32)
    h, w = tokens.shape[-3:-1]
    return np.ascontiguousarray(np.moveaxis(rows.reshape(len(tokens), h, w, -1), -1, 1))
