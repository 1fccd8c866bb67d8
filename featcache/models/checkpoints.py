"""Checkpoint files to tensors, tensors to networks: strictly, and without running code from the file."""

from __future__ import annotations

import argparse
import hashlib
import json
import pickle
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache.errors import WeightsError

if TYPE_CHECKING:
    import torch

__all__ = [
    "WEIGHT_FILES",
    "check_file",
    "check_fit",
    "code_error",
    "load_strict",
    "read_tensors",
    "shards_of",
    "tensors_digest",
]

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
)
"""Names under which hub repositories keep weights, the preferred one first."""

_NESTINGS = ("state_dict", "model_state_dict", "model", "teacher", "module")
# What wrappers of training scripts put before every name.
_WRAPPERS = ("module.", "_orig_mod.", "backbone.", "model.")
# Heads of DINO's and iBOT's training, which lie beside `backbone.` and are no part of it.
_TRAINING_HEADS = ("dino_head.", "ibot_head.")
_COUNTERS = "num_batches_tracked"
_SHOWN = 8
# What torch's readers raise, by the place at which the bytes go wrong.
_DAMAGED = (RuntimeError, EOFError, OSError, ValueError, TypeError, AttributeError)


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read a state dict, and take off what training scripts wrap around it.

    Parameters
    ----------
    path
        A ``.safetensors`` file; a ``.pth``, ``.pt`` or ``.bin`` file of torch, read with ``weights_only``; the
        ``.index.json`` of a checkpoint in shards; or a folder with one of :data:`WEIGHT_FILES`. The content decides
        which of them a file is, not its name.

    Returns
    -------
    dict
        Names without the wrappers ``module.``, ``backbone.``, ``model.`` that all of them share; of nested
        dictionaries the one under ``state_dict``, ``model`` or ``teacher``.

    Raises
    ------
    WeightsError
        If the file is empty, truncated, a web page, a Git LFS pointer, a pickle that wants to run code, or holds no
        tensors; if shards are missing.
    """
    if path.is_dir():
        found = [path / name for name in WEIGHT_FILES if (path / name).is_file()]
        if not found:
            raise WeightsError(
                f"{path} holds no checkpoint",
                remedy=f"Expected one of {', '.join(WEIGHT_FILES)} in it; or pass the checkpoint file itself.",
            )
        path = found[0]
    if path.name.endswith(".index.json"):
        tensors: dict[str, torch.Tensor] = {}
        for shard, names in shards_of(path).items():
            held = _read_file(shard)
            absent = [name for name in names if name not in held]
            if absent:
                raise WeightsError(
                    f"{shard} lacks {len(absent)} tensors that {path.name} promises, for example {absent[0]}",
                    remedy="Download all shards and the index again, of one revision.",
                )
            tensors |= {name: held[name] for name in names}
        return _unwrapped(tensors, path)
    return _unwrapped(_read_file(path), path)


def shards_of(index: Path) -> dict[Path, list[str]]:
    """The files that a ``.index.json`` names, and the tensors in each.

    Raises
    ------
    WeightsError
        If it is no index, or one of its files is not beside it; lists them.
    """
    try:
        weight_map = json.loads(index.read_bytes())["weight_map"]
        files = {str(name): str(file) for name, file in weight_map.items()}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise WeightsError(f"{index} is no index of a checkpoint in shards", remedy="Download it again.") from error
    if any(Path(file).name != file for file in files.values()):
        raise WeightsError(f"{index} names files outside of its folder", remedy="Download it from its authors.")
    missing = sorted({file for file in files.values() if not (index.parent / file).is_file()})
    if missing or not files:
        raise WeightsError(
            f"{index}: {len(missing)} of {len(set(files.values()))} shards are not beside it: "
            f"{', '.join(missing[:_SHOWN])}{' …' if len(missing) > _SHOWN else ''}",
            remedy="Put all shards of the checkpoint into one folder.",
        )
    shards: dict[Path, list[str]] = {}
    for name, file in files.items():
        shards.setdefault(index.parent / file, []).append(name)
    return shards


def _read_file(path: Path) -> Any:
    import safetensors
    import safetensors.torch
    import torch

    head = _head(path)
    try:
        if _is_safetensors(path, head):
            return dict(safetensors.torch.load_file(path))
        # The arguments of a training script, which many checkpoints carry, are attributes without behaviour.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=head.startswith(b"PK"))
    except pickle.UnpicklingError as error:
        raise code_error(path, error) from error
    except (safetensors.SafetensorError, struct.error, LookupError, *_DAMAGED) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{path} is truncated or damaged ({reason})", remedy="Download it again.") from error


def code_error(path: Path | None, error: Exception | None = None) -> WeightsError:
    """The error for a pickle that is more than tensors."""
    wanted = re.search(r"GLOBAL (\S+)", str(error))
    what = f"wants to run {wanted[1]} when loaded" if wanted else "is damaged, or wants to run code when loaded"
    return WeightsError(
        f"{path} is no plain checkpoint: it {what}, which featcache refuses",
        remedy="Download it again, or convert it to .safetensors where you trust it.",
    )


def check_file(path: Path) -> None:
    """Find out without loading it whether a file can be a checkpoint: what it begins with, and how long it must be.

    Raises
    ------
    WeightsError
        If it is empty, a web page, a Git LFS pointer, or a ``.safetensors`` that ends early.
    """
    head = _head(path)
    if not _is_safetensors(path, head):
        return
    size, begin = path.stat().st_size, 8 + int.from_bytes(head[:8], "little")
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(begin)[8:]) if begin <= size else {}
        end = begin + max(
            (entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0
        )
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path} is truncated or damaged (its header)", remedy="Download it again.") from error
    if begin > size or end != size:
        raise WeightsError(
            f"{path} is truncated or damaged: {size} bytes, its header announces {max(begin, end)}",
            remedy="Download it again.",
        )


def _is_safetensors(path: Path, head: bytes) -> bool:
    return head[8:9] == b"{" or path.suffix.lower() == ".safetensors"


def _head(path: Path) -> bytes:
    """The first bytes of a file; what is often saved in place of a checkpoint is refused by its name."""
    if not path.is_file():
        raise WeightsError(f"{path} is no file", remedy="Pass the checkpoint file itself.")
    with path.open("rb") as file:
        head = file.read(64)
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not text:
        raise WeightsError(f"{path} is empty", remedy="Download it again.")
    if text[:1] == b"<":
        raise WeightsError(
            f"{path} is a web page, not a checkpoint",
            remedy="Download the file itself, not the page about it; a gated repository needs a token (HF_TOKEN).",
        )
    if text.startswith(b"version https://git-lfs"):
        raise WeightsError(f"{path} is a Git LFS pointer, not a checkpoint", remedy="Run `git lfs pull` beside it.")
    return head


def _unwrapped(content: Any, path: Path) -> dict[str, torch.Tensor]:
    """The tensors inside of nested dictionaries, without the prefixes that all names share."""
    import torch

    while isinstance(content, Mapping):
        inner = [content[name] for name in _NESTINGS if isinstance(content.get(name), Mapping)]
        if not inner:
            break
        content = inner[0]
    tensors = dict(content) if isinstance(content, Mapping) else {}
    if not tensors or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        raise WeightsError(f"{path} holds no state dict", remedy="Expected a mapping of names to tensors.")
    tensors = {str(name): tensor for name, tensor in tensors.items()}
    while wrapper := next((prefix for prefix in _WRAPPERS if _wraps(prefix, tensors)), None):
        tensors = {name.removeprefix(wrapper): tensors[name] for name in tensors if name.startswith(wrapper)}
    return tensors


def _wraps(prefix: str, names: Mapping[str, Any]) -> bool:
    """Whether all names have a prefix, but for the heads of a training that are told apart by theirs."""
    kept = [name for name in names if prefix != "backbone." or not name.startswith(_TRAINING_HEADS)]
    return bool(kept) and all(name.startswith(prefix) for name in kept)


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
    check_fit(module, tensors, origin)
    module.load_state_dict(dict(tensors), strict=False)


def check_fit(module: torch.nn.Module, tensors: Mapping[str, torch.Tensor], origin: str) -> None:
    """Refuse tensors that are not those of a network, as :func:`load_strict` does."""
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items() if not name.endswith(_COUNTERS)}
    given = {name: tuple(tensor.shape) for name, tensor in tensors.items() if not name.endswith(_COUNTERS)}
    kinds = {
        "missing": [f"missing: {name} {shape}" for name, shape in wanted.items() if name not in given],
        "surplus": [f"surplus: {name} {shape}" for name, shape in given.items() if name not in wanted],
        "of another shape": [
            f"shape of {name}: {given[name]}, expected {shape}"
            for name, shape in wanted.items()
            if given.get(name, shape) != shape
        ],
    }
    if any(kinds.values()):
        counts = ", ".join(f"{len(problems)} {kind}" for kind, problems in kinds.items() if problems)
        listed = "".join(f"\n  {line}" for problems in kinds.values() for line in _capped(problems))
        raise WeightsError(
            f"{origin} does not fit the network: {counts} of its {len(wanted)} tensors:{listed}",
            remedy="It is the checkpoint of another architecture or size.",
        )


def _capped(problems: list[str]) -> list[str]:
    more = len(problems) - _SHOWN
    return problems[:_SHOWN] + ([f"and {more} more {problems[0].split()[0].rstrip(':')}"] if more > 0 else [])
