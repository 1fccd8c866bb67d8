"""Extraction end to end against the script that one would write, with the limits of its two halves.

    python benchmarks/pipeline.py                      # 300 images, about 5 minutes on two cores
    python benchmarks/pipeline.py --images 2000 --device cuda --model dinov2_vitl14 --weights FILE

Every measurement is a process of its own, and in each repeat all take turns, so that a noisy minute hits all of them;
medians. The sets are synthetic: 1024 x 1024 grey PNG, the same as JPEG, NIfTI volumes (.nii.gz, int16) of which every
axial slice is an image.

The script: a DataLoader with as many workers as processors, PIL (nibabel for slices) and torchvision's resize, the
same model in eager mode (fp16 autocast on a GPU, fp32 on a CPU), features in a list, one np.save at the end. It
computes the class token only; featcache checks, hashes and commits all it has.

Limits, in the same run: *decode* is the reading processes with nothing behind them, *model* the encoder with pixels
that are there already. On a GPU the slower one is what can be reached; on a CPU both share the processors, so that
1 / (1 / decode + 1 / model) is. *CPU ms* is the processor time of one image in featcache's pipeline and in the script,
all processes counted; *idle* the share of the machine's processors that nothing ran on meanwhile (Linux): what the
pipeline could have used and did not, whatever else the machine was doing; *model alone* is the same of the model by
itself, whose threads wait for each other within a forward pass.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "10")

import numpy as np

PARTS = ("featcache", "script", "decode", "model")
SETS = ("png", "jpeg", "nifti")
MODELS = ("efficientnet_lite0", "efficientnet_lite0_random", "pixels")


def main() -> None:
    parser = argparse.ArgumentParser(description="Extraction end to end against a DataLoader script.")
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--model", default="efficientnet_lite0")
    parser.add_argument("--weights", help="of the model, if they are not on this machine")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--folder", type=Path, help="where to put the images (default: a temporary folder)")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--data", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        print(json.dumps(measure(options)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        compare(options, Path(folder))


def compare(options: argparse.Namespace, folder: Path) -> None:
    print(f"{options.model} on {options.device}, {os.cpu_count()} processors, batches of {options.batch_size}")
    columns = (
        "set | featcache images/s | script | ratio | decode limit | model limit | reached | CPU ms | script | idle"
        " | model alone"
    )
    print(f"\n| {columns} |\n|{'---|' * 11}")
    for kind in options.sets:
        root = write_images(folder / kind, kind, options.images)
        found: dict[str, list[dict[str, float]]] = {part: [] for part in PARTS}
        for _ in range(options.repeats):
            for part in PARTS:
                found[part].append(run_part(part, root, options))
        rate = {part: statistics.median(run["rate"] for run in runs) for part, runs in found.items()}
        if options.device == "cpu":
            limit = 1 / (1 / rate["decode"] + 1 / rate["model"])
        else:
            limit = min(rate["decode"], rate["model"])
        cpu = {part: statistics.median(run["cpu_ms"] for run in found[part]) for part in ("featcache", "script")}
        idle, alone = (statistics.median(run["idle"] for run in found[part]) for part in ("featcache", "model"))
        print(
            f"| {kind} | {rate['featcache']:.1f} | {rate['script']:.1f} | {rate['featcache'] / rate['script']:.2f} | "
            f"{rate['decode']:.1f} | {rate['model']:.1f} | {rate['featcache'] / limit:.2f} | "
            f"{cpu['featcache']:.0f} | {cpu['script']:.0f} | {idle:.0%} | {alone:.0%} |",
            flush=True,
        )
    root = folder / options.sets[0]
    several: list[float] = []
    apart: list[float] = []
    for _ in range(options.repeats):
        several.append(run_part("several", root, options)["seconds"])
        decode = run_part("decode", root, options)["seconds"]
        encode = [run_part("model", root, options, model=model)["seconds"] for model in MODELS]
        apart.append(decode + sum(encode))
    ratio = statistics.median(several) / statistics.median(apart)
    print(
        f"\nthree models in one call ({', '.join(MODELS)}; {options.sets[0]}): {statistics.median(several):.1f} s; "
        f"one decode and three models by themselves: {statistics.median(apart):.1f} s; ratio {ratio:.2f}"
    )


def run_part(part: str, root: Path, options: argparse.Namespace, model: str | None = None) -> dict[str, float]:
    command = [sys.executable, __file__, "--part", part, "--data", str(root), "--images", str(options.images)]
    command += ["--model", model or options.model, "--device", options.device, "--batch-size", str(options.batch_size)]
    if options.weights and model is None:
        command += ["--weights", options.weights]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def write_images(root: Path, kind: str, count: int) -> Path:
    """Smooth blobs with a little noise, which compress about as radiographs do."""
    import nibabel
    from PIL import Image

    rng = np.random.default_rng(0)
    coarse = rng.random((40, 40))
    root.mkdir(parents=True)
    if kind == "nifti":
        for volume in range(max(1, count // 60)):
            smooth = np.asarray(Image.fromarray((coarse * 800).astype(np.float32)).resize((256, 256)))
            voxels = smooth[..., None] + rng.normal(0, 20, (256, 256, 60))
            nibabel.save(nibabel.Nifti1Image(voxels.astype(np.int16), np.eye(4)), root / f"{volume:03}.nii.gz")
        return root
    for number in range(count):
        shifted = np.roll(coarse, number, axis=(0, 1))
        smooth = np.asarray(Image.fromarray((shifted * 200).astype(np.float32)).resize((1024, 1024)))
        pixels = (smooth + rng.normal(0, 3, smooth.shape)).clip(0, 255).astype(np.uint8)
        folder = root / "ab"[number % 2]
        folder.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{number:05}.{'png' if kind == 'png' else 'jpg'}")
    return root


def measure(options: argparse.Namespace) -> dict[str, float]:
    """One part, in this process."""
    root = Path(options.data)
    work = {"featcache": with_featcache, "several": with_featcache, "script": with_script}
    work |= {"decode": only_decode, "model": only_model}
    count, seconds, clock = work[options.part](options, root)
    return {"rate": count / seconds, "seconds": seconds, "cpu_ms": 1000 * clock.cpu / count, "idle": clock.idle}


class Clock:
    """Processor time of this process and its children, and the machine's idle share, in a ``with`` block."""

    def __enter__(self) -> Clock:
        self._before = self._now()
        self.begin = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self.begin
        used, idle, total = (after - before for before, after in zip(self._before, self._now(), strict=True))
        self.cpu = used
        self.idle = idle / total if total else 0.0

    @staticmethod
    def _now() -> tuple[float, float, float]:
        usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        used = sum(usage.ru_utime + usage.ru_stime for usage in usages)
        stat = Path("/proc/stat")
        ticks = [float(text) for text in stat.read_text().splitlines()[0].split()[1:9]] if stat.is_file() else [0.0] * 5
        return used, ticks[3] + ticks[4], sum(ticks)


