"""``featcache probe segment`` and ``featcache masks``: organs from cached patch tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import NumberList, chosen_store, dataset_options, given, home_option, json_option, store_options
from .render import estimate, explained, number, print_json, print_notes, print_table, result_dict

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from featcache.evaluation.segmentation.segmenting import SegmentationOutcome
    from featcache.records import Result
    from featcache.store import FeatureStore

_HEAD_OPTIONS = (
    "head",
    "loss",
    "solver",
    "learning_rates",
    "penalties",
    "epochs",
    "tokens",
    "batch_size",
    "k",
    "max_tokens",
    "seed",
    "device",
)


@click.command()
@store_options
@click.option("--task", help="Which segmentation task [the only one].")
@click.option("--split", help="The split to score [test].")
@click.option("--head", help="linear, linear-ms, unet, knn [linear].")
@click.option("--loss", help="dice+ce, dice, ce [dice+ce].")
@click.option("--solver", help="linear heads: sgd; ridge and lbfgs need no learning rate [sgd].")
@click.option("--learning-rates", type=NumberList(float), help="Tried in one pass [the study's seven, 0.0001 to 0.1].")
@click.option("--penalties", type=NumberList(float), help="ridge, lbfgs: chosen on val.")
@click.option("--epochs", type=click.IntRange(min=1), help="sgd: passes over the tokens [20].")
@click.option("--batch-size", type=click.IntRange(min=1), help="Images of a step [8].")
@click.option("--k", type=click.IntRange(min=1), help="knn: neighbours of a token [20].")
@click.option("--max-tokens", type=click.IntRange(min=1), help="knn: tokens in the bank [100000].")
@click.option("--shots", type=NumberList(int), help="Learn from so few images or volumes: 1,2,4,8,16.")
@click.option("--by-volume", is_flag=True, default=None, help="Shots are volumes, with all of their slices.")
@click.option("--shot-protocol", type=click.Choice(["random", "study"]), help="study: evenly spaced [random].")
@click.option("--n-tries", type=click.IntRange(min=1), help="Draws of each number of shots: mean and CI over them [1].")
@click.option(
    "--protocol", type=click.Choice(["native", "study"]), help="study: Dice pooled over the split at S x S [native]."
)
@click.option("--border", type=click.Choice(["refuse", "background"]), help="What a crop cut off the images [refuse].")
@click.option("--tolerance", type=click.FloatRange(min=0), help="Of surface Dice in mm [2].")
@click.option("--memory", type=click.FloatRange(min=0), help="GB of tokens kept between epochs [1].")
@click.option("--tokens", help="Which patch tokens, by their name in `featcache info` [the encoder's own].")
@click.option("--device", help="auto, cpu, cuda [auto].")
@click.option("--seed", type=click.IntRange(min=0), help="Of weights, order and draws [0].")
@click.option("--n-bootstrap", type=click.IntRange(min=1), help="Resamples [1000].")
@click.option("--allow-patient-overlap", is_flag=True, default=None, help="Score although patients straddle splits.")
@click.option("--fresh", is_flag=True, default=None, help="Compute, although the ledger has this result.")
@click.option("--per-class", is_flag=True, help="Show the scores of each class too.")
@click.option(
    "--per-volume",
    is_flag=True,
    help="Show the scores of each volume or picture too, of several tries those of each try.",
)
@click.option(
    "--save-predictions",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write NIfTI or PNG files and cases.png here (of the largest number of shots).",
)
@click.option(
    "--root", type=click.Path(exists=True, path_type=Path), help="The dataset's files, to show images in cases.png."
)
@json_option
def segment(
    *,
    store_path: Path | None,
    dataset: str | None,
    model: str | None,
    home: Path | None,
    memory: float | None,
    folder: Path | None,
    root: Path | None,
    per_class: bool,
    per_volume: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Train a segmentation head on patch tokens (extract --patches) and score it in the masks' own geometry.

    Chosen on val, trained anew on train + val, scored once. Intervals are over patients.
    """
    from featcache.evaluation.segmentation import HeadSettings
    from featcache.evaluation.segmentation.segmenting import segment as ask

    store = chosen_store(store_path, dataset, model, home)
    chosen = given(**options)
    settings = HeadSettings(**{name: chosen.pop(name) for name in _HEAD_OPTIONS if name in chosen})
    if memory is not None:
        chosen["memory"] = int(memory * 1e9)
    if folder is not None:
        chosen["fresh"] = True  # predictions are not in the ledger
    outcome = ask(store, settings, **chosen)
    written = () if folder is None else _save(outcome, store, folder, root)
    if as_json:
        print_json(result_dict(outcome.result) | ({} if folder is None else {"predictions": folder}))
        return
    _print(outcome.result, per_class=per_class, per_volume=per_volume)
    for line in written:
        click.echo(line)


