"""Whether a run compiles its networks: where asked to, or where the planned images repay it."""

from __future__ import annotations

import logging
import time

from featcache.errors import ConfigurationError
from featcache.extraction.plan import Plan
from featcache.models import Encoder
from featcache.models.compiled import compile_mode, compiling_repays

__all__ = ["COMPILE_CHOICES", "checked_choice", "compile_planned"]

COMPILE_CHOICES = ("auto", "on", "off")

_LOG = logging.getLogger(__name__)


def checked_choice(choice: str) -> str:
    """One of :data:`COMPILE_CHOICES`.

    Raises
    ------
    ConfigurationError
        For anything else.
    """
    if choice not in COMPILE_CHOICES:
        raise ConfigurationError(f"compile {choice!r}", remedy=f"Known: {', '.join(COMPILE_CHOICES)}.")
    return choice


def compile_planned(encoder: Encoder, plan: Plan, device: str, batch_size: int, choice: str) -> bool:
    """Compile a plan's encoder, which is on its device already, if that is wanted.

    Parameters
    ----------
    encoder, device, batch_size
        As they will run.
    plan
        Its pending rows are what has to repay the compilation.
    choice
        ``on``, ``off``, or ``auto``: on CUDA, if one batch, timed, says that the run is long enough. On a CPU
        nobody has measured what it saves, so ``auto`` is ``off`` there.

    Returns
    -------
    bool
        Whether it was compiled. Features stay within rounding either way: see :mod:`featcache.models.compiled`.
    """
    runs_torch = plan.key.runtime == "torch" and plan.spec.source != "pixels"
    if choice == "off" or (choice == "auto" and not (device.startswith("cuda") and runs_torch)):
        return False
    if choice == "auto":
        seconds = _batch_seconds(encoder, plan.preprocess.crop, device, batch_size)
        planned = seconds * -(-len(plan.pending) // batch_size)
        _LOG.info("%s: about %.0f s without compiling", plan.spec.name, planned)
        if not compiling_repays(planned):
            return False
    encoder.compile(device, compile_mode(device, batch_size))
    return True


def _batch_seconds(encoder: Encoder, size: int, device: str, batch_size: int) -> float:
    """Of the second of two batches, until its features are there."""
    import torch

    pixels = torch.zeros(batch_size, 3, size, size, device=device)
    encoder.encode(pixels)["cls"].cpu()
    begin = time.perf_counter()
    encoder.encode(pixels)["cls"].cpu()
    return time.perf_counter() - begin
