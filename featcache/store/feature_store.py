"""``FeatureStore``: the features of one dataset by one encoder, row by row beside the samples."""

from __future__ import annotations

import json
import math
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from featcache.errors import (
    ConfigurationError,
    StoreCorruptError,
    StoreNotFoundError,
    StoreVersionError,
)
from featcache.records import Failure, Task
from featcache.registry import nearest
from featcache.store.home import find_home, last_store, store_paths
from featcache.store.keys import Key
from featcache.store.reading import FeatureArray
from featcache.store.samples import SampleTable, read_samples
from featcache.store.segments import NO_ROW, read_segments
from featcache.store.zarr_layout import ArrayLayout, chunk_file

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FORMAT_VERSION", "FeatureStore", "find_store"]

FORMAT_VERSION = 1
"""Of the store's format (``docs/format.md``). A store of a higher one is refused."""

NOT_FEATURES = frozenset({"digests", "ids"})


class FeatureStore:
    """A store opened for reading. Opening it imports neither torch nor zarr.

    Parameters
    ----------
    path
        The folder ``<home>/<dataset>/<model>-<key>.zarr``.

    Raises
    ------
    StoreNotFoundError
        If there is no store at ``path``.
    StoreVersionError
        If a newer featcache wrote it.
    StoreCorruptError
        If its metadata or commit records cannot be read.

    Examples
    --------
    >>> store = featcache.open("brain_regions", model="efficientnet_lite0")  # doctest: +SKIP
    >>> store["cls"][:].shape, list(store.samples["id"][:2])  # doctest: +SKIP
    ((800, 1280), ['frontal-L-x030y132z088', 'frontal-L-x038y134z106'])
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).absolute()
        document = _read_document(self.path)
        self._attributes: dict[str, Any] = document["attributes"]["featcache"]
        self._families: dict[str, list[str]] = self._attributes["families"]
        self.key = Key.from_dict(self._attributes["spec"])
        self._segments = read_segments(self.path, "vectors")

    def __repr__(self) -> str:
        return f"<FeatureStore {self.dataset} {self.model} {len(self)} rows {self.path}>"

    def __len__(self) -> int:
        return len(self._physical)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __getitem__(self, name: str) -> FeatureArray:
        if name not in self.names:
            raise ConfigurationError(
                f"{self.path.name} has no array {name!r}{nearest(name, self.names)}",
                remedy=f"It has: {', '.join(self.names)}.",
            )
        return FeatureArray(self.path, self._layout(name), self._physical)

    @property
    def dataset(self) -> str:
        """Name of the dataset in the home."""
        return self.path.parent.name

    @property
    def model(self) -> str:
        """Registry name or id of the model."""
        return self.key.model

    @property
    def names(self) -> list[str]:
        """The feature arrays: ``cls``, ``intermediate``, ``patch_mean`` …"""
        return [name for arrays in self._families.values() for name in arrays if name not in NOT_FEATURES]

    @property
    def attributes(self) -> dict[str, Any]:
        """Format version, key, specification and provenance, as stored."""
        return self._attributes

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The questions that the samples' labels answer."""
        return self._table.tasks

    @property
    def split_origin(self) -> str:
        """Where the split comes from."""
        return self._table.split_origin

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences that every result on this dataset must carry."""
        return self._table.notes

    @cached_property
    def failures(self) -> tuple[Failure, ...]:
        """The samples in quarantine at the last extraction."""
        try:
            listed = json.loads((self.path / "segments" / "quarantine.json").read_bytes())
            return tuple(Failure(**failure) for failure in listed)
        except FileNotFoundError:
            return ()
        except (ValueError, TypeError) as error:
            raise StoreCorruptError(f"the quarantine list of {self.path} cannot be read: {error}") from error

    @cached_property
    def samples(self) -> pd.DataFrame:
        """One row per feature row in the same order: ``id`` first, then path, split, labels …"""
        return self._view[0]

    def features(self, expression: str = "cls", rows: Any = slice(None)) -> NDArray[np.float32]:
        """Features as one matrix.

        Parameters
        ----------
        expression
            Array names joined by ``+`` (``cls+patch_mean``), or ``layers:n``: the class token of the last n
            blocks, from ``intermediate`` and ``cls``.
        rows
            Anything that indexes the rows.

        Returns
        -------
        ndarray
            (n, D) float32.
        """
        parts = [self._part(name.strip(), rows) for name in expression.split("+")]
        return np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]

    def arrays(
        self, *, split: str | None = None, features: str = "cls", target: str | None = None
    ) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """Features and labels for any estimator.

        Parameters
        ----------
        split
            ``train``, ``val``, ``test``; None for all rows.
        features
            See :meth:`features`.
        target
            A task or a column; default: the only task.

        Returns
        -------
        X
            (n, D) float32.
        y
            (n,) labels as in the table; (n, L) float64 with NaN for missing ones if the task is multi-label.
            Rows without a label are left out (multi-label: rows without any).
        """
        target = self.task(target).name if target is None else target
        task = next((task for task in self.tasks if task.name == target), None)
        columns = task.columns if task is not None else (target,)
        unknown = [name for name in columns if name not in self.samples]
        if unknown:
            raise ConfigurationError(
                f"{self.dataset} has no task or column {unknown[0]!r}" + nearest(unknown[0], self.samples.columns)
            )
        labels = self.samples[list(columns)]
        chosen = labels.notna().any(axis=1).to_numpy()
        if split is not None:
            chosen = chosen & (self.samples["split"] == split).fillna(False).to_numpy(dtype=bool)
        rows = np.flatnonzero(chosen)
        if len(columns) > 1:
            return self.features(features, rows), labels.iloc[rows].to_numpy(dtype=np.float64, na_value=np.nan)
        return self.features(features, rows), labels[columns[0]].iloc[rows].to_numpy()

    def task(self, name: str | None = None) -> Task:
        """A task by name; without a name, the only one.

        Raises
        ------
        ConfigurationError
            If there is no such task, or several and no name.
        """
        names = [task.name for task in self.tasks]
        if name is None and len(names) == 1:
            return self.tasks[0]
        if name not in names:
            asked = (
                "has several tasks" if name is None and names else f"has no task {name!r}" if name else "has no task"
            )
            raise ConfigurationError(
                f"dataset {self.dataset} {asked}; known: {', '.join(names) or 'none'}",
                remedy="Choose one with --task."
                if names
                else "Name its label column(s) with --label-column and extract again: nothing is recomputed.",
            )
        return self.tasks[names.index(name)]

    def committed(self) -> dict[bytes, int]:
        """Row number in the Zarr arrays for each committed digest; the latest commit of a digest counts."""
        chunk_rows = self._layout("digests").chunk_rows
        rows: dict[bytes, int] = {}
        for segment in self._segments:
            content = segment.digests.tobytes()
            first = segment.number * chunk_rows
            for place in range(len(segment.digests)):
                digest = content[16 * place : 16 * place + 16]
                if digest != NO_ROW:
                    rows[digest] = first + place
        return rows

    def _part(self, name: str, rows: Any) -> NDArray[np.float32]:
        if not name.startswith("layers:"):
            array = self[name][rows].astype(np.float32)
            return array.reshape(len(array), math.prod(array.shape[1:]))
        count = int(name.removeprefix("layers:")) if name.removeprefix("layers:").isdigit() else 0
        available = 1 + (self["intermediate"].shape[1] if "intermediate" in self else 0)
        if not 1 <= count <= available:
            raise ConfigurationError(
                f"{name!r}: {self.path.name} holds the class token of the last {available} blocks",
                remedy=f"Ask for layers:1 to layers:{available}.",
            )
        last = self["cls"][rows].astype(np.float32)
        if count == 1:
            return last
        earlier = self["intermediate"][rows][:, available - count :].astype(np.float32)
        return np.concatenate([earlier.reshape(len(last), math.prod(earlier.shape[1:])), last], axis=1)

    @cached_property
    def _view(self) -> tuple[pd.DataFrame, NDArray[np.int64]]:
        """The samples that have features, and the row number in the Zarr arrays of each."""
        frame = self._table.frame
        committed = self.committed()
        digests = [bytes.fromhex(digest) if isinstance(digest, str) else NO_ROW for digest in frame["digest"]]
        physical = np.array([committed.get(digest, -1) for digest in digests], dtype=np.int64)
        present = physical >= 0
        return frame[present].drop(columns="digest").reset_index(drop=True), physical[present]

    @property
    def _physical(self) -> NDArray[np.int64]:
        return self._view[1]

    @cached_property
    def _table(self) -> SampleTable:
        """The dataset's table; for a store that was copied alone, ids as they were at extraction."""
        import pandas as pd

        table = read_samples(self.path.parent)
        if table is not None:
            return table
        committed = self.committed()
        names = self._ids()
        frame = pd.DataFrame(
            {
                "id": pd.Series([names[row] for row in committed.values()], dtype="str"),
                "digest": pd.Series([digest.hex() for digest in committed], dtype="str"),
                "split": pd.Series([None] * len(committed), dtype="str"),
            }
        )
        note = "samples.parquet is not beside the store: ids are those of the extraction, labels are unknown."
        return SampleTable("", frame, (), "none", (note,))

    def _ids(self) -> dict[int, str]:
        layout = self._layout("ids")
        names: dict[int, str] = {}
        for segment in self._segments:
            content = chunk_file(self.path, layout, segment.number).read_bytes()
            position = 4
            for place in range(len(segment.digests)):
                length = int.from_bytes(content[position : position + 4], "little")
                names[segment.number * layout.chunk_rows + place] = content[
                    position + 4 : position + 4 + length
                ].decode()
                position += 4 + length
        return names

    def _layout(self, name: str) -> ArrayLayout:
        return read_layout(self.path, name)


