"""Checkpoint files to tensors, tensors to networks: strictly, and without running code from the file."""

from __future__ import annotations

import hashlib
import pickle
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from featcache.errors import WeightsError

if TYPE_CHECKING:
    import torch

__all__ = ["load_strict", "read_tensors", "tensors_digest"]

_NESTINGS = ("state_dict", "model", "teacher", "module")
_COUNTERS = "num_batches_tracked"
# What torch's readers raise, by the place at which the bytes go wrong.
_DAMAGED = (RuntimeError, EOFError, OSError, ValueError, TypeError, AttributeError)


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read a state dict from ``.safetensors``, or from ``.pth``, ``.pt`` and ``.bin`` with ``weights_only``.

    Raises
    ------
    WeightsError
        If the file is empty, truncated, a web page, a pickle that wants to run code, or holds no tensors.
    """
    import safetensors
    import safetensors.torch
    import torch

    if not path.is_file():
        raise WeightsError(f"{path} is no file", remedy="Pass the checkpoint file itself.")
    with path.open("rb") as file:
        head = file.read(64).lstrip()
    if not head:
        raise WeightsError(f"{path} is empty", remedy="Download it again.")
    if head[:1] == b"<":
        raise WeightsError(f"{path} is a web page, not a checkpoint", remedy="Download the file itself.")
    try:
        if path.suffix.lower() == ".safetensors":
            return dict(safetensors.torch.load_file(path))
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} is no plain checkpoint: it is damaged, or wants to run code when loaded, which featcache refuses",
            remedy="Download it again, or convert it to .safetensors where you trust it.",
        ) from error
    except (safetensors.SafetensorError, struct.error, LookupError, *_DAMAGED) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{path} is truncated or damaged ({reason})", remedy="Download it again.") from error
    for name in _NESTINGS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    tensors = {} if not isinstance(content, Mapping) else content
    if not tensors or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        raise WeightsError(f"{path} holds no state dict", remedy="Expected a mapping of names to tensors.")
    return {str(name): tensor for name, tensor in tensors.items()}


def tensors_digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over the sorted (name, dtype, shape, bytes) of tensors; BatchNorm's counters are left out."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(name for name in tensors if not name.endswith(_COUNTERS)):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_strict(module: torch.nn.Module, tensors: Mapping[str, torch.Tensor], origin: str) -> None:
    """Load tensors that must be exactly those of a network; BatchNorm's counters may be absent.

    Parameters
    ----------
    module
        The network.
    tensors
        By the network's names.
    origin
        Where they come from, for the message.

    Raises
    ------
    WeightsError
        Lists missing, surplus and misshaped tensors.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items() if not name.endswith(_COUNTERS)}
    given = {name: tuple(tensor.shape) for name, tensor in tensors.items() if not name.endswith(_COUNTERS)}
    problems = [
        *(f"missing: {name} {shape}" for name, shape in wanted.items() if name not in given),
        *(f"surplus: {name} {shape}" for name, shape in given.items() if name not in wanted),
        *(
            f"shape of {name}: {given[name]}, expected {shape}"
            for name, shape in wanted.items()
            if given.get(name, shape) != shape
        ),
    ]
    if problems:
        listed = "".join(f"\n  {problem}" for problem in problems[:12])
        more = f"\n  and {len(problems) - 12} more" if len(problems) > 12 else ""
        raise WeightsError(
            f"{origin} does not fit the network, {len(problems)} tensors differ:{listed}{more}",
            remedy="It is the checkpoint of another architecture or size.",
        )
    module.load_state_dict(dict(tensors), strict=False)
