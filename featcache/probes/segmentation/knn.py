"""Segmentation by retrieval: each token gets the class shares of its nearest training tokens."""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray

from featcache.errors import ProbeError
from featcache.probes.neighbours import ExactKNN
from featcache.probes.segmentation.ridge import flat_tokens
from featcache.probes.segmentation.token_stream import TokenStream
from featcache.probes.segmentation.upsampling import area_shares

__all__ = ["KNNSegmenter"]


class KNNSegmenter:
    """Exact cosine neighbours among a seeded, bounded bank of training tokens; nothing is trained or chosen.

    Neighbours vote with softmax(similarity / temperature), and each gives the shares of the classes in its token. The
    bank holds at most ``max_tokens`` tokens: every token of a small split, otherwise the same number of each image,
    drawn with the seed.

    Parameters
    ----------
    n_classes
        C, with the background.
    k
        Neighbours of a token; fewer where the bank is smaller.
    max_tokens
        Size of the bank.
    temperature
        Of the vote.
    seed
        Of the draw.
    batch_size
        Images that are read at a time.

    Attributes
    ----------
    n_tokens_ : int
        Tokens in the bank.
    notes_ : tuple of str
        What a reader of the numbers must know.

    References
    ----------
    The vote is DINOv2's (Oquab et al., arXiv 2304.07193) token by token; retrieval of labels for dense prediction:
    Balazevic et al., "Towards in-context scene understanding", arXiv 2306.01667.
    """

    def __init__(
        self,
        n_classes: int,
        *,
        k: int = 20,
        max_tokens: int = 100_000,
        temperature: float = 0.07,
        seed: int = 0,
        batch_size: int = 8,
    ) -> None:
        if k < 1 or max_tokens < 1 or temperature <= 0:
            raise ProbeError(
                f"k = {k}, {max_tokens} tokens and temperature {temperature:g} make no vote",
                remedy="Give positive numbers.",
            )
        self.n_classes = n_classes
        self.k = k
        self.max_tokens = max_tokens
        self.temperature = temperature
        self.seed = seed
        self.batch_size = batch_size

    def fit(self, train: TokenStream, val: TokenStream | None = None, both: TokenStream | None = None) -> Self:
        """Fill the bank from ``both`` where it is given, else from ``train``; ``val`` chooses nothing."""
        source = train if both is None else both
        per_image = source.grid[0] * source.grid[1]
        drawn = min(per_image, max(1, self.max_tokens // len(source)))
        bank, shares, total = [], [], 0
        for batch in source.batches(self.batch_size):
            rows = flat_tokens(batch.tokens.astype(np.float32)).reshape(len(batch.tokens), per_image, -1)
            target = area_shares(batch.labels, self.n_classes, source.grid).reshape(len(rows), per_image, -1)
            for place, one, truth in zip(batch.places.tolist(), rows, target, strict=True):
                some = np.sort(np.random.default_rng((self.seed, place)).permutation(per_image)[:drawn])
                some = some[one[some].any(axis=1)][: self.max_tokens - total]  # a zero token has no direction
                bank.append(one[some])
                shares.append(truth[some])
                total += len(some)
        if not total:
            raise ProbeError("all training tokens are zero", remedy="Look at the store: featcache verify.")
        self._index = ExactKNN(min(self.k, total)).fit(np.concatenate(bank))
        self._shares = np.concatenate(shares)
        self.n_tokens_ = total
        self.selection_: list[dict[str, float]] = []
        self.chosen_ = {"k": min(self.k, total)}
        self.notes_ = (f"{total} of {len(source) * per_image} training tokens are in the bank, seed {self.seed}.",)
        return self

    def logits(self, tokens: NDArray[np.float32]) -> NDArray[np.float32]:
        """(b, C, h, w) float32 shares of the votes for (b, ..., h, w, D) tokens; a zero token is background."""
        rows = flat_tokens(tokens)
        alive = rows.any(axis=1)
        found = np.zeros((len(rows), self.n_classes), np.float32)
        found[:, 0] = 1
        if alive.any():
            similarity, index = self._index.kneighbors(rows[alive])
            power = np.exp((similarity - similarity[:, :1]) / self.temperature)
            power /= power.sum(axis=1, keepdims=True)
            found[alive] = np.einsum("nk,nkc->nc", power, self._shares[index])
        h, w = tokens.shape[-3:-1]
        return np.ascontiguousarray(np.moveaxis(found.reshape(len(tokens), h, w, -1), -1, 1))
