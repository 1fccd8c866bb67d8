"""``featcache models`` and ``featcache datasets``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import dataset_options, given, json_option
from .render import print_json, print_notes, print_table

if TYPE_CHECKING:
    from featcache.datasets import DatasetReport


@click.command()
@json_option
def models(as_json: bool) -> None:
    """List the models that featcache knows by name."""
    from featcache.models import MODELS

    rows: list[dict[str, Any]] = [asdict(row) for row in MODELS]
    if as_json:
        print_json({"models": rows})
        return
    print_table(
        [{**row, "size": row["image_size"], "parameters": _millions(row["parameters"])} for row in rows],
        ["name", "source", "dim", "patch", "size", "parameters", "licence", "checkpoint", "summary"],
    )
    click.echo("besides: hf:<hub id or local folder>, timm:<name> with --weights FILE")


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def datasets(context: click.Context, as_json: bool) -> None:
    """List the datasets that featcache knows by name, and where their files are on this machine."""
    if context.invoked_subcommand is not None:
        return
    from featcache.datasets import DATASETS

    rows = [{**asdict(row), "found": _found(row.name)} for row in DATASETS]
    if as_json:
        print_json({"datasets": rows})
        return
    shown = [{**row, "task_types": ", ".join(row["task_types"])} for row in rows]
    print_table(shown, ["name", "modality", "task_types", "found", "summary"])
    for row in rows:
        click.echo(f"{row['name']} expects: {row['layout']}")


@datasets.command()
@click.argument("name")
@dataset_options
@click.option(
    "--decode", is_flag=True, help="Decode every file too; without it only names, sizes and headers are read."
)
@json_option
def check(name: str, root: Path | None, decode: bool, as_json: bool, **options: Any) -> None:
    """Compare a dataset's files with what its publisher ships. Exit code 1 if something is wrong.

    \b
      featcache datasets check nih --root /data/nih
    """
    from featcache.datasets import check_dataset

    report = check_dataset(name, root, decode=decode, **given(**options))
    if as_json:
        print_json({**asdict(report), "ok": report.ok})
    else:
        _print_check(report)
    if not report.ok:
        raise click.exceptions.Exit(1)


def _print_check(report: DatasetReport) -> None:
    click.echo(f"{report.dataset} at {report.root} ({report.seconds:.1f} s)")
    for split, count in report.samples.items():
        patients = f", {report.patients[split]} patients" if split in report.patients else ""
        click.echo(f"{split or 'no split'}: {count} samples{patients}")
    for check_ in report.counts:
        verdict = "as published" if check_.expected == check_.found else f"DIFFERS from the published {check_.expected}"
        click.echo(f"{check_.unit} in {check_.split}: {check_.found}, {verdict}")
    for task, splits in report.labels.items():
        click.echo(f"task {task}")
        print_table([{"split": split or "none", **labels} for split, labels in splits.items()])
    for what in ("missing", "surplus", "duplicates", "duplicates_across_splits", "overlap"):
        found = list(getattr(report, what))
        if found:
            shown = ", ".join(map(str, found[:5])) + (" …" if len(found) > 5 else "")
            click.echo(f"{what.replace('_', ' ')}: {len(found)}: {shown}")
    if report.unused:
        click.echo(f"{report.unused} further files that no row refers to")
    for failure in report.unreadable[:20]:
        click.echo(f"unreadable: {failure.path}: {failure.reason} {failure.remedy}")
    print_notes(report.notes)
    click.echo("ok" if report.ok else "NOT ok")


def _found(name: str) -> str | None:
    """Where a dataset's files are; None if they are not found without ``--root``."""
    from featcache.datasets import DATASETS, dataset_root, load_dataset
    from featcache.errors import FeatcacheError

    try:
        root = dataset_root(DATASETS[name])
        return str(root if root is not None else load_dataset(name).root)
    except FeatcacheError:
        return None


def _millions(count: int | None) -> str:
    return "-" if count is None else f"{count / 1e6:.1f} M"
