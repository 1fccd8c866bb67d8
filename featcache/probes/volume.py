"""Classification of volumes from the cached features of their slices: attention pooling, and what it must beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featcache.errors import ConfigurationError, ProbeError
from featcache.probes.bag_heads import BagHeads, bag_losses, bag_scores
from featcache.probes.bags import BagPool, Bags
from featcache.probes.base import check_targets, column_moments
from featcache.probes.holdout import hold_out
from featcache.probes.parameters import Decider, not_fitted
from featcache.probes.targets import what_is_missing

__all__ = ["VolumeProbe"]


class VolumeProbe(Decider):
    """A head over the slices of a volume, trained from their features.

    The slices are standardised by the training slices, pooled, and scored by a linear layer. ``attention`` learns
    which slices count (gated attention, Ilse et al. 2018); ``mean``, ``max`` and ``median`` are the same head without
    that, to compare with. Learning rate and number of epochs are those with the least log loss on val; then one head is
    trained on train + val.

    Parameters
    ----------
    pool
        ``attention``, ``mean``, ``max`` or ``median``.
    position
        Whether the head also sees where in its volume a slice is: four cosines of the relative position. Without it the
        order of the slices changes nothing.
    hidden
        Width of the attention.
    learning_rates
        Of AdamW, tried together.
    epochs
        Passes over the volumes at most.
    patience
        Epochs without a better val loss after which no more are tried.
    batch
        Volumes of a step.
    weight_decay
        Of AdamW.
    seed
        Of the initial numbers, of the order of the volumes, and of the part of train that is held out without a val.

    Attributes
    ----------
    lr_, epochs_ : float, int
        What was chosen.
    val_losses_ : (n_epochs, n_learning_rates) float64
        Log loss on the volumes that they were chosen on.
    val_scores_ : (B_val, C) float64
        Scores of these volumes by the head that was chosen, which has not learnt from them.
    classes_ : (C,) int64
        Columns of the scores.
    multilabel_ : bool
        Whether the targets were a matrix.
    mean_, scale_ : (D,) float64
        Of the slices fitted.
    parameters_ : dict of str to array
        ``W`` (D, C) and ``b`` (C,); with attention also ``V`` and ``U`` (D, H) and ``w`` (H,). With ``position`` D has
        four columns more.
    n_features_in_ : int
        D without them.
    selection_ : str
        What was chosen, on which rows.
    notes_ : tuple of str
        What a reader of the numbers must know.

    References
    ----------
    Ilse, Tomczak and Welling, "Attention-based Deep Multiple Instance Learning", ICML 2018.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(40) % 2
    >>> X = [rng.normal(size=(3, 2)) + 3 * label for label in y]
    >>> probe = VolumeProbe("mean", epochs=5, learning_rates=(0.1,)).fit(X, y)
    >>> probe.predict_scores(X).argmax(axis=1)[:4].tolist()
    [0, 1, 0, 1]
    """

    lr_: float
    epochs_: int

    def __init__(
        self,
        pool: BagPool = "attention",
        *,
        position: bool = False,
        hidden: int = 64,
        learning_rates: Sequence[float] = (1e-4, 3e-4, 1e-3),
        epochs: int = 50,
        patience: int = 10,
        batch: int = 16,
        weight_decay: float = 0.01,
        seed: int = 0,
    ) -> None:
        self.pool = pool
        self.position = position
        self.hidden = hidden
        self.learning_rates = learning_rates
        self.epochs = epochs
        self.patience = patience
        self.batch = batch
        self.weight_decay = weight_decay
        self.seed = seed

    def fit(
        self,
        X: Sequence[ArrayLike],
        y: ArrayLike,
        X_val: Sequence[ArrayLike] | None = None,
        y_val: ArrayLike | None = None,
        *,
        groups: ArrayLike | None = None,
        n_classes: int | None = None,
    ) -> Self:
        """Choose learning rate and epochs, then train on all volumes.

        Parameters
        ----------
        X
            One (n_i, D) array of slice features for each volume.
        y
            (B,) class indices, or (B, L) multi-label 0, 1 and NaN for missing.
        X_val, y_val
            Volumes to choose on. Without them a fifth of the training volumes is held out for that.
        groups
            (B,) patient of each training volume: held out as a whole.
        n_classes
            Columns of the scores; None takes the largest class index + 1.

        Raises
        ------
        ProbeError
            If an input is invalid, nothing can be learnt, or no hold-out is possible.
        ConfigurationError
            If a setting is out of range.
        """
        self._check_settings()
        if (X_val is None) != (y_val is None):
            raise ProbeError("X_val and y_val belong together", remedy="Give both or neither.")
        bags = Bags.check(X, name="the training volumes")
        targets, count = check_targets(y, len(bags), n_classes=n_classes, name="the training targets")
        self.n_features_in_ = bags.rows.shape[1]
        notes = what_is_missing(targets, count)
        if X_val is not None and y_val is not None:
            held = Bags.check(X_val, name="the val volumes", n_features=self.n_features_in_)
            held_y, held_count = check_targets(y_val, len(held), n_classes=n_classes, name="the val targets")
            if held_y.ndim != targets.ndim or (targets.ndim == 2 and held_count != count):
                raise ProbeError(f"targets of shapes {targets.shape} and {held_y.shape} are not of one task")
            count = max(count, held_count)
            fitted, fitted_y, where = bags, targets, "val"
            bags = Bags(np.concatenate([bags.rows, held.rows]), np.append(bags.starts, held.starts + len(bags.rows)))
            targets = np.concatenate([targets, held_y])
        else:
            kept, out = hold_out(targets, count, groups, self.seed)
            fitted, fitted_y, held, held_y = bags.take(kept), targets[kept], bags.take(out), targets[out]
            where = f"a part of train held out by {'volume' if groups is None else 'patient'}"
        self.multilabel_, self.classes_ = targets.ndim == 2, np.arange(count)
        self._choose(fitted, fitted_y, held, held_y)
        self.selection_ = (
            f"lr = {self.lr_:g} of {len(self.learning_rates)} and {self.epochs_} epochs of at most {self.epochs} by "
            f"log loss on {where} ({len(held)} volumes); trained again on all {len(bags)} volumes."
        )
        self.mean_, self.scale_ = column_moments(bags.rows)
        whole = self._prepared(bags)
        self._heads = self._new_heads(whole.rows.shape[1], (self.lr_,))
        for _ in range(self.epochs_):
            self._heads.epoch(whole, targets, self.batch)
        self.parameters_ = {name: value[0] for name, value in self._heads.parameters.items()}
        if self.epochs_ == self.epochs:
            notes = [*notes, f"The last of {self.epochs} epochs was the best: more may be better."]
        self.notes_ = tuple(notes)
        return self

    def predict_scores(self, X: Sequence[ArrayLike]) -> NDArray[np.float64]:
        """(B, C) scores between 0 and 1 of volumes; rows sum to 1 for exclusive classes.

        Raises
        ------
        ProbeError
            If the volumes are invalid or the probe is not fitted.
        """
        logits = self._fitted()._heads.logits(self._checked(X))[0]
        return bag_scores(logits, multilabel=self.multilabel_)

    def attention(self, X: Sequence[ArrayLike]) -> list[NDArray[np.float32]]:
        """(n_i,) attention of each slice of each volume; a volume's sum to 1.

        Raises
        ------
        ProbeError
            If the volumes are invalid, the probe is not fitted or pools otherwise.
        """
        if self._fitted().pool != "attention":
            raise ProbeError(f"pool {self.pool!r} has no attention", remedy='Fit VolumeProbe("attention").')
        bags = self._checked(X)
        return np.split(self._heads.attention(bags)[:, 0], bags.starts[1:])

    def _choose(self, fitted: Bags, y: NDArray[Any], held: Bags, held_y: NDArray[Any]) -> None:
        """Set ``lr_``, ``epochs_``, ``val_losses_`` and ``val_scores_``."""
        self.mean_, self.scale_ = column_moments(fitted.rows)
        fitted, held = self._prepared(fitted), self._prepared(held)
        heads = self._new_heads(fitted.rows.shape[1], tuple(self.learning_rates))
        losses: list[NDArray[np.float64]] = []
        for epoch in range(self.epochs):
            heads.epoch(fitted, y, self.batch)
            logits = heads.logits(held)
            losses.append(bag_losses(logits, held_y, multilabel=self.multilabel_))
            if np.argmin(np.min(losses, axis=1)) == epoch:
                self.val_scores_ = bag_scores(logits[int(np.argmin(losses[-1]))], multilabel=self.multilabel_)
            if epoch - int(np.argmin(np.min(losses, axis=1))) >= self.patience:
                break
        self.val_losses_ = np.array(losses)
        best, rate = divmod(int(self.val_losses_.argmin()), self.val_losses_.shape[1])
        self.epochs_ = best + 1
        self.lr_ = float(self.learning_rates[rate])

    def _new_heads(self, width: int, rates: Sequence[float]) -> BagHeads:
        return BagHeads(
            self.pool,
            width,
            len(self.classes_),
            multilabel=self.multilabel_,
            learning_rates=rates,
            hidden=self.hidden,
            weight_decay=self.weight_decay,
            seed=self.seed,
        )

    def _prepared(self, bags: Bags) -> Bags:
        scaled = Bags(((bags.rows - self.mean_) / self.scale_).astype(np.float32), bags.starts)
        return scaled.with_positions() if self.position else scaled

    def _checked(self, X: Sequence[ArrayLike]) -> Bags:
        return self._prepared(Bags.check(X, n_features=self.n_features_in_))

    def _fitted(self) -> Self:
        if not hasattr(self, "notes_"):
            raise not_fitted()
        return self

    def _check_settings(self) -> None:
        if self.pool not in get_args(BagPool):
            raise ConfigurationError(f"unknown pool {self.pool!r}", remedy=f"One of {', '.join(get_args(BagPool))}.")
        for name in ("hidden", "epochs", "patience", "batch"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} must be at least 1, got {getattr(self, name)}")
        rates = np.asarray(self.learning_rates, dtype=np.float64)
        if rates.ndim != 1 or not len(rates) or not ((rates > 0) & (rates < np.inf)).all() or self.weight_decay < 0:
            raise ConfigurationError(
                f"learning rates must be positive and the weight decay not negative, got {self.learning_rates} and "
                f"{self.weight_decay}",
                remedy="The defaults are 1e-4, 3e-4, 1e-3 and 0.01.",
            )
