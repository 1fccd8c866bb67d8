"""``Encoder``: pixels to features, whatever library the network comes from."""

from __future__ import annotations

import math
import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Self

from featcache.errors import ConfigurationError
from featcache.models.checkpoints import code_error
from featcache.models.compiled import CompileMode, compile_features
from featcache.models.runtime import Precision, RuntimeName, runner
from featcache.models.spec import ModelSpec, Source, require_input_size
from featcache.models.weights import WeightsSource, locate_weights
from featcache.models.zoo import resolve_model
from featcache.registry import load_dotted

if TYPE_CHECKING:
    import torch

__all__ = ["ENCODER_VERSIONS", "INTERMEDIATE_BLOCKS", "Encoder", "load_encoder", "load_model", "square_grid"]

ENCODER_VERSIONS: dict[Source, int] = {"dinov2": 1, "huggingface": 1, "open_clip": 1, "pixels": 1, "timm": 1}
"""Semantic version of each source's wrapper, part of the cache key: raise one when its features change."""

INTERMEDIATE_BLOCKS = 3
"""Blocks before the last whose class token is kept."""

_PRECISIONS: dict[str, Precision] = {"torch.float32": "fp32", "torch.bfloat16": "bf16", "torch.float16": "fp16"}

_BUILDERS: dict[Source, str] = {
    "dinov2": "featcache.models.dinov2:build",
    "huggingface": "featcache.models.huggingface:build",
    "open_clip": "featcache.models.open_clip:build",
    "pixels": "featcache.models.pixels:build",
    "timm": "featcache.models.timm_networks:build",
}


def square_grid(tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """``patches`` (B, h, w, D) from (B, h * w, D) tokens of a square image; nothing where they form no square."""
    side = math.isqrt(tokens.shape[1])
    return {"patches": tokens.reshape(len(tokens), side, side, -1)} if side * side == tokens.shape[1] else {}


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
        self._run: Callable[[torch.Tensor], dict[str, torch.Tensor]] = self._features
        probe = self.encode(torch.zeros(1, 3, image_size, image_size), patches=True)
        shapes: dict[str, tuple[int, ...]] = {name: tuple(rows.shape[1:]) for name, rows in probe.items()}
        self.patches: tuple[int, ...] | None = shapes.pop("patches", None)
        self.arrays = shapes

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
        self._runtime = runtime
        self._module, self._dtype, self._run = runner(self._features, self._module, device, precision, runtime=runtime)
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
        self._run = compile_features(self._features, device, mode)
        return self

    def encode(self, pixels: torch.Tensor, *, patches: bool = False) -> dict[str, torch.Tensor]:
        """Features of a batch.

        Parameters
        ----------
        pixels
            (B, 3, S, S) float32, normalised, on the encoder's device.
        patches
            Give the last layer's patch tokens too.

        Returns
        -------
        dict
            float32 on the same device: ``cls`` (B, D), class token of the last block after the final norm, or
            pooled features; ``intermediate`` (B, n, D), class tokens of the n <= 3 blocks before the last, each
            after the final norm, in block order (transformers with a class token only); ``patch_mean`` (B, D'),
            mean of the last layer's patch tokens after the final norm, or of the last feature map; on request
            ``patches`` (B, h, w, D'), these tokens, rows from the top, columns from the left.
        """
        import torch

        with torch.inference_mode():
            features = self._run(pixels.to(self._dtype))
            return {name: rows.float() for name, rows in features.items() if patches or name != "patches"}

    @abstractmethod
    def _features(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Features in the compute dtype, ``patches`` included where the network has a grid of them."""


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
