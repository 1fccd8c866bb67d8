"""Few-shot classification: one small classifier for each of many episodes, solved and scored in batches."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Literal, Self, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featcache.errors import ConfigurationError, ProbeError
from featcache.metrics import METRICS, Metric
from featcache.probes.base import check_features, check_targets, check_temperature, row_blocks
from featcache.probes.episodes import Episodes, draw_episodes
from featcache.probes.fewshot_heads import centroid_head, ridge_head
from featcache.probes.fewshot_logistic import logistic_head
from featcache.probes.fewshot_scores import link, project, vote_of_support
from featcache.probes.fewshot_supports import (
    Drawn,
    Supports,
    drawn_rows,
    refuse_unknown,
    support_blocks,
    transformed_supports,
    what_supports_lack,
)
from featcache.probes.parameters import Parameters, not_fitted

__all__ = ["FewShot"]

Floats: TypeAlias = NDArray[np.float64]
Singles: TypeAlias = NDArray[np.float32]

_HEADS = ("centroid", "ridge", "logistic", "knn")
_TRANSFORMS = ("cl2", "l2", "none")
# Blocks of episodes solved at a time; each may hold some hundred MB.
_WORKERS = 4
# Of the episodes of a shot when they are scored.
_BLOCKS = 8


class FewShot(Parameters):
    """Classifiers from a few images a class, over many episodes.

    In each episode the rows are first transformed to z:

    - ``cl2`` (SimpleShot's CL2N with the mean of the episode's support): ``(x - m) / |x - m|``;
    - ``l2``: ``x / |x|``;
    - ``none``: x.

    A row that equals the mean (or zero) has no direction: z is zero. Then a head scores z:

    - ``centroid``: softmax over classes of minus the squared distance to the mean of the class's z; for labels the
      sigmoid of the difference of the squared distances to the mean of the negatives and to that of the positives;
    - ``ridge``: least squares to -1 and 1 with penalty ``alpha``; the scores are the softmax (labels: the sigmoid)
      of its outputs, which keeps their order within a row (within a label) and is no calibrated probability;
    - ``logistic``: softmax regression (labels: one logistic regression each) with inverse penalty ``C``;
    - ``knn``: softmax-weighted vote of the ``k`` nearest by cosine, all of them where the support is smaller.

    A label that has one value in a support gets that value as its score, a class that is not in it the score 0.

    Parameters
    ----------
    shots
        Rows a class.
    n_episodes
        Episodes of each shot.
    head
        ``centroid``, ``ridge``, ``logistic`` or ``knn``.
    normalize
        ``cl2``, ``l2`` or ``none`` (not for ``knn``, which compares directions).
    alpha
        Of ``ridge``, as in scikit-learn's Ridge.
    C
        Of ``logistic``, as in scikit-learn.
    k, temperature
        Of ``knn``.
    seed
        Of the episodes.

    Attributes
    ----------
    episodes_ : Episodes
        What was drawn, or given.
    shots_ : tuple of int
        Of the episodes, ascending: the first axis of what follows (S). E is the number of episodes.
    n_classes_ : int
        Columns of the scores.
    multilabel_ : bool
        Whether the targets were a matrix.
    origin_ : (D,) float64
        Subtracted from all features to begin with, which changes no score but keeps digits; zero for ``l2``.
    center_ : (S, E, D) float32
        m, relative to ``origin_``; zero unless ``cl2``.
    coef_ : (S, E, C, D) float32
        Not for ``knn``. Decisions are ``coef_ z + intercept_``.
    intercept_ : (S, E, C) float64
        Infinite where a score is constant. Not for ``knn``.
    notes_ : tuple of str
        What a reader of the numbers must know.

    References
    ----------
    Wang et al., "SimpleShot", arXiv 1911.04623; Tian et al., "Rethinking Few-Shot Image Classification: a Good
    Embedding Is All You Need?", ECCV 2020 (linear heads on frozen features).

    Examples
    --------
    >>> X, y = np.array([[0, 1.0], [0, 2], [1, 0], [2, 0]]), [0, 0, 1, 1]
    >>> probe = FewShot(shots=(1, 2), n_episodes=3).fit(X, y)
    >>> probe.evaluate([[0, 3], [3, 0]], [0, 1])
    array([[1., 1., 1.],
           [1., 1., 1.]])
    """

    def __init__(
        self,
        shots: Sequence[int] = (1, 2, 4, 8, 16),
        *,
        n_episodes: int = 100,
        head: Literal["centroid", "ridge", "logistic", "knn"] = "centroid",
        normalize: Literal["cl2", "l2", "none"] = "cl2",
        alpha: float = 1.0,
        C: float = 1.0,
        k: int = 20,
        temperature: float = 0.07,
        seed: int = 0,
    ) -> None:
        self.shots = shots
        self.n_episodes = n_episodes
        self.head = head
        self.normalize = normalize
        self.alpha = alpha
        self.C = C
        self.k = k
        self.temperature = temperature
        self.seed = seed

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        *,
        groups: ArrayLike | None = None,
        episodes: Episodes | None = None,
        n_classes: int | None = None,
    ) -> Self:
        """Draw the episodes and solve the head of each.

        Parameters
        ----------
        X, y
            (n, D) training features; (n,) class indices or (n, L) multi-label 0, 1 and NaN for missing.
        groups
            (n,) patient of each row, see :func:`draw_episodes`.
        episodes
            Episodes to replay instead (``study_episodes``, or those of another run): their shots are used,
            ``shots``, ``n_episodes``, ``seed`` and ``groups`` are not.
        n_classes
            Columns of the scores; None takes the largest class index + 1.

        Raises
        ------
        ProbeError
            If an input is invalid, a class has fewer rows than the most shots, or a label is not known in any row
            of a support.
        ConfigurationError
            If settings contradict each other.
        """
        self._check_settings()
        features = check_features(X, name="the training features")
        targets, self.n_classes_ = check_targets(y, len(features), n_classes=n_classes)
        self.multilabel_ = targets.ndim == 2
        if self.n_classes_ < (1 if self.multilabel_ else 2) or (targets.ndim == 1 and len(np.unique(targets)) < 2):
            raise ProbeError("nothing can be learnt: train has one class", remedy="Choose a task with two classes.")
        if episodes is None:
            episodes = draw_episodes(targets, self.shots, self.n_episodes, self.seed, groups)
        elif episodes.n_rows != len(features):
            raise ProbeError(
                f"the episodes are of {episodes.n_rows} training rows, the features have {len(features)}",
                remedy="Replay episodes on the training rows that they were drawn from, in the same order.",
            )
        self.episodes_, self.shots_ = episodes, episodes.shots
        indicator = targets if self.multilabel_ else np.eye(self.n_classes_)[targets]
        refuse_unknown(episodes, indicator)
        width, grid = features.shape[1], (len(self.shots_), episodes.n_episodes)
        self.n_features_in_ = width
        self.origin_ = np.zeros(width) if self.normalize == "l2" else features.mean(axis=0, dtype=np.float64)
        self.center_ = np.zeros((*grid, width), dtype=np.float32)
        drawn = drawn_rows(features, indicator, episodes, self.origin_, self.normalize)
        if self.head == "knn":
            self._drawn = drawn
        else:
            self.coef_ = np.zeros((*grid, self.n_classes_, width), dtype=np.float32)
            self.intercept_ = np.zeros((*grid, self.n_classes_))
        stopped = self._solve_all(drawn)
        notes = what_supports_lack(episodes, indicator, multilabel=self.multilabel_)
        unsolved = [f"{stopped} logistic regressions did not converge: lower C."] if stopped else []
        self.notes_ = (*notes, *unsolved)
        return self

    def evaluate(self, X: ArrayLike, y: ArrayLike, metric: str | Metric = "accuracy") -> Floats:
        """A metric of every episode.

        Parameters
        ----------
        X, y
            (n, D) test features and their targets.
        metric
            A name of ``featcache.metrics.METRICS``, or ``f(y_true, y_score) -> float``.

        Returns
        -------
        (S, E) float64
            NaN where the metric is undefined; see :func:`featcache.probes.learning_curve`.

        Raises
        ------
        ProbeError
            If an input is invalid or the probe is not fitted.
        """
        return self.evaluate_many(X, y, {"metric": metric})["metric"]

    def evaluate_many(self, X: ArrayLike, y: ArrayLike, metrics: Mapping[str, str | Metric]) -> dict[str, Floats]:
        """As :meth:`evaluate`, for several metrics on scores computed once."""
        functions = {name: _metric(metric) for name, metric in metrics.items()}
        features, squares = self._seen(X)
        targets, _ = check_targets(y, len(features), n_classes=self.n_classes_)
        if (targets.ndim == 2) != self.multilabel_:
            raise ProbeError(f"y of shape {targets.shape} is not the kind of target that the probe was fitted on")
        values = {name: np.full((len(self.shots_), self.episodes_.n_episodes), np.nan) for name in functions}

        def measure(block: tuple[int, slice]) -> None:
            place, episodes = block
            for episode, scores in enumerate(self._scores(place, episodes, features, squares), episodes.start):
                for name, function in functions.items():
                    values[name][place, episode] = function(targets, scores)

        with _on_every_core() as pool:
            list(pool.map(measure, self._score_blocks(len(features))))
        return values

    def iter_scores(self, X: ArrayLike) -> Iterator[tuple[int, int, Floats]]:
        """The scores of every episode, one after the other, so that few are in memory at a time.

        Parameters
        ----------
        X
            (n, D) features.

        Yields
        ------
        shot, episode : int
        scores : (n, C) float64
            Between 0 and 1; rows sum to 1 for exclusive classes.

        Raises
        ------
        ProbeError
            If the features are invalid or the probe is not fitted.
        """
        features, squares = self._seen(X)
        return (
            (self.shots_[place], episode, scores)
            for place, episodes in self._score_blocks(len(features))
            for episode, scores in enumerate(self._scores(place, episodes, features, squares), episodes.start)
        )

    def predict_scores(self, X: ArrayLike) -> dict[int, Floats]:
        """For each number of shots the mean of the scores over the episodes.

        It says which rows are hard, and is what one (n, C) array can hold. It is an ensemble, better than its
        members: the few-shot result is the mean of :meth:`evaluate`, not a metric of these scores.

        Returns
        -------
        dict of int to (n, C) float64
            By shot, ascending.

        Raises
        ------
        ProbeError
            If the features are invalid or the probe is not fitted.
        """
        total: dict[int, Floats] = {}
        for shot, _, scores in self.iter_scores(X):
            total[shot] = total[shot] + scores if shot in total else scores
        return {shot: np.clip(scores / self.episodes_.n_episodes, 0.0, 1.0) for shot, scores in total.items()}

    def _fitted(self) -> Self:
        if not hasattr(self, "notes_"):
            raise not_fitted()
        return self

    def _seen(self, X: ArrayLike) -> tuple[Singles, Floats]:
        """(n, D) checked features relative to ``origin_`` and their (n,) squared lengths."""
        features = check_features(X, n_features=len(self._fitted().origin_))
        if self.normalize != "l2":
            features = features - self.origin_.astype(np.float32)
        return features, np.einsum("nd,nd->n", features, features, dtype=np.float64)

    def _check_settings(self) -> None:
        if self.head not in _HEADS or self.normalize not in _TRANSFORMS:
            raise ConfigurationError(
                f"unknown head {self.head!r} or normalisation {self.normalize!r}",
                remedy=f"Heads: {', '.join(_HEADS)}; normalisations: {', '.join(_TRANSFORMS)}.",
            )
        if self.head == "knn" and self.normalize == "none":
            raise ConfigurationError("knn compares directions, normalize none has lengths", remedy="Use l2 or cl2.")
        for name in ("alpha", "C"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ProbeError(f"{name} must be positive, got {getattr(self, name)}", remedy="The default is 1.0.")
        if self.k < 1:
            raise ProbeError(f"k must be positive, got {self.k}", remedy="The default is 20.")
        check_temperature(self.temperature)

    def _supports(self, shot: int, episodes: slice, drawn: Drawn) -> Supports:
        """Of some episodes; sets ``center_``."""
        chosen = self.episodes_.rows[shot][episodes]
        found = transformed_supports(drawn, chosen, normalize=self.normalize)
        self.center_[shot, episodes] = found.center
        return found

    def _solve_all(self, drawn: Drawn) -> int:
        """Solve every episode; return how many did not converge."""
        with _on_every_core() as pool:
            blocks = support_blocks(self.episodes_, 4 * drawn.rows.shape[1])
            return sum(pool.map(lambda block: self._solve(drawn, *block), blocks))

    def _solve(self, drawn: Drawn, shot: int, episodes: slice) -> int:
        """Set what scores these episodes; return how many did not converge."""
        part = self._supports(shot, episodes, drawn)
        if self.head == "knn":
            return 0
        Z, Y, known = part.rows, part.target, part.known
        K, stopped = (Z @ np.swapaxes(Z, 1, 2)).astype(np.float64), 0
        if self.head == "centroid":
            A, b = centroid_head(K, Y, known, multilabel=self.multilabel_)
        elif self.head == "ridge":
            A, b = ridge_head(K, Y, known, alpha=self.alpha)
        else:
            A, b, stopped = logistic_head(K, Y, known, C=self.C, multilabel=self.multilabel_)
        never, always = ~(Y == 1).any(axis=1), ~(known & (Y == 0)).any(axis=1)
        b = np.where(never, -np.inf, b)
        if self.multilabel_:
            b = np.where(always, np.inf, b)
        self.coef_[shot, episodes] = np.swapaxes(A, 1, 2).astype(np.float32) @ Z
        self.intercept_[shot, episodes] = b
        return stopped

    def _score_blocks(self, n: int) -> Iterator[tuple[int, slice]]:
        """(place of the shots, episodes) with a bounded count of scores of n rows."""
        for place, supports in enumerate(self.episodes_.rows):
            columns = max(map(len, supports)) if self.head == "knn" else self.n_classes_
            for episodes in row_blocks(len(supports), 2 * n * (columns + 1), at_least=_BLOCKS):
                yield place, episodes

    def _scores(self, place: int, episodes: slice, X: Singles, squares: Floats) -> Iterable[Floats]:
        """(n, C) of each of some episodes."""
        if self.head == "knn":
            return self._votes(place, episodes, X, squares)
        decisions = project(X, squares, self.coef_[place, episodes], self.center_[place, episodes], self.normalize)
        return link(decisions, self.intercept_[place, episodes].astype(np.float32), multilabel=self.multilabel_)

    def _votes(self, place: int, episodes: slice, X: Singles, squares: Floats) -> Iterator[Floats]:
        part = self._supports(place, episodes, self._drawn)
        near = project(X, squares, part.rows, part.center, self.normalize)
        for support, *own in zip(self.episodes_.rows[place][episodes], near, part.target, part.known, strict=True):
            similarity, target, known = (array[: len(support)] for array in own)
            yield vote_of_support(similarity, target, known, k=self.k, temperature=self.temperature)


@contextmanager
def _on_every_core() -> Iterator[ThreadPoolExecutor]:
    """Threads for blocks of episodes, each with products of its own.

    Products of this size are too small for the threads of BLAS: on a busy machine they wait for each other ten times
    as long as they work.
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    with threadpool_limits(1, "blas"), ThreadPoolExecutor(min(_WORKERS, os.cpu_count() or 1)) as pool:
        yield pool


def _metric(metric: str | Metric) -> Metric:
    if not isinstance(metric, str):
        return metric
    if metric not in METRICS:
        raise ConfigurationError(f"unknown metric {metric!r}", remedy=f"Known: {', '.join(METRICS)}.")
    return METRICS[metric]
