"""k nearest neighbours with the softmax-weighted or the majority vote."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featcache.errors import ConfigurationError, ProbeError
from featcache.probes.base import (
    check_features,
    check_targets,
    check_temperature,
    column_moments,
    row_blocks,
)
from featcache.probes.neighbours import Algorithm, ExactKNN, IndexKind
from featcache.probes.parameters import Parameters, not_fitted

__all__ = ["DEFAULT_K", "ExactKNN", "KNNProbe", "Vote", "vote"]

DEFAULT_K = (10, 20, 100, 200)
"""The k that people compare (DINOv2)."""

Vote = Literal["softmax", "majority"]
"""Neighbours count by softmax(similarity / temperature), or all the same."""

_DECIMALS = 9
"""Votes are rounded: sums of the same weights in another order are ties, and AUROC must see them as such."""


def vote(
    similarity: ArrayLike,
    neighbour_labels: ArrayLike,
    *,
    n_classes: int,
    temperature: float = 0.07,
    weights: Vote = "softmax",
) -> NDArray[np.float64]:
    """Scores of the classes: the neighbours' labels weighted by softmax(similarity / temperature), or all the same.

    Parameters
    ----------
    similarity
        (n, k) similarities.
    neighbour_labels
        (n, k) class indices, or (n, k, L) multi-label 0, 1 and NaN for missing.
    n_classes
        C, or L.
    temperature
        Of the softmax; a small one lets the nearest decide.
    weights
        ``"softmax"``, or ``"majority"``: every neighbour has one vote.

    Returns
    -------
    (n, C) float64
        Class indices: rows sum to 1. Multi-label: the weighted share of positives among the neighbours whose
        label is known, NaN where none is (or where a tiny temperature makes all their weights vanish).

    Raises
    ------
    ProbeError
        If shapes, labels or the temperature do not fit.
    ConfigurationError
        For another kind of weights.

    References
    ----------
    Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", CVPR 2018, section
    3.4; T = 0.07 as in DINO and DINOv2.

    Examples
    --------
    >>> vote([[0.5, 0.5]], [[0, 2]], n_classes=3)
    array([[0.5, 0. , 0.5]])
    """
    check_temperature(temperature)
    _check_vote(weights)
    near, labels = np.asarray(similarity, dtype=np.float64), np.asarray(neighbour_labels)
    expected = near.shape if labels.ndim == 2 else (*near.shape, n_classes)
    if near.ndim != 2 or near.shape[1] == 0 or labels.shape != expected:
        raise ProbeError(f"labels of shape {labels.shape} do not fit similarities of shape {near.shape}")
    if labels.ndim == 2 and labels.size and (labels.min() < 0 or labels.max() >= n_classes):
        raise ProbeError(f"a neighbour's class is not between 0 and {n_classes - 1}")
    if weights == "softmax":
        weight = np.exp((near - near.max(axis=1, keepdims=True)) / temperature)
    else:
        weight = np.ones_like(near)
    weight /= weight.sum(axis=1, keepdims=True)
    if labels.ndim == 2:
        cell = np.arange(len(near))[:, None] * n_classes + labels.astype(np.int64)
        votes = np.bincount(cell.ravel(), weights=weight.ravel(), minlength=len(near) * n_classes)
        return votes.astype(np.float64).reshape(len(near), n_classes).round(_DECIMALS)
    known = ~np.isnan(labels)
    share = np.einsum("qk,qkl->ql", weight, np.where(known, labels, 0.0))
    total = np.einsum("qk,qkl->ql", weight, known.astype(np.float64))
    scores: NDArray[np.float64] = np.divide(share, total, out=np.full(share.shape, np.nan), where=total > 0)
    return scores.round(_DECIMALS)


class KNNProbe(Parameters):
    """k nearest neighbours with the softmax-weighted or the majority vote, for every k from one search.

    Parameters
    ----------
    k
        Numbers of neighbours; None takes 10, 20, 100 and 200, without those that are more than the training rows.
    temperature
        Of the vote, see :func:`vote`.
    vote
        ``"softmax"`` or ``"majority"``, see :func:`vote`. Where classes have equal votes, the first has the label.
    standardize
        Subtract the training mean and divide by the training standard deviation before L2-normalising.
    algorithm, index, threads
        Of the search, see :class:`featcache.probes.ExactKNN`.

    Attributes
    ----------
    index_ : ExactKNN
        Fitted with the largest ``k``.
    k_ : tuple of int
        The numbers of neighbours, ascending.
    y_ : (n,) int64 or (n, L) float64
        Training targets.
    n_classes_ : int
        Columns of the scores.
    prior_ : (C,) float64
        Share of each class, or of positives among the known rows of each label.
    mean_, scale_ : (D,) float64
        Only with ``standardize``.
    notes_ : tuple of str
        What a reader of the numbers must know.

    Examples
    --------
    >>> probe = KNNProbe(k=(1, 3)).fit([[1, 0], [0.9, 0.1], [0, 1]], [0, 0, 1])
    >>> {k: scores.argmax(axis=1).tolist() for k, scores in probe.predict_scores([[1, 0.2], [0, 2]]).items()}
    {1: [0, 1], 3: [0, 1]}
    """

    def __init__(
        self,
        k: Sequence[int] | None = None,
        *,
        temperature: float = 0.07,
        vote: Vote = "softmax",
        standardize: bool = False,
        algorithm: Algorithm = "auto",
        index: IndexKind = "flat",
        threads: int | None = None,
    ) -> None:
        self.k = k
        self.temperature = temperature
        self.vote = vote
        self.standardize = standardize
        self.algorithm = algorithm
        self.index = index
        self.threads = threads

    def fit(self, X: ArrayLike, y: ArrayLike, *, n_classes: int | None = None) -> Self:
        """Index the training rows.

        Parameters
        ----------
        X
            (n, D) features.
        y
            (n,) class indices, or (n, L) multi-label 0, 1 and NaN for missing.
        n_classes
            Columns of the scores; None takes the largest class index + 1.

        Raises
        ------
        ProbeError
            If an input is invalid, there are fewer rows than the largest ``k``, or a label is never known.
        """
        check_temperature(self.temperature)
        _check_vote(self.vote)
        if self.k is not None and (len(self.k) == 0 or min(self.k) < 1):
            raise ProbeError(f"k must be positive numbers, got {tuple(self.k)}", remedy="For example k=(20,).")
        features = check_features(X, name="the training features")
        self.n_features_in_ = features.shape[1]
        self.y_, self.n_classes_ = check_targets(y, len(features), n_classes=n_classes)
        if self.y_.ndim == 1:
            self.prior_ = np.bincount(self.y_, minlength=self.n_classes_) / len(self.y_)
        else:
            never = np.flatnonzero(np.isnan(self.y_).all(axis=0))
            if len(never):
                raise ProbeError(f"labels {never.tolist()} are missing in every training row", remedy="Leave them out.")
            self.prior_ = np.nanmean(self.y_, axis=0)
        if self.standardize:
            self.mean_, self.scale_ = column_moments(features)
        self.k_ = tuple(sorted({int(k) for k in self.k or DEFAULT_K}))
        self._fit_notes: tuple[str, ...] = ()
        if self.k is None and max(self.k_) > len(features) >= min(self.k_):
            left_out = [k for k in self.k_ if k > len(features)]
            self.k_ = tuple(k for k in self.k_ if k <= len(features))
            self._fit_notes = (f"k = {', '.join(map(str, left_out))} left out: the training rows are {len(features)}.",)
        search = ExactKNN(max(self.k_), algorithm=self.algorithm, index=self.index, threads=self.threads)
        self.index_ = search.fit(self._prepare(features))
        self.notes_: tuple[str, ...] = self._fit_notes
        return self

    def predict_scores(self, Q: ArrayLike) -> dict[int, NDArray[np.float64]]:
        """Vote of the neighbours for every ``k``.

        Parameters
        ----------
        Q
            (n, D) queries.

        Returns
        -------
        dict of int to (n, C) float64
            In ascending order of k, see :func:`vote`. A label that none of the k neighbours has gets its
            share in the training rows (``prior_``).

        Raises
        ------
        ProbeError
            If a query is invalid or the probe is not fitted.
        """
        if not hasattr(self, "index_"):
            raise not_fitted()
        similarity, index = self.index_.kneighbors(self._prepare(check_features(Q, n_features=self.n_features_in_)))
        self.notes_ = (*self._fit_notes, *self.index_.notes_)
        scores = {k: np.empty((len(index), self.n_classes_)) for k in self.k_}
        for rows in row_blocks(len(index), index.shape[1] * self.n_classes_):
            labels = self.y_[index[rows]]
            for k, block in scores.items():
                votes = vote(
                    similarity[rows, :k],
                    labels[:, :k],
                    n_classes=self.n_classes_,
                    temperature=self.temperature,
                    weights=self.vote,
                )
                block[rows] = np.where(np.isnan(votes), self.prior_, votes)
        return scores

    def _prepare(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        if not self.standardize:
            return features
        prepared = np.empty_like(features)
        for rows in row_blocks(len(features), features.shape[1]):
            prepared[rows] = (features[rows] - self.mean_) / self.scale_
        return prepared


def _check_vote(weights: str) -> None:
    if weights not in get_args(Vote):
        raise ConfigurationError(f"unknown vote {weights!r}", remedy=f"One of {', '.join(get_args(Vote))}.")
