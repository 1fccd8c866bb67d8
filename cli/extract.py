"""``featcache extract``, ``why`` and ``labels``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import dataset_options, extraction_options, given, home_option, json_option, model_option, models_option
from .render import duration, explained, print_json, print_notes, progress_bar

if TYPE_CHECKING:
    pass


if TYPE_CHECKING:
    from featcache.records import ExtractionReport


@click.command()
@models_option
@extraction_options
@click.option("--batch-size", type=click.IntRange(min=1), help="Images a batch [by device].")
@click.option(
    "--compile",
    type=click.Choice(["auto", "on", "off"]),
    default="auto",
    show_default=True,
    help="torch.compile; auto: on CUDA, where the planned images repay it.",
)
@click.option("--workers", type=click.IntRange(min=1), help="Reading processes [number of processors].")
@click.option(
    "--pixels",
    type=click.Choice(["drop", "keep"]),
    default="drop",
    show_default=True,
    help="keep: store the decoded, resized 8-bit pixels, so that a later model need not decode.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be computed, stored and how long it takes; do nothing.")
@click.option("--shard", help="i/n: only the rows of the i-th of n shards, i from 1 (docs/scaling.md).")
@click.option("--devices", help="One process each: 0,1 (CUDA devices) or cpu,cpu.")
@click.option("--allow-failures", is_flag=True, help="Exit with 0 although images were quarantined.")
@json_option
def extract(models: tuple[str, ...], dry_run: bool, allow_failures: bool, as_json: bool, **options: Any) -> None:
    """Embed every image that the store does not hold yet.

    Run it again at any time: it computes only what is missing. Unreadable images go to a quarantine list
    and the exit code is 2. Several --model read and decode each image once.
    """
    import featcache

    if dry_run:
        _print_forecasts(models, as_json, options)
        return
    with progress_bar(", ".join(models)) as progress:
        reports = featcache.extract_models(models, progress=progress, **given(**options))
    if as_json:
        print_json(
            _report_dict(reports[0]) if len(reports) == 1 else {"reports": [_report_dict(one) for one in reports]}
        )
    else:
        for report in reports:
            _print_report(report)
    if any(report.failed for report in reports) and not allow_failures:
        raise click.exceptions.Exit(2)


def _report_dict(report: ExtractionReport) -> dict[str, Any]:
    fields = asdict(report)
    fields["failures"] = [asdict(failure) for failure in report.failures]
    return fields


def _print_report(report: ExtractionReport) -> None:
    click.echo(
        f"{report.dataset} / {report.model}: {report.rows} rows, {report.computed} computed, "
        f"{report.reused} reused, {report.failed} failed, {report.seconds:.1f} s"
    )
    if report.images_per_second is not None:
        busy = ", ".join(f"{stage} {share:.0%}" for stage, share in report.busy.items())
        click.echo(
            f"{report.images_per_second:.1f} images/s in {report.precision}; busy: {busy}; "
            f"bottleneck: {report.bottleneck}"
        )
        click.echo(f"to be faster: {report.advice}")
    click.echo(f"store: {report.store}")
    print_notes(report.notes)
    for failure in report.failures[:20]:
        click.echo(f"quarantined: {failure.path} ({failure.id}): {explained(failure.reason, failure.remedy)}", err=True)
    if len(report.failures) > 20:
        click.echo(f"and {len(report.failures) - 20} more: `featcache info` lists them all", err=True)


def _print_forecasts(models: tuple[str, ...], as_json: bool, options: dict[str, Any]) -> None:
    from featcache.extraction import estimate

    own = {name: options.pop(name) for name in (*_KEY_OPTIONS, *_RUN_OPTIONS)}
    forecasts = estimate(models, dataset_options=given(**options), **given(**own))
    if as_json:
        print_json({"forecasts": [asdict(forecast) for forecast in forecasts]})
        return
    for found in forecasts:
        click.echo(
            f"{found.model}: {found.forward_passes} of {found.rows} images to compute, {found.saved} forward passes "
            f"saved; {found.stored_bytes / 1e9:.3g} GB to store, {found.free_bytes / 1e9:.3g} GB free"
        )
        if found.images_per_second is not None:
            memory = "" if found.device_bytes is None else f", {found.device_bytes / 1e9:.3g} GB of its memory"
            click.echo(
                f"  about {duration(found.seconds)}: {found.images_per_second:.1f} images/s on {found.device}{memory}, "
                f"in batches of {found.batch_size} with {found.workers} reading processes; "
                f"the longer side: {found.bottleneck}"
            )


@click.command()
@model_option
@extraction_options
@json_option
def why(model: str, dataset: str, root: Path | None, as_json: bool, **options: Any) -> None:
    """Say what an extract would compute and which field of the key differs from the nearest store."""
    from featcache.extraction import why as explain

    own = {name: options.pop(name) for name in _KEY_OPTIONS}
    found = explain(model, dataset, root=root, dataset_options=given(**options), **given(**own))
    if as_json:
        print_json(asdict(found))
        return
    click.echo(
        f"{found.store.name}: {'exists' if found.exists else 'does not exist'}, {found.missing} images to compute"
    )
    if found.nearest is not None:
        click.echo(f"nearest other store of the dataset: {found.nearest.name}; it differs in")
        for difference in found.differences:
            click.echo(f"  {difference}")


_KEY_OPTIONS = (
    "home",
    "weights",
    "preprocess",
    "image_size",
    "precision",
    "runtime",
    "dtype",
    "device",
    "patches",
    "layers",
    "token_dtype",
    "token_pca",
    "format",
)


_RUN_OPTIONS = ("root", "dataset", "batch_size", "workers", "compile", "pixels", "shard", "devices")
"""What decides how an extraction runs; all others are the dataset's."""


@click.command()
@click.option("--dataset", required=True, help="A name (`featcache datasets`).")
@dataset_options
@home_option
@json_option
def labels(dataset: str, root: Path | None, home: Path | None, as_json: bool, **options: Any) -> None:
    """Read labels, splits and tasks of a dataset anew, for all of its stores. Computes no features."""
    from featcache.extraction import update_labels

    folder, rows, failures = update_labels(dataset, root=root, home=home, **given(**options))
    if as_json:
        print_json({"folder": folder, "rows": rows, "unreadable": len(failures)})
    else:
        click.echo(f"{folder.name}: {rows} samples; every store of the dataset sees them")
    if failures:
        click.echo(
            f"{len(failures)} files cannot be read, for example {failures[0].path}; they keep what they had", err=True
        )
        raise click.exceptions.Exit(2)
