"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from featcache.store import FeatureStore

F = TypeVar("F", bound=Callable[..., Any])

home_option = click.option(
    "--home",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the stores [FEATCACHE_HOME, else the user's data folder].",
)
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")


class NumberList(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """Numbers separated by commas: ``5,20,100``."""

    def __init__(self, number: type[int] | type[float]) -> None:
        self.number = number
        self.name = "N,N,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int | float, ...]:
        """Parse the text; an empty or non-numeric item is a usage error."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(self.number(item) for item in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers such as 5,20,100", param, ctx)


def store_options(command: F) -> F:
    """``--store``, ``--dataset``, ``--model``, ``--home``: which store is meant."""
    for option in (
        home_option,
        click.option("--model", help="Model of the store."),
        click.option("--dataset", help="Dataset of the store."),
        click.option(
            "--store",
            "store_path",
            type=click.Path(exists=True, path_type=Path),
            help="The store's folder or .h5 file, instead of --dataset and --model.",
        ),
    ):
        command = option(command)
    return command


class NameList(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """Names separated by commas: ``sex,view``."""

    name = "NAME,NAME,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Split the text; empty names are left out."""
        if isinstance(value, tuple):
            return value
        return tuple(name.strip() for name in str(value).split(",") if name.strip())


class NamedValue(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """``name=value`` or ``name`` alone for a switch: an option that only some datasets take."""

    name = "NAME[=VALUE]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        """Whole numbers and true/false become what they are; all else stays text."""
        if isinstance(value, tuple):
            return value
        name, given_value, text = str(value).partition("=")
        if not name.isidentifier():
            self.fail(f"{value!r} is not of the form name=value", param, ctx)
        switches = {"": not given_value, "true": True, "false": False}
        return name, switches[text] if text in switches else int(text) if text.isdecimal() else text


def _merged(ctx: click.Context, param: click.Parameter, values: tuple[tuple[str, Any], ...]) -> None:
    """Put what ``--option`` names among the command's parameters."""
    for name, value in values:
        ctx.params[name] = value


def dataset_options(command: F) -> F:
    """Where a dataset's files are and how its table is read."""
    for option in (
        click.option(
            "--option",
            "-o",
            multiple=True,
            type=NamedValue(),
            expose_value=False,
            callback=_merged,
            help="An option of one dataset (docs/datasets.md): -o uncertain=ones, -o no_finding.",
        ),
        click.option("--slices", help="Volumes: all, every:3, n:8, foreground [all]."),
        click.option(
            "--axis", type=click.Choice(["axial", "coronal", "sagittal"]), help="Volumes: along which to slice [axial]."
        ),
        click.option("--keep-ids", is_flag=True, default=None, help="dicom: keep patient ids as they are, not hashed."),
        click.option(
            "--allow-patient-overlap",
            is_flag=True,
            default=None,
            help="Load although a patient is in two splits; every result says so.",
        ),
        click.option(
            "--split-file",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="CSV or Parquet with split and one of id, patient, volume; replaces the dataset's split.",
        ),
        click.option(
            "--seed", type=click.IntRange(min=0), help="Of a split that the data do not give, or of drawn samples."
        ),
        click.option(
            "--keep-column", "keep_columns", multiple=True, help="table: further column to keep (age, sex …)."
        ),
        click.option("--id-column", help="table: column of unique ids [the path]."),
        click.option("--patient-column", help="table: column of patient ids [patient]."),
        click.option("--split-column", help="table: column with train, val, test [split]."),
        click.option(
            "--label-column",
            "label_columns",
            multiple=True,
            help="table: label column [label]; several make one multi-label task.",
        ),
        click.option("--path-column", help="table: column of image paths below the root [path]."),
        click.option("--table", type=click.Path(path_type=Path), help="table: the CSV or Parquet file."),
        click.option("--name", "dataset_name", help="Name of a generic dataset in the home."),
        click.option(
            "--root",
            type=click.Path(path_type=Path),
            help="Folder with the dataset's files [FEATCACHE_DATA].",
        ),
    ):
        command = option(command)
    return command


def extraction_options(command: F) -> F:
    """What decides which features are computed: model, data, preprocessing, precision."""
    for option in (
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps."),
        click.option(
            "--dtype",
            type=click.Choice(["auto", "float16", "float32"]),
            default="auto",
            show_default=True,
            help="In which features are stored.",
        ),
        click.option(
            "--precision",
            type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
            default="auto",
            show_default=True,
            help="What the network computes in; auto: as an existing store, else bf16 on recent GPUs, else fp32.",
        ),
        click.option(
            "--runtime",
            type=click.Choice(["auto", "torch", "openvino"]),
            default="auto",
            show_default=True,
            help="What runs the network; openvino: on a CPU, if installed; auto: as an existing store, else torch.",
        ),
        click.option("--patches", is_flag=True, default=None, help="Store the last layer's patch tokens too."),
        click.option(
            "--format",
            type=click.Choice(["zarr", "hdf5"]),
            help="Form in which the store stays: a Zarr group, or one .h5 file [as it is, else zarr].",
        ),
        click.option("--image-size", type=int, help="Input size in pixels [the model's native size]."),
        click.option(
            "--preprocess",
            default="model",
            show_default=True,
            help="A recipe and changes to it: dinov2; auto; radiology,window=lung (docs/preprocessing.md).",
        ),
        click.option("--weights", type=click.Path(path_type=Path), help="Checkpoint file instead of the model's own."),
        home_option,
        dataset_options,
        click.option("--dataset", required=True, help="A name (`featcache datasets`)."),
    ):
        command = option(command)
    return command


_MODEL = "A name (`featcache models`), hf:<id or folder>, timm:<name>, open_clip:<model/tag>, my_model.py:build"
model_option = click.option("--model", required=True, help=f"{_MODEL}.")
models_option = click.option(
    "--model",
    "models",
    required=True,
    multiple=True,
    help=f"{_MODEL}; several share one reading of the images.",
)


def given(**options: Any) -> dict[str, Any]:
    """The options that the user gave."""
    return {name: value for name, value in options.items() if value not in (None, ())}


def chosen_store(store_path: Path | None, dataset: str | None, model: str | None, home: Path | None) -> FeatureStore:
    """The store that the options name; without any, the one extracted last, which is said on stderr."""
    from featcache.store import FeatureStore

    return FeatureStore(chosen_path(store_path, dataset, model, home))


def chosen_path(store_path: Path | None, dataset: str | None, model: str | None, home: Path | None) -> Path:
    """The folder of the store that the options name, whatever state it is in."""
    from featcache.store import find_store

    if store_path is not None:
        return store_path.absolute()
    path = find_store(dataset, model=model, home=home)
    if dataset is None and model is None:
        click.echo(f"using the store extracted last: {path.parent.name} / {path.name}", err=True)
    return path.absolute()
