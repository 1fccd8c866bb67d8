"""OpenVINO in the place of PyTorch: the same network and weights, compiled by Intel's runtime for the CPU."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from featcache.errors import ConfigurationError, MissingDependencyError

if TYPE_CHECKING:
    import torch

__all__ = ["openvino_features", "openvino_version"]

_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
_NEEDED = {"fp32": "FP32", "bf16": "BF16", "fp16": "FP16"}


def openvino_version() -> str | None:
    """Version of the installed package; None without it. Nothing is loaded."""
    if importlib.util.find_spec("openvino") is None:
        return None
    return importlib.metadata.version("openvino")


def openvino_features(
    features: Callable[[torch.Tensor], dict[str, torch.Tensor]],
    module: torch.nn.Module,
    precision: Literal["fp32", "bf16", "fp16"],
) -> Callable[[torch.Tensor], dict[str, torch.Tensor]]:
    """Convert a network with what is computed from it at the first batch, and compile it for this CPU.

    Parameters
    ----------
    features
        (B, 3, S, S) float32 to features by name, in terms of ``module``.
    module
        The network, float32, on the CPU.
    precision
        Of the arithmetic, as OpenVINO's ``INFERENCE_PRECISION_HINT``; inputs and outputs are float32. What the
        processor has no arithmetic for is refused instead of computed in another precision.

    Returns
    -------
    callable
        As ``features``, for float32 tensors on the CPU. Its results are copies: a later call does not change them.

    Raises
    ------
    MissingDependencyError
        Without the package ``openvino``.
    ConfigurationError
        If the processor lacks the precision, or OpenVINO has no translation of an operation.
    """
    import torch

    if openvino_version() is None:
        raise MissingDependencyError(
            "--runtime openvino needs the package openvino, which is not installed",
            remedy="pip install openvino, or leave --runtime out.",
        )
    core = _core()
    known = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if _NEEDED[precision] not in known:
        raise ConfigurationError(
            f"OpenVINO does not compute in {precision} on this processor, which has {', '.join(sorted(known))}",
            remedy="Leave --precision out, or --precision fp32.",
        )
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    names: list[str] = []

    class Tuple(torch.nn.Module):
        """The features without their names, which are noted in ``names``."""

        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
            found = features(pixels)
            names[:] = list(found)
            return tuple(found.values())

    network = Tuple().eval()
    request: Any = None
    prepared_for = 0

    def run(pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        nonlocal request, prepared_for
        if len(pixels) != prepared_for:  # batches have one size, and shapes that are known make the fastest program
            request = core.compile_model(_converted(network, pixels), "CPU", settings).create_infer_request()
            prepared_for = len(pixels)
        results = request.infer([pixels.contiguous().numpy()], share_inputs=True)
        arrays = zip(names, results.values(), strict=True)
        return {name: torch.from_numpy(array.copy()) for name, array in arrays}

    return run


def _openvino() -> Any:
    """The package, which has no types. Its converter would report its use over the network: never from here."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # an import of it fails, and it copes
    return importlib.import_module("openvino")


@functools.cache
def _core() -> Any:
    """OpenVINO's core, one for the process and never released before its end.

    Its CPU plugin gives the thread that loads it another stack for signal handlers, and unmaps that stack when it is
    released, in whichever thread that happens: every handler that Python then runs in the first thread (of Ctrl-C, or
    of a child process that ended) would crash the process.
    """
    return _openvino().Core()


def _converted(network: torch.nn.Module, pixels: torch.Tensor) -> Any:
    """OpenVINO's model of a network, for batches of one size."""
    import torch

    openvino = _openvino()
    try:
        with torch.no_grad():
            exported = torch.export.export(network, (torch.zeros(pixels.shape),), strict=False)
        return openvino.convert_model(exported)
    except Exception as error:  # torch's exporter and OpenVINO's front end raise classes of their own and bare ones
        reason = str(error).strip().splitlines()
        raise ConfigurationError(
            f"OpenVINO cannot take over this network: {reason[0] if reason else type(error).__name__}",
            remedy="Leave --runtime out, or --runtime torch.",
        ) from error
