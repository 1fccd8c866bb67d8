"""``featcache extract``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import dataset_options, given, home_option, json_option
from .render import print_json, print_notes, progress_bar

if TYPE_CHECKING:
    from featcache.records import ExtractionReport


@click.command()
@click.option("--model", required=True, help="A name (`featcache models`), hf:<id or folder>, timm:<name>.")
@click.option("--dataset", required=True, help="A name (`featcache datasets`).")
@dataset_options
@home_option
@click.option("--weights", type=click.Path(path_type=Path), help="Checkpoint file instead of the model's own.")
@click.option("--preprocess", default="model", show_default=True, help="model, dinov2 or radiology.")
@click.option("--image-size", type=int, help="Input size in pixels [the model's native size].")
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
    default="auto",
    show_default=True,
    help="What the network computes in; auto: as an existing store, else bf16 on recent GPUs, else fp32.",
)
@click.option(
    "--dtype",
    type=click.Choice(["auto", "float16", "float32"]),
    default="auto",
    show_default=True,
    help="In which features are stored.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Images a batch [by device].")
@click.option("--workers", type=click.IntRange(min=1), help="Reading threads [number of processors].")
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
