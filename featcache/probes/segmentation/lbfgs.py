"""Linear segmentation by L-BFGS: softmax regression of the share that each class has in each token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from featcache.errors import ProbeError
from featcache.probes.segmentation.ridge import flat_tokens
from featcache.probes.segmentation.selection import best_of, selection_dice
from featcache.probes.segmentation.token_stream import TokenBatch, TokenStream
from featcache.probes.segmentation.upsampling import area_shares

__all__ = ["LBFGSSegmenter"]

_PENALTIES = (1e-5, 1e-3, 1e-1)
_GRADIENT = 1e-5
_KEPT_BYTES = 1 << 28

Moments = tuple[NDArray[np.float32], NDArray[np.float32]]


class LBFGSSegmenter:
    """L2 softmax regression on soft targets at the resolution of the tokens, on standardised features.

    The objective is the mean cross-entropy over tokens plus ``penalty / 2`` times the squared weights. It is convex:
    no learning rate, no seed. Each evaluation streams the tokens once in their order.

    Parameters
    ----------
    n_classes
        C, with the background.
    penalties
        Strengths, strongest first in the path: each starts from the solution before.
    max_iter
        Of L-BFGS, for each penalty.
    batch_size
        Rows of a block.

    Attributes
    ----------
    coef_, intercept_ : (D, C) and (C,) float64
        Of the tokens as they are stored.
    penalty_ : float
        The one that was chosen.
    selection_ : list of dict
        ``penalty`` and ``dice`` on the validation split.
    notes_ : tuple of str
        Solutions that did not converge.

    References
    ----------
    Liu and Nocedal, "On the limited memory BFGS method for large scale optimization", Math. Programming 45, 1989.
    """

    def __init__(
        self, n_classes: int, *, penalties: Sequence[float] = _PENALTIES, max_iter: int = 200, batch_size: int = 8
    ) -> None:
        if not penalties or min(penalties) <= 0 or max_iter < 1:
            raise ProbeError(f"penalties {tuple(penalties)} are not all positive", remedy="Give positive numbers.")
        self.n_classes = n_classes
        self.penalties = tuple(sorted(penalties, reverse=True))
        self.max_iter = max_iter
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
        self.notes_: tuple[str, ...] = ()
        place = 0
        solved: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
        if val is not None or both is None:
            solved = self._path(train, self.penalties)
        if val is not None:
            found = selection_dice(val, self.n_classes, lambda some: [self._scores(some, *pair) for pair in solved])
            place = best_of(found)
            pairs = zip(self.penalties, found.tolist(), strict=True)
            self.selection_ = [{"penalty": penalty, "dice": score} for penalty, score in pairs]
        self.penalty_ = self.penalties[place]
        self.coef_, self.intercept_ = solved[place] if both is None else self._path(both, (self.penalty_,))[0]
        self.chosen_ = {"penalty": self.penalty_}
        return self

    def logits(self, tokens: NDArray[np.float32]) -> NDArray[np.float32]:
        """(b, C, h, w) float32 logits of (b, ..., h, w, D) tokens."""
        return self._scores(tokens, self.coef_, self.intercept_)

    def _path(
        self, stream: TokenStream, penalties: Sequence[float]
    ) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        from scipy.optimize import minimize

        mean, deviation = self._moments(stream)
        self._kept: dict[int, NDArray[np.float32]] = {}
        width, found = len(mean), []
        start = np.zeros((width + 1) * self.n_classes)
        for penalty in penalties:
            done = minimize(
                self._objective,
                start,
                args=(stream, (mean, deviation), penalty),
                jac=True,
                method="L-BFGS-B",
                options={"maxiter": self.max_iter, "maxfun": 2 * self.max_iter, "gtol": _GRADIENT, "ftol": 1e-10},
            )
            if done.status == 1:
                self.notes_ += (f"L-BFGS stopped after {done.nit} iterations at penalty {penalty:g}.",)
            start = done.x
            weights = done.x.reshape(width + 1, self.n_classes)
            coef = weights[:-1] / deviation[:, None]
            found.append((coef, weights[-1] - mean @ coef))
        self._kept = {}
        return found

    def _targets(self, batch: TokenBatch, grid: tuple[int, int]) -> NDArray[np.float32]:
        """(b, h, w, C) shares, of as many rows as fit kept from the first pass on."""
        places = batch.places.tolist()
        if all(place in self._kept for place in places):
            return np.stack([self._kept[place] for place in places])
        found = area_shares(batch.labels, self.n_classes, grid)
        room = _KEPT_BYTES // found[0].nbytes
        for place, one in zip(places, found, strict=True):
            if len(self._kept) < room:
                self._kept[place] = one.copy()
        return found

    def _moments(self, stream: TokenStream) -> Moments:
        total, square, count = 0.0, 0.0, 0
        for batch in stream.batches(self.batch_size):
            rows = flat_tokens(batch.tokens.astype(np.float64))
            total, square, count = total + rows.sum(axis=0), square + (rows**2).sum(axis=0), count + len(rows)
        mean = np.asarray(total / count)
        deviation = np.sqrt(np.maximum(square / count - mean**2, 0))
        deviation[deviation < 1e-6] = 1.0
        return mean.astype(np.float32), deviation.astype(np.float32)

    def _objective(
        self, point: NDArray[np.float64], stream: TokenStream, moments: Moments, penalty: float
    ) -> tuple[float, NDArray[np.float64]]:
        """Value and gradient; one pass over the tokens."""
        mean, deviation = moments
        weights = point.reshape(-1, self.n_classes)
        scaled = (weights[:-1] / deviation[:, None]).astype(np.float32)  # rather than to divide the tokens
        value, slope, count = 0.0, np.zeros_like(weights), 0
        for batch in stream.batches(self.batch_size):
            rows = flat_tokens(batch.tokens.astype(np.float32))
            rows -= mean
            target = self._targets(batch, stream.grid).reshape(len(rows), -1)
            logits = rows @ scaled + weights[-1].astype(np.float32)
            logits -= logits.max(axis=1, keepdims=True)
            power = np.exp(logits)
            sums = power.sum(axis=1, keepdims=True)
            value += float(((np.log(sums) - logits) * target).sum(dtype=np.float64))
            residual = power / sums - target
            slope[:-1] += rows.T @ residual
            slope[-1] += residual.sum(axis=0, dtype=np.float64)
            count += len(rows)
        slope /= count
        slope[:-1] /= deviation[:, None]
        slope[:-1] += penalty * weights[:-1]
        return value / count + penalty / 2 * float((weights[:-1] ** 2).sum()), slope.ravel()

    def _scores(
        self, tokens: NDArray[np.float32], coef: NDArray[np.float64], intercept: NDArray[np.float64]
    ) -> NDArray[np.float32]:
        rows = flat_tokens(tokens) @ coef.astype(np.float32) + intercept.astype(np.float32)
        h, w = tokens.shape[-3:-1]
        return np.ascontiguousarray(np.moveaxis(rows.reshape(len(tokens), h, w, -1), -1, 1))
