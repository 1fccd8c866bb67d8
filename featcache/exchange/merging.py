"""Joining stores of one key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from featcache.errors import ConfigurationError, StoreError
from featcache.exchange.rows import RowReader
from featcache.records import Failure, Task
from featcache.store import (
    FeatureStore,
    SampleTable,
    add_rows,
    digests_from_text,
    find_home,
    read_samples,
    write_quarantine,
    write_samples,
)
from featcache.store.joining import unite_frames
from featcache.store.stored_tokens import StoredTokens, stored_tokens
from featcache.store.token_basis import refuse_other_basis
from featcache.store.token_forms import TokenForm, is_token_family
from featcache.store.visible import visible_rows

__all__ = ["MergeReport", "merge"]


@dataclass(frozen=True, slots=True)
class MergeReport:
    """The outcome of one ``merge``."""

    store: Path
    """The joined store."""
    rows: int
    """Rows that it shows now."""
    added: int
    """Rows that this merge committed."""
    conflicts: tuple[str, ...]
    """Values of the samples on which the stores disagree; that of the first store counts."""
    left_out: tuple[str, ...] = ()
    """Coded tokens of packed stores, which hold neither their scales nor their bases."""


def merge(stores: Sequence[FeatureStore], *, into: Path | str | None = None, dataset: str | None = None) -> MergeReport:
    """Join stores of one key: rows by digest, samples by id.

    Parameters
    ----------
    stores
        At least one. If the target exists already, it comes first.
    into
        Home of the joined store; default: FEATCACHE_HOME or the platform's data folder.
    dataset
        Its dataset's name; default: that of the stores, if they agree.

    Returns
    -------
    MergeReport

    Raises
    ------
    StoreError
        If the keys, the arrays or the bases of projected tokens differ; the message names the fields.
    DatasetError
        If one id means different content in two stores.

    Notes
    -----
    What the stores show is joined: rows of samples that were removed are left behind. Running it again adds nothing.

    Examples
    --------
    >>> merge([featcache.open("a.zarr"), featcache.open("b.zarr")], into="joined").added  # doctest: +SKIP
    1024
    """
    if not stores:
        raise ConfigurationError("no store to merge", remedy="Name at least one.")
    _refuse_other_keys(stores)
    _refuse_other_tokens(stores)
    folder = find_home(into) / _dataset_name(stores, dataset)
    parts = [visible_rows(store) for store in stores]
    target = folder / stores[0].key.store_name
    for store in stores:
        for family, tokens in stored_tokens(store, store.row_digests).items():
            refuse_other_basis(target, family, tokens.basis)
    before = read_samples(folder)
    others = [store for store in stores if store.path != target]
    tables = [read_samples(store.path.parent) or table for store, (table, _) in zip(stores, parts, strict=True)]
    origins = [str(store.path) for store in stores]
    if before is not None:
        tables, origins = [before, *tables], [str(folder), *origins]
    table, conflicts = _united(tables, origins)
    write_samples(folder, table)
    path, added = target, 0
    left_out: list[str] = []
    for store, (part, _) in zip(stores, parts, strict=True):
        if store not in others:
            continue
        reader = RowReader(store, part)
        kept = [name for name in store.names if not is_token_family(name) or _joins(name)]
        digests = digests_from_text(part.frame["digest"].tolist())
        coded = {name: tokens for name, tokens in stored_tokens(store, digests).items() if name not in kept}
        left_out += [f"{name} of {store.path}" for name in store.names if name not in kept and name not in coded]
        path, new = add_rows(
            folder,
            store.key,
            arrays={name: store[name].shape[1:] for name in kept},
            ids=part.frame["id"].tolist(),
            digests=part.frame["digest"].tolist(),
            read=reader,
            provenance=store.attributes["provenance"],
            present=reader.present,
            coded=coded,
        )
        added += new
    joined = FeatureStore(path)
    present = set(joined.samples["id"])
    failures: dict[str, Failure] = {failure.id: failure for store in (*stores, joined) for failure in store.failures}
    write_quarantine(path, tuple(failure for name, failure in failures.items() if name not in present))
    return MergeReport(path, len(joined), added, tuple(conflicts), tuple(left_out))


def _refuse_other_keys(stores: Sequence[FeatureStore]) -> None:
    first = stores[0]
    shapes = _vector_shapes(first)
    for other in stores[1:]:
        fields = first.key.difference(other.key)
        if fields:
            raise StoreError(
                f"{first.path} and {other.path} hold features of different keys: {'; '.join(fields)}",
                remedy="Features of different keys do not compare: extract one again with the other's settings.",
            )
        found = _vector_shapes(other)
        if found != shapes:
            raise StoreError(
                f"{first.path} has the arrays {shapes}, {other.path} has {found}",
                remedy="Merge copies with the same arrays.",
            )


def _refuse_other_tokens(stores: Sequence[FeatureStore]) -> None:
    """Tokens of one family must be of one basis and one shape."""
    seen: dict[str, tuple[FeatureStore, StoredTokens]] = {}
    for store in stores:
        for family, tokens in stored_tokens(store, store.row_digests).items():
            first, same = seen.setdefault(family, (store, tokens))
            if tokens.shapes != same.shapes:
                raise StoreError(
                    f"{family} has the arrays {same.shapes} in {first.path}, {tokens.shapes} in {store.path}",
                    remedy=f"Remove it on one side: featcache rm --family {family} --store ….",
                )
            refuse_other_basis(first.path, family, tokens.basis)


def _vector_shapes(store: FeatureStore) -> dict[str, tuple[int, ...]]:
    """Of the arrays that every row has; tokens are joined where they are."""
    return {name: store[name].shape[1:] for name in store.names if not is_token_family(name)}


def _joins(family: str) -> bool:
    form = TokenForm.of_family(family)
    return form is not None and form.is_plain


def _dataset_name(stores: Sequence[FeatureStore], dataset: str | None) -> str:
    names = sorted({store.dataset for store in stores})
    if dataset is None and len(names) > 1:
        raise ConfigurationError(
            f"the stores are of several datasets: {', '.join(names)}", remedy="Name the joined one with --dataset."
        )
    return dataset or names[0]


def _united(tables: Sequence[SampleTable], origins: Sequence[str]) -> tuple[SampleTable, list[str]]:
    frame, conflicts = unite_frames([table.frame for table in tables], origins)
    named = next((table for table in tables if table.registry_name), tables[0])
    tasks: dict[str, Task] = {}
    for task in (task for table in tables for task in table.tasks):
        first = tasks.setdefault(task.name, task)
        classes = tuple(dict.fromkeys((*first.classes, *task.classes)))
        if replace(first, classes=classes) != replace(task, classes=classes):
            conflicts.append(f"task {task.name} is defined in two ways; that of the first store counts")
        elif task.type != "binary" or len(classes) <= 2:
            tasks[task.name] = replace(first, classes=classes)
        else:
            conflicts.append(
                f"task {task.name} is binary and has {len(classes)} classes together: {', '.join(classes)}"
            )
    origins_of_splits = [table.split_origin for table in tables if table.split_origin != "none"] or ["none"]
    if len(set(origins_of_splits)) > 1:
        conflicts.append(f"the splits come from different places: {', '.join(sorted(set(origins_of_splits)))}")
    within = "within-subject"
    split_origin = within if within in origins_of_splits else origins_of_splits[0]
    notes = tuple(dict.fromkeys(note for table in tables for note in table.notes))
    table = replace(named, frame=frame, tasks=tuple(tasks.values()), split_origin=split_origin, notes=notes)
    return table, conflicts
