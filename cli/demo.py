"""``featcache demo``: the main job on real images with real weights, from packages alone."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import home_option, json_option
from .render import estimate, print_json, print_notes, print_table, progress_bar, result_dict

if TYPE_CHECKING:
    from featcache.records import ExtractionReport, Result
    from featcache.store import FeatureStore

DATASET = "brain_regions"
IMAGE_SIZE = 112
MODELS = {
    "efficientnet_lite0": "pretrained on ImageNet",
    "efficientnet_lite0_random": "same network, random weights",
    "pixels": "raw pixels",
}


@click.command()
@home_option
@json_option
def demo(home: Path | None, as_json: bool) -> None:
    """Embed 800 MRI crops with three encoders, probe them, draw a map. About a minute, no network."""
    import featcache

    reports, results = {}, []
    for model in MODELS:
        with progress_bar(model) as progress:
            reports[model] = featcache.extract(model, DATASET, image_size=IMAGE_SIZE, home=home, progress=progress)
        store = featcache.open(reports[model].store)
        results += [
            featcache.probe("knn", store, k=(20,), standardize=True),
            featcache.probe("logistic", store),
        ]
    # The store that a bare `featcache probe` takes next: the pretrained one.
    featcache.extract(next(iter(MODELS)), DATASET, image_size=IMAGE_SIZE, home=home)
    picture = _draw({model: featcache.open(report.store) for model, report in reports.items()})
    if as_json:
        print_json({"picture": picture, "results": [result_dict(result) for result in results]})
    else:
        _print(reports, results, picture)
        _print_next(home)


def _draw(stores: dict[str, FeatureStore]) -> Path:
    from featcache.reports import draw_embedding_map

    first = next(iter(stores.values()))
    return draw_embedding_map(
        {MODELS[model]: store.features("cls") for model, store in stores.items()},
        first.samples["region"].to_numpy(dtype=str),
        first.path.parent / "embedding_map.png",
        classes=first.tasks[0].classes,
    )


def _print(reports: dict[str, ExtractionReport], results: list[Result], picture: Path) -> None:
    rows: list[dict[str, Any]] = []
    for result in results:
        run = result.runs[0]
        setting = ", ".join(f"{name} = {value:.3g}" for name, value in run.parameters.items())
        metrics = {name: estimate(found) for name, found in run.metrics.items()}
        rows.append({"features": MODELS[result.model], "probe": f"{result.probe} ({setting})", **metrics})
    click.echo()
    for report in reports.values():
        click.echo(f"{report.model}: {report.rows} rows, {report.computed} computed, {report.seconds:.1f} s")
    click.echo(
        f"\nWhich of 8 brain structures is it? {results[0].runs[0].n} right-hemisphere crops, learnt from "
        f"{results[0].config['n_train']} left ones; chance is 0.125.\n"
    )
    print_table(rows)
    print_notes(results[0].notes)
    click.echo(f"\nembedding map: {picture}")


def _print_next(home: Path | None) -> None:
    """Commands that work when pasted: with the program's path if it is not on PATH, and with the same home."""
    started = Path(sys.argv[0])
    on_path = shutil.which("featcache")
    same = on_path is not None and Path(on_path).resolve() == started.resolve()
    program = "featcache" if same or started.suffix == ".py" else os.path.relpath(started)
    where = "" if home is None else f" --home {home}"
    click.echo("\nnext:")
    click.echo(f"  {program} probe knn --k 5,20,100{where}")
    click.echo(f"  {program} info{where}")
    click.echo(f"  {program} extract --model efficientnet_lite0 --dataset folder --root YOUR_IMAGES{where}")
