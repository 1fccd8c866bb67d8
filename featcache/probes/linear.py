"""The linear probe of DINOv2 and of the study: linear heads by SGD, the best on val, one refitted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featcache.errors import ProbeError
from featcache.probes.base import check_targets
from featcache.probes.blocks import BlockInput, TokenBlocks
from featcache.probes.heads import Head, HeadBank, train_banks
from featcache.probes.holdout import hold_out
from featcache.probes.logistic import probabilities
from featcache.probes.parameters import Decider, not_fitted
from featcache.probes.path_probe import best_setting, metrics_of, teachable
from featcache.probes.targets import what_is_missing

__all__ = ["PROTOCOLS", "LinearHeads", "LinearProtocol"]

_Part: TypeAlias = tuple[TokenBlocks, NDArray[Any]]

# Validation rows scored at a time.
_BLOCK = 4096
# Parts that the learning rates are trained in, side by side.
_BANKS = 4


@dataclass(frozen=True, slots=True)
class LinearProtocol:
    """What distinguishes the protocols; momentum 0.9, no weight decay, N(0, 0.01) and cosine to 0 are common."""

    learning_rates: tuple[float, ...]
    """Tried side by side."""
    scaled: bool
    """Whether they are for 256 rows: multiplied by batch size / 256."""
    summed: bool
    """Whether the loss of labels is the batch size times the mean, not the mean."""


PROTOCOLS: dict[str, LinearProtocol] = {
    "dinov2": LinearProtocol(
        (*(factor * 10.0**power for power in range(-5, -1) for factor in (1, 2, 5)), 0.1), True, False
    ),
    "study": LinearProtocol((1e-3, 5e-3, 1e-2, 5e-2), False, True),
}
"""By the name users give."""


class LinearHeads(Decider):
    """Linear heads on cached tokens, all learning rates and inputs trained in one pass over the rows.

    One head for each learning rate x number of last blocks x with or without the mean patch. The best on val is chosen
    (by balanced accuracy, then macro AUROC, for class indices; by macro AUROC for labels; of equal ones the smallest
    learning rate, then the smallest input), and one head of its kind is trained anew on train and val. Features are
    taken as they are: the protocols standardise nothing.

    Parameters
    ----------
    protocol
        ``"dinov2"``: 13 learning rates from 1e-5 to 0.1, for 256 rows, mean loss. ``"study"``: 1e-3, 5e-3, 1e-2, 5e-2,
        not scaled; its multi-label loss is the batch size times the mean binary cross-entropy, and only with that do
        its learning rates transfer. Cross-entropy of exclusive classes is the mean in both.
    learning_rates
        In place of the protocol's.
    n_last_blocks
        CLS tokens of how many last blocks; None is 1 and all that are given (the protocols: 1 and 4).
    avgpool
        Without or with the mean patch; None is both if it is given.
    batch_size
        Rows of a step; 128 is the study's, and DINOv2's on each device.
    epochs
        Passes over the rows. DINOv2 trains for 10 epochs of 1250 steps; the study's length is not part of its
        description, so it is 10 for both.
    n_iter
        Steps, in place of ``epochs``: 12500 is DINOv2's schedule on ImageNet.
    seed
        Of initial weights, order of rows and the hold-out, where there is no val.

    Attributes
    ----------
    lr_, n_last_blocks_, avgpool_ : float, int, bool
        The head chosen; the learning rate before scaling.
    val_scores_ : dict of (lr, n_last_blocks, avgpool) to dict of str to float
        Metrics of each head on the validation rows; empty if there was one.
    selection_ : str
        A sentence that says what was chosen and on what.
    n_iter_ : int
        Steps of the final head.
    classes_ : (C,) int64
        Class or label of each column of the scores.
    coef_ : (C, K) float64
        Weights for the tokens side by side: last blocks, the deepest last, then the mean patch.
    intercept_ : (C,) float64
    multilabel_ : bool
        Whether the targets were a matrix.
    notes_ : tuple of str
        What a reader of the numbers must know.

    References
    ----------
    Oquab et al., "DINOv2", arXiv 2304.07193, section 7.1; Baharoon et al., arXiv 2312.02366.

    Examples
    --------
    >>> X = [[0.0], [1.0], [2.0], [3.0]]
    >>> probe = LinearHeads("study", epochs=200).fit(X, [0, 0, 1, 1], X, [0, 0, 1, 1])
    >>> probe.n_last_blocks_, probe.avgpool_, probe.predict_scores(X).argmax(axis=1).tolist()
    (1, False, [0, 0, 1, 1])
    """

    def __init__(
        self,
        protocol: Literal["dinov2", "study"] = "dinov2",
        *,
        learning_rates: Sequence[float] | None = None,
        n_last_blocks: Sequence[int] | None = None,
        avgpool: Sequence[bool] | None = None,
        batch_size: int = 128,
        epochs: int = 10,
        n_iter: int | None = None,
        seed: int = 0,
    ) -> None:
        self.protocol = protocol
        self.learning_rates = learning_rates
        self.n_last_blocks = n_last_blocks
        self.avgpool = avgpool
        self.batch_size = batch_size
        self.epochs = epochs
        self.n_iter = n_iter
        self.seed = seed

    def fit(
        self,
        X: BlockInput,
        y: ArrayLike,
        X_val: BlockInput | None = None,
        y_val: ArrayLike | None = None,
        *,
        groups: ArrayLike | None = None,
        n_classes: int | None = None,
    ) -> Self:
        """Train all heads, choose one, train it on all rows.

        Parameters
        ----------
        X
            ``{"cls": (n, D), "intermediate": (n, B, D), "patch_mean": (n, D)}``, the last two optional, or
            (n, D) features alone.
        y
            (n,) class indices or (n, L) multi-label 0, 1 and NaN for missing.
        X_val, y_val
            Validation rows. Without them a fifth of the training rows is held out for the choice.
        groups
            (n,) group (patient) of each training row: a group is held out as a whole.
        n_classes
            Columns of the scores; None takes the largest class index + 1.

        Raises
        ------
        ProbeError
            If an input or setting is invalid, nothing can be learnt, or no hold-out is possible.
        """
        rule = self._check_settings()
        if (X_val is None) != (y_val is None):
            raise ProbeError("X_val and y_val belong together", remedy="Give both or neither.")
        blocks = TokenBlocks.check(X, name="the training features")
        targets, count = check_targets(y, len(blocks), n_classes=n_classes, name="the training targets")
        what_is_missing(targets, count)
        part, held, where = (blocks, targets), None, "val"
        heads = self._heads(blocks, rule)
        whole: _Part = part
        if X_val is not None and y_val is not None:
            val = TokenBlocks.check(X_val, name="the val features")
            self._check_widths(val, blocks.widths, "the val features")
            val_y, found = check_targets(y_val, len(val), n_classes=n_classes, name="the val targets")
            if targets.ndim != val_y.ndim or (targets.ndim == 2 and count != found):
                raise ProbeError(f"targets of shapes {targets.shape} and {val_y.shape} are not of one task")
            count, held = max(count, found), (val, val_y)
            whole = blocks.joined(val), np.concatenate([targets, val_y])
        notes = what_is_missing(whole[1], count)
        self.val_scores_: dict[tuple[float, int, bool], dict[str, float]] = {}
        chosen = heads[0]
        if len(heads) > 1:
            if held is None:
                rows, left_out = hold_out(targets, count, groups, self.seed)
                part, held = (blocks.rows(rows), targets[rows]), (blocks.rows(left_out), targets[left_out])
                where = f"a part of train held out by {'row' if groups is None else 'group'}"
            chosen = self._choose(part, held, count, heads, rule)
            metric = "balanced accuracy, then macro AUROC" if targets.ndim == 1 else "macro AUROC"
            chosen_by = f", of {len(heads)} heads by {metric} on {where} ({len(held[0])} rows)"
        else:
            chosen_by = ", the only head: nothing to choose"
        self.lr_, self.n_last_blocks_, self.avgpool_ = chosen.lr, chosen.n_last_blocks, chosen.avgpool
        self.selection_ = (
            f"lr = {chosen.lr:g}, last {chosen.n_last_blocks} blocks, {'with' if chosen.avgpool else 'without'} the "
            f"mean patch{chosen_by}; one head trained on all {len(whole[0])} rows ({self.protocol} protocol)."
        )
        self.n_features_in_ = blocks.widths[0]
        self.classes_, self.multilabel_, self._widths = np.arange(count), targets.ndim == 2, blocks.widths
        (self._bank,) = self._train(whole, [chosen], count, rule)
        self.coef_, self.intercept_ = self._bank.weights(0)
        self.n_iter_ = self._steps(len(whole[0]))
        self.notes_ = tuple(notes)
        return self

    def predict_scores(self, X: BlockInput) -> NDArray[np.float64]:
        """(n, C) float64 probabilities: of exclusive classes, which sum to 1, or of each label.

        Raises
        ------
        ProbeError
            If the features are invalid or the probe is not fitted.
        """
        if not hasattr(self, "coef_"):
            raise not_fitted()
        blocks = TokenBlocks.check(X)
        self._check_widths(blocks, self._widths, "X")
        return np.concatenate([
            probabilities(part.astype(np.float64), multilabel=self.multilabel_)
            for part in _scored(self._bank, blocks)
        ])  # fmt: skip

    def _check_settings(self) -> LinearProtocol:
        if self.protocol not in PROTOCOLS:
            raise ProbeError(f"protocol {self.protocol!r} is unknown", remedy=f"Known: {', '.join(PROTOCOLS)}.")
        rates = self.learning_rates
        if rates is not None and (len(rates) == 0 or not all(0 < rate < float("inf") for rate in rates)):
            raise ProbeError(f"learning_rates must be positive numbers, got {tuple(rates)}")
        if min(self.batch_size, self.epochs, 1 if self.n_iter is None else self.n_iter) < 1:
            raise ProbeError(
                f"batch_size, epochs and n_iter must be positive, got {self.batch_size}, {self.epochs}, {self.n_iter}"
            )
        return PROTOCOLS[self.protocol]

    def _heads(self, blocks: TokenBlocks, rule: LinearProtocol) -> list[Head]:
        """The heads, those with the smallest learning rate and input first."""
        counts = {1, blocks.depth} if self.n_last_blocks is None else {int(count) for count in self.n_last_blocks}
        pools = {False, blocks.patch_mean is not None} if self.avgpool is None else {bool(on) for on in self.avgpool}
        if not counts or min(counts) < 1 or max(counts) > blocks.depth:
            raise ProbeError(
                f"n_last_blocks {sorted(counts)}: the features have CLS tokens of the last {blocks.depth} blocks",
                remedy="Give the block 'intermediate' with the CLS tokens of earlier blocks.",
            )
        if not pools or (True in pools and blocks.patch_mean is None):
            raise ProbeError("avgpool needs the block 'patch_mean'", remedy="Give it, or avgpool=(False,).")
        rates = sorted(set(rule.learning_rates if self.learning_rates is None else map(float, self.learning_rates)))
        return [Head(lr, n, pool) for lr in rates for n in sorted(counts) for pool in sorted(pools)]

    def _steps(self, n: int) -> int:
        return self.n_iter if self.n_iter is not None else self.epochs * -(-n // self.batch_size)

    def _train(self, part: _Part, heads: list[Head], count: int, rule: LinearProtocol) -> list[HeadBank]:
        blocks, y = part
        factor = self.batch_size / 256 if rule.scaled else 1.0
        # Heads know nothing of each other: each bank has some of the learning rates, and a thread for itself.
        rates = sorted({head.lr for head in heads})
        shares = [rates[first::_BANKS] for first in range(min(_BANKS, len(rates)))]
        banks = []
        for share in shares:
            own = [head for head in heads if head.lr in share]
            banks.append(HeadBank(own, [head.lr * factor for head in own], blocks, count, self.seed))
        steps = self._steps(len(blocks))
        train_banks(banks, blocks, y, batch_size=self.batch_size, n_iter=steps, summed=rule.summed, seed=self.seed)
        return banks

    def _choose(self, part: _Part, held: _Part, count: int, heads: list[Head], rule: LinearProtocol) -> Head:
        """The best head; sets ``val_scores_``."""
        target = teachable(part[1], held[1], count, "a head")
        for bank in self._train(part, heads, count, rule):
            logits = np.concatenate(list(_scored(bank, held[0])))
            for place, head in enumerate(bank.heads):
                own = logits[:, place * count : (place + 1) * count].astype(np.float64)
                scores = probabilities(own, multilabel=target.ndim == 2)
                self.val_scores_[head.lr, head.n_last_blocks, head.avgpool] = metrics_of(target, scores)
        return heads[best_setting([self.val_scores_[head.lr, head.n_last_blocks, head.avgpool] for head in heads])]

    @staticmethod
    def _check_widths(blocks: TokenBlocks, expected: tuple[int, int, int | None], name: str) -> None:
        remedy = "Use features of the same store and family for fitting and scoring."
        if blocks.widths[0] != expected[0]:
            raise ProbeError(
                f"{name} has {blocks.widths[0]} features, but probe is expecting {expected[0]} features as input",
                remedy=remedy,
            )
        if blocks.widths != expected:
            raise ProbeError(
                f"{name}: width, CLS tokens and width of the mean patch are {blocks.widths}, {expected} features were "
                "fitted",
                remedy=remedy,
            )


def _scored(bank: HeadBank, blocks: TokenBlocks) -> Iterator[NDArray[np.float32]]:
    for begin in range(0, len(blocks), _BLOCK):
        yield bank.logits(blocks, slice(begin, begin + _BLOCK))
