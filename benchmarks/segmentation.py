"""Training the linear segmentation heads: from cached tokens against encoding every image anew each epoch.

    python benchmarks/segmentation.py                    # 40 images at 224 pixels, 3 epochs, about a minute
    python benchmarks/segmentation.py --images 400 --size 448 --epochs 10 --model dinov2_vits14

Both sides train the same seven heads (the study's learning rates, Dice + CE) in the same order and see the same tokens;
they run in processes of their own, so that peak memory is theirs. ``uncached`` reads, prepares and encodes the images
of each batch when it needs them, as the study's code does. Printed: seconds, peak resident memory, the ratio, and where
the cached side's time goes by operator (torch's profiler, on a run of its own).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

N_CLASSES = 3
BATCH = 8


def main() -> None:
    parser = argparse.ArgumentParser(description="Cached against uncached training of linear segmentation heads.")
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--model", default="efficientnet_lite0")
    parser.add_argument("--memory", type=float, default=1.0, help="GB of rows that the cached side keeps.")
    parser.add_argument("--side", choices=["extract", "cached", "uncached", "profile"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side is not None:
        print(json.dumps(SIDES[options.side](options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_scenes(Path(folder) / "images" / "train" / "scene", options.images)
        found = {side: run_side(side, folder) for side in SIDES}
    print(f"{options.model}, {options.images} images at {options.size} px, {options.epochs} epochs, 7 heads\n")
    print(f"{'':>10} {'seconds':>8} {'peak MB':>8}")
    for side in ("extract", "cached", "uncached"):
        print(f"{side:>10} {found[side]['seconds']:8.2f} {found[side]['peak']:8.0f}")
    cached, uncached = found["cached"]["seconds"], found["uncached"]["seconds"]
    once = found["extract"]["seconds"] + cached
    print(f"\nuncached / cached: {uncached / cached:.1f}x; with the extraction counted once: {uncached / once:.2f}x")
    difference = np.abs(np.array(found["cached"]["weights"]) - np.array(found["uncached"]["weights"])).max()
    print(f"largest difference of the heads' weights: {difference:.1e} (tokens are float16 on the cached side)")
    shares = found["profile"]["shares"]
    print(
        "cached side, share of the training loop by operator: " + ", ".join(f"{k} {v:.0%}" for k, v in shares.items())
    )


def run_side(side: str, folder: str) -> dict[str, Any]:
    """Run one side in a process of its own."""
    given = [argument for argument in sys.argv[1:] if not argument.startswith(("--side", "--folder"))]
    environment = {**os.environ, "FEATCACHE_HOME": f"{folder}/home", "FEATCACHE_STATE": f"{folder}/state"}
    command = [sys.executable, __file__, *given, "--side", side, "--folder", folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def write_scenes(folder: Path, count: int) -> None:
    """Grey pictures of 512 x 512 with two bright discs, and their label maps as ``.npy``."""
    from PIL import Image

    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:512, :512]
    for number in range(count):
        labels = np.zeros((512, 512), np.uint8)
        for label in (1, 2):
            centre, radius = rng.uniform(120, 392, 2), rng.uniform(50, 110)
            labels[(rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < radius**2] = label
        image = np.array([40, 120, 200])[labels] + rng.integers(0, 40, labels.shape)
        Image.fromarray(image.astype(np.uint8)).save(folder / f"{number:05}.png")
        np.save(folder / f"{number:05}.npy", labels)


def extract(options: argparse.Namespace) -> dict[str, Any]:
    """The encoder once over all images."""
    import featcache

    begin = time.perf_counter()
    report = featcache.extract(
        options.model,
        "folder",
        root=options.folder / "images",
        image_size=options.size,
        preprocess="radiology-linear",
        patches=True,
    )
    (options.folder / "store").symlink_to(report.store)
    return {"seconds": time.perf_counter() - begin, "peak": peak()}


def cached(options: argparse.Namespace) -> dict[str, Any]:
    """The heads from the store."""
    import featcache
    from featcache.evaluation.segmentation.native import to_input
    from featcache.probes.segmentation.token_stream import TokenStream
    from featcache.probes.segmentation.training import train_bank

    store = featcache.open((options.folder / "store").resolve())
    recipe, names = store.attributes["spec"]["preprocess"], store.samples["path"].tolist()

    def target(row: int) -> Any:
        labels = np.load((options.folder / "images" / names[row]).with_suffix(".npy"))
        return to_input(labels, options.size, recipe)

    begin = time.perf_counter()
    stream = TokenStream(
        store["patches"], target, np.arange(len(names)), size=options.size, memory=int(options.memory * 1e9)
    )
    bank = new_bank(stream.width, options.size, stream.grid)
    train_bank(bank, stream, epochs=options.epochs, batch_size=BATCH, seed=0, device="cpu")
    return {"seconds": time.perf_counter() - begin, "peak": peak(), "weights": bank.weight.tolist()}


def uncached(options: argparse.Namespace) -> dict[str, Any]:
    """The same heads; every image is read, prepared and encoded whenever a batch needs it."""
    import torch
    from PIL import Image

    from featcache.evaluation.segmentation.native import to_input
    from featcache.imaging import preset, to_tensor
    from featcache.models import load_encoder, locate_weights, resolve_model
    from featcache.probes.segmentation.training import train_bank

    spec = resolve_model(options.model)
    recipe = preset("radiology-linear", spec, options.size)
    files = sorted((options.folder / "images").rglob("*.png"))
    boxed = {"resize": "squash", "resize_to": options.size, "crop": options.size}
    begin = time.perf_counter()
    encoder = load_encoder(spec, locate_weights(spec, None), image_size=options.size).to("cpu", "fp32")

    class Encoding:
        """What looks like an array of tokens and is computed on reading."""

        dtype = np.dtype(np.float32)

        def __init__(self) -> None:
            self.shape = (len(files), *self[[0]].shape[1:])

        def __getitem__(self, rows: Any) -> Any:
            pixels = [to_tensor(np.asarray(Image.open(files[row])), (0, 255), recipe) for row in np.asarray(rows)]
            with torch.inference_mode():
                found = encoder.encode(torch.stack(pixels), patches=True)["patches"]
            return found.numpy()

    from featcache.probes.segmentation.token_stream import TokenStream

    stream = TokenStream(
        Encoding(),
        lambda row: to_input(np.load(files[row].with_suffix(".npy")), options.size, boxed),
        np.arange(len(files)),
        size=options.size,
        memory=0,
    )
    bank = new_bank(stream.width, options.size, stream.grid)
    train_bank(bank, stream, epochs=options.epochs, batch_size=BATCH, seed=0, device="cpu")
    return {"seconds": time.perf_counter() - begin, "peak": peak(), "weights": bank.weight.tolist()}


def profile(options: argparse.Namespace) -> dict[str, Any]:
    """Where the cached side's time goes."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    with profiled(activities=[ProfilerActivity.CPU]) as found:
        cached(options)
    own: dict[str, float] = {}
    for event in found.key_averages():
        products = ("aten::mm", "aten::bmm", "aten::addmm", "aten::matmul")
        name = "matrix products" if event.key in products else event.key.removeprefix("aten::")
        own[name] = own.get(name, 0.0) + event.self_cpu_time_total
    total = sum(own.values())
    largest = sorted(own.items(), key=lambda item: -item[1])[:6]
    return {"seconds": 0, "peak": 0, "shares": {name: value / total for name, value in largest}}


def new_bank(width: int, size: int, grid: tuple[int, int]) -> Any:
    """Seven heads that start alike."""
    from featcache.probes.segmentation.linear import LinearBank
    from featcache.probes.segmentation.training import STUDY_RATES

    return LinearBank(width, N_CLASSES, size, grid, STUDY_RATES)


def peak() -> float:
    """Largest resident memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


SIDES = {"extract": extract, "cached": cached, "uncached": uncached, "profile": profile}


if __name__ == "__main__":
    main()