def read_layout(store: Path, name: str) -> ArrayLayout:
    """The layout of one array of a store, from its ``zarr.json``."""
    path = store / name / "zarr.json"
    try:
        return ArrayLayout.from_document(name, json.loads(path.read_bytes()))
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise StoreCorruptError(
            f"the metadata of an array cannot be read: {path} ({error})",
            remedy="Restore the store from a copy, or remove its folder and extract again.",
        ) from error


def find_store(target: str | Path | None = None, *, model: str | None = None, home: Path | str | None = None) -> Path:
    """The folder of a store.

    Parameters
    ----------
    target
        A store's folder, or a dataset's name; None for the store extracted last.
    model
        Which of a dataset's stores; needed where there are several.
    home
        Default: FEATCACHE_HOME or the platform's data folder.

    Raises
    ------
    StoreNotFoundError
        If nothing fits; the message lists what there is.
    ConfigurationError
        If several stores fit.
    """
    if target is not None and (Path(target) / "zarr.json").is_file():
        return Path(target)
    folder = find_home(home)
    if target is None and model is None:
        last = last_store(folder)
        if last is None:
            raise StoreNotFoundError(
                f"no feature store in {folder}", remedy="Make one: featcache extract --model M --dataset D."
            )
        return last
    stores = {path: _model_of(path) for path in store_paths(folder, None if target is None else str(target))}
    fitting = [path for path, name in stores.items() if model in (None, name, path.name, path.stem)]
    if len(fitting) == 1:
        return fitting[0]
    asked = " and ".join(
        f"{what} {value!r}" for what, value in (("dataset", target), ("model", model)) if value is not None
    )
    listed = "\n".join(f"  {path.parent.name}  {_model_of(path)}  {path}" for path in fitting or store_paths(folder))
    if fitting:
        raise ConfigurationError(
            f"{len(fitting)} stores fit {asked}:\n{listed}",
            remedy="Choose one with --store PATH (or --model).",
        )
    raise StoreNotFoundError(
        f"no store in {folder} for {asked}; it has:\n{listed or '  nothing'}",
        remedy="Make it: featcache extract --model M --dataset D.",
    )


def _model_of(path: Path) -> str:
    return cast(str, _read_document(path)["attributes"]["featcache"]["spec"]["model"])


def _read_document(path: Path) -> dict[str, Any]:
    file = path / "zarr.json"
    try:
        document = json.loads(file.read_bytes())
        version = int(document["attributes"]["featcache"]["format_version"])
    except (FileNotFoundError, NotADirectoryError):
        raise StoreNotFoundError(
            f"no feature store at {path}", remedy="`featcache list` shows the stores of the home."
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreCorruptError(
            f"{file} is not the metadata of a featcache store ({error!r})",
            remedy="Restore it from a copy, or remove the store and extract again.",
        ) from error
    if version > FORMAT_VERSION:
        raise StoreVersionError(
            f"{path} has format version {version}, this featcache reads up to {FORMAT_VERSION}",
            remedy="Upgrade featcache: pip install -U featcache.",
        )
    return cast(dict[str, Any], document)
