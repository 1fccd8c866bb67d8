"""``featcache list``, ``info``, ``verify``, ``gc`` and ``rm``."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import chosen_path, chosen_store, home_option, json_option, store_options
from .render import changed, explained, print_json, print_notes, print_table, progress_bar, size

if TYPE_CHECKING:
    from featcache.store import FeatureStore


@click.command("list")
@home_option
@json_option
def list_(home: Path | None, as_json: bool) -> None:
    """List the stores of the home."""
    from featcache.errors import StoreError
    from featcache.store import FeatureStore, find_home, store_paths

    folder = find_home(home)
    stores, broken = [], []
    for path in store_paths(folder):
        try:
            stores.append(_summary(FeatureStore(path)))
        except StoreError as error:
            broken.append({"path": path, "reason": error.message})
    if as_json:
        print_json({"home": folder, "stores": stores, "unreadable": broken})
        return
    for store in broken:
        click.echo(f"unreadable: {store['path']}: {store['reason']}", err=True)
    if not stores:
        click.echo(f"no stores in {folder}; make one: featcache extract --model M --dataset D")
        return
    print_table(
        [
            {
                **store,
                "MB": store["bytes"] / 1e6,
                "arrays": ", ".join(store["arrays"]),
                "dead": store["dead_rows"],
                "age": _age(store["changed"]),
            }
            for store in stores
        ],
        ["dataset", "model", "rows", "failed", "dead", "precision", "arrays", "MB", "age", "name"],
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
        "dead_rows": store.dead_rows,
        "precision": store.key.precision,
        "arrays": store.names,
        "bytes": size(store.path),
        "changed": datetime.fromtimestamp(changed(store.path), UTC).isoformat(timespec="seconds"),
        "key": store.key.digest,
        "name": store.path.name,
        "path": store.path,
    }


def _age(changed: str) -> str:
    """How long ago, in the largest unit that fits."""
    seconds = (datetime.now(UTC) - datetime.fromisoformat(changed)).total_seconds()
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _print_details(details: dict[str, Any]) -> None:
    for name in ("dataset", "model", "path", "key", "rows", "failed", "dead_rows", "changed"):
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
        click.echo(
            f"quarantined: {failure['path']} ({failure['id']}): {explained(failure['reason'], failure['remedy'])}"
        )


@click.command()
@store_options
@click.option("--repair", "do_repair", is_flag=True, help="Remove damaged segments and compute their rows again.")
@click.option("--source", is_flag=True, help="Hash the source images again as well.")
@click.option("--root", type=click.Path(path_type=Path), help="Folder with the dataset's files, for the two above.")
@click.option("--weights", type=click.Path(path_type=Path), help="Checkpoint, for --repair.")
@json_option
def verify(
    store_path: Path | None, dataset: str | None, model: str | None, home: Path | None,
    do_repair: bool, source: bool, root: Path | None, weights: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Compare every file of a store with its checksums, and its dataset's masks. Exit code 1 if something is wrong."""
    from featcache.extraction import check_source, repair
    from featcache.store import verify_masks, verify_store

    path = chosen_path(store_path, dataset, model, home)
    problems = verify_store(path)
    report = None
    if do_repair and problems:
        with progress_bar("repair") as progress:
            report = repair(path, root=root, weights=weights, progress=progress)
    changed = check_source(path, root or _own_root(path)) if source else []
    left = verify_store(path) if report is not None else problems
    masks = verify_masks(path.parent)
    problems, left = [*problems, *masks], [*left, *masks]
    if as_json:
        print_json({
            "store": path, "problems": [asdict(problem) for problem in problems],
            "computed": report.computed if report else 0, "left": [asdict(problem) for problem in left],
            "changed_sources": [asdict(failure) for failure in changed],
        })  # fmt: skip
    else:
        for problem in problems:
            click.echo(f"{problem.file}: {problem.what}")
        for failure in changed:
            click.echo(f"source {failure.path} ({failure.id}): {failure.reason}. {failure.remedy}")
        if report is not None:
            click.echo(f"repaired: {report.computed} rows computed again, {len(left)} problems left")
        damaged = changed or not all(problem.incomplete for problem in left)
        click.echo(f"{path}: {'NOT intact' if damaged else 'intact, incomplete' if left else 'intact'}")
    if changed or not all(problem.incomplete for problem in left):
        raise click.exceptions.Exit(1)


@click.command()
@store_options
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def gc(
    store_path: Path | None, dataset: str | None, model: str | None, home: Path | None, yes: bool, as_json: bool
) -> None:
    """Remove rows that no sample needs any more, and leftovers of killed runs."""
    from featcache.store import collect_garbage, plan_gc

    path = chosen_path(store_path, dataset, model, home)
    plan = plan_gc(path)
    click.echo(
        f"{path.name}: {plan.live_rows} rows are needed, {plan.dead_rows} are not; {len(plan.segments)} segments to "
        f"rewrite, {len(plan.leftovers)} leftovers, {plan.total_bytes / 1e6:.1f} MB to free",
        err=as_json,
    )
    for family, own in plan.tokens.items():
        told = f"{own.live_rows} rows are needed, {own.dead_rows} are not, {len(own.leftovers)} leftovers"
        click.echo(f"  {family}: {told}", err=as_json)
    if not plan.idle:
        if not yes:
            _ask("Go on?", err=as_json)
        plan = collect_garbage(path)
    if as_json:
        print_json({"store": path, "live_rows": plan.live_rows, "dead_rows": plan.dead_rows, "bytes": plan.total_bytes})


@click.command()
@store_options
@click.option("--family", help="Remove only this family of patch tokens, for example patches_pca64_int8.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def rm(
    store_path: Path | None, dataset: str | None, model: str | None, home: Path | None, family: str | None, yes: bool
) -> None:
    """Remove one store, or one family of its tokens. The samples table and other stores of the dataset stay."""
    from featcache.store import check_family, remove_family, remove_store

    if store_path is None and dataset is None and model is None:
        raise click.UsageError("say which: --store, or --dataset and --model")
    path = chosen_path(store_path, dataset, model, home)
    if family is not None:
        check_family(path, family)
    doomed = path if family is None or path.is_file() else path / family
    what = str(path) if family is None else f"{family} of {path}"
    if not yes:
        _ask(f"Remove {what} ({'the file has ' if doomed.is_file() and family else ''}{size(doomed) / 1e6:.1f} MB)?")
    if family is None:
        remove_store(path)
    else:
        remove_family(path, family)
    click.echo(f"removed {what}")


def _ask(question: str, *, err: bool = False) -> None:
    """End the command unless the answer is yes; no answer, as from a script, is none."""
    try:
        agreed = click.confirm(question, err=err)
    except click.Abort:
        agreed = False
    if not agreed:
        raise click.ClickException("nothing was removed; --yes goes on without asking")


def _own_root(path: Path) -> Path:
    from featcache.datasets import load_dataset
    from featcache.store import read_samples

    table = read_samples(path.parent)
    return load_dataset(table.registry_name if table is not None else path.parent.name).root