def with_featcache(options: argparse.Namespace, root: Path) -> tuple[int, float, Clock]:
    import featcache
    from featcache.extraction import computing

    models = list(MODELS) if options.part == "several" else [options.model]
    clock, pipeline = Clock(), computing.run_pipeline

    def clocked(*arguments: Any, **settings: Any) -> None:
        with clock:
            pipeline(*arguments, **settings)

    with tempfile.TemporaryDirectory() as home, mock.patch.object(computing, "run_pipeline", clocked):
        reports = featcache.extract_models(
            models,
            "nifti" if root.name == "nifti" else "folder",
            root=root,
            home=home,
            weights=options.weights,
            device=options.device,
            batch_size=options.batch_size,
        )
    return reports[0].computed, clock.seconds, clock


def only_decode(options: argparse.Namespace, root: Path) -> tuple[int, float, Clock]:
    from featcache.extraction.devices import processors
    from featcache.extraction.jobs import batches_of
    from featcache.extraction.readers import Readers
    from featcache.extraction.reading import Recipe

    plan, jobs = planned(options, root)
    batches = batches_of(jobs, options.batch_size)
    recipes = [Recipe(plan.preprocess)]
    with (
        Clock() as clock,
        Readers(jobs, batches, recipes, batch_size=options.batch_size, workers=processors()) as readers,
    ):
        for ready in readers:
            readers.release(ready.slot)
    return len(jobs), clock.seconds, clock


