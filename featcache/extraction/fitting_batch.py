"""A batch that fits the free memory of the device, decided before any weights are loaded."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

from featcache.extraction.devices import default_batch_size, free_memory
from featcache.extraction.plan import Plan
from featcache.models import Footprint, Precision, footprint

__all__ = ["MemoryPlan", "plan_memory"]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What one pass over the images will take on its device."""

    batch_size: int
    """Images a batch."""
    footprints: tuple[Footprint | None, ...]
    """By model; None where only the loaded model knows."""


def plan_memory(plans: Sequence[Plan], device: str, batch_size: int | None) -> MemoryPlan:
    """Count what the models take, say so, and choose the batch unless it was given.

    Parameters
    ----------
    plans
        Of the models that will be on the device together.
    device
        As torch names it.
    batch_size
        What the user asked for; it stays. None is the device's default, halved until weights and batch fit.
    """
    found = tuple(_footprint(plan) if len(plan.pending) else None for plan in plans)
    known = [one for one in found if one is not None]
    # All weights stay on the device; the models compute in turn, so that one set of activations lives at a time.
    together = Footprint(sum(one.weights for one in known), max((one.activations for one in known), default=0))
    chosen = batch_size or default_batch_size(device)
    free = free_memory(device)
    if batch_size is None and free is not None:
        chosen = together.largest_batch(free, chosen)
    for plan, one in zip(plans, found, strict=True):
        if one is not None:
            _LOG.info(
                "%s in %s: %.3g GB of weights, %.3g GB for a batch of %d; free on %s: %s",
                plan.spec.name,
                plan.key.precision,
                one.weights / 1e9,
                chosen * one.activations / 1e9,
                chosen,
                device,
                "not known" if free is None else f"{free / 1e9:.3g} GB",
            )
    return MemoryPlan(chosen, found)


def _footprint(plan: Plan) -> Footprint | None:
    counted = footprint(plan.spec, plan.preprocess.crop, cast(Precision, plan.key.precision))
    if counted is None or plan.key.runtime == "torch":
        return counted
    # Another runtime holds weights of its own beside PyTorch's, which stay in float32.
    whole = footprint(plan.spec, plan.preprocess.crop, "fp32")
    return replace(counted, weights=counted.weights + (whole.weights if whole is not None else 0))
