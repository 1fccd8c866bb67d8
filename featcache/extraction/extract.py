"""``extract``: the one call from names to a finished store."""

from __future__ import annotations

import contextlib
import importlib.metadata
import math
import os
import platform
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from featcache.datasets import Dataset, load_dataset
from featcache.errors import ConfigurationError, StoreError, WeightsError
from featcache.extraction.devices import default_batch_size, resolve_device
from featcache.extraction.pipeline import Outcome, Target, run_pipeline
from featcache.extraction.plan import Plan, forget_weights, make_plan, missing_rows, portable_name, union_of
from featcache.extraction.reading import Job
from featcache.imaging import Preprocess
from featcache.models import Encoder, load_encoder, resolve_model
from featcache.records import ExtractionReport, Failure, Progress
from featcache.store import (
    TOKENS,
    FeatureStore,
    StoreFormat,
    find_home,
    finish_session,
    form_of,
    is_store,
    open_forms,
    open_writer,
    packed_path,
    remember_last_store,
    seal,
    unpack,
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
    patches: bool = False,
    format: StoreFormat | None = None,
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
    patches
        Store the last layer's patch tokens too; of rows that have vectors already, only these are added.
    format
        Default: that of the store, if it is there, else ``zarr``. With ``hdf5`` the store ends as one ordinary,
        read-only ``.h5`` file; a later extraction computes only what that file lacks, in new segments beside it,
        and packs both into a new file.
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
        registry_name = portable_name(dataset) if isinstance(dataset, str) else dataset.name
    folder = find_home(home)
    loaded = load_dataset(dataset, root=root, home=folder, **dataset_options) if isinstance(dataset, str) else dataset
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
        patches=patches,
        format=format,
    )
    outcome = Outcome()
    if len(plan.pending):
        outcome = _compute(plan, device, batch_size, workers, progress)
    failures = (*plan.failures, *_with_duplicates(plan, outcome.failures))
    store = _finish(plan, failures)
    if store is not None:
        remember_last_store(folder, store)
    return _report(plan, store or plan.store, outcome, failures, seconds=time.perf_counter() - begin)


def _finish(plan: Plan, failures: tuple[Failure, ...]) -> Path | None:
    """Leave the store in its form with the list of failures in it; None if there is no store."""
    has_group = (plan.store / "zarr.json").is_file()
    packed = packed_path(plan.store)
    if has_group:
        finish_session(plan.store)
        write_quarantine(plan.store, failures)
    if plan.form == "zarr":
        return plan.store if has_group else None
    if has_group or (packed.is_file() and FeatureStore(packed).failures != failures):
        return seal(plan.store, failures)
    return packed if packed.is_file() else None


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
    _check_tokens(plan, encoder)
    if plan.form == "zarr" and form_of(plan.store) == "hdf5" and not (plan.store / "zarr.json").is_file():
        unpack(plan.store)
    paths = plan.dataset.samples["path"].tolist()
    batch_size = batch_size or default_batch_size(device)
    facts: dict[str, Any] = {
        "planned_rows": len(plan.dataset.samples),
        "provenance": {**_provenance(plan, device, batch_size), "form": plan.form},
    }
    with contextlib.ExitStack() as opened:
        writer = opened.enter_context(open_writer(plan.folder, plan.key, arrays=encoder.arrays, **facts))
        # Another process may have committed some of the rows while this one waited or loaded weights.
        missing = missing_rows(plan.digests, open_forms(plan.store, plan.form), tuple(plan.missing))
        rows = union_of(missing)
        jobs = [Job(plan.dataset.sample(row), paths[row], cast(bytes, plan.digests[row])) for row in rows.tolist()]
        places = {family: frozenset(np.searchsorted(rows, own).tolist()) for family, own in missing.items()}
        targets = [Target(writer, {name: name for name in encoder.arrays}, places["vectors"])]
        for family in [family for family in missing if family != "vectors"]:
            own = open_writer(plan.folder, plan.key, arrays={TOKENS: encoder.patches or ()}, family=family, **facts)
            targets.append(Target(opened.enter_context(own), {TOKENS: family}, places[family]))
        return run_pipeline(
            jobs,
            encoder,
            plan.preprocess,
            targets,
            device=device,
            batch_size=batch_size,
            workers=workers or min(16, os.cpu_count() or 1),
            progress=progress,
        )


def _check_tokens(plan: Plan, encoder: Encoder) -> None:
    """Refuse what no model or no disk can hold, before any image is read."""
    rows = len(plan.missing.get("patches", ()))
    if not rows:
        return
    if encoder.patches is None:
        raise ConfigurationError(f"{plan.spec.name} has no grid of patch tokens", remedy="Extract without --patches.")
    needed = rows * math.prod(encoder.patches) * np.dtype(plan.key.dtype).itemsize * (2 if plan.form == "hdf5" else 1)
    free = shutil.disk_usage(_existing(plan.folder)).free
    if needed > free:
        raise StoreError(
            f"patch tokens of {rows} images, {encoder.patches} each, need {needed / 1e9:.1f} GB; "
            f"{plan.folder} has {free / 1e9:.1f} GB free",
            remedy="Free some space, choose another --home, or a smaller --image-size.",
        )


def _existing(folder: Path) -> Path:
    return folder if folder.is_dir() else _existing(folder.parent)


def _with_duplicates(plan: Plan, failures: list[Failure]) -> list[Failure]:
    """A file that failed once fails for every sample that is the same file under another name."""
    if not failures:
        return []
    ids, paths = (plan.dataset.samples[column].tolist() for column in ("id", "path"))
    failed_ids = {failure.id: failure for failure in failures}
    failed = {plan.digests[row]: failed_ids[ids[row]] for row in plan.pending.tolist() if ids[row] in failed_ids}
    return [
        Failure(ids[row], paths[row], failed[digest].reason, failed[digest].remedy)
        for row, digest in enumerate(plan.digests)
        if digest in failed
    ]


def _report(
    plan: Plan, store: Path, outcome: Outcome, failures: tuple[Failure, ...], *, seconds: float
) -> ExtractionReport:
    all_there = not len(plan.pending) and not failures
    rows = len(plan.digests) if all_there else len(FeatureStore(store)) if is_store(store) else 0
    notes = list(plan.notes)
    if outcome.constant:
        shown = ", ".join(outcome.constant[:3])
        notes.append(f"{len(outcome.constant)} images have no contrast (all pixels equal), for example {shown}.")
    busiest = max(outcome.busy, key=lambda stage: outcome.busy[stage])
    return ExtractionReport(
        store=store,
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
        "revision": plan.weights.revision,
    }
