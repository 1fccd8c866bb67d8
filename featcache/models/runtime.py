"""What runs a network, in which precision: PyTorch or OpenVINO."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal

from featcache.errors import ConfigurationError, MissingDependencyError
from featcache.models.openvino_runtime import openvino_features, openvino_version

if TYPE_CHECKING:
    import torch

__all__ = ["RUNTIMES", "Precision", "RuntimeName", "compute_dtype", "prefers_channels_last", "runner", "runtime_key"]

Precision = Literal["fp32", "bf16", "fp16"]
RuntimeName = Literal["torch", "openvino"]

RUNTIMES: tuple[RuntimeName, ...] = ("torch", "openvino")


def runtime_key(runtime: str) -> str:
    """The runtime as the cache key says it: ``torch``, or ``openvino`` with its version.

    PyTorch's version is provenance, not key: its results stay within the rounding of the precision. OpenVINO chooses
    by version which operations it computes in which number format.

    Raises
    ------
    ConfigurationError
        For an unknown name.
    MissingDependencyError
        Without the package ``openvino``.
    """
    if runtime not in RUNTIMES:
        raise ConfigurationError(f"unknown runtime {runtime!r}", remedy=f"Known: auto, {', '.join(RUNTIMES)}.")
    if runtime == "torch":
        return "torch"
    version = openvino_version()
    if version is None:
        raise MissingDependencyError(
            "--runtime openvino needs the package openvino, which is not installed",
            remedy="pip install openvino, or leave --runtime out.",
        )
    return f"openvino {version}"


def compute_dtype(precision: Precision) -> torch.dtype:
    """As torch calls a precision."""
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def runner(
    features: Callable[[torch.Tensor], dict[str, torch.Tensor]],
    module: torch.nn.Module,
    device: str,
    precision: Precision,
    *,
    runtime: RuntimeName,
) -> tuple[torch.nn.Module, torch.dtype, Callable[[torch.Tensor], dict[str, torch.Tensor]]]:
    """The network where and as it will run, the dtype of its inputs, and the function that computes features.

    Raises
    ------
    ConfigurationError
        For OpenVINO on anything but the CPU.
    """
    import torch

    if runtime == "openvino":
        if device != "cpu":
            raise ConfigurationError(
                f"--runtime openvino runs on the CPU, not on {device!r}", remedy="Add --device cpu."
            )
        module = module.to(device="cpu", dtype=torch.float32)
        return module, torch.float32, openvino_features(features, module, precision)
    dtype = compute_dtype(precision)
    module = module.to(device=device, dtype=dtype)
    if prefers_channels_last(module, device):
        module = module.to(memory_format=torch.channels_last)
    return module, dtype, features


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """No TensorFloat-32 on CUDA meanwhile: cuDNN's convolutions take it unless they are told, and lose 13 of 23 bits.

    Not for several threads at once: the setting is PyTorch's.

    Examples
    --------
    >>> import torch
    >>> with full_float32():
    ...     torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    (False, False)
    """
    import torch

    convolutions, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = convolutions.allow_tf32, products.allow_tf32

    def choose(allowed: tuple[bool, bool]) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*TF32.*")  # newer versions have another name for it too
            convolutions.allow_tf32, products.allow_tf32 = allowed

    choose((False, False))
    try:
        yield
    finally:
        choose(before)


def prefers_channels_last(module: torch.nn.Module, device: str) -> bool:
    """Whether a network runs faster with its channels innermost: networks of convolutions, on CPU and CUDA.

    On two cores 1.3x to 1.5x in fp32 and 1.3x to 2.3x in bf16 (EfficientNet-Lite0, ResNet-50, DenseNet-121).
    """
    import torch

    kinds = [type(part) for part in module.modules()]
    convolutions = sum(issubclass(kind, torch.nn.Conv2d) for kind in kinds)
    return device != "mps" and convolutions > 2 * sum(issubclass(kind, torch.nn.Linear) for kind in kinds)
