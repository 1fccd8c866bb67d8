"""Which rows of a store a probe learns from and scores: their labels, patients and features."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from featcache.errors import ConfigurationError, ProbeError
from featcache.records import Task
from featcache.registry import nearest
from featcache.store import FeatureStore

__all__ = ["Pool", "Rows", "chosen_task", "data_digest", "fraction_of", "pooled_features", "read_blocks", "select_rows"]

Pool = Literal["mean", "max", "median"]
"""How slices become a volume before a probe sees them; ``attention`` is learnt, by the probe ``volume``."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The labelled rows of one split; with pooling a row is a volume."""

    frame: pd.DataFrame
    """The samples table's line of each row (of a volume: of its first slice)."""
    ids: tuple[str, ...]
    """Of samples, or of volumes."""
    y: NDArray[Any]
    """(n,) class numbers, or (n, L) float64 of 0, 1 and NaN."""
    members: NDArray[np.int64]
    """Rows of the store's view, those of a volume side by side in the order of its slices."""
    starts: NDArray[np.int64]
    """(n,) where each row's members begin."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def groups(self) -> NDArray[np.int64] | None:
        """Number of each row's patient; one without a patient is alone. None where no patient is known."""
        if "patient" not in self.frame or self.frame["patient"].isna().all():
            return None
        codes, known = pd.factorize(self.frame["patient"])
        alone = codes < 0
        codes[alone] = len(known) + np.arange(alone.sum())
        return codes.astype(np.int64)

    def take(self, which: NDArray[np.int64]) -> Rows:
        """Some of the rows."""
        ends = np.append(self.starts[1:], len(self.members))
        parts = [self.members[self.starts[row] : ends[row]] for row in which.tolist()]
        lengths = np.array([len(part) for part in parts], np.int64)
        return Rows(
            self.frame.iloc[which].reset_index(drop=True),
            tuple(self.ids[row] for row in which.tolist()),
            self.y[which],
            np.concatenate(parts) if parts else self.members[:0],
            np.cumsum(lengths) - lengths,
        )


def chosen_task(store: FeatureStore, name: str | None, labels: Sequence[str] | None) -> Task:
    """The task by name, restricted to some labels of a multi-label task.

    Raises
    ------
    ProbeError
        If the dataset has no labels or the task is no classification.
    ConfigurationError
        If there is no such task or label.
    """
    if not store.tasks:
        raise ProbeError(
            f"dataset {store.dataset} has no labels to probe",
            remedy="Name its label column(s) with --label-column and extract or import again; nothing is recomputed.",
        )
    if name is None:
        classifying = [task.name for task in store.tasks if task.type != "segmentation"]
        name = classifying[0] if len(classifying) == 1 else None
    task = store.task(name)
    if task.type not in ("binary", "multiclass", "multilabel"):
        raise ProbeError(
            f"task {task.name!r} is of type {task.type}, this probe classifies",
            remedy=f"Choose another with --task: {', '.join(task.name for task in store.tasks)}.",
        )
    if not labels:
        return task
    if task.type != "multilabel":
        raise ConfigurationError(f"task {task.name!r} is {task.type}: --labels chooses labels of a multi-label task")
    unknown = [label for label in labels if label not in task.classes]
    if unknown:
        raise ConfigurationError(f"task {task.name!r} has no label {unknown[0]!r}{nearest(unknown[0], task.classes)}")
    columns = tuple(task.columns[task.classes.index(label)] for label in labels)
    return replace(task, columns=columns, classes=tuple(labels))


def select_rows(
    store: FeatureStore, task: Task, split: str | None, *, where: str | None = None, volumes: bool = False
) -> Rows:
    """The labelled rows of a split.

    Parameters
    ----------
    store, task
        Where they are and what is asked.
    split
        ``train``, ``val``, ``test`` …; None takes the rows of all splits and of none.
    where
        A condition on the columns of ``store.samples`` in the syntax of ``DataFrame.query``: ``view == 'PA'``.
    volumes
        The slices of a volume become one row.

    Raises
    ------
    ConfigurationError
        If the condition cannot be evaluated.
    ProbeError
        If slices of one volume differ in label.
    """
    samples = store.samples
    labels = samples[list(task.columns)]
    chosen = labels.notna().any(axis=1).to_numpy()
    if split is not None:
        chosen = chosen & (samples["split"] == split).fillna(False).to_numpy(dtype=bool)
    if where is not None:
        chosen = chosen & _condition(samples, where)
    members = np.flatnonzero(chosen)
    if not volumes:
        frame = samples.iloc[members].reset_index(drop=True)
        return Rows(frame, tuple(frame["id"]), _targets(frame, task), members, np.arange(len(members)))
    return _volumes(samples, task, members)


def _condition(samples: pd.DataFrame, where: str) -> NDArray[np.bool_]:
    try:
        places = samples.reset_index(drop=True).query(where).index
    except Exception as error:  # pandas raises whatever the expression makes it raise
        raise ConfigurationError(
            f"the condition {where!r} cannot be evaluated: {error}",
            remedy=f"Columns: {', '.join(map(str, samples.columns))}. Example: view == 'PA' and age > 40.",
        ) from error
    chosen = np.zeros(len(samples), bool)
    chosen[places] = True
    return chosen


