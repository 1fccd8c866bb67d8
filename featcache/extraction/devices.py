"""Which device computes, and in which precision."""

from __future__ import annotations

import os
from pathlib import Path

from featcache.errors import ConfigurationError
from featcache.models import Precision

__all__ = [
    "PRECISIONS",
    "Precision",
    "best_precision",
    "checked_precision",
    "default_batch_size",
    "free_memory",
    "keep_memory",
    "processors",
    "resolve_device",
]

PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def resolve_device(device: str = "auto") -> str:
    """``auto`` is CUDA, else MPS, else the CPU; anything else must be a device that torch has here.

    Raises
    ------
    ConfigurationError
        If that device is not there.
    """
    import torch

    if device == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigurationError(
            f"device {device!r} cannot be used: {str(error).splitlines()[0]}",
            remedy="`featcache doctor` lists the devices of this machine.",
        ) from error
    return device


def checked_precision(precision: str) -> str:
    """One of :data:`PRECISIONS`.

    Raises
    ------
    ConfigurationError
        For anything else.
    """
    if precision not in PRECISIONS:
        raise ConfigurationError(f"unknown precision {precision!r}", remedy=f"Known: {', '.join(PRECISIONS)}.")
    return precision


def best_precision(device: str) -> Precision:
    """bf16 on NVIDIA GPUs from Ampere on, otherwise fp32."""
    import torch

    ampere = device.startswith("cuda") and torch.cuda.get_device_capability(device)[0] >= 8
    return "bf16" if ampere else "fp32"


def default_batch_size(device: str) -> int:
    """Images a batch, a power of two so that batches fill segments."""
    return 32 if device == "cpu" else 128


def free_memory(device: str) -> int | None:
    """Bytes that a new allocation on a device may take; None where the system does not say (MPS, other systems).

    On Linux the CPU's is what the kernel calls available, or what the limit of this process' control group leaves.
    """
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    meminfo = Path("/proc/meminfo")
    if device != "cpu" or not meminfo.is_file():
        return None
    lines = meminfo.read_text(encoding="ascii").splitlines()
    free = next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)
    limits = [Path("/sys/fs/cgroup", name) for name in ("memory.max", "memory.current")]
    if free is not None and all(path.is_file() for path in limits):
        most, used = (path.read_text(encoding="ascii").strip() for path in limits)
        if most != "max":
            free = max(0, min(free, int(most) - int(used)))
    return free


def processors() -> int:
    """Processors that this process may use, at most 32: as many reading processes keep them busy."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(32, allowed)


def keep_memory() -> None:
    """Ask PyTorch for huge pages, if it has not allocated anything yet: it looks once, at its first allocation.

    Encoding on a CPU allocates and frees hundreds of megabytes a layer, and the system clears each page anew: with
    small pages that took more than half of the processor time of a small CNN.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
