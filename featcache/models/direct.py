"""Loading a network straight in the compute precision: it never exists in float32, and its file is mapped, not read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from featcache.models.checkpoints import check_fit
from featcache.models.runtime import Precision, compute_dtype

if TYPE_CHECKING:
    import torch

__all__ = ["fill", "unrounded"]

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


def unrounded(
    file: Mapping[str, torch.Tensor], rounded: Mapping[str, torch.Tensor]
) -> Mapping[str, torch.Tensor] | None:
    """The float32 numbers of tensors that a library has loaded from a file in a lower precision.

    One by one, when they are asked for, so that their digest is that of a network loaded in float32 and that network
    never exists. Names may differ by what stands before them, as those of a vision tower inside of a larger model do.

    Parameters
    ----------
    file
        A checkpoint's tensors by its names, mapped rather than read.
    rounded
        The network's tensors by its names.

    Returns
    -------
    Mapping or None
        By the network's names. None if any of them is not a tensor of the file, rounded.
    """
    exact: dict[str, torch.Tensor] = {}
    for name, tensor in rounded.items():
        origin = next((given for given, whole in file.items() if _is_that(given, whole, name, tensor)), None)
        if origin is None:
            return None
        exact[name] = file[origin]
    return _InFloat32(exact)


def _is_that(given: str, whole: torch.Tensor, name: str, rounded: torch.Tensor) -> bool:
    """Whether a tensor of a file is one of a network: by the end of its name, its shape and its rounded numbers."""
    if not (f".{given}".endswith(f".{name}") or f".{name}".endswith(f".{given}")) or whole.shape != rounded.shape:
        return False
    return bool((whole.to(rounded.dtype) == rounded).all())


class _InFloat32(Mapping[str, "torch.Tensor"]):
    """Tensors that become float32 when they are taken out, where they are floating point numbers."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self._tensors = tensors

    def __getitem__(self, name: str) -> torch.Tensor:
        tensor = self._tensors[name]
        return tensor.float() if tensor.is_floating_point() else tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)
