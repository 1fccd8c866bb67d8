"""What a result must say of its rows, and rows that are refused."""

from __future__ import annotations

from collections.abc import Mapping

from featcache.errors import ProbeError
from featcache.evaluation.rows import Rows
from featcache.metrics import undefined_classes
from featcache.records import Task
from featcache.store import FeatureStore

__all__ = ["overlap_notes", "refuse_empty", "undefined_notes"]


def refuse_empty(store: FeatureStore, task: Task, parts: Mapping[str, Rows], split: str) -> None:
    for name in ("train", split):
        if name in parts and len(parts[name]) == 0:
            counts = store.samples["split"].value_counts(dropna=False).to_dict()
            raise ProbeError(
                f"dataset {store.dataset}: no rows with a label for task {task.name!r} in split {name!r}",
                remedy=f"Rows by split: {counts or 'none'}. Choose with --split, widen --where, or give the data a "
                "split.",
            )


def overlap_notes(store: FeatureStore, parts: Mapping[str, Rows], allowed: bool) -> list[str]:
    samples = store.samples
    if "patient" not in samples or samples["patient"].isna().all():
        if store.split_origin == "within-subject":
            return []
        return ["No patient ids: the intervals resample images, and one patient may be in several splits."]
    members = {name: set(rows.frame["patient"].dropna()) for name, rows in parts.items()}
    names = sorted(members)
    pairs = [(one, two) for place, one in enumerate(names) for two in names[place + 1 :]]
    shared = sorted(set().union(*(members[one] & members[two] for one, two in pairs)))
    if not shared or store.split_origin == "within-subject":
        return []
    listed = ", ".join(shared[:10]) + (" …" if len(shared) > 10 else "")
    if not allowed:
        raise ProbeError(
            f"{len(shared)} patients are in more than one split: {listed}",
            remedy="Split by patient, or pass --allow-patient-overlap and report it.",
        )
    return [f"{len(shared)} patients are in more than one split: the numbers are too good."]


def undefined_notes(rows: Rows, task: Task, split: str) -> list[str]:
    missing = undefined_classes(rows.y, len(task.classes))
    if not len(missing):
        return []
    listed = ", ".join(task.classes[index] for index in missing)
    return [f"AUROC is undefined in {split} and left out of the macro mean for: {listed}."]
