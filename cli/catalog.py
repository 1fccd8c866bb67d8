"""``featcache models`` and ``featcache datasets``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from .options import json_option
from .render import print_json, print_table


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


@click.command()
@json_option
def datasets(as_json: bool) -> None:
    """List the datasets that featcache knows by name, and where their files are on this machine."""
    from featcache.datasets import DATASETS

    rows = [{**asdict(row), "found": _found(row.name)} for row in DATASETS]
    if as_json:
        print_json({"datasets": rows})
        return
    shown = [{**row, "task_types": ", ".join(row["task_types"])} for row in rows]
    print_table(shown, ["name", "modality", "task_types", "found", "summary"])
    for row in rows:
        click.echo(f"{row['name']} expects: {row['layout']}")


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
