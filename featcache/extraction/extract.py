"""``extract``: the one call from names to a finished store."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast

from featcache.datasets import Dataset, load_dataset
from featcache.errors import ConfigurationError, WeightsError
from featcache.extraction.devices import default_batch_size, resolve_device
from featcache.extraction.pipeline import Outcome, run_pipeline
from featcache.extraction.plan import Plan, forget_weights, make_plan, pending_rows
from featcache.extraction.reading import Job
from featcache.imaging import Preprocess
from featcache.models import load_encoder, resolve_model
from featcache.records import ExtractionReport, Failure, Progress
from featcache.store import (
    FeatureStore,
    find_home,
    finish_session,
    open_writer,
    remember_last_store,
    write_quarantine,
)

__all__ = ["extract"]


def extract(
    model: str,
    dataset: str | Dataset,
    *,
    root: Path | str | None = None,
    home: Path | str | None = None,
    weights: Path | str | None = None,
    preprocess: str | Preprocess = "model",
    image_size: int | None = None,
    precision: str = "auto",
    dtype: str = "auto",
    device: str = "auto",
    batch_size: int | None = None,
    workers: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    registry_name: str | None = None,
    **dataset_options: Any,
) -> ExtractionReport:
    """Embed every image of a dataset that the store does not hold yet.

    Parameters
    ----------
    model
        A registry name, ``hf:<id or folder>`` or ``timm:<name>``.
    dataset
        A registry name, or a loaded :class:`~featcache.datasets.Dataset`.
    root
        Folder with the dataset's files.
    home
        Folder of the stores; default FEATCACHE_HOME or the platform's data folder.
    weights
        A checkpoint file, instead of the model's own.
    preprocess
        ``model``, ``dinov2``, ``radiology``, or a specification of your own.
    image_size
        Input size in pixels; default the model's native one.
    precision
        ``auto``, ``fp32``, ``bf16`` or ``fp16``: what the network computes in.
    dtype
        ``auto``, ``float16`` or ``float32``: what the features are stored in.
    device
        ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
    batch_size
        Images a batch; default by device.
    workers
        Reading threads; default the number of processors, at most 16.
    progress
        Called after each batch.
    registry_name
        The loader of a dataset that is given loaded; default its name.
    **dataset_options
        For the dataset's loader, see :func:`featcache.datasets.load_dataset`.

    Returns
    -------
    ExtractionReport
        What was computed, reused, and what failed. Failures do not raise: look at ``report.failed``.

    Raises
    ------
    FeatcacheError
        For unknown names, missing files, unusable weights, or a store that cannot be written.
    """
    begin = time.perf_counter()
    if batch_size is not None and batch_size < 1:
        raise ConfigurationError(f"batch size {batch_size} is not positive")
    spec = resolve_model(model)
    if registry_name is None:
        registry_name = dataset if isinstance(dataset, str) else dataset.name
    loaded = load_dataset(dataset, root=root, **dataset_options) if isinstance(dataset, str) else dataset
    folder = find_home(home)
    plan = make_plan(
        spec,
        loaded,
        home=folder,
        registry_name=registry_name,
        weights=weights,
        preprocess=preprocess,
        image_size=image_size,
        precision=precision,
        dtype=dtype,
        device=device,
    )
    outcome = Outcome()
    if len(plan.pending):
        outcome = _compute(plan, device, batch_size, workers, progress)
    failures = (*plan.failures, *_with_duplicates(plan, outcome.failures))
    if (plan.store / "zarr.json").is_file():
        finish_session(plan.store)
        write_quarantine(plan.store, failures)
        remember_last_store(folder, plan.store)
    return _report(plan, outcome, failures, time.perf_counter() - begin)


def _compute(
    plan: Plan,
    device: str,
    batch_size: int | None,
    workers: int | None,
    progress: Callable[[Progress], None] | None,
) -> Outcome:
    device = resolve_device(device)
    encoder = plan.encoder or load_encoder(plan.spec, plan.weights, image_size=plan.preprocess.crop)
    if encoder.weights_digest != plan.key.weights:
        forget_weights(plan.spec, plan.weights)
        raise WeightsError(
            f"the weights of {plan.spec.name} changed, though their file's size and time did not: {plan.weights.path}",
            remedy="Run the same command again: the file has been noted as changed, its features get another store.",
        )
    encoder = encoder.to(device, cast(Literal["fp32", "bf16", "fp16"], plan.key.precision))
    paths = plan.dataset.samples["path"].tolist()
    batch_size = batch_size or default_batch_size(device)
    with open_writer(
        plan.folder,
        plan.key,
        arrays=encoder.arrays,
        planned_rows=len(plan.dataset.samples),
        provenance=_provenance(plan, device, batch_size),
    ) as writer:
        # Another process may have committed some of the rows while this one waited or loaded weights.
        jobs = [
            Job(plan.dataset.sample(row), paths[row], cast(bytes, plan.digests[row]))
            for row in pending_rows(plan.digests, plan.store).tolist()
        ]
        return run_pipeline(
            jobs,
            encoder,
            plan.preprocess,
            writer,
            device=device,
            batch_size=batch_size,
            workers=workers or min(16, os.cpu_count() or 1),
            progress=progress,
        )


def _with_duplicates(plan: Plan, failures: list[Failure]) -> list[Failure]:
    """A file that failed once fails for every sample that is the same file under another name."""
    ids, paths = (plan.dataset.samples[column].tolist() for column in ("id", "path"))
    failed_ids = {failure.id: failure for failure in failures}
    failed = {plan.digests[row]: failed_ids[ids[row]] for row in plan.pending.tolist() if ids[row] in failed_ids}
    return [
        Failure(ids[row], paths[row], failed[digest].reason, failed[digest].remedy)
        for row, digest in enumerate(plan.digests)
        if digest in failed
    ]


def _report(plan: Plan, outcome: Outcome, failures: tuple[Failure, ...], seconds: float) -> ExtractionReport:
    rows = len(FeatureStore(plan.store)) if (plan.store / "zarr.json").is_file() else 0
    notes = list(plan.notes)
    if outcome.constant:
        shown = ", ".join(outcome.constant[:3])
        notes.append(f"{len(outcome.constant)} images have no contrast (all pixels equal), for example {shown}.")
    busiest = max(outcome.busy, key=lambda stage: outcome.busy[stage])
    return ExtractionReport(
        store=plan.store,
        key=plan.key.digest,
        model=plan.spec.name,
        dataset=plan.dataset.name,
        rows=rows,
        computed=outcome.computed,
        reused=rows - outcome.computed,
        failed=len(failures),
        seconds=seconds,
        images_per_second=outcome.computed / outcome.seconds if outcome.computed else None,
        bottleneck=cast(Literal["read", "encode", "write"], busiest) if outcome.computed else None,
        busy={stage: spent / outcome.seconds for stage, spent in outcome.busy.items()} if outcome.seconds else {},
        precision=plan.key.precision,
        failures=failures,
        notes=tuple(notes),
    )


def _provenance(plan: Plan, device: str, batch_size: int) -> dict[str, Any]:
    packages = ("featcache", "torch", "timm", "transformers", "numpy", "pillow", "nibabel")
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "packages": {name: importlib.metadata.version(name) for name in packages},
        "python": platform.python_version(),
        "device": device,
        "batch_size": batch_size,
        "weights_source": plan.weights.identity.split("|")[0].rsplit("/", 1)[-1],
        "checkpoint": plan.spec.checkpoint,
    }
