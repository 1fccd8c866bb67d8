"""``Ledger``: each result in a folder of its own, found again by what decided its numbers."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from featcache.errors import ResultError
from featcache.records import Estimate, ProbeRun, Result, Subgroup

__all__ = ["Ledger", "fingerprint"]

LEDGER_VERSION = 1
"""Of the files of a result."""

_EPISODES = "episodes.json"


def fingerprint(content: Mapping[str, Any]) -> str:
    """SHA-256 of canonical JSON; what JSON does not know goes in as text.

    Examples
    --------
    >>> fingerprint({"a": 1, "b": (2,)}) == fingerprint({"b": [2], "a": 1})
    True
    """
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), default=_jsonable)
    return hashlib.sha256(canonical.encode()).hexdigest()


class Ledger:
    """The results of one home.

    Parameters
    ----------
    folder
        ``<home>/results``; made when the first result is recorded. ``<folder>/<probe>-<12 digits>/`` holds
        ``result.json``, ``scores.parquet`` and, of few-shot, ``episodes.json``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def beside(cls, store: Path) -> Ledger:
        """The ledger of the home that a store lies in: ``<home>/<dataset>/<store>``."""
        return cls(store.parent.parent / "results")

    def find(self, probe: str, mark: str) -> Result | None:
        """The result with this fingerprint; None if it was never recorded, or its files are damaged."""
        try:
            found = self.read(_name(probe, mark))
        except ResultError:
            return None
        return found if found.fingerprint == mark else None

    def record(self, result: Result) -> Result:
        """Write a result, replacing an older one of the same fingerprint; what is returned has its id.

        Where the home cannot be written the result is returned as it is, with a note that says so.
        """
        named = replace(result, id=_name(result.probe, result.fingerprint))
        target = self.folder / named.id
        aside = self.folder / f".{named.id}.{os.getpid()}.partial"
        try:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            _write_scores(named, aside / "scores.parquet")
            if named.episodes is not None:
                (aside / _EPISODES).write_text(json.dumps(named.episodes), encoding="utf-8")
            text = json.dumps(_document(named), indent=1, ensure_ascii=False, default=_jsonable)
            (aside / "result.json").write_text(text, encoding="utf-8")
            shutil.rmtree(target, ignore_errors=True)
            aside.replace(target)
        except OSError as error:
            shutil.rmtree(aside, ignore_errors=True)
            note = f"This result is not in the ledger: {self.folder} cannot be written ({error.strerror})."
            return replace(result, notes=(*result.notes, note))
        return named

    def read(self, name: str) -> Result:
        """A result by its id, or by the beginning of it.

        Raises
        ------
        ResultError
            If there is none, several begin so, or its files are damaged.
        """
        folder = self._folder_of(name)
        try:
            document = json.loads((folder / "result.json").read_bytes())
            if document["version"] > LEDGER_VERSION:
                raise ResultError(f"result {folder.name} was written by a newer featcache", remedy="Upgrade featcache.")
            return _read_scores(document, folder)
        except (OSError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, ResultError):
                raise
            raise ResultError(
                f"result {folder.name} cannot be read ({error!r})", remedy="Run the probe again with --fresh."
            ) from error

    def list(self) -> list[dict[str, Any]]:
        """One line of facts for each result, the newest first; damaged ones are left out."""
        found = []
        for path in self.folder.glob("*/result.json"):
            try:
                document = json.loads(path.read_bytes())
                found.append({name: document[name] for name in _SUMMARY} | {"metrics": _best(document["runs"])})
            except (OSError, ValueError, KeyError, TypeError):
                continue
        return sorted(found, key=lambda line: (line["created"], line["id"]), reverse=True)

    def _folder_of(self, name: str) -> Path:
        exact = self.folder / name
        if name and (exact / "result.json").is_file():
            return exact
        matches = sorted(path.parent for path in self.folder.glob("*/result.json") if path.parent.name.startswith(name))
        if len(matches) == 1 and name:
            return matches[0]
        listed = ", ".join(path.name for path in matches[:5])
        raise ResultError(
            f"{len(matches)} results in {self.folder} begin with {name!r}" + (f": {listed}" if listed else ""),
            remedy="`featcache results` lists them.",
        )


_SUMMARY = ("id", "created", "probe", "dataset", "model", "key", "task", "config")


