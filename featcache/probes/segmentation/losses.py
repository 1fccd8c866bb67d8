"""Losses of predicted label maps: cross-entropy, soft Dice, and their sum. Imports torch."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from featcache.probes.segmentation.upsampling import bilinear_places

__all__ = ["SegmentLoss", "WideSlopes", "one_hot", "segment_loss", "segment_slope"]

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
        truth = one_hot(labels, logits.shape[1])
        both = (shares * truth).sum(dim=(0, 2, 3))[1:]
        sizes = shares.sum(dim=(0, 2, 3))[1:] + truth.sum(dim=(0, 2, 3))[1:]
        total = total + 1 - ((2 * both + _SMOOTH) / (sizes + _SMOOTH)).mean()
    return total


def one_hot(labels: Tensor, n_classes: int) -> Tensor:
    """(b, C, S, S) float32 of (b, S, S) class numbers: 1 in the plane of the class."""
    classes = torch.arange(n_classes, device=labels.device).view(1, -1, 1, 1)
    return (labels[:, None] == classes).float()


def segment_slope(logits: Tensor, truth: Tensor, kind: SegmentLoss) -> Tensor:
    """The gradient of :func:`segment_loss`, in few passes over the maps.

    With p the softmax, N pixels and C - 1 foreground classes: of cross-entropy (p - t) / N. Of Dice, with
    n = 2 sum p t + 1 and m = sum p + sum t + 1 of a class, g = (n / m^2 - 2 t / m) / (C - 1) is the gradient with
    respect to p (0 for the background), and p (g - sum_c p g) that with respect to the logits.

    Parameters
    ----------
    logits
        (b, C, S, S); is not needed afterwards and may be overwritten.
    truth
        (b, C, S, S) from :func:`one_hot`; the same for all heads of a batch.
    kind
        Which loss.

    Returns
    -------
    Tensor
        (b, C, S, S).

    Examples
    --------
    >>> segment_slope(torch.zeros(1, 2, 1, 1), one_hot(torch.tensor([[[1]]]), 2), "ce").flatten().tolist()
    [0.5, -0.5]
    """
    shares = torch.softmax(logits, dim=1)
    b, n_classes, rows, columns = logits.shape
    pixels = b * rows * columns
    if kind == "ce":
        return shares.sub_(truth).div_(pixels)
    sizes = (shares.sum(dim=(2, 3)) + truth.sum(dim=(2, 3))).sum(dim=0) + _SMOOTH
    flat = (b * n_classes, 1, rows * columns)
    both = torch.bmm(shares.reshape(flat), truth.reshape(flat).mT).view(b, n_classes).sum(dim=0)
    scale = torch.full_like(sizes, 1 / (n_classes - 1))
    scale[0] = 0
    constant = ((2 * both + _SMOOTH) / sizes.square() * scale).view(1, -1, 1, 1)
    of_truth = (-2 / sizes * scale).view(1, -1, 1, 1)
    slope = torch.addcmul(constant, truth, of_truth, out=logits).mul_(shares)
    slope.addcmul_(shares, slope.sum(dim=1, keepdim=True), value=-1)
    if kind == "dice+ce":
        slope.add_(shares.sub_(truth), alpha=1 / pixels)
    return slope


class WideSlopes:
    """The gradients of many heads' losses with respect to their logits on the grid, columns interpolated already.

    On the CPU compiled loops, one image of one head at a time and never a whole map of it in memory; elsewhere
    :func:`segment_slope` on the maps of one head after another.

    Parameters
    ----------
    labels
        (b, S, S) class numbers.
    n_classes
        C.
    kind
        Which loss.
    rows
        (S, h) matrix that interpolates rows, from :func:`featcache.probes.segmentation.upsampling.bilinear_matrix`.
    compiled
        None: on the CPU.

    Examples
    --------
    >>> WideSlopes(torch.tensor([[[1]]]), 2, "ce", torch.ones(1, 1))(torch.zeros(1, 1, 2, 1, 1)).flatten().tolist()
    [0.5, -0.5]
    """

    def __init__(
        self, labels: Tensor, n_classes: int, kind: SegmentLoss, rows: Tensor, *, compiled: bool | None = None
    ) -> None:
        self._kind, self._rows, self._classes = kind, rows, n_classes
        self._compiled = labels.device.type == "cpu" if compiled is None else compiled
        if self._compiled:
            flat: NDArray[np.uint8] = labels.to(torch.uint8).numpy()
            self._labels = flat
            self._counts = np.bincount(flat.ravel(), minlength=n_classes) + _SMOOTH
            self._places = bilinear_places(rows.shape[1], rows.shape[0]).astype(np.float32)
        else:
            self._truth = one_hot(labels, n_classes)

    def __call__(self, wide: Tensor) -> Tensor:
        """(b, M, C, h, S) gradient of (b, M, C, h, S) contiguous float32 logits of M heads."""
        if self._compiled:
            return torch.from_numpy(self._of_rows(wide.numpy()))
        slope = torch.empty_like(wide)
        for head in range(wide.shape[1]):
            large = segment_slope(self._rows @ wide[:, head], self._truth, self._kind)
            slope[:, head] = self._rows.T @ large
        return slope

    def _of_rows(self, wide: NDArray[np.float32]) -> NDArray[np.float32]:
        from featcache.probes.segmentation.kernel import share_sums, wide_slope

        b, heads, n_classes = wide.shape[:3]
        slope = np.zeros_like(wide)
        constant, of_truth = np.zeros((2, heads, n_classes), np.float32)
        entropy = 0.0 if self._kind == "dice" else 1 / self._labels.size
        with ThreadPoolExecutor(torch.get_num_threads(), thread_name_prefix="featcache-maps") as workers:

            def everywhere(work: Callable[[int, int], None]) -> None:
                for job in [workers.submit(work, image, head) for image, head in np.ndindex(b, heads)]:
                    job.result()

            if self._kind != "ce":
                sums = np.zeros((b, heads, 2, n_classes))
                everywhere(lambda i, m: share_sums(wide[i, m], self._places, self._labels[i], sums[i, m]))
                of_shares, both = sums.sum(axis=0).transpose(1, 0, 2)
                sizes = of_shares + self._counts
                constant[:, 1:] = ((2 * both + _SMOOTH) / sizes**2)[:, 1:] / (n_classes - 1)
                of_truth[:, 1:] = (-2 / sizes)[:, 1:] / (n_classes - 1)
            loss = np.stack([constant, of_truth, np.full_like(constant, entropy)], axis=1)
            everywhere(lambda i, m: wide_slope(wide[i, m], self._places, self._labels[i], loss[m], slope[i, m]))
        return slope
