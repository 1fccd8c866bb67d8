"""Losses of predicted label maps: cross-entropy, soft Dice, and their sum. Imports torch."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional

__all__ = ["SegmentLoss", "segment_loss"]

SegmentLoss = Literal["ce", "dice", "dice+ce"]

_SMOOTH = 1.0
"""Pixels that are added to both sides of the ratio, so that a class which a batch lacks has a gradient near 0."""


def segment_loss(logits: Tensor, labels: Tensor, kind: SegmentLoss) -> Tensor:
    """Loss of one batch.

    ``ce`` is the mean over all pixels. ``dice`` is 1 minus the mean over foreground classes of
    (2 sum p t + 1) / (sum p + sum t + 1), with sums over all pixels of the batch. ``dice+ce`` is their sum.

    Parameters
    ----------
    logits
        (b, C, S, S), the background first.
    labels
        (b, S, S) class numbers, int64.
    kind
        Which one.

    Returns
    -------
    Tensor
        A scalar.

    References
    ----------
    Milletari et al., "V-Net", arXiv 1606.04797 (soft Dice, here without squares); Isensee et al., "nnU-Net",
    Nature Methods 18, 2021 (sums over the batch; the sum with cross-entropy).

    Examples
    --------
    >>> import torch
    >>> certain = torch.tensor([[[[20.0]], [[-20.0]]]])
    >>> round(float(segment_loss(certain, torch.tensor([[[0]]]), "dice+ce")), 6)
    0.0
    """
    logs = functional.log_softmax(logits, dim=1)
    total = logits.new_zeros(())
    if kind != "dice":
        total = total + functional.nll_loss(logs, labels)
    if kind != "ce":
        shares = logs.exp()
        truth = functional.one_hot(labels, logits.shape[1]).movedim(-1, 1).to(shares.dtype)
        both = (shares * truth).sum(dim=(0, 2, 3))[1:]
        sizes = shares.sum(dim=(0, 2, 3))[1:] + truth.sum(dim=(0, 2, 3))[1:]
        total = total + 1 - ((2 * both + _SMOOTH) / (sizes + _SMOOTH)).mean()
    return total
