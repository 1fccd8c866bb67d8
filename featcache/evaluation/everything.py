"""``probe_all``: every probe that fits a store's task, one after another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from featcache.errors import ProbeError
from featcache.evaluation.probing import probe
from featcache.evaluation.rows import chosen_task, select_rows
from featcache.probes import PROBES
from featcache.records import Result, Task
from featcache.store import FeatureStore

__all__ = ["probe_all"]


def probe_all(
    store: FeatureStore | Path | str,
    *,
    task: str | None = None,
    progress: Callable[[str], None] | None = None,
    skipped: Callable[[str, ProbeError], None] | None = None,
    **options: Any,
) -> list[Result]:
    """Ask every probe that answers this kind of task, with its own defaults.

    Parameters
    ----------
    store
        A store, or its path.
    task
        Which task; default the only one that classifies.
    progress
        Called with the name of each probe before it runs.
    skipped
        Called with the name of a probe that cannot answer and why; without it that error is raised.
    **options
        What :func:`featcache.probe` takes for all probes: ``split``, ``seed``, ``metrics``, ``fresh`` … ``pool`` is for
        the probes of pooled rows; ``volume`` compares its own.

    Returns
    -------
    list of Result
        In the order of the registry. Probes that were run before come from the ledger.
    """
    opened = store if isinstance(store, FeatureStore) else FeatureStore(store)
    answered = chosen_task(opened, task, options.get("labels"))
    results = []
    for spec in PROBES:
        if spec.name == "mlknn" and answered.type != "multilabel":
            continue
        if spec.name == "volume" and not _has_labelled_volumes(opened, answered):
            continue
        if progress is not None:
            progress(spec.name)
        try:
            chosen = options if spec.name != "volume" else {**options, "pool": None}
            results.append(probe(spec.name, opened, task=task, **chosen))
        except ProbeError as error:
            if skipped is None:
                raise
            skipped(spec.name, error)
    return results


def _has_labelled_volumes(store: FeatureStore, task: Task) -> bool:
    """Whether there are volumes of several slices which share one label."""
    try:
        rows = select_rows(store, task, None, volumes=True)
    except ProbeError:
        return False
    return len(rows) < len(rows.members)
