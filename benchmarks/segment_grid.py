"""Where the time of training the linear grid goes: seven heads on tokens in a store's form, step by step.

    python benchmarks/segment_grid.py                       # ViT-S/14 at 448 px: 32 x 32 tokens of 384, half a minute
    python benchmarks/segment_grid.py --width 1024 --grid 32 --classes 3

Tokens are random float16 in a Zarr-like array on disk (a memory map), targets random ellipses. Printed: seconds of the
training loop, the share of it that waited for tokens, that of matrix products, of the compiled loop that interpolates
rows, takes the softmax and pulls the loss's gradient back, and of the rest; then the same for a plain torch loop that
trains the seven heads with ``interpolate``, ``cross_entropy`` and autograd.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile, record_function

from featcache.probes.segmentation.linear import LinearBank
from featcache.probes.segmentation.losses import WideSlopes, segment_loss
from featcache.probes.segmentation.token_stream import TokenBatch, TokenStream
from featcache.probes.segmentation.training import STUDY_RATES, train_bank

PRODUCTS = {"aten::mm", "aten::bmm", "aten::addmm", "aten::addmm_"}
LOSSES = ("softmax", "loss", "addcmul", "one_hot", "::eq", "segment")
BATCH = 8


def main() -> None:
    parser = argparse.ArgumentParser(description="Stages of training the linear grid.")
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--size", type=int, default=448)
    parser.add_argument("--grid", type=int, default=32)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--classes", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--plain", action="store_true", help="Also the plain torch loop.")
    options = parser.parse_args()
    inner = WideSlopes.__call__

    def recorded(self: WideSlopes, wide: torch.Tensor) -> torch.Tensor:
        with record_function("softmax and loss, compiled"):
            return inner(self, wide)

    WideSlopes.__call__ = recorded  # type: ignore[method-assign]
    torch.set_num_threads(min(2, torch.get_num_threads()))
    with tempfile.TemporaryDirectory() as folder:
        tokens, labels = scenes(Path(folder), options)
        stream = Timed(tokens, lambda row: labels[row], np.arange(options.images), size=options.size)

        def ours(epochs: int = options.epochs) -> None:
            bank = LinearBank(options.width, options.classes, options.size, stream.grid, STUDY_RATES)
            train_bank(bank, stream, epochs=epochs, batch_size=BATCH, seed=0, device="cpu")

        ours(1)  # compiles, and reads the files once
        report("featcache", ours, stream)
        if options.plain:
            report("plain torch", lambda: plain(stream, options), stream)


def scenes(folder: Path, options: argparse.Namespace) -> tuple[Any, np.ndarray]:
    """Tokens in a memory map, and label maps."""
    rng = np.random.default_rng(0)
    shape = (options.images, options.grid, options.grid, options.width)
    tokens = np.lib.format.open_memmap(folder / "tokens.npy", "w+", np.float16, shape)
    for row in range(options.images):
        tokens[row] = rng.standard_normal(shape[1:], dtype=np.float32)
    rows, columns = np.mgrid[: options.size, : options.size] / options.size
    labels = np.zeros((options.images, options.size, options.size), np.uint8)
    for one in labels:
        for label in range(1, options.classes):
            centre, radius = rng.uniform(0.2, 0.8, 2), rng.uniform(0.1, 0.3)
            one[(rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < radius**2] = label
    return tokens, labels


def plain(stream: TokenStream, options: argparse.Namespace) -> None:
    """Seven 1x1 convolutions, each with its own loss and optimizer."""
    heads = [torch.nn.Conv2d(options.width, options.classes, 1) for _ in STUDY_RATES]
    optimizers = [
        torch.optim.SGD(head.parameters(), lr=rate, momentum=0.9) for head, rate in zip(heads, STUDY_RATES, strict=True)
    ]
    for epoch in range(options.epochs):
        for batch in stream.batches(BATCH, seed=(0, epoch)):
            tokens = torch.from_numpy(batch.tokens).float().movedim(-1, 1)
            labels = torch.from_numpy(batch.labels).long()
            for head, optimizer in zip(heads, optimizers, strict=True):
                optimizer.zero_grad()
                large = functional.interpolate(head(tokens), size=(stream.size, stream.size), mode="bilinear")
                segment_loss(large, labels, "dice+ce").backward()
                optimizer.step()


class Timed(TokenStream):
    """Counts the seconds for which its reader waits."""

    waited = 0.0

    def batches(self, batch_size: int, *, seed: Any = None) -> Iterator[TokenBatch]:
        coming = super().batches(batch_size, seed=seed)
        while True:
            begin = time.perf_counter()
            batch = next(coming, None)
            self.waited += time.perf_counter() - begin
            if batch is None:
                return
            yield batch


def report(name: str, run: Callable[[], None], stream: Timed) -> None:
    """Seconds without a profiler; shares with it."""
    stream.waited = 0.0
    begin = time.perf_counter()
    run()
    seconds = time.perf_counter() - begin
    waiting = stream.waited / seconds
    with profile(activities=[ProfilerActivity.CPU]) as found:
        begin = time.perf_counter()
        run()
        wall = time.perf_counter() - begin
    between = wall - sum(event.self_cpu_time_total for event in found.key_averages()) / 1e6
    own = {event.key: event.self_cpu_time_total / 1e6 for event in found.key_averages()}
    products = sum(value for key, value in own.items() if key in PRODUCTS)
    losses = sum(value for key, value in own.items() if any(part in key for part in LOSSES))
    print(
        f"{name}: {seconds:.2f} s, {waiting:.1%} of it waiting for tokens; "
        f"matrix products {products / wall:.0%}, softmax and loss {losses / wall:.0%}, "
        f"the rest {1 - (products + losses) / wall:.0%}"
    )
    largest = sorted(own.items(), key=lambda item: -item[1])[:8]
    largest = [*largest, ("between operators", between)]
    print("  " + ", ".join(f"{key.removeprefix('aten::')} {value / wall:.0%}" for key, value in largest))


if __name__ == "__main__":
    main()
