"""``Encoder``: pixels to features, whatever library the network comes from."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import math
import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from featcache.errors import ConfigurationError
from featcache.models.checkpoints import code_error
from featcache.models.compiled import CompileMode, compile_features
from featcache.models.runtime import Precision, RuntimeName, full_float32, runner
from featcache.models.spec import ModelSpec, Source, require_input_size
from featcache.models.weights import WeightsSource, locate_weights
from featcache.models.zoo import resolve_model
from featcache.registry import load_dotted

if TYPE_CHECKING:
    import torch

    _Features = Callable[..., dict[str, torch.Tensor]]

__all__ = ["ENCODER_VERSIONS", "INTERMEDIATE_BLOCKS", "Encoder", "load_encoder", "load_model", "square_grid"]

ENCODER_VERSIONS: dict[Source, int] = {
    "dinov2": 1,
    "huggingface": 1,
    "open_clip": 1,
    "pixels": 1,
    "python": 1,
    "timm": 1,
}
"""Semantic version of each source's wrapper, part of the cache key: raise one when its features change."""

INTERMEDIATE_BLOCKS = 3
"""Blocks before the last whose class token is kept."""

_PRECISIONS: dict[str, Precision] = {"torch.float32": "fp32", "torch.bfloat16": "bf16", "torch.float16": "fp16"}

_BUILDERS: dict[Source, str] = {
    "dinov2": "featcache.models.dinov2:build",
    "huggingface": "featcache.models.huggingface:build",
    "open_clip": "featcache.models.open_clip:build",
    "pixels": "featcache.models.pixels:build",
    "python": "featcache.models.python_file:build",
    "timm": "featcache.models.timm_networks:build",
}


