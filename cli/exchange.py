"""``featcache export``, ``featcache import`` and ``featcache merge``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from .options import chosen_store, home_option, json_option, store_options
from .render import print_json, size


@click.command()
@store_options
@click.option(
    "--format",
    "format_",
    required=True,
    type=click.Choice(["hdf5", "npy", "parquet", "anndata", "faiss"]),
    help="What to write; npy is a folder, all others are one file.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="File or folder to write.")
@click.option("--features", multiple=True, help="Arrays to export, repeatable [all].")
@json_option
def export(
    store_path: Path | None,
    dataset: str | None,
    model: str | None,
    home: Path | None,
    format_: str,
    out: Path,
    features: tuple[str, ...],
    as_json: bool,
) -> None:
    """Write features, ids and labels for other programs."""
    from typing import cast

    from featcache.exchange import ExportFormat
    from featcache.exchange import export as export_store

    store = chosen_store(store_path, dataset, model, home)
    written = export_store(store, out, format=cast(ExportFormat, format_), features=features or None)
    nbytes = size(written)
    if as_json:
        print_json({"path": written, "format": format_, "rows": len(store), "bytes": nbytes})
        return
    click.echo(f"wrote {len(store)} rows, {nbytes / 1e6:.1f} MB: {written}")


@click.command("import")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--dataset", help="Name in the home; needed for embeddings made elsewhere.")
@click.option("--model", help="What made the embeddings; needed for embeddings made elsewhere.")
@click.option("--id-column", default="id", show_default=True, help="CSV, Parquet: column of unique ids.")
@click.option("--vector-column", help="Parquet: column of vectors [the only one, or all float columns].")
@click.option(
    "--label-column", "label_columns", multiple=True, help="Label column [label]; several make one multi-label task."
)
@home_option
@json_option
def import_(
    files: tuple[Path, ...],
    dataset: str | None,
    model: str | None,
    id_column: str,
    vector_column: str | None,
    label_columns: tuple[str, ...],
    home: Path | None,
    as_json: bool,
) -> None:
    """Bring embeddings made elsewhere, or an export, into a store.

    \b
      featcache import --dataset mine --model theirs features.npy samples.csv
      featcache import --dataset slides --model uni slide1.h5 slide2.h5
      featcache import exported.parquet
    """
    from featcache.exchange import import_export, import_files, is_export
    from featcache.store import FeatureStore

    if model is None and len(files) == 1 and is_export(files[0]):
        path = import_export(files[0], home=home, dataset=dataset)
    elif dataset is None or model is None:
        raise click.UsageError("embeddings made elsewhere need --dataset and --model")
    else:
        path = import_files(
            files,
            dataset=dataset,
            model=model,
            home=home,
            id_column=id_column,
            vector_column=vector_column,
            label_columns=label_columns,
        )
    store = FeatureStore(path)
    if as_json:
        print_json({"store": path, "dataset": store.dataset, "model": store.model, "rows": len(store)})
        return
    click.echo(f"{store.dataset} / {store.path.name}: {len(store)} rows of {', '.join(store.names)}")
    click.echo(f"store: {path}")


@click.command()
@click.argument("stores", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--into", required=True, type=click.Path(file_okay=False, path_type=Path), help="Home of the result.")
@click.option("--dataset", help="Name of the joined dataset [that of the stores].")
@json_option
def merge(stores: tuple[Path, ...], into: Path, dataset: str | None, as_json: bool) -> None:
    """Join stores of one key."""
    from featcache.exchange import merge as merge_stores
    from featcache.store import FeatureStore

    report = merge_stores([FeatureStore(path) for path in stores], into=into, dataset=dataset)
    if as_json:
        print_json(asdict(report))
        return
    for conflict in report.conflicts:
        click.echo(f"conflict: {conflict}; the first counts", err=True)
    for name in report.left_out:
        click.echo(f"left out: {name}; a packed store holds such tokens decoded, join its Zarr group", err=True)
    click.echo(f"{report.rows} rows, {report.added} of them new: {report.store}")
