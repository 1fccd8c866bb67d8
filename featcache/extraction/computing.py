"""``compute``: plans to committed rows, all of them in one pass over the images."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from featcache.errors import ConfigurationError, StoreError, WeightsError
from featcache.extraction.compiling import compile_planned
from featcache.extraction.devices import processors, resolve_device
from featcache.extraction.fitting_basis import fit_basis
from featcache.extraction.fitting_batch import plan_memory
from featcache.extraction.jobs import jobs_of
from featcache.extraction.kept_pixels import KeptPixels, pixel_key, pixel_recipe
from featcache.extraction.outcome import Outcome
from featcache.extraction.pipeline import Stream, run_pipeline
from featcache.extraction.plan import Plan, forget_weights, union_of
from featcache.extraction.sharding import first_rows, refuse_packed, units_of_rows
from featcache.extraction.sinks import Target
from featcache.extraction.token_coding import TokenCoding
from featcache.imaging import Preprocess
from featcache.models import Encoder, Precision, RuntimeName, load_encoder
from featcache.records import Progress
from featcache.store import TOKENS, StoreWriter, TokenForm, form_of, open_writer, read_basis, unpack

__all__ = ["check_form", "compute", "existing_folder", "kept_pixels_of", "load_planned"]


def compute(
    plans: Sequence[Plan],
    *,
    device: str,
    batch_size: int | None,
    workers: int | None,
    compile: str,
    keep_pixels: bool,
    progress: Callable[[Progress], None] | None,
) -> list[Outcome]:
    """Embed what the plans lack, reading and decoding each image once for all of them.

    Parameters
    ----------
    plans
        Of one dataset; several of them with several models.
    device, batch_size, workers, progress
        See :func:`featcache.extract`.
    compile
        ``auto``, ``on`` or ``off``, see :func:`featcache.extract`.
    keep_pixels
        Keep decoded pixels for models that come later.

    Returns
    -------
    list of Outcome
        One a plan, in their order.
    """
    device = resolve_device(device)
    batch_size = plan_memory(plans, device, batch_size).batch_size
    workers = workers or processors()
    encoders = [load_planned(plan, device) for plan in plans]
    for plan, encoder in zip(plans, encoders, strict=True):
        _check_tokens(plan, encoder)
        compile_planned(encoder, plan, device, batch_size, compile)
    samples, digests = plans[0].dataset.samples, plans[0].digests
    units = units_of_rows(samples["path"].tolist(), samples["selector"].tolist(), digests)
    together = int(np.bincount(units[first_rows(digests)]).max(initial=1))
    ranks = _ranks(plans[0], units)
    with contextlib.ExitStack() as opened:
        families = [
            _open_families(opened, plan, encoder, device, batch_size=batch_size, together=together)
            for plan, encoder in zip(plans, encoders, strict=True)
        ]
        rows = union_of({str(number): union_of(missing) for number, (missing, *_) in enumerate(families)})
        rows = np.array(sorted(rows.tolist(), key=ranks.__getitem__), np.int64)
        jobs = jobs_of(plans[0].dataset, plans[0].digests, rows.tolist(), ranks=ranks)
        streams = [
            Stream(encoder, plan.preprocess, _targets(missing, writers, rows), coding)
            for plan, encoder, (missing, writers, coding) in zip(plans, encoders, families, strict=True)
        ]
        kept = {plan.preprocess: kept_pixels_of(plan, [job.digest for job in jobs]) for plan in plans}
        if jobs:
            run_pipeline(
                jobs,
                streams,
                device=device,
                batch_size=batch_size,
                workers=workers,
                kept=kept,
                keeping=_keeping(opened, plans, kept) if keep_pixels else None,
                progress=progress,
            )
    return [stream.outcome for stream in streams]


def kept_pixels_of(plan: Plan, digests: Sequence[bytes]) -> KeptPixels:
    """What earlier runs kept of the images that a plan's model sees, in the order of the digests."""
    return KeptPixels(plan.folder / pixel_key(plan.preprocess, plan.key.decoders).store_name, digests)


def _keeping(
    opened: contextlib.ExitStack, plans: Sequence[Plan], kept: Mapping[Preprocess, KeptPixels]
) -> dict[Preprocess, Target]:
    """For each way to see the images, a writer for the pixels that are not kept yet; models may share one."""
    targets: dict[Preprocess, Target] = {}
    seen: dict[Preprocess, Preprocess] = {}
    for plan in plans:
        recipe, shared = plan.preprocess, pixel_recipe(plan.preprocess)
        if seen.setdefault(shared, recipe) != recipe or recipe in targets:
            continue
        missing = frozenset(np.flatnonzero(~kept[recipe].there).tolist())
        writer = opened.enter_context(
            open_writer(
                plan.folder,
                pixel_key(recipe, plan.key.decoders),
                arrays={"pixels": (3, recipe.crop, recipe.crop)},
                planned_rows=len(plan.dataset.samples),
                provenance={"created": datetime.now(UTC).isoformat(timespec="seconds"), "form": "zarr"},
                shard=plan.shard,
            )
        )
        targets[recipe] = Target(writer, {"pixels": "pixels"}, missing)
    return targets


