"""``featcache preview``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .options import dataset_options, given, home_option, json_option
from .render import explained, print_json


@click.command()
@click.option("--dataset", required=True, help="A name (`featcache datasets`).")
@dataset_options
@click.option("--n", type=click.IntRange(min=1), default=12, show_default=True, help="Samples; classes take turns.")
@click.option("--model", default="pixels", show_default=True, help="Whose input is shown (`featcache models`).")
@click.option(
    "--preprocess",
    default="model",
    show_default=True,
    help="A recipe and changes to it: dinov2; auto; radiology,window=lung (docs/preprocessing.md).",
)
@click.option("--image-size", type=int, help="Input size in pixels [the recipe's].")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="The PNG [preview-<dataset>.png].")
@home_option
@json_option
def preview(dataset: str, out: Path | None, as_json: bool, **options: Any) -> None:
    """Draw what a model will see: some samples after preprocessing, with ids and labels.

    Look before you spend hours. Exit code 2 if one of them cannot be used.
    """
    from featcache.extraction import preview as look
    from featcache.reports import draw_preview

    options = given(**options)
    seen = look(dataset, **options)
    path = draw_preview(
        seen.tiles,
        out or Path(f"preview-{seen.dataset}.png"),
        title=f"{seen.dataset}, as {seen.model} sees it with {options['preprocess']}",
    )
    failures = [tile.failure for tile in seen.tiles if tile.failure is not None]
    if as_json:
        print_json(
            {
                "picture": path,
                "dataset": seen.dataset,
                "model": seen.model,
                "preprocess": seen.preprocess.as_dict(),
                "samples": [{"id": tile.id, "label": tile.label, "shown": not tile.failure} for tile in seen.tiles],
            }
        )
    else:
        click.echo(f"{path}: {len(seen.tiles)} samples of {seen.dataset}")
    for failure in failures:
        click.echo(
            f"cannot be used: {failure.path} ({failure.id}): {explained(failure.reason, failure.remedy)}", err=True
        )
    if failures:
        raise click.exceptions.Exit(2)
