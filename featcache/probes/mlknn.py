"""Multi-label k nearest neighbours of Zhang and Zhou."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featcache.errors import ProbeError
from featcache.probes.base import check_features, check_targets, row_blocks
from featcache.probes.knn import DEFAULT_K
from featcache.probes.neighbours import Algorithm, ExactKNN
from featcache.probes.parameters import Parameters, not_fitted

__all__ = ["MultiLabelKNN"]


class MultiLabelKNN(Parameters):
    """Multi-label kNN: the posterior of a label given how many of the k neighbours have it.

    For label l with prior P1 = (s + n1) / (2 s + n), a row with j positive neighbours scores
    P1 L1[j] / (P1 L1[j] + P0 L0[j]). L1[j] = (s + c1[j]) / (s (k + 1) + sum(c1)), where c1[j] counts the positive
    training rows that have j positives among their own k neighbours; L0 likewise for the negative rows. Every k
    comes from one search, and the counts from one bincount.

    Parameters
    ----------
    k
        A number of neighbours or several; None takes 10, 20, 100 and 200, without those that are more than the
        training rows can have.
    s
        Smoothing; 1 is Laplace's.
    self_neighbour
        Count a training row as a neighbour of itself while learning the likelihoods, as the library of the study
        (scikit-multilearn) does. Right is to leave it out, by its number: another row that equals it stays.
    algorithm, threads
        Of the search, see :class:`featcache.probes.ExactKNN`.

    Attributes
    ----------
    index_ : ExactKNN
        Of the training rows.
    k_ : tuple of int
        Ascending.
    prior_ : (L,) float64
        P1.
    likelihood_ : dict of int to (2, L, k + 1) float64
        For each k: L0 and L1.
    n_classes_ : int
        L.
    exclusive_ : bool
        Whether the targets were class indices: each class was then a label.
    notes_ : tuple of str
        What a reader of the numbers must know.

    Notes
    -----
    Missing labels (NaN): a training row that misses label l counts neither in the prior nor in the likelihoods of
    l, and as a neighbour it is not positive for l. A label that is missing among many rows has fewer positives
    among k neighbours, in training and in scoring alike.

    References
    ----------
    Zhang and Zhou, "ML-KNN: A lazy learning approach to multi-label learning", Pattern Recognition 40 (2007),
    figure 1.

    Examples
    --------
    >>> X = [[1, 0], [0.9, 0.1], [0.1, 0.9], [0, 1]]
    >>> model = MultiLabelKNN(1).fit(X, [[1, 0], [1, 0], [0, 1], [0, 1]])
    >>> model.predict_scores([[1, 0.05]])[1].round(3)
    array([[0.75, 0.25]])
    """

    def __init__(
        self,
        k: int | Sequence[int] | None = None,
        s: float = 1.0,
        *,
        self_neighbour: bool = False,
        algorithm: Algorithm = "auto",
        threads: int | None = None,
    ) -> None:
        self.k = k
        self.s = s
        self.self_neighbour = self_neighbour
        self.algorithm = algorithm
        self.threads = threads

    def fit(self, X: ArrayLike, y: ArrayLike, *, n_classes: int | None = None) -> Self:
        """Learn priors and likelihoods.

        Parameters
        ----------
        X
            (n, D) features.
        y
            (n, L) of 0, 1 and NaN for missing, or (n,) class indices: each class is then a label.
        n_classes
            Columns of the scores.

        Raises
        ------
        ProbeError
            If an input is invalid, a label is never known, ``s`` is not positive, or a row has fewer than ``k``
            neighbours.
        """
        if not 0 < self.s < float("inf"):
            raise ProbeError(f"s must be positive, got {self.s}", remedy="The usual value is 1.")
        features = check_features(X, name="the training features")
        targets, self.n_classes_ = check_targets(y, len(features), n_classes=n_classes)
        self.exclusive_ = targets.ndim == 1
        if self.exclusive_:
            targets = (targets[:, None] == np.arange(self.n_classes_)).astype(np.float64)
        never = np.flatnonzero(np.isnan(targets).all(axis=0))
        if len(never):
            raise ProbeError(f"labels {never.tolist()} are missing in every training row", remedy="Leave them out.")
        self.n_features_in_ = features.shape[1]
        self._choose_k(len(features))
        most = max(self.k_)
        alone = 0 if self.self_neighbour else 1
        search = ExactKNN(most + alone, algorithm=self.algorithm, threads=self.threads).fit(features)
        _, near = search.kneighbors(features)
        if alone:
            near = _without_self(near)
        search.k = most
        self.index_, self._positive = search, targets == 1
        known = ~np.isnan(targets)
        self.prior_ = (self.s + self._positive.sum(axis=0)) / (2 * self.s + known.sum(axis=0))
        self.likelihood_ = {k: self._likelihood(counts, known, k + 1) for k, counts in self._counts(near).items()}
        return self

    def predict_scores(self, X: ArrayLike) -> dict[int, NDArray[np.float64]]:
        """Posterior of each label for every ``k``.

        Parameters
        ----------
        X
            (n, D) queries.

        Returns
        -------
        dict of int to (n, L) float64
            In ascending order of k. Labels are scored each by itself: rows do not sum to 1.

        Raises
        ------
        ProbeError
            If a query is invalid or the probe is not fitted.
        """
        if not hasattr(self, "likelihood_"):
            raise not_fitted()
        _, near = self.index_.kneighbors(X)
        label = np.arange(self.n_classes_)
        scores = {}
        for k, counts in self._counts(near).items():
            absent, present = (part[label, counts] for part in self.likelihood_[k])
            joint = self.prior_ * present
            scores[k] = joint / (joint + (1 - self.prior_) * absent)
        return scores

    def _choose_k(self, n: int) -> None:
        given = DEFAULT_K if self.k is None else self.k
        asked = sorted({int(k) for k in np.atleast_1d(given)})
        if not asked or asked[0] < 1:
            raise ProbeError(f"k must be positive numbers, got {self.k}", remedy="For example k=10.")
        room = n if self.self_neighbour else n - 1
        fitting = [k for k in asked if k <= room]
        if len(fitting) < len(asked) and (self.k is not None or not fitting):
            raise ProbeError(
                f"k = {asked[-1]} neighbours were asked for, each training row has {room} (n_samples = {n})",
                remedy=f"Choose k between 1 and {room}." if room else "One row has no neighbours.",
            )
        self.k_ = tuple(fitting)
        self.notes_: tuple[str, ...] = ()
        if len(fitting) < len(asked):
            left_out = ", ".join(str(k) for k in asked if k > room)
            self.notes_ = (f"k = {left_out} left out: the training rows are {n}.",)

    def _counts(self, near: NDArray[np.int64]) -> dict[int, NDArray[np.int64]]:
        """For each k, (n, L) numbers of the first k neighbours that are positive."""
        counts = {k: np.empty((len(near), self.n_classes_), dtype=np.int64) for k in self.k_}
        for rows in row_blocks(len(near), near.shape[1] * self.n_classes_):
            total = np.zeros((rows.stop - rows.start, self.n_classes_), dtype=np.int64)
            start = 0
            for k in self.k_:
                total += self._positive[near[rows, start:k]].sum(axis=1)
                counts[k][rows] = total
                start = k
        return counts

    def _likelihood(self, counts: NDArray[np.int64], known: NDArray[np.bool_], width: int) -> NDArray[np.float64]:
        """(2, L, k + 1) from the (n, L) counts of the training rows."""
        L = self.n_classes_
        cell = (self._positive * L + np.arange(L)) * width + counts
        found = np.bincount(cell[known], minlength=2 * L * width).reshape(2, L, width)
        likelihood: NDArray[np.float64] = (self.s + found) / (self.s * width + found.sum(axis=2, keepdims=True))
        return likelihood


def _without_self(near: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each row's neighbours without its own number; the last of them where equal rows hid it."""
    own = near == np.arange(len(near))[:, None]
    own[~own.any(axis=1), -1] = True
    others: NDArray[np.int64] = near[~own].reshape(len(near), -1)
    return others
