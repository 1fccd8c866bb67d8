"""Which precision and which runtime an extraction computes with: as asked, as an existing store, or as the device."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from featcache.errors import ConfigurationError, MissingDependencyError
from featcache.extraction.devices import best_precision, checked_precision, resolve_device
from featcache.models import RUNTIMES, runtime_key
from featcache.store import Key

__all__ = ["settle_arithmetic"]

_AUTO = "auto"


def settle_arithmetic(key: Key, existing: Iterable[Key], device: str) -> tuple[Key, tuple[str, ...]]:
    """Put definite values where a key says ``auto``.

    Parameters
    ----------
    key
        With ``precision`` one of auto, fp32, bf16, fp16 and ``runtime`` one of auto, torch, openvino.
    existing
        Keys of the dataset's stores.
    device
        ``auto`` or as torch names it.

    Returns
    -------
    tuple
        The key, and what the user should know. The one existing store that differs in nothing but what is ``auto``,
        and that this machine can continue, decides; else PyTorch, in the precision that is best for the device.

    Raises
    ------
    ConfigurationError
        For an unknown name, or OpenVINO on another device than the CPU.
    MissingDependencyError
        If a runtime is asked for that is not installed.
    """
    checked_precision(key.precision)
    if key.runtime == "openvino" and resolve_device(device) != "cpu":
        raise ConfigurationError(
            f"--runtime openvino runs on the CPU, and the device is {resolve_device(device)}",
            remedy="Add --device cpu, or leave --runtime out.",
        )
    if key.runtime != _AUTO:
        key = replace(key, runtime=runtime_key(key.runtime))
    if _AUTO not in (key.precision, key.runtime):
        return key, ()
    open_fields: dict[str, Any] = {name: _AUTO for name in ("precision", "runtime") if getattr(key, name) == _AUTO}
    fitting = [
        found
        for found in existing
        if replace(found, **open_fields).digest == key.digest and _can_continue(found.runtime, device)
    ]
    if len(fitting) == 1:
        found = fitting[0]
        is_said = "precision" in open_fields or found.runtime != "torch"
        return found, (_continues(found, open_fields),) if is_said else ()
    precision = best_precision(resolve_device(device)) if key.precision == _AUTO else key.precision
    return replace(key, precision=precision, runtime="torch" if key.runtime == _AUTO else key.runtime), ()


def _can_continue(runtime: str, device: str) -> bool:
    """Whether this machine has the runtime that computed a store, in that version."""
    name = runtime.split(maxsplit=1)[0]
    if name == "torch":
        return True
    try:
        return name in RUNTIMES and runtime_key(name) == runtime and resolve_device(device) == "cpu"
    except MissingDependencyError:
        return False


def _continues(found: Key, open_fields: dict[str, str]) -> str:
    said = [f"{name.capitalize()} auto" for name in open_fields]
    by = "" if found.runtime == "torch" else f" by {found.runtime}"
    return f"{' and '.join(said) if by else said[0]}: continues the existing store in {found.precision}{by}."
