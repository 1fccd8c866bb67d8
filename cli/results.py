"""``featcache results`` and ``featcache compare``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import NameList, home_option, json_option
from .probe import print_result
from .render import print_json, print_notes, print_table, result_dict

if TYPE_CHECKING:
    from featcache.results import Ledger


@click.command()
@click.argument("name", required=False)
@click.option("--probe", "probe_name", help="Only of this probe.")
@click.option("--dataset", help="Only of this dataset.")
@click.option("--model", help="Only of this model.")
@home_option
@json_option
def results(
    name: str | None, probe_name: str | None, dataset: str | None, model: str | None, home: Path | None, as_json: bool
) -> None:
    """List the recorded results, or show the one called NAME (the beginning of its id is enough)."""
    ledger = _ledger(home)
    if name is not None:
        result = ledger.read(name)
        if as_json:
            print_json(result_dict(result))
        else:
            print_result(result, per_class=True)
        return
    wanted = {"probe": probe_name, "dataset": dataset, "model": model}
    lines = [line for line in ledger.list() if all(value in (None, line[field]) for field, value in wanted.items())]
    if as_json:
        print_json({"results": lines})
        return
    if not lines:
        click.echo(f"no results in {ledger.folder}; make one: featcache probe knn")
        return
    print_table([_summary(line) for line in lines])


@click.command()
@click.argument("first")
@click.argument("second")
@click.option("--metrics", type=NameList(), help="To compare [auroc,balanced_accuracy; of segmentations dice].")
@click.option("--runs", nargs=2, type=int, default=(0, 0), help="Which run of each, from 0.")
@click.option("--n-bootstrap", type=click.IntRange(min=1), default=2000, show_default=True, help="Resamples.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the resamples.")
@home_option
@json_option
def compare(first: str, second: str, runs: tuple[int, int], home: Path | None, as_json: bool, **options: Any) -> None:
    """Test whether result FIRST differs from SECOND on the samples that both scored."""
    from featcache.results import compare_results

    ledger = _ledger(home)
    found = compare_results(ledger.read(first), ledger.read(second), run=runs, **options)
    if as_json:
        print_json(asdict(found))
        return
    click.echo(f"A: {found.first}")
    click.echo(f"B: {found.second}")
    units = "volumes" if found.metrics[0].metric in ("dice", "iou", "hd95", "surface_dice") else "samples"
    click.echo(f"task {found.task}, {found.n_rows} {units}")
    for comparison in found.metrics:
        click.echo(comparison.sentence("A", "B"))
    if len(found.labels) > 1:
        what = found.labels[0][1].metric.replace("auroc", "AUROC")
        print_table([
            {"label": label, f"{what} of A": one.first, f"{what} of B": one.second, "difference": one.difference.value,
             "p": one.p_value, "p (Holm)": one.p_adjusted, "test": one.test}
            for label, one in found.labels
        ])  # fmt: skip
    for label, one in found.labels[:1] if len(found.labels) == 1 else ():
        click.echo(f"{label}: {one.sentence('A', 'B')}")
    print_notes(found.notes)


def _ledger(home: Path | None) -> Ledger:
    from featcache.results import Ledger
    from featcache.store import find_home

    return Ledger(find_home(home) / "results")


def _summary(line: dict[str, Any]) -> dict[str, Any]:
    found = line["metrics"]
    values = {name: value for name, value in found.items() if isinstance(value, float)}
    more = f" (+{found['runs'] - 1})" if found["runs"] > 1 else ""
    setting = ", ".join(f"{name} = {value}" for name, value in found["parameters"].items())[:40]
    return {
        "id": line["id"], "created": line["created"], "dataset": line["dataset"], "model": line["model"],
        "task": line["task"], "features": line["config"]["features"], "setting": setting + more,
        "split": found["split"], "n": found["n"], **values,
    }  # fmt: skip