def only_model(options: argparse.Namespace, root: Path) -> tuple[int, float, Clock]:
    import torch

    from featcache.extraction.computing import load_planned
    from featcache.extraction.devices import keep_memory
    from featcache.extraction.encoding import Encoding

    keep_memory()
    plan, jobs = planned(options, root)
    encoder = load_planned(plan, options.device)
    pixels = torch.rand(options.batch_size, 3, plan.preprocess.crop, plan.preprocess.crop)
    encoding = Encoding(encoder, options.device, {"cls"})
    encoding.start(pixels).rows([0])
    with Clock() as clock:
        for _ in range(-(-len(jobs) // options.batch_size)):
            last = encoding.start(pixels)
        last.rows([0])
    return len(jobs), clock.seconds, clock


def planned(options: argparse.Namespace, root: Path) -> tuple[Any, list[Any]]:
    from featcache.datasets import load_dataset
    from featcache.extraction import make_plan
    from featcache.extraction.jobs import Job
    from featcache.models import resolve_model

    name = "nifti" if root.name == "nifti" else "folder"
    loaded = load_dataset(name, root=root)
    facts: dict[str, Any] = {"registry_name": name, "weights": options.weights, "record": False}
    plan = make_plan(resolve_model(options.model), loaded, home=root.parent / "none", device=options.device, **facts)
    paths = loaded.samples["path"].tolist()
    jobs = [Job(loaded.sample(row), paths[row], plan.digests[row] or b"", row) for row in range(len(paths))]
    return plan, jobs


def with_script(options: argparse.Namespace, root: Path) -> tuple[int, float, Clock]:
    """What one would write."""
    import torch
    from torch.utils.data import DataLoader

    from featcache.models import load_model

    encoder = load_model(options.model, weights=options.weights)
    network: Any = encoder._module.to(options.device)
    files = sorted(path for path in root.rglob("*") if path.is_file())
    images: Any = Slices(files) if root.name == "nifti" else Pictures(files)
    features = []
    autocast = torch.autocast("cuda", torch.float16, enabled=options.device.startswith("cuda"))
    with Clock() as clock, torch.no_grad(), autocast, tempfile.TemporaryFile() as file:
        for batch in DataLoader(images, batch_size=options.batch_size, num_workers=os.cpu_count() or 1):
            out = network.forward_features(batch.to(options.device))
            pooled = out.mean((2, 3)) if out.ndim == 4 else out[:, 0]
            features.append(pooled.float().cpu().numpy())
        np.save(file, np.concatenate(features))
    return len(images), clock.seconds, clock


def transforms() -> Any:
    from torchvision import transforms as steps

    half = [0.5, 0.5, 0.5]
    return steps.Compose([steps.Resize(256), steps.CenterCrop(224), steps.ToTensor(), steps.Normalize(half, half)])


class Pictures:
    """A map-style dataset of picture files."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        self.transform = transforms()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Any:
        from PIL import Image

        return self.transform(Image.open(self.files[index]).convert("RGB"))


class Slices:
    """A map-style dataset of the slices of volumes; each worker keeps the volume that it read last."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        self.transform = transforms()
        self.last: tuple[int, Any] = (-1, None)

    def __len__(self) -> int:
        return 60 * len(self.files)

    def __getitem__(self, index: int) -> Any:
        import nibabel
        from PIL import Image

        volume, place = divmod(index, 60)
        if self.last[0] != volume:
            self.last = volume, np.asarray(nibabel.load(self.files[volume]).dataobj)
        plane = self.last[1][:, :, place].astype(np.float32)
        plane = (plane - plane.min()) / (np.ptp(plane) or 1) * 255
        return self.transform(Image.fromarray(plane.astype(np.uint8)).convert("RGB"))


if __name__ == "__main__":
    main()
