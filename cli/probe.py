"""``featcache probe …``: ask a store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .options import NameList, NumberList, chosen_store, given, json_option, store_options
from .render import estimate, print_json, print_notes, print_table, result_dict

if TYPE_CHECKING:
    from featcache.records import ProbeRun, Result

F = TypeVar("F", bound=Callable[..., Any])


def _common_options(command: F) -> F:
    """What every probe takes."""
    for option in (
        json_option,
        click.option("--per-class", is_flag=True, help="Show the metrics of each class or label too."),
        click.option("--fresh", is_flag=True, default=None, help="Compute, although the ledger has this result."),
        click.option(
            "--allow-patient-overlap", is_flag=True, default=None, help="Score although patients straddle splits."
        ),
        click.option("--seed", type=int, default=0, show_default=True, help="Of everything random."),
        click.option(
            "--interval",
            type=click.Choice(["percentile", "bca"]),
            help="Kind of the 95 % bootstrap interval [percentile].",
        ),
        click.option("--n-bootstrap", type=click.IntRange(min=1), default=1000, show_default=True, help="Resamples."),
        click.option(
            "--thresholds",
            type=click.Choice(["half", "f1", "youden"]),
            help="Where a label counts as predicted: 0.5, or chosen on val [half].",
        ),
        click.option("--by", type=NameList(), help="Metrics of subgroups: sex,view."),
        click.option("--metrics", type=NameList(), help="auroc,f1,mcc … [accuracy,auroc,balanced_accuracy]."),
        click.option("--where", help="Only samples for which this holds: \"view == 'PA'\"."),
        click.option("--split", default="test", show_default=True, help="The split to score."),
        click.option("--labels", type=NameList(), help="Only these labels of a multi-label task."),
        click.option("--task", help="Which of the dataset's tasks [the only one that classifies]."),
        store_options,
    ):
        command = option(command)
    return command


_pool_option = click.option(
    "--pool",
    type=click.Choice(["mean", "max", "median", "attention"]),
    help="Slices of a volume become one row. attention is learnt with its head: featcache probe volume.",
)
_features_option = click.option(
    "--features", help="cls, patch_mean, cls+patch_mean, layers:4 … [cls; linear: all that its protocol combines]."
)


def _probe_options(command: F) -> F:
    """What a single probe takes besides."""
    for option in (
        click.option("--train-fraction", type=NumberList(float), help="Shares of the training rows: 0.01,0.1,1."),
        _features_option,
        _pool_option,
        _common_options,
    ):
        command = option(command)
    return command


@click.group()
def probe() -> None:
    """Score the features of a store on a task of its dataset. Opens no image; only a very large kNN loads torch.

    Asking the same again gives the recorded answer at once (`featcache results` lists them).
    """


@probe.command()
@click.option("--k", type=NumberList(int), help="One search serves all [10,20,100,200].")
@click.option("--temperature", type=float, help="Of the softmax vote [0.07].")
@click.option("--vote", type=click.Choice(["softmax", "majority"]), help="[softmax]")
@click.option("--standardize", is_flag=True, default=None, help="Standardise by the training statistics first.")
@click.option("--n-per-class", type=click.IntRange(min=1), help="Low-shot: learn from so many images a class.")
@click.option("--n-tries", type=click.IntRange(min=1), help="Low-shot: draws of these images; their mean is given [5].")
@click.option(
    "--algorithm",
    type=click.Choice(["auto", "faiss", "bf16", "float64"]),
    help="How the exact neighbours are found; the result is the same. auto: faiss, or a screen where it repays [auto].",
)
@click.option(
    "--index",
    type=click.Choice(["flat", "ivf", "hnsw"]),
    help="ivf, hnsw: approximate; the measured recall is noted [flat].",
)
@_probe_options
def knn(**options: Any) -> None:
    """k nearest neighbours: exact cosine search, one for all k. Learns from train."""
    _run("knn", **options)


@probe.command()
@click.option("--k", type=NumberList(int), help="One search serves all [10,20,100,200].")
@click.option("--s", type=float, help="Smoothing [1].")
@click.option(
    "--self-neighbour", is_flag=True, default=None, help="Count a training row as its own neighbour, as the study does."
)
@_probe_options
def mlknn(**options: Any) -> None:
    """Multi-label kNN (Zhang and Zhou 2007). Learns from train and val."""
    _run("mlknn", **options)


@probe.command()
@click.option("--C", "C", type=NumberList(float), help="Inverse regularisation strengths [45 from 1e-6 to 1e5].")
@_probe_options
def logistic(**options: Any) -> None:
    """L2 logistic regression on standardised features; C chosen on val, refit on train + val."""
    _run("logistic", **options)


@probe.command()
@click.option("--protocol", type=click.Choice(["dinov2", "study"]), help="Learning rates, scaling, loss [dinov2].")
@click.option(
    "--solver", type=click.Choice(["sgd", "ridge"]), default="sgd", show_default=True, help="ridge: closed form."
)
@click.option("--epochs", type=click.IntRange(min=1), help="sgd: passes over the rows [10].")
@click.option("--alpha", type=NumberList(float), help="ridge: penalties.")
@_probe_options
def linear(solver: str, **options: Any) -> None:
    """Linear heads as DINOv2 or the study train them, all in one pass; the best on val, refit on train + val."""
    _run("linear" if solver == "sgd" else "ridge", **options)


@probe.command()
@click.option("--shots", type=NumberList(int), help="Images a class [1,2,4,8,16].")
@click.option("--n-episodes", type=click.IntRange(min=1), help="Draws of the support [100].")
@click.option("--head", type=click.Choice(["centroid", "ridge", "logistic", "knn"]), help="[centroid: SimpleShot]")
@click.option(
    "--protocol", type=click.Choice(["random", "study"]), help="study: patients a finding, or evenly spaced images."
)
@click.option(
    "--episodes", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Replay an episodes.json."
)
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw the learning curve as a PNG.")
@_probe_options
def fewshot(plot: Path | None, **options: Any) -> None:
    """Learn from a few images a class, many times; the mean with its interval, by the number of shots."""
    result = _run("fewshot", **options)
    if plot is not None:
        from featcache.reports import draw_learning_curve

        draw_learning_curve([result], plot, metric=next(iter(result.runs[0].metrics)))
        click.echo(f"learning curve: {plot}", err=True)


@probe.command()
@click.option("--pool", type=NameList(), help="Heads to compare: attention, mean, max, median [attention,mean,max].")
@click.option("--position", is_flag=True, default=None, help="Heads see where in its volume a slice is.")
@click.option(
    "--folds",
    type=click.IntRange(min=0),
    help="Cross-validate by patient, over all splits; 0: use the splits [5 where the data give no split, else 0].",
)
@click.option("--hidden", type=click.IntRange(min=1), help="Width of the attention [64].")
@click.option("--learning-rates", type=NumberList(float), help="Of AdamW, tried together [0.0001,0.0003,0.001].")
@click.option("--epochs", type=click.IntRange(min=1), help="Passes at most; the best is chosen on val [50].")
@_features_option
@_common_options
def volume(**options: Any) -> None:
    """Volumes from their slices: gated attention pooling (Ilse et al. 2018) beside the mean and the maximum.

    Learning rate and epochs are chosen on val (or a part of train), then a head is trained on train + val.
    """
    _run("volume", **options)


@probe.command("all")
@_pool_option
@_common_options
def all_(
    *,
    store_path: Path | None,
    dataset: str | None,
    model: str | None,
    home: Path | None,
    as_json: bool,
    per_class: bool,
    **options: Any,
) -> None:
    """Every probe that fits the task, one table."""
    import featcache

    store = chosen_store(store_path, dataset, model, home)
    results = featcache.probe_all(
        store,
        progress=lambda name: click.echo(f"{name} …", err=True),
        skipped=lambda name, error: click.echo(f"{name} cannot answer: {error.message}", err=True),
        **given(**options),
    )
    if as_json:
        print_json({"results": [result_dict(result) for result in results]})
        return
    click.echo(f"{store.dataset} / {store.model} ({store.key.digest[:8]}), task {results[0].task}")
    print_table([{"probe": result.probe, **_line(run)} for result in results for run in result.runs])
    print_notes(list(dict.fromkeys(note for result in results for note in result.notes)))


def _run(
    name: str,
    *,
    store_path: Path | None,
    dataset: str | None,
    model: str | None,
    home: Path | None,
    as_json: bool,
    per_class: bool,
    **options: Any,
) -> Result:
    import featcache

    store = chosen_store(store_path, dataset, model, home)
    result = featcache.probe(name, store, **given(**options))
    if as_json:
        print_json(result_dict(result))
    else:
        print_result(result, per_class=per_class)
    return result


def print_result(result: Result, *, per_class: bool = False) -> None:
    """Head, one line a run, classes and subgroups where they were asked for, notes."""
    over = "episodes" if result.probe == "fewshot" else result.config["resampled"]
    click.echo(
        f"{result.probe} on {result.dataset} / {result.model} ({result.key[:8]}), task {result.task}, "
        f"95 % CI over {over}"
    )
    print_table([_line(run) for run in result.runs])
    if per_class:
        _print_classes(result)
    parts = [
        {**_setting(run, result.runs), part.column: part.value, "n": part.n, **_values(part.metrics)}
        for run in result.runs
        for part in run.subgroups
    ]
    for column in dict.fromkeys(part.column for run in result.runs for part in run.subgroups):
        print_table([line for line in parts if column in line])
    print_notes(result.notes)
    if result.id:
        click.echo(f"result: {result.id} ({result.created})")


def _print_classes(result: Result) -> None:
    for run in result.runs:
        if run.per_class:
            print_table([
                {**_setting(run, result.runs), "class": name}
                | {metric: estimate(values[name]) for metric, values in run.per_class.items()}
                for name in next(iter(run.per_class.values()))
            ])  # fmt: skip


def _line(run: ProbeRun) -> dict[str, Any]:
    setting = ", ".join(f"{name} = {_short(value)}" for name, value in run.parameters.items())
    return {"setting": setting, "split": run.split, "n": run.n, **_values(run.metrics)}


def _setting(run: ProbeRun, runs: Sequence[ProbeRun]) -> dict[str, Any]:
    """Which run it is, where there are several."""
    if len(runs) == 1:
        return {}
    return {"setting": ", ".join(f"{name} = {_short(value)}" for name, value in run.parameters.items())}


def _values(metrics: Mapping[str, Any]) -> dict[str, str]:
    return {name: estimate(found) for name, found in metrics.items()}


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
