"""Memory that the reading processes fill and the encoder reads: a ring of batches, nothing is copied or pickled."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
from collections.abc import Iterator, Sequence
from multiprocessing.context import BaseContext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["Buffers", "ring_depth"]

_MOST_BYTES = 1 << 30
"""Of all rings together, as long as they are not shorter than two batches."""


def ring_depth(sizes: Sequence[int], batch_size: int, workers: int) -> int:
    """Batches of the ring: enough that each worker has something to do while one batch is encoded, within 1 GiB.

    Parameters
    ----------
    sizes
        Side in pixels of each kind of input.
    batch_size
        Images a batch.
    workers
        Reading processes.

    Examples
    --------
    >>> ring_depth([224], 32, 2), ring_depth([224], 128, 16), ring_depth([1024], 128, 16)
    (3, 4, 2)
    """
    wanted = 3 + 8 * workers // batch_size
    batch_bytes = sum(batch_size * 3 * size * size * 4 for size in sizes)
    return max(2, min(wanted, _MOST_BYTES // batch_bytes))


class Buffers:
    """``depth`` batches of (batch_size, 3, S, S) float32 for each kind of input, shared between processes.

    Parameters
    ----------
    sizes
        Side S in pixels of each kind.
    depth, batch_size
        Batches, and images a batch.
    keep
        Of each kind, whether there is a ring of uint8 pixels, (batch_size, 3, S, S), beside it.
    context
        How processes are started. After a fork, anonymous memory is shared, which no limit on ``/dev/shm`` concerns
        and no crash leaves behind; other ways need memory that has a name.
    """

    def __init__(
        self, sizes: Sequence[int], *, depth: int, batch_size: int, keep: Sequence[bool], context: BaseContext
    ) -> None:
        self.sizes = tuple(sizes)
        self.depth = depth
        self.batch_size = batch_size
        counts = [depth * batch_size * 3 * size * size for size in sizes]
        self._memory = [_shared(4 * count, context) for count in counts]
        self._kept = [_shared(count if wanted else 1, context) for count, wanted in zip(counts, keep, strict=True)]

    def batch(self, kind: int, slot: int) -> torch.Tensor:
        """(batch_size, 3, S, S) float32, the memory itself."""
        import torch

        size = self.sizes[kind]
        flat = torch.frombuffer(self._memory[kind], dtype=torch.float32)
        return flat.reshape(self.depth, self.batch_size, 3, size, size)[slot]

    def kept(self, kind: int, slot: int) -> torch.Tensor:
        """(batch_size, 3, S, S) uint8, the memory itself; of kinds with ``keep``."""
        import torch

        size = self.sizes[kind]
        flat = torch.frombuffer(self._kept[kind], dtype=torch.uint8)
        return flat.reshape(self.depth, self.batch_size, 3, size, size)[slot]

    @contextlib.contextmanager
    def pinned(self, device: str) -> Iterator[None]:
        """Let CUDA copy from here while it computes; nothing for other devices, or where CUDA refuses."""
        import torch

        if not device.startswith("cuda"):
            yield
            return
        runtime: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
        flats = [torch.frombuffer(memory, dtype=torch.float32) for memory in self._memory]
        held = [flat for flat in flats if int(runtime.cudaHostRegister(flat.data_ptr(), flat.nbytes, 0)) == 0]
        try:
            yield
        finally:
            for flat in held:
                runtime.cudaHostUnregister(flat.data_ptr())


def _shared(size: int, context: BaseContext) -> Any:
    """Memory of so many bytes that child processes share."""
    return mmap.mmap(-1, size) if context.get_start_method() == "fork" else context.RawArray(ctypes.c_byte, size)
