"""``my_model.py:build``: a network that a user's own Python file makes. Only name files that you trust: they run.

The protocol: ``build()`` takes no arguments, loads its own weights and returns a ``torch.nn.Module`` with the attribute
``image_size``; called with normalised pixels (B, 3, S, S) this gives ``cls`` (B, D), or a dictionary with ``cls`` and
any of ``intermediate`` (B, n, D), ``patch_mean`` (B, D) and ``patches`` (B, h, w, D). Further attributes, each with a
default: ``mean``, ``std``, ``resize``, ``crop_fraction``, ``interpolation``, ``patch``.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from featcache.errors import ConfigurationError, UnknownNameError
from featcache.models.checkpoints import tensors_digest
from featcache.models.encoder import Encoder
from featcache.models.spec import IMAGENET_MEAN, IMAGENET_STD, ModelSpec
from featcache.models.weights import WeightsSource
from featcache.registry import nearest

__all__ = ["build", "describe", "source_of"]

_AXES = {"cls": 2, "intermediate": 3, "patch_mean": 2, "patches": 4}
_FAILURES = (ArithmeticError, AssertionError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError)
_HELP = "docs/models.md has an example."


def describe(target: str) -> ModelSpec:
    """The facts about a network of the user's own, from its attributes.

    Parameters
    ----------
    target
        ``"path/my_model.py:build"``.

    Raises
    ------
    ConfigurationError
        If there is no such file, it fails, or what it returns is not what the protocol says.
    UnknownNameError
        If the file does not define the function.
    """
    network = _made(target)
    file, _, name = target.rpartition(":")
    size, patch = getattr(network, "image_size", None), getattr(network, "patch", None)
    for fact, value in (("image_size", size), ("patch", patch)):
        if (value is not None or fact == "image_size") and (type(value) is not int or value < 1):
            raise ConfigurationError(
                f"{target}: the network's attribute {fact} is {value!r}, expected a number of pixels", remedy=_HELP
            )
    chosen: dict[str, tuple[Any, tuple[str, ...]]] = {
        "resize": (getattr(network, "resize", "shortest"), ("shortest", "squash")),
        "interpolation": (getattr(network, "interpolation", "bicubic"), ("bicubic", "bilinear")),
    }
    for fact, (value, known) in chosen.items():
        if value not in known:
            raise ConfigurationError(f"{target}: {fact} is {value!r}, expected {' or '.join(known)}", remedy=_HELP)
    crop_fraction = getattr(network, "crop_fraction", 1.0)
    if not isinstance(crop_fraction, int | float) or not 0 < crop_fraction <= 1:
        raise ConfigurationError(
            f"{target}: crop_fraction is {crop_fraction!r}, expected more than 0, at most 1", remedy=_HELP
        )
    return ModelSpec(
        name=f"{Path(file).name}:{name}",
        source="python",
        architecture=type(network).__name__,
        summary="network of the user's own",
        checkpoint=f"{Path(file).absolute()}:{name}",
        files=(),
        licence="the user's",
        gated=False,
        dim=None,
        depth=None,
        patch=patch,
        image_size=size,  # type: ignore[arg-type]  # an int, checked above
        resize=chosen["resize"][0],
        crop_fraction=float(crop_fraction),
        interpolation=chosen["interpolation"][0],
        mean=_channels(network, "mean", IMAGENET_MEAN, target),
        std=_channels(network, "std", IMAGENET_STD, target),
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        float16_safe=False,
        citation="",
    )


def source_of(spec: ModelSpec) -> WeightsSource:
    """What will be loaded: the file's content and the tensors that it makes are its identity, not paths and times."""
    file, _, _ = spec.checkpoint.rpartition(":")
    return WeightsSource(Path(file), _digest(spec.checkpoint, _made(spec.checkpoint)))


