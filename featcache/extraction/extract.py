"""``extract``: the one call from names to a finished store."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from featcache.datasets import Dataset, load_dataset
from featcache.errors import ConfigurationError
from featcache.extraction.compiling import checked_choice
from featcache.extraction.computing import compute
from featcache.extraction.devices import checked_precision, keep_memory
from featcache.extraction.masks import write_masks
from featcache.extraction.outcome import ADVICE, Outcome
from featcache.extraction.plan import (
    Plan,
    checked_models,
    make_plan,
    portable_name,
    record_samples,
    settle_model,
    token_form,
    union_of,
)
from featcache.extraction.several_devices import extract_on_devices, listed_devices
from featcache.extraction.sharding import Shard, checked_shard, rows_there, shard_notes
from featcache.imaging import Preprocess
from featcache.records import ExtractionReport, Failure, Progress
from featcache.store import (
    FeatureStore,
    StoreFormat,
    TokenDtype,
    find_home,
    finish_session,
    packed_path,
    remember_last_store,
    seal,
    write_quarantine,
)

__all__ = ["extract", "extract_models"]


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
    runtime: str = "auto",
    dtype: str = "auto",
    device: str = "auto",
    patches: bool = False,
    layers: int = 1,
    token_dtype: TokenDtype = "auto",
    token_pca: int | None = None,
    format: StoreFormat | None = None,
    pixels: Literal["drop", "keep"] = "drop",
    batch_size: int | None = None,
    workers: int | None = None,
    devices: str | Sequence[str] | None = None,
    shard: str | Shard | None = None,
    compile: str = "auto",
    progress: Callable[[Progress], None] | None = None,
    registry_name: str | None = None,
    **dataset_options: Any,
) -> ExtractionReport:
    """Embed every image of a dataset that the store does not hold yet.

    Parameters
    ----------
    model
        A registry name, ``hf:<id or folder>``, ``timm:<name>``, ``open_clip:<…>`` or ``my_model.py:build``.
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
    runtime
        ``torch`` or ``openvino`` (on a CPU, if it is installed): what runs the network; it is in the cache key with
        its version. ``auto``: as the existing store, else torch.
    dtype
        ``auto``, ``float16`` or ``float32``: what the features are stored in.
    device
        ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
    patches
        Store the last layer's patch tokens too; of rows that have vectors already, only these are added.
    layers
        With ``patches``: store the tokens of so many last blocks, each after the final norm.
    token_dtype
        With ``patches``: ``int8`` stores 8 bits a number and one scale a token; ``auto`` is the type of the features.
    token_pca
        With ``patches``: store so many principal components of each token, fitted without labels on a seeded sample
        of the dataset's images. Tokens of every form are a family of their own, ``patches_l5_pca64_int8``.
    format
        Default: that of the store, if it is there, else ``zarr``. With ``hdf5`` the store ends as one ordinary,
        read-only ``.h5`` file; a later extraction computes only what that file lacks, in new segments beside it,
        and packs both into a new file.
    pixels
        ``keep``: store the decoded, resized 8-bit pixels too (150 KB an image at 224 pixels), so that another model
        that sees the same needs no image file. What is kept is used without asking.
    batch_size
        Images a batch; default by device.
    workers
        Reading processes; default the number of processors, at most 32.
    devices
        One process each, instead of ``device``: ``"0,1"`` or ``["cuda:0", "cuda:1"]``. What a script calls with it
        must be below ``if __name__ == "__main__":``.
    shard
        ``"i/n"`` or (i, n), i from 1 to n: only the rows of the i-th of n shards. Others may write to the same store
        at the same time (docs/scaling.md).
    compile
        ``on``, ``off``, or ``auto``: torch.compile on CUDA, where the planned images repay it. It changes features
        within rounding only and is no part of the cache key.
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
    options = {name: value for name, value in locals().items() if name not in ("model", "dataset", "dataset_options")}
    return extract_models([model], dataset, **options, **dataset_options)[0]


