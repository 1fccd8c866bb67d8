"""Encoders against the eager loop that scripts use, as images/s and as a share of the device's matmul limit.

    python benchmarks/encoders.py --size 224                                # ViT-S/14 at 224 px, 2 minutes
    python benchmarks/encoders.py --device cuda --models dinov2_vitl14 --batch-sizes 32 256

Networks are of real size with seeded random weights, saved as a checkpoint and loaded as a user's would be. What a
multiplication costs does not depend on its numbers, but for denormal ones, which are flushed to zero on both sides.

The script (the peer): the library's own network, called on a batch that is on the device, class token or pooled
features only; fp16 autocast on a GPU, fp32 eager on a CPU. featcache's forms compute everything that it stores: class
tokens of four blocks and the mean of the patch tokens. All forms take turns in one process, batch by batch; medians.

The limit is what large matrix products reach in the form's number format, measured in the same run, divided by the
network's operations (``featcache models``, or counted by torch where the zoo does not say).
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "10")

import torch

from featcache.extraction.parts import Parts
from featcache.models import CompileMode, Encoder, Precision, load_encoder, locate_weights, resolve_model
from featcache.models.openvino_runtime import openvino_version

DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(slots=True)
class Form:
    """One way to run the network."""

    name: str
    precision: Precision
    run: Callable[[torch.Tensor], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description="Encoders against the eager loop that scripts use.")
    parser.add_argument("--models", nargs="+", default=["dinov2_vits14"], help="rows of `featcache models`")
    parser.add_argument("--weights", type=Path, help="of a single model, instead of random ones")
    parser.add_argument("--size", type=int, help="input size in pixels (default: the model's own)")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--forms", nargs="+", help="only these")
    options = parser.parse_args()
    torch.set_flush_denormal(True)
    device = options.device
    precisions: tuple[Precision, ...] = ("fp32", "bf16", "fp16") if device.startswith("cuda") else ("fp32", "bf16")
    print(f"{device_name(device)}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    limits = {precision: matmul_rate(device, DTYPES[precision]) for precision in precisions}
    measured = ", ".join(f"{name} {rate / 1e12:.3g} TFLOP/s" for name, rate in limits.items())
    print(f"matmul limit: {measured}\n")
    print("| model | px | batch | form | images/s | ratio to the script | share of the limit | cosine to fp32 |")
    print("|---|---|---|---|---|---|---|---|")
    for name in options.models:
        with tempfile.TemporaryDirectory() as folder:
            weights = options.weights or random_checkpoint(name, Path(folder))
            compare(name, weights, options, precisions, limits)


def compare(
    name: str, weights: Path | None, options: argparse.Namespace, precisions: tuple[Precision, ...], limits: Any
) -> None:
    spec = resolve_model(name)
    size = options.size or spec.image_size
    source = locate_weights(spec, weights)

    def load() -> Encoder:
        return load_encoder(spec, source, image_size=size)

    forms = forms_of(load, options.device, precisions)
    if options.forms:
        forms = [form for form in forms if form.name in options.forms or form.name.startswith("script")]
    flops = operations(load(), size)
    for batch_size in options.batch_sizes:
        pixels = torch.randn(batch_size, 3, size, size, generator=torch.Generator().manual_seed(0)).to(options.device)
        exact = load().to(options.device, "fp32").encode(pixels)["cls"].double()
        seconds: dict[str, list[float]] = {form.name: [] for form in forms}
        cosines = {}
        for form in forms:
            found = form.run(pixels)
            found = found["cls"] if isinstance(found, dict) else found
            same = found.shape == exact.shape  # a script's pooling may be another feature
            cosine = torch.nn.functional.cosine_similarity(found.double(), exact).min().item() if same else float("nan")
            cosines[form.name] = cosine
            form.run(pixels)
        for _ in range(options.repeats):
            for form in forms:
                seconds[form.name].append(timed(form, pixels))
        rates = {form.name: batch_size / statistics.median(seconds[form.name]) for form in forms}
        for form in forms:
            share = rates[form.name] * flops / limits[form.precision]
            print(
                f"| {name} | {size} | {batch_size} | {form.name} | {rates[form.name]:.1f} | "
                f"{rates[form.name] / rates[forms[0].name]:.2f} | {share:.0%} | {cosines[form.name]:.5f} |",
                flush=True,
            )


def forms_of(load: Callable[[], Encoder], device: str, precisions: tuple[Precision, ...]) -> list[Form]:
    """The script's loop first, then featcache's forms."""
    forms = [script(load(), device)]
    for precision in precisions:
        encoder = load().to(device, precision)
        in_parts = device == "cpu" and encoder.is_thread_safe  # as an extraction does it
        forms.append(Form(f"featcache {precision}", precision, Parts(encoder.encode) if in_parts else encoder.encode))
    if device.startswith("cuda"):
        modes: tuple[CompileMode, ...] = ("default", "reduce-overhead")
        forms += [
            Form(f"featcache bf16, compiled ({mode})", "bf16", load().to(device, "bf16").compile(device, mode).encode)
            for mode in modes
        ]
    elif openvino_version() is not None:
        forms += [
            Form(f"featcache {precision}, openvino", precision, load().to(device, precision, runtime="openvino").encode)
            for precision in precisions
        ]
    return forms


def script(encoder: Encoder, device: str) -> Form:
    """What one would write: the network, called, under autocast on a GPU."""
    network = encoder._module.to(device)
    cuda = device.startswith("cuda")

    def run(pixels: torch.Tensor) -> torch.Tensor:
        with torch.no_grad(), torch.autocast("cuda", torch.float16, enabled=cuda):
            found = network(pixels)
        if hasattr(found, "last_hidden_state"):
            return found.last_hidden_state[:, 0].float()  # type: ignore[no-any-return]
        return found.float()  # type: ignore[no-any-return]

    return Form("script, fp16 autocast" if cuda else "script, fp32 eager", "fp16" if cuda else "fp32", run)


def timed(form: Form, pixels: torch.Tensor) -> float:
    """Seconds until the features of one batch are there."""
    cuda = pixels.device.type == "cuda"
    if cuda:
        torch.cuda.synchronize(pixels.device)
    begin = time.perf_counter()
    form.run(pixels)
    if cuda:
        torch.cuda.synchronize(pixels.device)
    return time.perf_counter() - begin


def random_checkpoint(name: str, folder: Path) -> Path | None:
    """A file as the authors distribute it, of seeded random numbers; None where the row brings its own weights."""
    spec = resolve_model(name)
    if spec.source not in ("timm", "dinov2") or spec.random_seed is not None:
        return None
    import timm

    torch.manual_seed(0)
    facts = {"img_size": 518, "num_classes": 0} if spec.source == "dinov2" else {}
    network = timm.create_model(spec.architecture, pretrained=False, **facts)
    for tensor_name, tensor in network.named_parameters():
        if tensor_name.endswith("gamma"):  # layer scale begins at 1e-5, with which the blocks would hardly count
            tensor.data = 0.3 + 0.1 * torch.randn(tensor.shape)
    path = folder / f"{name}.pth"
    torch.save(network.state_dict(), path)
    return path


def operations(encoder: Encoder, size: int) -> int:
    """Floating point operations of one image at this size, counted by torch."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        encoder.encode(torch.zeros(1, 3, size, size))
    return counter.get_total_flops()


def matmul_rate(device: str, dtype: torch.dtype) -> float:
    """Operations a second of the best of ten square products."""
    side = 8192 if device.startswith("cuda") else 2048
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    product = torch.empty_like(left)
    best = float("inf")
    for _ in range(10):
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        begin = time.perf_counter()
        torch.mm(left, right, out=product)
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - begin)
    return 2 * side**3 / best


def device_name(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "CPU")


if __name__ == "__main__":
    main()
