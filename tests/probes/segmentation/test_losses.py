"""Gradients of the segmentation losses against autograd."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch.nn import functional

from featcache.probes.segmentation.losses import SegmentLoss, WideSlopes, one_hot, segment_loss, segment_slope
from featcache.probes.segmentation.upsampling import bilinear_matrix


@pytest.mark.parametrize("kind", get_args(SegmentLoss))
@pytest.mark.parametrize(("n_classes", "size", "scale"), [(2, 7, 1.0), (3, 40, 8.0), (5, 33, 60.0)])
def test_the_gradient_is_that_of_autograd(kind: SegmentLoss, n_classes: int, size: int, scale: float) -> None:
    some = torch.Generator().manual_seed(size)
    logits = (torch.randn(3, n_classes, size, size, generator=some) * scale).requires_grad_()
    labels = torch.randint(0, n_classes, (3, size, size), generator=some)
    segment_loss(logits, labels, kind).backward()  # type: ignore[no-untyped-call]
    expected = logits.grad
    assert expected is not None
    near = {"rtol": 1e-4, "atol": 2e-6 * float(expected.abs().max())}
    torch.testing.assert_close(segment_slope(logits.detach(), one_hot(labels, n_classes), kind), expected, **near)


@pytest.mark.parametrize("kind", get_args(SegmentLoss))
@pytest.mark.parametrize(
    ("shape", "scale"), [((2, 1, 7), 1.0), ((3, 6, 40), 8.0), ((5, 33, 33), 60.0), ((3, 9, 4), 2.0)]
)
@pytest.mark.parametrize("compiled", [True, False])
def test_the_gradient_of_several_heads_is_that_of_autograd_through_interpolate(
    kind: SegmentLoss, shape: tuple[int, int, int], scale: float, compiled: bool
) -> None:
    n_classes, cells, size = shape
    some = torch.Generator().manual_seed(size)
    # Columns are at their size already: only rows are interpolated.
    wide = (torch.randn(3, 2, n_classes, cells, size, generator=some) * scale).requires_grad_()
    labels = torch.randint(0, n_classes, (3, size, size), generator=some).to(torch.uint8)
    for head in range(2):
        large = functional.interpolate(wide[:, head], size=(size, size), mode="bilinear", align_corners=False)
        segment_loss(large, labels.long(), kind).backward()  # type: ignore[no-untyped-call]
    expected = wide.grad
    assert expected is not None
    rows = torch.from_numpy(bilinear_matrix(cells, size))
    found = WideSlopes(labels, n_classes, kind, rows, compiled=compiled)(wide.detach())
    near = {"rtol": 1e-4, "atol": 2e-6 * float(expected.abs().max())}
    torch.testing.assert_close(found, expected, **near)


def test_the_compiled_gradient_does_not_depend_on_the_number_of_threads() -> None:
    wide = torch.randn(5, 2, 3, 8, 50, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 3, (5, 50, 50), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(WideSlopes(labels, 3, "dice+ce", torch.from_numpy(bilinear_matrix(8, 50)))(wide))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*found)


def test_certain_and_diverged_logits_give_no_error() -> None:
    slopes = WideSlopes(torch.zeros(1, 4, 4, dtype=torch.uint8), 2, "dice+ce", torch.eye(4))
    wide = torch.full((1, 1, 2, 4, 4), -1e30)
    wide[:, :, 0] = 1e30
    assert torch.isfinite(slopes(wide)).all()
    slopes(torch.full((1, 1, 2, 4, 4), torch.nan))
