"""How much memory a model takes, known before its weights are loaded: a dry run on tensors without numbers."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from featcache.errors import ConfigurationError
from featcache.models.costs import blueprint
from featcache.models.encoder import INTERMEDIATE_BLOCKS
from featcache.models.runtime import Precision, compute_dtype
from featcache.models.spec import ModelSpec

if TYPE_CHECKING:
    import torch

__all__ = ["Footprint", "footprint"]

_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
_SPARE = 0.25
"""Share of the free memory left to others, and to what kernels borrow: up to 25 % of the count was measured."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """Memory of one model in one precision, on the device that computes."""

    weights: int
    """Bytes of parameters and buffers in the compute dtype."""
    activations: int
    """Bytes of the largest set of intermediate results that live at once, for one image."""

    def bytes_for(self, batch_size: int) -> int:
        """Of the weights and a batch."""
        return self.weights + batch_size * self.activations

    def largest_batch(self, free: int, wanted: int) -> int:
        """The largest half, quarter … of a batch that fits free memory; 1 if not even that is sure to fit.

        Examples
        --------
        >>> Footprint(weights=2_000, activations=100).largest_batch(free=10_000, wanted=128)
        32
        """
        batch_size = wanted
        while batch_size > 1 and self.bytes_for(batch_size) > (1 - _SPARE) * free:
            batch_size //= 2
        return batch_size


def footprint(spec: ModelSpec, image_size: int, precision: Precision) -> Footprint | None:
    """Count what a model will take, without its weights.

    The network is built on torch's ``meta`` device and run there on one image in the compute dtype; each result's
    bytes count from when it is made until nothing refers to it. What kernels borrow while they run is not seen.

    Parameters
    ----------
    spec
        From :func:`featcache.models.resolve_model`.
    image_size
        Input size in pixels.
    precision
        In which it will compute.

    Returns
    -------
    Footprint or None
        None where the architecture is only known from the checkpoint's own configuration.

    Examples
    --------
    >>> from featcache.models import resolve_model
    >>> footprint(resolve_model("efficientnet_lite0"), 224, "fp32").weights // 1_000_000
    13
    """
    import torch

    if spec.source == "pixels":
        return Footprint(0, _BYTES[precision] * 5 * image_size**2)
    try:
        network: Any = blueprint(spec, image_size)
    except ConfigurationError:
        return None
    dtype = compute_dtype(precision)
    network = network.to(dtype)
    held = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    weights = sum(tensor.numel() * tensor.element_size() for tensor in held.values())
    pixels = torch.empty(1, 3, image_size, image_size, device="meta", dtype=dtype)
    with torch.inference_mode(False), torch.no_grad():
        peak = _peak(network, pixels)
    tokens = 0
    if spec.patch is not None and spec.depth is not None and spec.dim is not None:
        # Tokens of the blocks before the last are kept until the last is done.
        tokens = INTERMEDIATE_BLOCKS * ((image_size // spec.patch) ** 2 + 1) * spec.dim * dtype.itemsize
    return Footprint(weights, peak + tokens + 4 * 3 * image_size**2)


def _peak(network: torch.nn.Module, pixels: torch.Tensor) -> int:
    """Most bytes of results alive at once in a forward pass."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
        """Sees every operation's results."""

        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]
            self.weights = {tensor.untyped_storage()._cdata for tensor in (*network.parameters(), *network.buffers())}
            self.live: dict[int, int] = {}
            self.peak = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            results = func(*args, **(kwargs or {}))
            for result in tree_leaves(results):
                if isinstance(result, torch.Tensor):
                    self.count(result.untyped_storage())
            self.peak = max(self.peak, sum(self.live.values()))
            return results

        def count(self, storage: torch.UntypedStorage) -> None:
            place = storage._cdata
            if place not in self.live and place not in self.weights:  # a transposed weight is no new result
                self.live[place] = storage.nbytes()
                weakref.finalize(storage, self.live.pop, place, None)

    with Counting() as counting:
        network(pixels)
    peak: int = counting.peak
    return peak
