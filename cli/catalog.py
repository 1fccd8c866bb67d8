"""``featcache models`` and ``featcache datasets``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import dataset_options, given, json_option
from .render import explained, print_json, print_notes, print_table

if TYPE_CHECKING:
    from featcache.datasets import DatasetReport
    from featcache.models import ModelSpec


class _NameOrCommand(click.Group):
    """A group whose first argument may also be the name of a row, which is then shown."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Take what is no command for a name."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            return "show", _show, args
        return super().resolve_command(ctx, args)


@click.group(cls=_NameOrCommand, invoke_without_command=True, subcommand_metavar="[NAME | get]")
@json_option
@click.pass_context
def models(context: click.Context, as_json: bool) -> None:
    """List the models that featcache knows by name, and whether their weights are on this machine.

    \b
      featcache models
      featcache models dinov2_vitl14              all facts about one; hf:<id> and timm:<name> too
      featcache models get dinov2_vitl14 --to DIR fetch the weights, to be carried elsewhere
    """
    if context.invoked_subcommand is not None:
        return
    from featcache.models import MODELS

    rows = [_model_facts(row) for row in MODELS]
    if as_json:
        print_json({"models": rows})
        return
    shown = [
        {
            **row,
            "size": row["image_size"],
            "parameters": _millions(row["parameters"]),
            "GFLOPs": _billions(row["flops"]),
            "gated": "yes" if row["gated"] else "no",
            "here": "yes" if row["available"] else "no",
        }
        for row in rows
    ]
    print_table(shown, ["name", "source", "dim", "patch", "size", "parameters", "GFLOPs", "gated", "here", "licence"])
    click.echo(
        "GFLOPs of one image at its size; here: whether the weights are on this machine\n"
        "besides: hf:<hub id or local folder>, timm:<name>; all facts: featcache models NAME, --json"
    )


@click.command()
@click.argument("name")
@json_option
@click.pass_context
def _show(context: click.Context, name: str, as_json: bool) -> None:
    """All facts about one model."""
    from featcache.models import resolve_model

    facts = _model_facts(resolve_model(name))
    if as_json or (context.parent is not None and context.parent.params.get("as_json")):
        print_json({"model": facts})
        return
    facts["parameters"] = _millions(facts["parameters"])
    facts["GFLOPs"] = _billions(facts.pop("flops"))
    facts["available"] = "yes" if facts["available"] else "no"
    width = max(map(len, facts))
    for fact, value in facts.items():
        text = ", ".join(map(str, value)) if isinstance(value, tuple) else "-" if value in (None, "") else str(value)
        click.echo(f"{fact.replace('_', ' '):<{width}}  {text}")


@models.command()
@click.argument("name")
@click.option(
    "--to",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for one or more models: carry it, then --weights DIR or FEATCACHE_WEIGHTS=DIR.",
)
@json_option
def get(name: str, to: Path, as_json: bool) -> None:
    """Fetch a model's weights and their configuration into a folder; run again, it checks and completes them.

    \b
      featcache models get dinov2_vitl14 --to weights
      FEATCACHE_WEIGHTS=weights featcache extract --model dinov2_vitl14 …     (where there is no internet)

    A gated model needs the agreement of its authors and a token in HF_TOKEN.
    """
    from featcache.models import fetch_model

    found = fetch_model(name, to, progress=lambda file, count: click.echo(f"{file}: {_bytes(count)}", err=True))
    if as_json:
        print_json(asdict(found))
        return
    total = _bytes(sum(found.files.values()))
    click.echo(f"{found.model}: {total} in {len(found.files)} files, {'checked' if found.reused else 'fetched'}")
    click.echo(f"from {found.checkpoint} at {found.revision}")
    click.echo(f"in {found.folder}")
    print_notes(found.notes)