def build(spec: ModelSpec, source: WeightsSource, image_size: int) -> Encoder:
    """Make the network and try it on an image of zeros.

    Raises
    ------
    ConfigurationError
        If it fails, its result is not what the protocol says, or its weights are others at every call.
    """
    network = _made(spec.checkpoint)
    digest = _digest(spec.checkpoint, network)
    if digest != source.identity:
        raise ConfigurationError(
            f"{spec.name} makes other weights each time it is called",
            remedy="Load them from a file in it, or begin it with torch.manual_seed(0).",
        )
    try:
        return _OwnEncoder(spec, network, digest, image_size)
    except ConfigurationError:
        raise
    except _FAILURES as error:
        raise ConfigurationError(
            f"{spec.name} fails on pixels (1, 3, {image_size}, {image_size}): {type(error).__name__}: {error}",
            remedy=_HELP,
        ) from error


class _OwnEncoder(Encoder):
    """The network's results by their names, whose shapes are checked."""

    def _features(self, pixels: torch.Tensor, layers: int = 1) -> dict[str, torch.Tensor]:
        found = self._module(pixels)
        features = dict(found) if isinstance(found, Mapping) else {"cls": found}
        for name, rows in features.items():
            axes = _AXES.get(name)
            if axes is None or not isinstance(rows, torch.Tensor) or rows.ndim != axes or len(rows) != len(pixels):
                got = f"{tuple(rows.shape)}" if isinstance(rows, torch.Tensor) else type(rows).__name__
                wanted = f"a tensor ({len(pixels)}, …) of {axes} axes" if axes else f"only {', '.join(_AXES)}"
                raise ConfigurationError(f"{self.spec.name} gives {name} {got}, expected {wanted}", remedy=_HELP)
        if "cls" not in features:
            raise ConfigurationError(f"{self.spec.name} gives no cls", remedy=_HELP)
        return features


def _made(target: str) -> torch.nn.Module:
    """The network that the function returns, in evaluation mode."""
    file_name, _, name = target.rpartition(":")
    file = Path(file_name).absolute()
    module = _executed(file)
    function = getattr(module, name, None)
    if not callable(function):
        defined = [known for known, value in vars(module).items() if callable(value) and not known.startswith("_")]
        raise UnknownNameError(f"{file} defines no function {name!r}{nearest(name, defined)}", remedy=_HELP)
    try:
        network = function()
    except Exception as error:  # the user's own code
        raise ConfigurationError(f"{target} fails: {type(error).__name__}: {error}", remedy=_HELP) from error
    if not isinstance(network, torch.nn.Module):
        raise ConfigurationError(f"{target} returns {type(network).__name__}, expected torch.nn.Module", remedy=_HELP)
    others = {str(tensor.dtype) for tensor in network.parameters() if tensor.dtype != torch.float32}
    if others:
        raise ConfigurationError(
            f"{target}: the network has parameters in {', '.join(sorted(others))}",
            remedy="Return it in float32: network.float(). --precision chooses what it computes in.",
        )
    return network.cpu().eval()


def _executed(file: Path) -> Any:
    """The module of a file, under a name that is its own."""
    if not file.is_file():
        raise ConfigurationError(f"no Python file {file}", remedy="Expected --model path/my_model.py:build.")
    name = f"featcache_user_model_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ConfigurationError(f"{file} is no Python file", remedy="Its name must end with .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        # Not exec_module: its bytecode cache knows a file by second and size, and an edit may change neither.
        exec(compile(file.read_bytes(), str(file), "exec"), vars(module))
    except Exception as error:  # the user's own code
        sys.modules.pop(name, None)
        raise ConfigurationError(
            f"{file} cannot be run: {type(error).__name__}: {error}", remedy=f"Try: python {file.name}"
        ) from error
    return module


def _digest(target: str, network: torch.nn.Module) -> str:
    """SHA-256 of the function's name, the file's content and the tensors' digest."""
    file, _, name = target.rpartition(":")
    source = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    return hashlib.sha256(f"{name}|{source}|{tensors_digest(network.state_dict())}".encode()).hexdigest()


def _channels(
    network: torch.nn.Module, fact: str, default: tuple[float, float, float], target: str
) -> tuple[float, float, float]:
    try:
        red, green, blue = (float(value) for value in getattr(network, fact, default))
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{target}: {fact} is not three numbers, red, green, blue", remedy=_HELP) from error
    return red, green, blue
