"""Which samples a segmentation head learns from and is scored on, with their masks and patients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from featcache.errors import ProbeError
from featcache.evaluation.segmentation.native import Border, to_input, to_native
from featcache.probes.segmentation.token_stream import TokenSource, TokenStream
from featcache.records import Task, evenly_spaced
from featcache.store import FeatureStore, Masks

__all__ = [
    "SegmentRows",
    "Shots",
    "draw_shots",
    "joined_rows",
    "refuse_cropped",
    "segmentation_task",
    "select_segment_rows",
    "straddling_notes",
    "stream_rows",
    "training_classes",
    "unmasked_notes",
]


@dataclass(frozen=True, slots=True)
class SegmentRows:
    """Samples of one split that have both tokens and a mask."""

    frame: pd.DataFrame
    """The samples table's lines."""
    rows: NDArray[np.int64]
    """(n,) row numbers of the store's view."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def ids(self) -> tuple[str, ...]:
        """(n,) sample ids."""
        return tuple(self.frame["id"])

    @property
    def volumes(self) -> dict[str, str]:
        """Volume by sample id, of the samples that belong to one."""
        if "volume" not in self.frame:
            return {}
        named = self.frame[self.frame["volume"].notna()]
        return dict(zip(named["id"], named["volume"], strict=True))

    def patients(self) -> dict[str, str] | None:
        """Patient by sample id; a sample without one is alone (its volume, or its id). None where none is known."""
        if "patient" not in self.frame or self.frame["patient"].isna().all():
            return None
        volumes = self.volumes
        pairs = zip(self.frame["id"], self.frame["patient"], strict=True)
        return {name: str(who) if isinstance(who, str) else f"\0{volumes.get(name, name)}" for name, who in pairs}

    def take(self, places: NDArray[np.int64]) -> SegmentRows:
        """Some of the samples."""
        return SegmentRows(self.frame.iloc[places].reset_index(drop=True), self.rows[places])


def segmentation_task(store: FeatureStore, name: str | None) -> Task:
    """The task by name, or the dataset's only one of type ``segmentation``.

    Raises
    ------
    ProbeError
        If the dataset has none, several and no name, or the task is another kind of question.
    """
    known = [task for task in store.tasks if task.type == "segmentation"]
    names = ", ".join(task.name for task in known) or "none"
    if name is None and len(known) == 1:
        return known[0]
    for task in known:
        if task.name == name:
            return task
    what = (
        "no segmentation task" if not known else "several segmentation tasks" if name is None else f"no task {name!r}"
    )
    raise ProbeError(
        f"dataset {store.dataset} has {what} that segments; known: {names}".replace("task that segments", "task"),
        remedy="Choose one with --task." if known else "Datasets with label files: featcache datasets.",
    )


def select_segment_rows(store: FeatureStore, masks: Masks, task: Task, split: str) -> SegmentRows:
    """The samples of a split that have tokens and a mask.

    Samples for which the dataset names no mask are left out; one whose mask is named and was not written is refused.

    Raises
    ------
    ProbeError
        If a named mask is missing, or some slices of a volume have a mask and some have none.
    """
    samples = store.samples
    inside = (samples["split"] == split).fillna(False).to_numpy(dtype=bool)
    named = samples[list(task.columns)].notna().all(axis=1).to_numpy()
    written = np.array([name in masks for name in samples["id"]], dtype=bool)
    absent = np.flatnonzero(inside & named & ~written)
    if len(absent):
        shown = ", ".join(samples["id"].iloc[absent[:3]])
        raise ProbeError(
            f"{len(absent)} samples of split {split!r} name a mask that is not in {masks.path}: {shown}",
            remedy=f"Write them: featcache masks --dataset {store.dataset}. It lists what fails; leave those samples "
            "out of the table.",
        )
    if "volume" in samples:
        part = samples[inside & samples["volume"].notna().to_numpy()]
        has = part["id"].isin(set(masks.ids)).groupby(part["volume"]).agg(["any", "all"])
        partly = has.index[has["any"] & ~has["all"]].tolist()
        if partly:
            raise ProbeError(
                f"of {len(partly)} volumes in split {split!r} only some slices have a mask: {', '.join(partly[:3])}",
                remedy="Give each volume one label volume of the same slices, or none.",
            )
        if split in ("train", "val") and not has["all"].all():
            bare = has.index[~has["all"]].tolist()
            raise ProbeError(
                f"{len(bare)} volumes of split {split!r} have no mask: {', '.join(map(str, bare[:3]))}",
                remedy="Give them a label volume, or take them out of the split with --split-file.",
            )
    rows = np.flatnonzero(inside & written)
    return SegmentRows(samples.iloc[rows].reset_index(drop=True), rows)


def joined_rows(one: SegmentRows, two: SegmentRows) -> SegmentRows:
    """The samples of both."""
    frame = pd.concat([one.frame, two.frame], ignore_index=True)
    return SegmentRows(frame, np.concatenate([one.rows, two.rows]))


def straddling_notes(parts: Mapping[str, SegmentRows], allowed: bool) -> list[str]:
    """What is to be said of patients, or volumes, that are in more than one split.

    Raises
    ------
    ProbeError
        If there are such and they are not allowed.
    """
    patients = {name: rows.patients() for name, rows in parts.items()}
    unknown = any(found is None for found in patients.values())
    units = {
        name: set(rows.volumes.values()) if unknown else set((patients[name] or {}).values())
        for name, rows in parts.items()
    }
    names = sorted(units)
    pairs = [(one, two) for place, one in enumerate(names) for two in names[place + 1 :]]
    shared = sorted(set().union(*(units[one] & units[two] for one, two in pairs)))
    kind = "volumes" if unknown else "patients"
    notes = ["No patient ids: one patient may be in several splits."] if unknown else []
    if shared and not allowed:
        raise ProbeError(
            f"{len(shared)} {kind} are in more than one split: {', '.join(shared[:10])}",
            remedy="Split by patient, or pass --allow-patient-overlap and report it.",
        )
    if shared:
        notes.append(f"{len(shared)} {kind} are in more than one split: the numbers are too good.")
    return notes


def unmasked_notes(store: FeatureStore, parts: Mapping[str, SegmentRows]) -> list[str]:
    """How many samples of each split have no mask: they are neither learnt from nor scored."""
    sizes = store.samples["split"].value_counts()
    missing = {name: int(sizes.get(name, 0)) - len(rows) for name, rows in parts.items()}
    shown = ", ".join(f"{name} {count}" for name, count in missing.items() if count)
    return [f"Samples without a mask, neither learnt from nor scored: {shown}."] if shown else []


def refuse_cropped(store: FeatureStore, masks: Masks, rows: SegmentRows, border: Border) -> None:
    """Say before anything is trained that the store's recipe cut off a part of the planes to be scored.

    Raises
    ------
    ProbeError
        If it did and ``border`` is ``refuse``.
    """
    for shape in sorted({masks.shape(name) for name in rows.ids}):
        to_native(np.zeros((2, 1, 1), np.float32), shape, store.attributes["spec"]["preprocess"], border=border)


def training_classes(masks: Masks, rows: SegmentRows, prefix: str) -> list[str]:
    """What is to be said of classes that no training mask shows.

    Raises
    ------
    ProbeError
        If none of them shows any foreground.
    """
    seen = np.zeros(len(masks.class_names), bool)
    for name in rows.ids:
        seen |= np.bincount(masks[name].ravel(), minlength=len(seen)) > 0
        if seen[1:].all():
            return []
    if not seen[1:].any():
        raise ProbeError(
            f"{prefix}no training mask shows any foreground: there is nothing to learn",
            remedy="Look at the masks, or draw other --shots with another --seed.",
        )
    absent = ", ".join(name for name, there in zip(masks.class_names[1:], seen[1:], strict=True) if not there)
    return [f"{prefix}no training mask shows {absent}: it cannot be learnt, and scores 0 where a mask has it."]


def stream_rows(
    store: FeatureStore, masks: Masks, rows: SegmentRows, size: int, memory: int, *, tokens: TokenSource
) -> TokenStream:
    """Tokens and S x S targets of the rows."""
    ids, recipe = dict(zip(rows.rows.tolist(), rows.ids, strict=True)), store.attributes["spec"]["preprocess"]

    def target(row: int) -> NDArray[np.uint8]:
        return to_input(masks[ids[row]], size, recipe)

    return TokenStream(tokens, target, rows.rows, size=size, memory=memory)


@dataclass(frozen=True, slots=True)
class Shots:
    """How a small training set is drawn."""

    count: int
    """Images, or volumes."""
    by_volume: bool = False
    """Count volumes, with all of their slices."""
    protocol: str = "random"
    """``random``, or ``study``: evenly spaced."""


def draw_shots(rows: SegmentRows, shots: Shots, seed: int) -> SegmentRows:
    """A few images or volumes of the training rows; of one seed, fewer shots are part of more.

    Raises
    ------
    ProbeError
        If there are fewer, or volumes are counted and there are none.
    """
    units: Sequence[str] = rows.ids
    if shots.by_volume:
        volumes: Mapping[str, str] = rows.volumes
        if len(volumes) < len(rows):
            raise ProbeError("shots by volume need volumes", remedy="Leave --by-volume out: shots are then images.")
        units = [volumes[name] for name in rows.ids]
    names = list(dict.fromkeys(units))
    if not 1 <= shots.count <= len(names):
        kind = "volumes" if shots.by_volume else "images"
        raise ProbeError(
            f"{shots.count} shots were asked for, the training split has {len(names)} {kind}",
            remedy=f"Give --shots between 1 and {len(names)}.",
        )
    if shots.protocol == "study":
        chosen = evenly_spaced(len(names), shots.count)
    else:
        chosen = np.random.default_rng(seed).permutation(len(names))[: shots.count]
    wanted = {names[place] for place in chosen.tolist()}
    return rows.take(np.flatnonzero([unit in wanted for unit in units]))
