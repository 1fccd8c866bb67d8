"""The encoder's side of a run: one forward pass a batch, smaller ones on processors or where memory is too small."""

from __future__ import annotations

import time
from collections.abc import Container, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featcache.errors import ConfigurationError
from featcache.extraction.parts import PART, Parts
from featcache.extraction.token_coding import TokenCoding
from featcache.models import Encoder

if TYPE_CHECKING:
    import torch

__all__ = ["Encoding", "Fetched", "Held"]


class Fetched:
    """Features on their way from the device; :meth:`rows` waits for them."""

    def __init__(self, features: Mapping[str, torch.Tensor], began: torch.cuda.Event | None) -> None:

        self._began = began
        # On CUDA the copies are queued behind the computation, and the next batch's computation behind them.
        self._features = {name: array.to("cpu", non_blocking=began is not None) for name, array in features.items()}
        self._ended: torch.cuda.Event | None = None
        if began is not None:
            self._ended = _recorded(next(iter(features.values())).device)

    def rows(self, places: list[int]) -> dict[str, NDArray[np.float32]]:
        """(n, …) float32 of some places of the batch, by feature."""
        if self._ended is not None:
            self._ended.synchronize()
        return {name: array[places].numpy() for name, array in self._features.items()}

    @property
    def device_seconds(self) -> float:
        """Time that a CUDA device took; 0 for others. Valid once the rows are there."""
        if self._began is None or self._ended is None:
            return 0.0
        return float(self._began.elapsed_time(self._ended)) / 1e3


class Held:
    """Rows that are there already, in the place of :class:`Fetched`."""

    device_seconds = 0.0

    def __init__(self, name: str, rows: NDArray[Any]) -> None:
        self._name = name
        self._rows = rows

    def rows(self, places: list[int]) -> dict[str, NDArray[Any]]:
        """Some places of the batch."""
        return {self._name: self._rows[places]}


class Encoding:
    """Runs an encoder over batches of one size.

    Parameters
    ----------
    encoder
        On its device, in its precision.
    device
        ``cpu``, ``cuda:0``, ``mps``.
    wanted
        The features that are stored.
    coding
        What is stored of its patch tokens; None if they are not wanted.
    """

    def __init__(
        self, encoder: Encoder, device: str, wanted: Container[str], coding: TokenCoding | None = None
    ) -> None:
        self.encoder = encoder
        self.device = device
        self.wanted = wanted
        self.coding = coding
        self.part: int | None = None
        """Images a forward pass, once a whole batch did not fit the device's memory."""
        self.transfer_seconds = 0.0
        self.seconds = 0.0
        self._parts = Parts(self._features) if device == "cpu" and encoder.is_thread_safe else None

    def close(self) -> None:
        """End what computes beside this thread."""
        if self._parts is not None:
            self._parts.close()

    def start(self, pixels: torch.Tensor) -> Fetched:
        """Encode a batch; on CUDA this returns before it is done.

        Parameters
        ----------
        pixels
            (B, 3, S, S) float32 on the CPU, not to be changed before the rows have been fetched.

        Raises
        ------
        ConfigurationError
            If the device's memory does not even hold one image.
        """
        import torch

        begin = time.perf_counter()
        began = None
        if self.device.startswith("cuda"):
            began = _recorded(torch.device(self.device))
        try:
            inputs = pixels.to(self.device, non_blocking=True)
        except torch.OutOfMemoryError:
            raise ConfigurationError(
                f"the memory of {self.device} does not hold the pixels of {len(pixels)} images beside the weights",
                remedy="Stop what else uses the device, or choose a smaller --batch-size or --device cpu.",
            ) from None
        middle = time.perf_counter()
        self.transfer_seconds += middle - begin
        fetched = Fetched(self._encode(inputs), began)
        self.seconds += time.perf_counter() - middle
        return fetched

    def _encode(self, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        import torch

        while True:
            try:
                if self._parts is not None and self.part is None:
                    parts = [self._parts(inputs)]
                else:
                    parts = [self._features(part) for part in torch.split(inputs, self.part or len(inputs))]
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not _is_out_of_memory(error):
                    raise
                parts = []
            if not parts:  # outside of the handler, whose error holds on to the activations
                self._halve(len(inputs))
                continue
            return {
                name: torch.cat([part[name] for part in parts]) if len(parts) > 1 else parts[0][name]
                for name in parts[0]
                if name in self.wanted
            }

    def _features(self, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        if self.coding is None:
            return self.encoder.encode(inputs, patches=False)
        features = self.encoder.encode(inputs, patches=True, layers=self.coding.form.layers)
        return features | self.coding(features["patches"])

    def _halve(self, batch_size: int) -> None:
        import torch

        part = self.part or (batch_size if self._parts is None else PART)
        if part == 1:
            raise ConfigurationError(
                f"the memory of {self.device} does not hold one image of {self.encoder.spec.name}",
                remedy="Stop what else uses the device, or choose --device cpu, --precision bf16, or a smaller model.",
            ) from None
        self.part = part // 2
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()


def _recorded(device: torch.device) -> torch.cuda.Event:
    """An event in a device's own queue, whichever is PyTorch's current device."""
    import torch

    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event


def _is_out_of_memory(error: RuntimeError) -> bool:
    import torch

    said = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in said or "can't allocate memory" in said
