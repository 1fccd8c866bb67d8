"""Loading a network straight in the compute precision: it never exists in float32, and its file is mapped, not read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featcache.models.checkpoints import check_fit
from featcache.models.runtime import Precision, compute_dtype

if TYPE_CHECKING:
    import torch

__all__ = ["fill"]

EXACT = ("pos_embed",)
"""Tensors that stay in float32 until they have been brought to the input size."""


def fill(module: torch.nn.Module, tensors: dict[str, torch.Tensor], origin: str, precision: Precision) -> None:
    """Put tensors into a network on torch's ``meta`` device, which has shapes and no numbers.

    Each is converted by itself and taken out of ``tensors``, so that at no time there are two copies of all. The
    numbers are those of loading in float32 and converting then.

    Parameters
    ----------
    module
        The network; afterwards on the CPU.
    tensors
        By the network's names; empty afterwards. They may be mapped from a file: the network holds copies.
    origin
        Where they come from, for the message.
    precision
        In which they are kept, but for :data:`EXACT`.

    Raises
    ------
    WeightsError
        Lists missing, surplus and misshaped tensors.
    """
    import torch

    check_fit(module, tensors, origin)
    dtype = compute_dtype(precision)
    held: dict[str, torch.Tensor] = {}
    for name in list(tensors):
        tensor = tensors.pop(name).detach()
        wanted = torch.float32 if name.endswith(EXACT) else dtype
        held[name] = tensor.to(wanted if tensor.is_floating_point() else tensor.dtype, copy=True)
    module.load_state_dict(held, strict=False, assign=True)
