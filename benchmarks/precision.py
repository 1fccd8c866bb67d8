"""What bf16, fp16 and OpenVINO change: cosine of the features to fp32, and the metrics of two probes.

    python benchmarks/precision.py                                   # about 4 minutes on two cores
    python benchmarks/precision.py --device cuda --models dinov2_vitl14 --weights FILE --size 224

Real images (`brain_regions`, 800 crops of a brain atlas) and, for efficientnet_lite0, real weights. The other families
have seeded random weights (every tensor of the checkpoint, layer scale raised to where it counts): rounding passes
through the same operations, but how far classes lie apart is not what training makes of it. Features are stored as
float32, so that nothing but the arithmetic differs. The range is half of the width of the 95 % confidence interval in
fp32: a change far below it cannot be told from another choice of test images.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "10")

import numpy as np
import torch
from encoders import random_checkpoint

import featcache
from featcache.models import resolve_model
from featcache.models.openvino_runtime import openvino_version

FAMILIES = (
    "efficientnet_lite0",
    "dinov2_vits14",
    "timm:vit_tiny_patch16_224",
    "timm:vit_base_patch32_clip_224",
    "timm:convnext_atto",
    "timm:resnet18",
)


def main() -> None:
    parser = argparse.ArgumentParser(description="What a precision changes, against fp32.")
    parser.add_argument("--models", nargs="+", default=FAMILIES)
    parser.add_argument("--weights", type=Path, help="of a single model, instead of random ones")
    parser.add_argument("--size", type=int, default=112, help="input size in pixels (the nearest that a patch divides)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--forms", nargs="+", default=["fp32", "bf16", "fp16", "openvino fp32", "openvino bf16"])
    options = parser.parse_args()
    torch.set_flush_denormal(True)
    forms = [form for form in options.forms if "openvino" not in form or (on_cpu(options) and openvino_version())]
    print("| model | form | cosine to fp32: lowest | median | kNN AUROC | change | logistic AUROC | change | range |")
    print("|---|---|---|---|---|---|---|---|---|")
    for model in options.models:
        with tempfile.TemporaryDirectory() as folder:
            compare(model, forms, options, Path(folder))


def on_cpu(options: argparse.Namespace) -> bool:
    return bool(options.device == "cpu")


def compare(model: str, forms: list[str], options: argparse.Namespace, folder: Path) -> None:
    is_real = model == "efficientnet_lite0" or options.weights
    weights = options.weights or (None if is_real else random_checkpoint(model, folder))
    exact: Any = None
    before: dict[str, float] = {}
    for form in forms:
        runtime, precision = form.split() if " " in form else ("torch", form)
        report = featcache.extract(
            model,
            "brain_regions",
            weights=weights,
            image_size=fitting_size(model, options.size),
            precision=precision,
            runtime=runtime,
            dtype="float32",
            device=options.device,
            home=folder / "home",
        )
        features = featcache.open(report.store)["cls"][:].astype(np.float64)
        exact = features if exact is None else exact
        norms = np.linalg.norm(features, axis=1) * np.linalg.norm(exact, axis=1)
        cosine = (features * exact).sum(axis=1) / norms
        cells = []
        spread = 0.0
        for probe in ("knn", "logistic"):
            found = featcache.probe(probe, report.store, n_bootstrap=200, record=False)
            estimate = found.runs[0].metrics["auroc"]
            before.setdefault(probe, estimate.value)
            spread = max(spread, (estimate.high - estimate.low) / 2)
            cells.append(f"{estimate.value:.4f} | {estimate.value - before[probe]:+.4f}")
        kind = "" if is_real else " (random)"
        print(
            f"| {model}{kind} | {form} | {cosine.min():.6f} | {np.median(cosine):.6f} | {' | '.join(cells)} | "
            f"{spread:.4f} |",
            flush=True,
        )


def fitting_size(model: str, size: int) -> int:
    """The multiple of the patch at or below a size."""
    patch = resolve_model(model).patch or 1
    return size // patch * patch


if __name__ == "__main__":
    main()
