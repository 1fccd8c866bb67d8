"""Gradients of the segmentation losses against autograd."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from featcache.probes.segmentation.losses import CompiledSlope, SegmentLoss, one_hot, segment_loss, segment_slope


@pytest.mark.parametrize("kind", get_args(SegmentLoss))
@pytest.mark.parametrize(("n_classes", "size", "scale"), [(2, 7, 1.0), (3, 40, 8.0), (5, 33, 60.0)])
def test_both_gradients_are_those_of_autograd(kind: SegmentLoss, n_classes: int, size: int, scale: float) -> None:
    some = torch.Generator().manual_seed(size)
    logits = (torch.randn(3, n_classes, size, size, generator=some) * scale).requires_grad_()
    labels = torch.randint(0, n_classes, (3, size, size), generator=some)
    segment_loss(logits, labels, kind).backward()  # type: ignore[no-untyped-call]
    expected = logits.grad
    assert expected is not None
    given = logits.detach()
    near = {"rtol": 1e-4, "atol": 2e-6 * float(expected.abs().max())}
    torch.testing.assert_close(segment_slope(given.clone(), one_hot(labels, n_classes), kind), expected, **near)
    torch.testing.assert_close(CompiledSlope(labels, n_classes, kind)(given.clone()), expected, **near)


def test_the_compiled_gradient_does_not_depend_on_the_number_of_threads() -> None:
    logits = torch.randn(5, 3, 50, 50, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 3, (5, 50, 50), generator=torch.Generator().manual_seed(1))
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(CompiledSlope(labels, 3, "dice+ce")(logits.clone()))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*found)


def test_certain_and_diverged_logits_give_no_error() -> None:
    labels = torch.zeros(1, 4, 4, dtype=torch.long)
    logits = torch.full((1, 2, 4, 4), -1e30)
    logits[:, 0] = 1e30
    assert torch.isfinite(CompiledSlope(labels, 2, "dice+ce")(logits.clone())).all()
    CompiledSlope(labels, 2, "dice+ce")(torch.full((1, 2, 4, 4), torch.nan))
