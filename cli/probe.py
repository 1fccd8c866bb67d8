"""``featcache probe knn`` and ``featcache probe logistic``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .options import NumberList, chosen_store, given, json_option, store_options
from .render import estimate, print_json, print_notes, print_table, result_dict

if TYPE_CHECKING:
    from featcache.records import Result

F = TypeVar("F", bound=Callable[..., Any])


def _probe_options(command: F) -> F:
    for option in (
        json_option,
        click.option("--allow-patient-overlap", is_flag=True, help="Score although patients straddle splits."),
        click.option("--seed", type=int, default=0, show_default=True, help="Of everything random."),
        click.option(
            "--n-bootstrap", type=click.IntRange(min=1), default=1000, show_default=True, help="Resamples of the CIs."
        ),
        click.option("--split", default="test", show_default=True, help="The split to score."),
        click.option("--features", default="cls", show_default=True, help="cls, patch_mean, cls+patch_mean, layers:4."),
        click.option("--task", help="Which of the dataset's tasks [the only one]."),
        store_options,
    ):
        command = option(command)
    return command


@click.group()
def probe() -> None:
    """Score the features of a store on a task of its dataset. Opens no image, imports no torch."""


@probe.command()
@click.option("--k", type=NumberList(int), default="20", show_default=True, help="One search serves all: 5,20,100.")
@click.option("--temperature", type=float, default=0.07, show_default=True, help="Of the softmax vote.")
@click.option("--standardize", is_flag=True, help="Standardise the features by their training statistics first.")
@_probe_options
def knn(**options: Any) -> None:
    """k nearest neighbours: exact cosine search (FAISS), softmax vote."""
    _run("knn", **options)


@probe.command()
@click.option("--C", "C", type=NumberList(float), help="Inverse regularisation strengths [45 from 1e-6 to 1e5].")
@_probe_options
def logistic(**options: Any) -> None:
    """L2 logistic regression on standardised features; C chosen on val, refit on train + val."""
    _run("logistic", **options)


def _run(
    name: str,
    *,
    store_path: Path | None,
    dataset: str | None,
    model: str | None,
    home: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    import featcache

    store = chosen_store(store_path, dataset, model, home)
    result = featcache.probe(name, store, **given(**options))
    if as_json:
        print_json(result_dict(result))
    else:
        _print_result(result)


def _print_result(result: Result) -> None:
    click.echo(
        f"{result.probe} on {result.dataset} / {result.model} ({result.key[:8]}), task {result.task}, "
        f"95 % CI over {result.config['resampled']}"
    )
    print_table(
        [
            {name: f"{value:g}" for name, value in run.parameters.items()}
            | {"split": run.split, "n": run.n}
            | {name: estimate(found) for name, found in run.metrics.items()}
            for run in result.runs
        ]
    )
    print_notes(result.notes)
