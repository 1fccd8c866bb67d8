"""``featcache list`` and ``featcache info``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import chosen_store, home_option, json_option, store_options
from .render import print_json, print_notes, print_table, size

if TYPE_CHECKING:
    from featcache.store import FeatureStore


@click.command("list")
@home_option
@json_option
def list_(home: Path | None, as_json: bool) -> None:
    """List the stores of the home."""
    import featcache
    from featcache.store import find_home

    stores = [_summary(store) for store in featcache.list_stores(home)]
    folder = find_home(home)
    if as_json:
        print_json({"home": folder, "stores": stores})
        return
    if not stores:
        click.echo(f"no stores in {folder}; make one: featcache extract --model M --dataset D")
        return
    print_table(
        [{**store, "MB": store["bytes"] / 1e6, "arrays": ", ".join(store["arrays"])} for store in stores],
        ["dataset", "model", "rows", "failed", "precision", "arrays", "MB", "name"],
    )
    click.echo(f"home: {folder}")


@click.command()
@store_options
@json_option
def info(store_path: Path | None, dataset: str | None, model: str | None, home: Path | None, as_json: bool) -> None:
    """Show what a store holds and how it was made."""
    store = chosen_store(store_path, dataset, model, home)
    splits = store.samples["split"].value_counts(dropna=False).sort_index()
    details = {
        **_summary(store),
        "arrays": {name: [*store[name].shape] for name in store.names},
        "splits": {str(name): int(count) for name, count in splits.items()},
        "tasks": [asdict(task) for task in store.tasks],
        "spec": store.key.as_dict(),
        "provenance": store.attributes["provenance"],
        "failures": [asdict(failure) for failure in store.failures],
        "notes": list(store.notes),
    }
    if as_json:
        print_json(details)
        return
    _print_details(details)


def _summary(store: FeatureStore) -> dict[str, Any]:
    return {
        "dataset": store.dataset,
        "model": store.model,
        "rows": len(store),
        "failed": len(store.failures),
        "precision": store.key.precision,
        "arrays": store.names,
        "bytes": size(store.path),
        "key": store.key.digest,
        "name": store.path.name,
        "path": store.path,
    }


def _print_details(details: dict[str, Any]) -> None:
    for name in ("dataset", "model", "path", "key", "rows", "failed"):
        click.echo(f"{name:12} {details[name]}")
    click.echo(f"{'size':12} {details['bytes'] / 1e6:.1f} MB")
    for name, shape in details["arrays"].items():
        click.echo(f"{'array':12} {name} {tuple(shape)} {details['spec']['dtype']}")
    click.echo(f"{'splits':12} " + ", ".join(f"{name} {count}" for name, count in details["splits"].items()))
    for task in details["tasks"]:
        click.echo(f"{'task':12} {task['name']} ({task['type']}): {', '.join(task['classes'])}")
    for field, value in details["spec"].items():
        click.echo(f"{'key field':12} {field} = {value}")
    for field, value in details["provenance"].items():
        click.echo(f"{'made with':12} {field} = {value}")
    print_notes(details["notes"])
    for failure in details["failures"]:
        click.echo(f"quarantined: {failure['path']} ({failure['id']}): {failure['reason']} {failure['remedy']}")