def _volumes(samples: pd.DataFrame, task: Task, members: NDArray[np.int64]) -> Rows:
    if "volume" not in samples or samples["volume"].iloc[members].isna().all():
        raise ProbeError(
            "no row belongs to a volume: there is nothing to pool",
            remedy="Leave --pool out, or extract a dataset of volumes.",
        )
    part = samples.iloc[members].reset_index(drop=True)
    names = part["volume"].where(part["volume"].notna(), part["id"])
    slices = part["index"].fillna(0).to_numpy(np.int64) if "index" in part else np.arange(len(part))
    order = np.lexsort((slices, pd.factorize(names)[0]))
    part, names, members = part.iloc[order].reset_index(drop=True), names.iloc[order], members[order]
    codes = pd.factorize(names)[0]
    starts = np.flatnonzero(np.r_[True, codes[1:] != codes[:-1]]) if len(codes) else codes
    first = part.iloc[starts].reset_index(drop=True)
    for column in task.columns:
        spread = part[column].astype(object).where(part[column].notna(), None).groupby(codes).nunique(dropna=False)
        if (spread > 1).any():
            volume = first["volume"].iloc[int(np.flatnonzero(spread.to_numpy() > 1)[0])]
            raise ProbeError(
                f"slices of volume {volume!r} differ in {column!r}: their pooled features have no one label",
                remedy="Leave --pool out, or give the label of the volume to all of its slices.",
            )
    return Rows(first, tuple(names.iloc[starts].astype(str)), _targets(first, task), members, starts.astype(np.int64))


def _targets(frame: pd.DataFrame, task: Task) -> NDArray[Any]:
    labels = frame[list(task.columns)]
    if task.type == "multilabel":
        return labels.to_numpy(dtype=np.float64, na_value=np.nan)
    return pd.Categorical(labels[task.columns[0]].astype("str"), categories=list(task.classes)).codes.astype(np.int64)


def pooled_features(store: FeatureStore, rows: Rows, expression: str, pool: Pool | None) -> NDArray[np.float32]:
    """(n, D) float32 features of the rows, slices of a volume pooled."""
    return _pooled(store.features(expression, rows.members), rows, pool)


def read_blocks(
    store: FeatureStore, rows: Rows, names: Sequence[str], pool: Pool | None
) -> Mapping[str, NDArray[np.float32]]:
    """The token arrays of the rows by name, pooled: ``cls`` and ``patch_mean`` (n, D), ``intermediate`` (n, B, D)."""
    return {name: _pooled(store[name][rows.members].astype(np.float32), rows, pool) for name in names}


def _pooled(array: NDArray[np.float32], rows: Rows, pool: Pool | None) -> NDArray[np.float32]:
    if pool is None:
        return array
    ends = np.append(rows.starts[1:], len(array))
    if pool == "median":
        parts = [np.median(array[first:last], axis=0) for first, last in zip(rows.starts, ends, strict=True)]
        return np.stack(parts).astype(np.float32)
    if pool == "max":
        return np.maximum.reduceat(array, rows.starts, axis=0)
    sums = np.add.reduceat(array, rows.starts, axis=0, dtype=np.float64)
    return (sums / (ends - rows.starts).reshape(-1, *[1] * (array.ndim - 1))).astype(np.float32)


def fraction_of(rows: Rows, fraction: float, *, seed: int) -> Rows:
    """A share of the rows: whole patients, classes in proportion, smaller shares inside larger ones.

    Raises
    ------
    ConfigurationError
        If the share is not above 0 and at most 1.
    """
    if not 0 < fraction <= 1:
        raise ConfigurationError(f"train fraction {fraction} is not above 0 and at most 1")
    if fraction == 1:
        return rows
    groups = rows.groups if rows.groups is not None else np.arange(len(rows))
    texts = [str(value) for value in (rows.y if rows.y.ndim == 1 else [tuple(row) for row in rows.y])]
    stratum = pd.factorize(np.array(texts))[0]
    first = np.unique(groups, return_index=True)[1]
    main = stratum[first]
    order = np.random.default_rng(seed).permutation(len(first))
    order = order[np.argsort(main[order], kind="stable")]
    sizes = np.bincount(main)
    within = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    position = np.empty(len(order))
    position[order] = (within + 0.5) / sizes[main[order]]
    kept = np.argsort(position, kind="stable")[: max(1, round(fraction * len(first)))]
    return rows.take(np.flatnonzero(np.isin(groups, groups[first[kept]])))


def data_digest(store: FeatureStore, parts: Mapping[str, Rows]) -> str:
    """SHA-256 of the rows that a probe uses: which they are, their split, labels and patients."""
    total = hashlib.sha256()
    digests = store.row_digests
    for name in sorted(parts):
        rows = parts[name]
        total.update(f"{name} {len(rows)}\n".encode())
        total.update(np.ascontiguousarray(digests[rows.members]).tobytes())
        total.update(rows.starts.tobytes())
        total.update(np.ascontiguousarray(rows.y).tobytes())
        groups = rows.groups
        total.update(b"" if groups is None else groups.tobytes())
        total.update("\0".join(rows.ids).encode())
    return total.hexdigest()
