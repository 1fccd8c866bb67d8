"""``featcache extract``, ``why`` and ``labels``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import dataset_options, extraction_options, given, home_option, json_option
from .render import print_json, print_notes, progress_bar

if TYPE_CHECKING:
    from featcache.records import ExtractionReport


@click.command()
@extraction_options
@click.option("--batch-size", type=click.IntRange(min=1), help="Images a batch [by device].")
@click.option("--workers", type=click.IntRange(min=1), help="Reading threads [number of processors].")
@click.option("--shard", help="i/n: only the rows of the i-th of n shards, i from 1 (docs/scaling.md).")
@click.option("--devices", help="One process each: 0,1 (CUDA devices) or cpu,cpu.")
@click.option("--allow-failures", is_flag=True, help="Exit with 0 although images were quarantined.")
@json_option
def extract(allow_failures: bool, as_json: bool, **options: Any) -> None:
    """Embed every image that the store does not hold yet.

    Run it again at any time: it computes only what is missing. Unreadable images go to a quarantine list
    and the exit code is 2.
    """
    import featcache

    with progress_bar(options["model"]) as progress:
        report = featcache.extract(progress=progress, **given(**options))
    if as_json:
        print_json(_report_dict(report))
    else:
        _print_report(report)
    if report.failed and not allow_failures:
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
    click.echo(f"store: {report.store}")
    print_notes(report.notes)
    for failure in report.failures[:20]:
        click.echo(f"quarantined: {failure.path} ({failure.id}): {failure.reason} {failure.remedy}", err=True)
    if len(report.failures) > 20:
        click.echo(f"and {len(report.failures) - 20} more: `featcache info` lists them all", err=True)


@click.command()
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


_KEY_OPTIONS = ("home", "weights", "preprocess", "image_size", "precision", "dtype", "device", "patches", "format")


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
