"""``torch.compile`` for a network that encodes many batches of one size.

It changes the order of some sums and fuses roundings, so features differ within the rounding of the compute precision
(a test holds a small network to 1e-5 in fp32) and not as another precision would change them. Therefore it is
no part of the cache key: a store may have rows of both.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from featcache.errors import ConfigurationError, MissingDependencyError

if TYPE_CHECKING:
    import torch

__all__ = ["CompileMode", "compile_features", "compile_mode", "compiling_repays", "cpp_compiler"]

CompileMode = Literal["default", "reduce-overhead"]
"""As torch calls them; ``reduce-overhead`` records CUDA graphs."""

CUDA_GRAPH_BATCH = 32
"""Up to so many images a batch, starting kernels one by one is a noticeable share of a GPU's time."""

COMPILE_SECONDS = 27.0
SAVED_SHARE = 0.13
"""Measured for ViT-L/14 at 224 px on an H100: 2413 images/s eager, 2781 compiled, both in bf16."""


def compiling_repays(seconds: float) -> bool:
    """Whether a run of so many seconds, eager, is shorter with the compilation included.

    Examples
    --------
    >>> compiling_repays(60), compiling_repays(600)
    (False, True)
    """
    return seconds * SAVED_SHARE > COMPILE_SECONDS


def compile_mode(device: str, batch_size: int) -> CompileMode:
    """CUDA graphs for small batches on a CUDA device, kernels one by one for the others."""
    return "reduce-overhead" if device.startswith("cuda") and batch_size <= CUDA_GRAPH_BATCH else "default"


def cpp_compiler() -> str | None:
    """The C++ compiler that torch.compile needs for a CPU; None without one."""
    return shutil.which(os.environ.get("CXX") or "g++") or shutil.which("clang++")


def compile_features(
    features: Callable[[torch.Tensor], dict[str, torch.Tensor]], device: str, mode: CompileMode
) -> Callable[[torch.Tensor], dict[str, torch.Tensor]]:
    """Compile at the first call, which takes from seconds to a minute.

    Parameters
    ----------
    features
        (B, 3, S, S) to features by name.
    device
        On which it will run.
    mode
        See :data:`CompileMode`.

    Returns
    -------
    callable
        As ``features``. Its results are its own: a later call does not change them.

    Raises
    ------
    MissingDependencyError
        For a CPU without a C++ compiler.
    ConfigurationError
        From the returned function, if the network cannot be compiled.
    """
    import torch
    from torch._dynamo.exc import TorchDynamoException

    if device == "cpu" and cpp_compiler() is None:
        raise MissingDependencyError(
            "--compile on needs a C++ compiler on this machine, and there is none",
            remedy="Install g++, or --compile off.",
        )
    compiled = torch.compile(features, mode=mode, dynamic=False)

    def run(pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        try:
            found = compiled(pixels)
        except TorchDynamoException as error:
            raise ConfigurationError(
                f"the network cannot be compiled: {str(error).strip().splitlines()[0]}", remedy="--compile off."
            ) from error
        # A CUDA graph writes each result where the one before it was.
        return {name: array.clone() for name, array in found.items()} if mode == "reduce-overhead" else found

    return run