def _name(probe: str, mark: str) -> str:
    return f"{probe}-{mark[:12]}"


def _best(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Parameters and point estimates of the first run, and how many there are."""
    first = runs[0]
    values = {name: found["value"] for name, found in first["metrics"].items()}
    return {"runs": len(runs), "parameters": first["parameters"], "split": first["split"], "n": first["n"], **values}


def _document(result: Result) -> dict[str, Any]:
    return {
        "version": LEDGER_VERSION,
        "id": result.id,
        "fingerprint": result.fingerprint,
        "created": result.created,
        "seconds": result.seconds,
        "probe": result.probe,
        "dataset": result.dataset,
        "model": result.model,
        "key": result.key,
        "task": result.task,
        "classes": list(result.classes),
        "config": dict(result.config),
        "versions": dict(result.versions),
        "notes": list(result.notes),
        "runs": [
            {
                "parameters": dict(run.parameters),
                "split": run.split,
                "n": run.n,
                "has_scores": run.scores is not None,
                "metrics": _estimates(run.metrics),
                "per_class": {name: _estimates(values) for name, values in run.per_class.items()},
                "subgroups": [
                    {"column": part.column, "value": part.value, "n": part.n, "metrics": _estimates(part.metrics)}
                    for part in run.subgroups
                ],
            }
            for run in result.runs
        ],
    }


def _estimates(values: Mapping[str, Estimate]) -> dict[str, Any]:
    return {
        name: {"value": _number(found.value), "low": _number(found.low), "high": _number(found.high)}
        for name, found in values.items()
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _back(values: Mapping[str, Mapping[str, float | None]]) -> dict[str, Estimate]:
    def number(value: float | None) -> float:
        return math.nan if value is None else value

    return {
        name: Estimate(*(number(found[part]) for part in ("value", "low", "high"))) for name, found in values.items()
    }


def _write_scores(result: Result, path: Path) -> None:
    """``id``, ``patient`` (its number), ``target`` or one a label, and a column for each run and class."""
    import pyarrow
    import pyarrow.parquet

    columns: dict[str, Any] = {"id": pyarrow.array(list(result.ids), pyarrow.string())}
    if result.groups is not None:
        columns["patient"] = result.groups
    if result.targets.ndim == 1:
        columns["target"] = result.targets
    else:
        columns |= {f"target_{place}": result.targets[:, place] for place in range(result.targets.shape[1])}
    for number, run in enumerate(result.runs):
        if run.scores is not None:
            columns |= {f"run{number}_{place}": run.scores[:, place] for place in range(run.scores.shape[1])}
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


def _read_scores(document: Mapping[str, Any], folder: Path) -> Result:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(folder / "scores.parquet")
    except pyarrow.ArrowException as error:
        raise ResultError(
            f"{folder / 'scores.parquet'} cannot be read ({error})", remedy="Run the probe again with --fresh."
        ) from error
    names = table.column_names

    def stacked(prefix: str) -> Any:
        count = sum(name.startswith(f"{prefix}_") for name in names)
        return np.stack([table.column(f"{prefix}_{place}").to_numpy() for place in range(count)], axis=1)

    runs = tuple(
        ProbeRun(
            parameters=run["parameters"],
            split=run["split"],
            n=run["n"],
            metrics=_back(run["metrics"]),
            scores=stacked(f"run{number}") if run["has_scores"] else None,
            per_class={name: _back(values) for name, values in run["per_class"].items()},
            subgroups=tuple(
                Subgroup(part["column"], part["value"], part["n"], _back(part["metrics"])) for part in run["subgroups"]
            ),
        )
        for number, run in enumerate(document["runs"])
    )
    return Result(
        **{name: document[name] for name in ("probe", "dataset", "model", "key", "task", "config", "seconds")},
        classes=tuple(document["classes"]),
        runs=runs,
        ids=tuple(table.column("id").to_pylist()),
        targets=table.column("target").to_numpy() if "target" in names else stacked("target"),
        groups=table.column("patient").to_numpy() if "patient" in names else None,
        notes=tuple(document["notes"]),
        id=document["id"],
        created=document["created"],
        fingerprint=document["fingerprint"],
        versions=document["versions"],
        episodes=json.loads((folder / _EPISODES).read_bytes()) if (folder / _EPISODES).is_file() else None,
    )


def _jsonable(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, tuple | set | frozenset):
        return list(value)
    return str(value)
