"""``estimate``: what an extraction would compute, store and take, from a calibration of a few seconds."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from featcache.datasets import Dataset, load_dataset
from featcache.extraction.compiling import checked_choice, compile_planned
from featcache.extraction.computing import check_form, existing_folder, kept_pixels_of, load_planned
from featcache.extraction.devices import keep_memory, processors, resolve_device
from featcache.extraction.encoding import Encoding
from featcache.extraction.fitting_batch import plan_memory
from featcache.extraction.jobs import jobs_of
from featcache.extraction.kept_pixels import pixel_recipe
from featcache.extraction.plan import Plan, checked_models, make_plan, portable_name, record_samples
from featcache.extraction.reading import JobReader, Recipe, Space
from featcache.extraction.several_devices import listed_devices
from featcache.extraction.sharding import Shard, checked_shard
from featcache.extraction.token_coding import TokenCoding
from featcache.models import Encoder
from featcache.records import Forecast
from featcache.store import TOKENS, TokenForm, find_home

__all__ = ["estimate"]

_UNITS = 12
"""Files or volumes that are read for the calibration, at most."""

_SECONDS = 2.0
"""After which no further file is read for it."""


def estimate(
    models: Sequence[str],
    dataset: str | Dataset,
    *,
    root: Path | str | None = None,
    home: Path | str | None = None,
    weights: Path | str | None = None,
    device: str = "auto",
    devices: str | Sequence[str] | None = None,
    shard: str | Shard | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    compile: str = "auto",
    pixels: Literal["drop", "keep"] = "drop",
    dataset_options: dict[str, Any] | None = None,
    **options: Any,
) -> tuple[Forecast, ...]:
    """Say what :func:`featcache.extract_models` would do; it takes the same and writes nothing but remembered digests.

    A few files are read, and two batches are encoded by each model that lacks anything. Of ``devices`` the first is
    measured.

    Returns
    -------
    tuple of Forecast
        One a model, in their order; their times add up.
    """
    keep_memory()
    specs = checked_models(models, weights)
    several = listed_devices(devices, device)
    device = resolve_device(several[0] if several else device)
    checked_choice(compile)
    workers = workers or max(1, processors() // max(1, len(several)))
    folder = find_home(home)
    if isinstance(dataset, str):
        loaded = load_dataset(dataset, root=root, home=folder, **(dataset_options or {}))
        registry_name = portable_name(dataset)
    else:
        loaded, registry_name = dataset, dataset.name
    recorded = record_samples(loaded, folder / loaded.name, registry_name, write=False)
    facts: dict[str, Any] = {
        "home": folder,
        "registry_name": registry_name,
        "device": device,
        "record": False,
        "recorded": recorded,
        "weights": weights,
        "shard": None if shard is None else checked_shard(shard),
    }
    plans = [make_plan(spec, loaded, **facts, **options) for spec in specs]
    memory = plan_memory(plans, device, batch_size)
    predicted = [None if own is None else own.bytes_for(memory.batch_size) for own in memory.footprints]
    sizes: dict[str, Any] = {"batch_size": memory.batch_size, "workers": workers, "compile": compile}
    forecasts = [
        _forecast(plan, device, **sizes, predicted=own, several=several)
        for plan, own in zip(plans, predicted, strict=True)
    ]
    if pixels == "keep":
        seen = {pixel_recipe(plan.preprocess): number for number, plan in reversed(list(enumerate(plans)))}
        for number in seen.values():  # models that see the same share what is kept
            kept = _kept_bytes(plans[number])
            forecasts[number] = replace(forecasts[number], stored_bytes=forecasts[number].stored_bytes + kept)
    return tuple(forecasts)


def _forecast(
    plan: Plan,
    device: str,
    *,
    batch_size: int,
    workers: int,
    compile: str,
    predicted: int | None,
    several: Sequence[str],
) -> Forecast:
    missing = len(plan.pending)
    own = plan.own if plan.own is not None else [True] * len(plan.digests)
    rows = sum(digest is not None for digest, mine in zip(plan.digests, own, strict=True) if mine)
    nothing = Forecast(
        model=plan.spec.name,
        store=plan.store,
        rows=rows,
        forward_passes=missing,
        saved=rows - missing,
        stored_bytes=0,
        free_bytes=shutil.disk_usage(existing_folder(plan.folder)).free,
        device=", ".join(several) or device,
        device_bytes=None,
        batch_size=batch_size,
        workers=workers,
        seconds=0.0,
        images_per_second=None,
        bottleneck=None,
    )
    if not missing:
        return nothing
    encoder = load_planned(plan, device)
    check_form(plan, encoder)
    compile_planned(encoder, plan, device, batch_size, compile)
    arriving = _reading_seconds(plan)
    encoding, memory = _encoding_seconds(encoder, plan, device, batch_size)
    arriving /= workers * max(1, len(several))
    # On a CPU the readers and the encoder share the processors; accelerators compute beside them, each by itself.
    if device != "cpu":
        encoding /= max(1, len(several))
    each = arriving + encoding if device == "cpu" else max(arriving, encoding)
    stored = sum(len(rows) * _row_bytes(plan, encoder, family) for family, rows in plan.missing.items())
    return Forecast(
        **{
            **{name: getattr(nothing, name) for name in Forecast.__slots__},
            "stored_bytes": stored * (2 if plan.form == "hdf5" else 1),
            "device_bytes": predicted if memory is None else memory,
            "seconds": missing * each,
            "images_per_second": 1 / each,
            "bottleneck": "encode" if encoding >= arriving else "read",
        }
    )


def _kept_bytes(plan: Plan) -> int:
    """What ``--pixels keep`` stores of the images that are to be computed."""
    digests = [cast(bytes, plan.digests[row]) for row in plan.pending.tolist()]
    return int((~kept_pixels_of(plan, digests).there).sum()) * 3 * plan.preprocess.crop**2


def _row_bytes(plan: Plan, encoder: Encoder, family: str) -> int:
    """Bytes of one row of a family on disk."""
    if family != "vectors" and plan.tokens is not None:
        return plan.tokens.row_bytes(encoder.patches or (0,), plan.key.dtype)
    return sum(math.prod(shape) for shape in encoder.arrays.values()) * np.dtype(plan.key.dtype).itemsize


def _reading_seconds(plan: Plan) -> float:
    """Seconds of one processor to read, decode and preprocess one sample, on average."""
    import torch

    jobs = jobs_of(plan.dataset, plan.digests, plan.pending.tolist())
    units = [list(run) for _, run in groupby(enumerate(jobs), key=lambda pair: pair[1].unit)]
    chosen = [units[place] for place in np.unique(np.linspace(0, len(units) - 1, _UNITS).round().astype(int))]
    recipes = [Recipe(plan.preprocess, kept_pixels_of(plan, [job.digest for job in jobs]))]
    target = [Space(torch.empty(3, plan.preprocess.crop, plan.preprocess.crop))]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        # The first file pays for loading the decoder.
        JobReader(recipes).read(
            chosen[0][0][1], chosen[0][0][0], target, dict.fromkeys(("read", "decode", "preprocess"), 0.0)
        )
        reader = JobReader(recipes)
        seconds = dict.fromkeys(("read", "decode", "preprocess"), 0.0)
        begin, opened, prepared = time.perf_counter(), 0, 0
        for unit in chosen:
            for number, job in unit[:2]:
                reader.read(job, number, target, seconds)
                prepared += 1
            opened += 1
            if time.perf_counter() - begin > _SECONDS:
                break
    finally:
        torch.set_num_threads(threads)
    a_unit = (seconds["read"] + seconds["decode"]) / opened
    return a_unit * len(units) / len(jobs) + seconds["preprocess"] / prepared


def _encoding_seconds(encoder: Encoder, plan: Plan, device: str, batch_size: int) -> tuple[float, int | None]:
    """Seconds to encode one image in a batch, and the CUDA device's memory that it took."""
    import torch

    pixels = torch.zeros(batch_size, 3, plan.preprocess.crop, plan.preprocess.crop)
    coding = None if plan.tokens is None else TokenCoding(TokenForm(layers=plan.tokens.layers))
    encoding = Encoding(encoder, device, {*encoder.arrays, TOKENS}, coding)

    def once() -> float:
        begin = time.perf_counter()
        encoding.start(pixels).rows([0])
        return time.perf_counter() - begin

    cuda = device.startswith("cuda")
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    seconds = min(once(), once())
    encoding.close()
    return seconds / batch_size, int(torch.cuda.max_memory_allocated(device)) if cuda else None