def square_grid(tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """``patches`` (…, h, w, D) from (…, h * w, D) tokens of a square image; nothing where they form no square."""
    count = tokens.shape[-2]
    side = math.isqrt(count)
    return {"patches": tokens.reshape(*tokens.shape[:-2], side, side, -1)} if side * side == count else {}


def _as_it_is(features: _Features) -> _Features:
    return features


class Encoder(ABC):
    """A frozen network that turns a batch of pixels into named features.

    Parameters
    ----------
    spec
        The facts about the model.
    module
        The network, on the CPU, in float32 or the compute precision.
    weights_digest
        SHA-256 over its tensors as the checkpoint holds them, 64 hexadecimal digits.
    image_size
        Input size in pixels.
    """

    def __init__(self, spec: ModelSpec, module: torch.nn.Module, weights_digest: str, image_size: int) -> None:
        import torch

        self.spec = spec
        self.weights_digest = weights_digest
        self._module = module.eval().requires_grad_(False)
        self._dtype = next((own.dtype for own in self._module.parameters()), torch.float32)
        self.loaded_in: Precision = _PRECISIONS[str(self._dtype)]
        self._runtime: RuntimeName = "torch"
        self._is_on_cuda = False
        self.is_thread_safe = _takes_threads(spec.source)
        """Whether several threads may encode at once."""
        self._prepare: Callable[[_Features], _Features] = _as_it_is
        self._runs: dict[int, _Features] = {}
        probe = self.encode(torch.zeros(1, 3, image_size, image_size), patches=True)
        shapes: dict[str, tuple[int, ...]] = {name: tuple(rows.shape[1:]) for name, rows in probe.items()}
        self.patches: tuple[int, ...] | None = shapes.pop("patches", None)
        self.arrays = shapes
        self.max_layers = 0 if self.patches is None else self._depth()

    def to(self, device: str, precision: Precision, *, runtime: RuntimeName = "torch") -> Self:
        """Move the weights to a device and keep them there in the compute precision (no autocast).

        Parameters
        ----------
        device
            ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        precision
            Of weights and activations; features come out as float32.
        runtime
            What runs the network; ``openvino`` on the CPU only.

        Raises
        ------
        ConfigurationError, MissingDependencyError
            If the runtime cannot run it.
        """
        self._runtime, self._is_on_cuda = runtime, device.startswith("cuda")
        self.is_thread_safe = runtime == "torch" and _takes_threads(self.spec.source)
        options: Any = {"device": device, "precision": precision, "runtime": runtime}
        self._module, self._dtype, run = runner(self._features, self._module, **options)
        self._prepare = lambda features: runner(features, self._module, **options)[2]
        self._runs = {1: run}
        return self

    def compile(self, device: str, mode: CompileMode = "default") -> Self:
        """Run by ``torch.compile`` from the next batch on, see :func:`featcache.models.compiled.compile_features`.

        Raises
        ------
        ConfigurationError
            For a network that another runtime runs.
        MissingDependencyError
            On a CPU without a C++ compiler.
        """
        if self._runtime != "torch":
            raise ConfigurationError(
                f"--runtime {self._runtime} and torch.compile exclude each other", remedy="Leave one of them out."
            )
        self.is_thread_safe = False
        self._prepare = lambda features: compile_features(features, device, mode)
        self._runs = {1: self._prepare(self._features)}
        return self

    def encode(self, pixels: torch.Tensor, *, patches: bool = False, layers: int = 1) -> dict[str, torch.Tensor]:
        """Features of a batch.

        Parameters
        ----------
        pixels
            (B, 3, S, S) float32, normalised, on the encoder's device.
        patches
            Give the last layer's patch tokens too.
        layers
            Give those of so many last blocks, at most ``max_layers``; more than 1 only with ``patches``.

        Returns
        -------
        dict
            float32 on the same device: ``cls`` (B, D), class token of the last block after the final norm, or
            pooled features; ``intermediate`` (B, n, D), class tokens of the n <= 3 blocks before the last, each
            after the final norm, in block order (transformers with a class token only); ``patch_mean`` (B, D'),
            mean of the last layer's patch tokens after the final norm, or of the last feature map; on request
            ``patches`` (B, h, w, D'), these tokens, rows from the top, columns from the left. With n > 1 layers
            ``patches`` is (B, n, h, w, D'): the patch tokens of the last n blocks, each after the final norm, in block
            order, so that ``[:, -1]`` is what one layer gives.

        Raises
        ------
        ConfigurationError
            For more layers than the network can give.
        """
        import torch

        if layers != 1:
            self._check_layers(layers, patches=patches)
        if layers not in self._runs:
            own = self._features if layers == 1 else functools.partial(self._features, layers=layers)
            self._runs[layers] = self._prepare(own)
        with torch.inference_mode(), full_float32() if self._is_on_cuda else contextlib.nullcontext():
            features = self._runs[layers](pixels.to(self._dtype))
            return {name: rows.float() for name, rows in features.items() if patches or name != "patches"}

    def _check_layers(self, layers: int, *, patches: bool) -> None:
        if not patches:
            raise ConfigurationError(
                f"{layers} layers are layers of patch tokens, which are not asked for", remedy="Ask for patches too."
            )
        if not 1 <= layers <= self.max_layers:
            can = {0: "gives no patch tokens", 1: "gives patch tokens of its last layer only"}
            raise ConfigurationError(
                f"{self.spec.name} {can.get(self.max_layers, f'has {self.max_layers} blocks')}, "
                f"asked for {layers} layers",
                remedy=f"Ask for {'1' if self.max_layers < 2 else f'1 to {self.max_layers}'}"
                f"{', or choose a vision transformer with a final norm' if self.max_layers < 2 else ''}.",
            )

    def _depth(self) -> int:
        """Blocks whose patch tokens the final norm can be put on; 1 for a network that gives its last map only."""
        return 1

    @abstractmethod
    def _features(self, pixels: torch.Tensor, layers: int = 1) -> dict[str, torch.Tensor]:
        """Features in the compute dtype, ``patches`` included where the network has a grid of them.

        ``layers`` is more than 1 only where :meth:`_depth` is: then ``patches`` has that many, (B, layers, h, w, D).
        """


def _takes_threads(source: Source) -> bool:
    """Not a user's own code, nor transformers before 5, which replaced a module's functions for the time of a pass."""
    if source == "huggingface":
        return int(importlib.metadata.version("transformers").split(".")[0]) >= 5
    return source != "python"


def load_encoder(spec: ModelSpec, source: WeightsSource, *, image_size: int) -> Encoder:
    """Build a network, load its weights strictly, and wrap it.

    Parameters
    ----------
    spec
        From :func:`featcache.models.resolve_model`.
    source
        From :func:`featcache.models.locate_weights`.
    image_size
        Input size in pixels.

    Raises
    ------
    ConfigurationError
        If the size is no multiple of the patch.
    WeightsError
        If the file is damaged or of another architecture.
    """
    require_input_size(spec, image_size)
    try:
        encoder: Encoder = load_dotted(_BUILDERS[spec.source])(spec, source, image_size)
    except pickle.UnpicklingError as error:  # out of a library that reads the file itself
        raise code_error(source.path, error) from error
    return encoder


def load_model(name: str, *, weights: Path | str | None = None, image_size: int | None = None) -> Encoder:
    """Load an encoder by name, on the CPU in float32.

    Parameters
    ----------
    name
        See :func:`featcache.models.resolve_model`.
    weights
        A checkpoint file instead of the model's own.
    image_size
        Input size in pixels; default the native one.

    Examples
    --------
    >>> import torch
    >>> encoder = load_model("pixels")
    >>> encoder.encode(torch.zeros(2, 3, 224, 224))["cls"].shape
    torch.Size([2, 256])
    """
    spec = resolve_model(name)
    source = locate_weights(spec, None if weights is None else Path(weights))
    return load_encoder(spec, source, image_size=image_size or spec.image_size)
