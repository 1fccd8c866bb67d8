"""What can be done with a dataset's files besides extracting: relabel, compare with the source, repair, explain."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from featcache.datasets import Dataset, SplitOrigin, load_dataset
from featcache.errors import ConfigurationError, DatasetError, ImageError, StoreError
from featcache.extraction.extract import extract
from featcache.extraction.plan import make_plan, portable_name, readable_keys, record_samples
from featcache.imaging import Preprocess, files_of
from featcache.models import resolve_model
from featcache.records import ExtractionReport, Failure, Progress, Selector
from featcache.store import (
    KEPT_PIXELS,
    FeatureStore,
    Problem,
    StoreFormat,
    TokenForm,
    drop_damage,
    find_home,
    is_store,
    packed_path,
    read_samples,
    salvage,
    store_paths,
    verify_store,
)

__all__ = ["Explanation", "check_source", "repair", "update_labels", "why"]


@dataclass(frozen=True, slots=True)
class Explanation:
    """What an extraction would find."""

    store: Path
    """Where its features would be."""
    exists: bool
    """Whether that store is there."""
    missing: int
    """Images without features in it."""
    nearest: Path | None
    """The store of the same dataset that differs least; None if there is no other."""
    differences: tuple[str, ...]
    """The fields in which the keys differ, ``field: here, there``."""


def why(
    model: str,
    dataset: str | Dataset,
    *,
    root: Path | str | None = None,
    home: Path | str | None = None,
    weights: Path | str | None = None,
    dataset_options: dict[str, Any] | None = None,
    **options: Any,
) -> Explanation:
    """Say why an extraction would compute: which field of the key differs from the nearest store.

    Takes what :func:`featcache.extract` takes; computes nothing but the digests of changed files.
    """
    folder = find_home(home)
    if isinstance(dataset, str):
        loaded = load_dataset(dataset, root=root, home=folder, **(dataset_options or {}))
        registry_name = portable_name(dataset)
    else:
        loaded, registry_name = dataset, dataset.name
    plan = make_plan(
        resolve_model(model), loaded, home=folder, registry_name=registry_name, weights=weights, record=False, **options
    )
    store = packed_path(plan.store) if plan.form == "hdf5" else plan.store
    others = readable_keys([path for path in store_paths(folder, loaded.name) if path != store])
    differences = {path: plan.key.difference(key) for path, key in others.items()}
    nearest = min(differences, key=lambda path: len(differences[path]), default=None)
    return Explanation(
        store=store,
        exists=is_store(store),
        missing=len(plan.pending),
        nearest=nearest,
        differences=tuple(differences[nearest]) if nearest is not None else (),
    )


def update_labels(
    dataset: str, *, root: Path | str | None = None, home: Path | str | None = None, **dataset_options: Any
) -> tuple[Path, int, tuple[Failure, ...]]:
    """Read a dataset's labels, splits and tasks anew for all of its stores. Computes no features.

    Returns
    -------
    folder
        The dataset's folder in the home.
    rows
        Samples in the table.
    failures
        Samples whose files cannot be read now; they keep the features that they had.
    """
    loaded = load_dataset(dataset, root=root, home=find_home(home), **dataset_options)
    folder = find_home(home) / loaded.name
    _, failures = record_samples(loaded, folder, portable_name(dataset))
    return folder, len(loaded.samples), tuple(failures)


def check_source(store: Path, root: Path) -> list[Failure]:
    """Hash the source images again, whatever their times say, and name those that changed or are gone.

    Parameters
    ----------
    store
        The store's folder.
    root
        The folder that the samples' paths are relative to.
    """
    from featcache.store import content_digest, row_digest

    table = read_samples(store.parent)
    if table is None:
        raise DatasetError(f"{store.parent} has no samples.parquet", remedy="Run `featcache extract` again.")
    content: dict[tuple[str, str | None], bytes | None] = {}
    failures = []
    columns = [table.frame[name].tolist() for name in ("id", "path", "selector", "digest")]
    for name, path, selector, digest in zip(*columns, strict=True):
        part = Selector.from_text(selector)
        place = (path, part.series)
        if place not in content:
            try:
                content[place] = content_digest(files_of(root / path, part))
            except (OSError, ImageError):
                content[place] = None
        found = content[place]
        if found is None:
            failures.append(Failure(name, path, "the file is gone or cannot be read", "Restore it."))
        elif row_digest(found, selector).hex() != digest:
            failures.append(Failure(name, path, "the file changed since it was embedded", "Extract again."))
    return failures


def repair(
    store: Path,
    *,
    root: Path | str | None = None,
    weights: Path | str | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> ExtractionReport | None:
    """Drop what is damaged in a store and compute its rows again.

    Parameters
    ----------
    store
        The store's folder, or a packed store's file.
    root
        The folder that the samples' paths are relative to; a dataset that needs none finds it itself.
    weights
        The checkpoint, if it was given at extraction.
    progress
        Called after each batch.

    Returns
    -------
    ExtractionReport or None
        None if the store was intact.

    Raises
    ------
    ConfigurationError
        If the rows cannot be computed here in the same way: no root, or another model, weights or version.
    """
    problems = verify_store(store)
    if not problems:
        return None
    forms = _token_forms(store, problems)
    form: StoreFormat = "zarr"
    if store.is_file():
        form, damaged = "hdf5", store
        store = damaged.with_suffix(".zarr")
        salvage(damaged)
        opened = FeatureStore(damaged if damaged.is_file() else store)
    else:
        drop_damage(store, problems)
        opened = FeatureStore(store)
    if opened.key.model == KEPT_PIXELS:
        raise ConfigurationError(
            f"the damage in {store.name} is removed; its pixels are not made by themselves",
            remedy="The next extraction with --pixels keep, of a model that has no features yet, keeps them again.",
        )
    table = read_samples(store.parent)
    if table is None:
        raise DatasetError(
            f"{store.parent} has no samples.parquet: the damage is removed, the rows cannot be computed from here",
            remedy="Run `featcache extract` with the options of the first time.",
        )
    folder = Path(root) if root is not None else load_dataset(table.registry_name).root
    samples = table.frame.drop(columns="digest")
    origin = cast(SplitOrigin, table.split_origin)
    dataset = Dataset(opened.dataset, folder, samples, table.tasks, origin, table.notes)
    key = opened.key
    recipe: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in key.preprocess.items()
    }
    options: dict[str, Any] = {
        "home": store.parents[1],
        "registry_name": table.registry_name,
        "weights": weights,
        "preprocess": Preprocess(**recipe),
        "precision": key.precision,
        "runtime": key.runtime.split(maxsplit=1)[0],
        "dtype": key.dtype,
        "format": form,
    }
    plan = make_plan(resolve_model(key.model), dataset, **options)
    if plan.key.digest != key.digest:
        raise ConfigurationError(
            "the damaged rows cannot be computed here in the same way: " + "; ".join(plan.key.difference(key)),
            remedy="Use the weights and the version of featcache of the first time. The damage is removed already.",
        )
    reports = []
    asked_for: Sequence[TokenForm | None] = forms or [None]
    for tokens in asked_for:
        asked: dict[str, Any] = {}
        if tokens is not None:
            asked = {"patches": True, "layers": tokens.layers}
            asked |= {"token_dtype": tokens.dtype, "token_pca": tokens.pca}
        reports.append(extract(key.model, dataset, progress=progress, **options, **asked))
    return replace(reports[-1], computed=sum(report.computed for report in reports))


def _token_forms(store: Path, problems: Sequence[Problem]) -> list[TokenForm]:
    """The forms of tokens that a store has, or had before it was damaged."""
    families = {problem.file.split("/", 1)[0] for problem in problems} | {path.name for path in store.glob("patches*")}
    with contextlib.suppress(StoreError):
        families |= set(FeatureStore(store).names)
    forms = [TokenForm.of_family(family) for family in sorted(families)]
    return [form for form in forms if form is not None]