def extract_models(
    models: Sequence[str],
    dataset: str | Dataset,
    *,
    root: Path | str | None = None,
    home: Path | str | None = None,
    weights: Path | str | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    workers: int | None = None,
    devices: str | Sequence[str] | None = None,
    shard: str | Shard | None = None,
    compile: str = "auto",
    progress: Callable[[Progress], None] | None = None,
    registry_name: str | None = None,
    preprocess: str | Preprocess = "model",
    image_size: int | None = None,
    precision: str = "auto",
    runtime: str = "auto",
    dtype: str = "auto",
    patches: bool = False,
    layers: int = 1,
    token_dtype: TokenDtype = "auto",
    token_pca: int | None = None,
    format: StoreFormat | None = None,
    pixels: Literal["drop", "keep"] = "drop",
    **dataset_options: Any,
) -> tuple[ExtractionReport, ...]:
    """Embed a dataset by several models: each image is read and decoded once for all of them.

    Parameters
    ----------
    models
        As ``model`` of :func:`extract`; each gets a store of its own.
    weights
        With one model only.
    dataset, root, home, device, batch_size, workers, devices, shard, compile, progress, registry_name
        See :func:`extract`.
    preprocess, image_size, precision, runtime, dtype, patches, layers, token_dtype, token_pca
        See :func:`extract`; they hold for all models.
    format, pixels, **dataset_options
        See :func:`extract`; they hold for all models.

    Returns
    -------
    tuple of ExtractionReport
        One a model, in their order.

    Raises
    ------
    FeatcacheError
        As :func:`extract`; before any image is read, if one of the models cannot be used.
    """
    begin = time.perf_counter()
    keep_memory()
    if batch_size is not None and batch_size < 1:
        raise ConfigurationError(f"batch size {batch_size} is not positive")
    checked_choice(compile)
    checked_precision(precision)
    tokens: dict[str, Any] = {"patches": patches, "layers": layers}
    tokens |= {"token_dtype": token_dtype, "token_pca": token_pca}
    token_form(**tokens)
    if pixels not in ("drop", "keep"):
        raise ConfigurationError(f"pixels {pixels!r}", remedy="drop or keep.")
    specs = checked_models(models, weights)
    if registry_name is None:
        registry_name = portable_name(dataset) if isinstance(dataset, str) else dataset.name
    shard = None if shard is None else checked_shard(shard)
    several = listed_devices(devices, device)
    device = several[0] if several else device
    folder = find_home(home)
    loaded = load_dataset(dataset, root=root, home=folder, **dataset_options) if isinstance(dataset, str) else dataset
    # Unusable weights are said before any image is read.
    seen: dict[str, Any] = {"weights": weights, "preprocess": preprocess, "image_size": image_size}
    facts: dict[str, Any] = {"precision": precision, "device": device}
    settled = [settle_model(spec, loaded, registry_name, **seen, **facts) for spec in specs]
    recorded = record_samples(loaded, folder / loaded.name, registry_name)
    plans = [
        make_plan(
            spec,
            loaded,
            home=folder,
            registry_name=registry_name,
            runtime=runtime,
            dtype=dtype,
            **facts,
            **tokens,
            format=format,
            recorded=recorded,
            settled=own,
            shard=shard,
        )
        for spec, own in zip(specs, settled, strict=True)
    ]
    if len(several) > 1 and any(len(plan.pending) for plan in plans):
        plans = [replace(plan, encoder=None) for plan in plans]  # each process loads its own
        arguments: dict[str, Any] = {
            "models": tuple(models),
            "dataset": loaded,
            "registry_name": registry_name,
            "home": folder,
            "weights": weights,
            "preprocess": preprocess,
            "image_size": image_size,
            "precision": _one_precision(plans),
            "runtime": runtime,
            "dtype": dtype,
            **tokens,
            "format": format,
            "pixels": pixels,
            "batch_size": batch_size,
            "workers": workers,
            "compile": compile,
        }
        total = len(union_of({plan.spec.name: plan.pending for plan in plans}))
        parts = extract_on_devices(several, arguments, shard=shard, total=total, progress=progress)
        joined = [_finish(plan, part.failures) or part.store for plan, part in zip(plans, parts, strict=True)]
        remember_last_store(folder, joined[-1])
        notes = _keep_masks(loaded, folder, patches, shard)
        seconds = time.perf_counter() - begin
        return tuple(
            replace(part, store=store, seconds=seconds, notes=(*part.notes, *notes))
            for part, store in zip(parts, joined, strict=True)
        )
    outcomes = {plan.store: Outcome() for plan in plans}
    pending = [plan for plan in plans if len(plan.pending)]
    if pending:
        found = compute(
            pending,
            device=device,
            batch_size=batch_size,
            workers=workers,
            compile=compile,
            keep_pixels=pixels == "keep",
            progress=progress,
        )
        outcomes |= {plan.store: outcome for plan, outcome in zip(pending, found, strict=True)}
    notes = _keep_masks(loaded, folder, patches, shard)
    reports = []
    for plan in plans:
        outcome = outcomes[plan.store]
        failures = (*plan.failures, *_with_duplicates(plan, outcome.failures))
        store = _finish(plan, failures)
        if store is not None:
            remember_last_store(folder, store)
        report = _report(plan, store or plan.store, outcome, failures, seconds=time.perf_counter() - begin)
        reports.append(replace(report, notes=(*report.notes, *notes)))
    return tuple(reports)