def _save(outcome: SegmentationOutcome, store: FeatureStore, folder: Path, root: Path | None) -> list[str]:
    """Write predictions and the sheet of cases; what is to be said."""
    from featcache.reports import draw_overlay, overlay_cases, save_predictions

    masks, predictions = outcome.masks, outcome.predictions
    if predictions is None:
        raise click.UsageError("there are no predictions to save")
    saved = save_predictions(folder, masks, predictions)
    lines = [f"predictions: {len(saved.volumes)} volumes, {len(saved.pictures)} pictures in {folder}"]
    lines += [f"note: {note}" for note in saved.notes]
    if outcome.scores is not None:
        image_of = None if root is None else _images(store, root)
        cases = overlay_cases(
            masks, predictions, outcome.scores.units, outcome.scores.values["dice"], image_of=image_of
        )
        if cases:
            title = f"{store.dataset} / {store.model}, {outcome.result.config['head']}"
            path = draw_overlay(cases, folder / "cases.png", class_names=masks.class_names, title=title)
            lines.append(f"cases: {path}" + ("" if root else " (without the images: --root shows them)"))
    return lines


def _images(store: FeatureStore, root: Path) -> Callable[[str], NDArray[np.uint8] | None]:
    """Pictures of samples from the dataset's files."""
    from featcache.imaging.pictures import picture_reader
    from featcache.records import Selector

    samples, picture = store.samples.set_index("id"), picture_reader()

    def image_of(name: str) -> NDArray[np.uint8] | None:
        text = samples["selector"][name] if "selector" in samples else ""
        return picture(root / samples["path"][name], Selector.from_text(text if isinstance(text, str) else ""))

    return image_of


def _print(result: Result, *, per_class: bool, per_volume: bool) -> None:
    click.echo(
        f"segment on {result.dataset} / {result.model} ({result.key[:8]}), task {result.task}, "
        f"95 % CI over {result.config['resampled']}"
    )
    lines, classes, volumes = [], [], []
    for run in result.runs:
        setting = ", ".join(f"{name} = {value}" for name, value in run.parameters.items())
        values = {name: estimate(found) for name, found in run.metrics.items()}
        lines.append({"setting": setting, "split": run.split, "n": run.n, **values})
        which = {"setting": setting} if len(result.runs) > 1 else {}
        for label in next(iter(run.per_class.values()), {}):
            found = {metric: estimate(by_class[label]) for metric, by_class in run.per_class.items()}
            classes.append({**which, "class": label, **found})
        for part in run.subgroups:
            shown = {name: number(part.metrics[name].value) for name in run.metrics}
            unit = {"try": part.value} if part.column == "try" else {"volume": part.value, "slices": part.n}
            volumes.append({**which, **unit, **shown})
    print_table(lines)
    if per_class:
        print_table(classes)
    if per_volume and volumes:
        print_table(volumes)
    print_notes(result.notes)
    if result.id:
        click.echo(f"result: {result.id} ({result.created})")


@click.command()
@click.option("--dataset", required=True, help="A name (`featcache datasets`).")
@click.option("--task", help="Which segmentation task [all].")
@dataset_options
@home_option
@json_option
def masks(dataset: str, task: str | None, root: Path | None, home: Path | None, as_json: bool, **options: Any) -> None:
    """Read a dataset's segmentation masks once, at native size, for all of its stores.

    Run it again at any time: only what is new or changed is read. Masks that cannot be used are listed and the exit
    code is 2.
    """
    from featcache.datasets import load_dataset
    from featcache.extraction import write_masks

    loaded = load_dataset(dataset, root=root, **given(**options))
    reports = write_masks(loaded, home=home, task=task)
    if as_json:
        print_json({"reports": [asdict(report) for report in reports]})
    else:
        for report in reports:
            click.echo(
                f"{loaded.name} / {report.task}: {report.written} masks written, {report.kept} kept, "
                f"{report.without} samples without, {len(report.failures)} failed; "
                f"classes {', '.join(report.classes)}; {report.path}"
            )
            print_notes(report.notes)
    failures = [failure for report in reports for failure in report.failures]
    for failure in failures[:20]:
        click.echo(f"no mask: {failure.path} ({failure.id}): {explained(failure.reason, failure.remedy)}", err=True)
    if len(failures) > 20:
        click.echo(f"and {len(failures) - 20} more: --json lists them all", err=True)
    if failures:
        raise click.exceptions.Exit(2)