def load_planned(plan: Plan, device: str) -> Encoder:
    """The encoder of a plan on its device, with the weights that the plan counted on.

    Raises
    ------
    WeightsError
        If the weights are others than when they were remembered.
    """
    runtime = cast(RuntimeName, plan.key.runtime.split(maxsplit=1)[0])
    precision = cast(Precision, plan.key.precision)
    kept: Precision = precision if runtime == "torch" else "fp32"
    encoder = plan.encoder
    if encoder is None or encoder.loaded_in not in ("fp32", kept):  # the latter: to be rounded no more than once
        encoder = load_encoder(plan.spec, replace(plan.weights, precision=kept), image_size=plan.preprocess.crop)
    if encoder.weights_digest != plan.key.weights:
        forget_weights(plan.spec, plan.weights)
        raise WeightsError(
            f"the weights of {plan.spec.name} changed, though their file's size and time did not: {plan.weights.path}",
            remedy="Run the same command again: the file has been noted as changed, its features get another store.",
        )
    return encoder.to(device, precision, runtime=runtime)


def _ranks(plan: Plan, units: NDArray[np.int64]) -> dict[int, int]:
    """Place of each row among the plan's rows that have features of their own: the first of each digest.

    In the order of the table, but with the slices of a volume after each other, which are decoded once for all of them.
    """
    first: dict[bytes, int] = {}
    for row in np.argsort(units, kind="stable").tolist():
        digest = plan.digests[row]
        if digest is not None and (plan.own is None or plan.own[row]):
            first.setdefault(digest, row)
    return {row: rank for rank, row in enumerate(first.values())}


def _open_families(
    opened: contextlib.ExitStack, plan: Plan, encoder: Encoder, device: str, *, batch_size: int, together: int
) -> tuple[dict[str, NDArray[np.int64]], dict[str, Any], TokenCoding | None]:
    """What each family lacks, its writer, and how tokens are coded. Nobody else writes once they are open."""
    if plan.form == "zarr" and form_of(plan.store) == "hdf5" and not (plan.store / "zarr.json").is_file():
        refuse_packed(plan)
        unpack(plan.store)
    facts: dict[str, Any] = {
        "planned_rows": len(plan.dataset.samples),
        "together": together,
        "provenance": {**_provenance(plan, device, batch_size), "form": plan.form},
        "shard": plan.shard,
    }
    writers = {"vectors": opened.enter_context(open_writer(plan.folder, plan.key, arrays=encoder.arrays, **facts))}
    # Another process may have committed some of the rows while this one waited or loaded weights.
    missing = plan.still_missing()
    form = plan.tokens
    if form is None:
        return missing, writers, None
    basis = _basis(plan, encoder, form, device, batch_size)
    facts |= {"arrays": form.arrays(encoder.patches or ()), "family": form.family, "basis": basis}
    writers[form.family] = opened.enter_context(open_writer(plan.folder, plan.key, **facts))
    if basis is not None:  # another process may have made the family, with the basis that all rows have
        basis = read_basis(plan.store / form.family)
    return missing, writers, TokenCoding(form, basis)


def _basis(plan: Plan, encoder: Encoder, form: TokenForm, device: str, batch_size: int) -> NDArray[np.float32] | None:
    """What tokens are projected onto: the basis of the rows that are there, else a new one."""
    if form.pca is None:
        return None
    group = plan.store / form.family
    if (group / "zarr.json").is_file():
        return read_basis(group)
    return fit_basis(plan, encoder, form, device, batch_size)


def _targets(
    missing: dict[str, NDArray[np.int64]], writers: dict[str, StoreWriter], rows: NDArray[np.int64]
) -> list[Target]:
    numbers = {row: number for number, row in enumerate(rows.tolist())}
    return [
        Target(
            writers[family],
            {name: name for name in writers[family].features},
            frozenset(numbers[row] for row in own.tolist()),
        )
        for family, own in missing.items()
    ]


def _check_tokens(plan: Plan, encoder: Encoder) -> None:
    """Refuse what no model or no disk can hold, before any image is read."""
    check_form(plan, encoder)
    form = plan.tokens
    rows = 0 if form is None else len(plan.missing[form.family])
    if form is None or encoder.patches is None or not rows:
        return
    needed = rows * form.row_bytes(encoder.patches, plan.key.dtype) * (2 if plan.form == "hdf5" else 1)
    free = shutil.disk_usage(existing_folder(plan.folder)).free
    if needed > free:
        raise StoreError(
            f"patch tokens of {rows} images, {form.arrays(encoder.patches)[TOKENS]} each, need {needed / 1e9:.1f} GB; "
            f"{plan.folder} has {free / 1e9:.1f} GB free",
            remedy="Free some space, choose another --home, a smaller --image-size, --token-dtype int8 or --token-pca.",
        )


def check_form(plan: Plan, encoder: Encoder) -> None:
    """Refuse tokens that the encoder does not give.

    Raises
    ------
    ConfigurationError
        If it has no grid, fewer layers, or tokens of fewer numbers.
    """
    form = plan.tokens
    if form is None:
        return
    if encoder.patches is None:
        raise ConfigurationError(f"{plan.spec.name} has no grid of patch tokens", remedy="Extract without --patches.")
    if form.layers > encoder.max_layers:
        raise ConfigurationError(
            f"{plan.spec.name} gives the patch tokens of {encoder.max_layers} layer(s), not of {form.layers}",
            remedy=f"--layers {encoder.max_layers}" if encoder.max_layers > 1 else "Leave --layers out.",
        )
    if form.pca is not None and form.pca > encoder.patches[-1]:
        raise ConfigurationError(
            f"tokens of {plan.spec.name} have {encoder.patches[-1]} numbers, {form.pca} components cannot be kept",
            remedy=f"--token-pca {encoder.patches[-1]} or less.",
        )


def existing_folder(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return folder if folder.is_dir() else existing_folder(folder.parent)


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