def _model_facts(row: ModelSpec) -> dict[str, Any]:
    """Every field of a row, where its weights are on this machine, and how to get them if they are not."""
    import warnings

    from featcache.errors import FeatcacheError, FeatcacheWarning
    from featcache.models import locate_weights

    facts: dict[str, Any] = {
        **asdict(row),
        "available": True,
        "weights": None,
        "weights_revision": None,
        "remedy": None,
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FeatcacheWarning)  # said when the weights are used
            source = locate_weights(row, download=False)
    except FeatcacheError as error:
        return {**facts, "available": False, "remedy": error.remedy}
    return {**facts, "weights": source.path, "weights_revision": source.revision}


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def datasets(context: click.Context, as_json: bool) -> None:
    """List the datasets that featcache knows by name, and where their files are on this machine."""
    if context.invoked_subcommand is not None:
        return
    from featcache.datasets import DATASETS

    rows = [{**asdict(row), **_state(row.name)} for row in DATASETS]
    if as_json:
        print_json({"datasets": rows})
        return
    shown = [{**row, "task_types": ", ".join(row["task_types"])} for row in rows]
    print_table(shown, ["name", "modality", "task_types", "state", "found", "summary"])
    for row in rows:
        click.echo(f"{row['name']} expects: {row['layout']}")


@datasets.command()
@click.argument("name")
@dataset_options
@click.option(
    "--decode", is_flag=True, help="Decode every file too; without it only names, sizes and headers are read."
)
@json_option
def check(name: str, root: Path | None, decode: bool, as_json: bool, **options: Any) -> None:
    """Compare a dataset's files with what its publisher ships. Exit code 1 if something is wrong.

    \b
      featcache datasets check nih --root /data/nih
    """
    from featcache.datasets import check_dataset

    chosen = given(**options)
    report = check_dataset(name, root, decode=decode, **chosen)
    if as_json:
        print_json({**asdict(report), "ok": report.ok})
    else:
        if chosen and not report.counts:
            click.echo("published counts are not compared: options change what is loaded")
        _print_check(report)
    if not report.ok:
        raise click.exceptions.Exit(1)


def _print_check(report: DatasetReport) -> None:
    click.echo(f"{report.dataset} at {report.root} ({report.seconds:.1f} s)")
    for split, count in report.samples.items():
        patients = f", {report.patients[split]} patients" if split in report.patients else ""
        click.echo(f"{split or 'no split'}: {count} samples{patients}")
    for check_ in report.counts:
        verdict = "as published" if check_.expected == check_.found else f"DIFFERS from the published {check_.expected}"
        click.echo(f"{check_.unit} in {check_.split}: {check_.found}, {verdict}")
    for task, splits in report.labels.items():
        click.echo(f"task {task}")
        print_table([{"split": split or "none", **labels} for split, labels in splits.items()])
    for what in ("missing", "surplus", "duplicates", "duplicates_across_splits", "overlap"):
        found = list(getattr(report, what))
        if found:
            shown = ", ".join(map(str, found[:5])) + (" …" if len(found) > 5 else "")
            click.echo(f"{what.replace('_', ' ')}: {len(found)}: {shown}")
    if report.unused:
        click.echo(f"{report.unused} further files that no row refers to")
    for failure in report.unreadable[:20]:
        click.echo(f"unreadable: {failure.path}: {explained(failure.reason, failure.remedy)}")
    print_notes(report.notes)
    click.echo("ok" if report.ok else "NOT ok")


def _state(name: str) -> dict[str, str | None]:
    """Where a dataset's files are; whether anything is there: ``here``, ``empty``, ``unreadable``, ``not found``."""
    from featcache.datasets import DATASETS, dataset_root, load_dataset
    from featcache.errors import FeatcacheError

    try:
        root = dataset_root(DATASETS[name]) or load_dataset(name).root
    except FeatcacheError:
        return {"found": None, "state": "not found"}
    try:
        return {"found": str(root), "state": "here" if any(root.iterdir()) else "empty"}
    except OSError:
        return {"found": str(root), "state": "unreadable"}


def _millions(count: int | None) -> str:
    return "-" if count is None else f"{count / 1e6:.1f} M"


def _billions(count: int | None) -> str:
    return "-" if count is None else f"{count / 1e9:.1f}"


def _bytes(count: int | None) -> str:
    if count is None:
        return "size unknown"
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB"