def _keep_masks(dataset: Dataset, home: Path, patches: bool, shard: Shard | None) -> tuple[str, ...]:
    """With patch tokens, the masks that heads are trained on; by the first shard for all. Says what there is to say."""
    if (
        not patches
        or (shard is not None and shard[0] > 1)
        or all(task.type != "segmentation" for task in dataset.tasks)
    ):
        return ()
    notes: list[str] = []
    for found in write_masks(dataset, home=home):
        notes += found.notes
        if found.failures:
            notes.append(
                f"{len(found.failures)} masks of {found.task} cannot be used, for example {found.failures[0].path}: "
                f"{found.failures[0].reason}"
            )
    return tuple(notes)


def _one_precision(plans: Sequence[Plan]) -> str:
    """The precision of all plans: every process must compute in it, whatever its device."""
    found = {plan.key.precision for plan in plans}
    if len(found) > 1:
        raise ConfigurationError(
            f"the stores of these models continue in {' and '.join(sorted(found))}",
            remedy="Extract them one after the other, or give --precision.",
        )
    return found.pop()


def _finish(plan: Plan, failures: tuple[Failure, ...]) -> Path | None:
    """Leave the store in its form with the list of failures in it; None if there is no store."""
    has_group = (plan.store / "zarr.json").is_file()
    packed = packed_path(plan.store)
    if has_group:
        finish_session(plan.store)
        write_quarantine(plan.store, failures, others=plan.ids_of_others())
    if plan.form == "zarr" or (plan.shard is not None and has_group):
        return plan.store if has_group else None
    if plan.shard is not None:
        return packed if packed.is_file() else None
    if has_group or (packed.is_file() and FeatureStore(packed).failures != failures):
        return seal(plan.store, failures)
    return packed if packed.is_file() else None


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
    rows = rows_there(plan, store, all_there=not len(plan.pending) and not failures)
    notes = [*plan.notes, *shard_notes(plan)]
    if outcome.constant:
        shown = ", ".join(outcome.constant[:3])
        notes.append(f"{len(outcome.constant)} images have no contrast (all pixels equal), for example {shown}.")
    if outcome.decoded_anew:
        notes.append(
            f"The kept pixels of {outcome.decoded_anew} images are damaged; these were decoded anew. "
            f"`featcache rm --dataset {plan.dataset.name} --model kept_pixels`, then --pixels keep, keeps them again."
        )
    if outcome.halved:
        notes.append(
            f"The device's memory did not hold a batch: {outcome.batch_size} images a forward pass; "
            f"--batch-size {outcome.batch_size} starts with that."
        )
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
        bottleneck=outcome.bottleneck,
        advice=ADVICE[outcome.bottleneck] if outcome.bottleneck else None,
        batch_size=outcome.batch_size or None,
        workers=outcome.workers or None,
        busy={stage: spent / outcome.seconds for stage, spent in outcome.busy.items()} if outcome.seconds else {},
        precision=plan.key.precision,
        failures=failures,
        notes=tuple(notes),
    )
