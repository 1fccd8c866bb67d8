"""``FeatureStore``: the features of one dataset by one encoder, row by row beside the samples."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featcache.errors import ConfigurationError, StoreCorruptError
from featcache.records import Failure, Task
from featcache.registry import nearest
from featcache.store.backend import NOT_FEATURES, Backend, locate_rows, open_backend, token_families
from featcache.store.feature_array import FeatureArray
from featcache.store.keys import Key
from featcache.store.samples import SampleTable, bare_table, packed_samples, read_samples
from featcache.store.token_forms import TOKENS, TokenForm

if TYPE_CHECKING:
    import pandas as pd

    from featcache.store.torch_view import TorchView

__all__ = ["FeatureStore", "digests_from_text"]


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
        self._backend = open_backend(self.path)
        self._families: dict[str, dict[str, list[int]]] = self.attributes["families"]
        self.key = Key.from_dict(self.attributes["spec"])
        if self.key.digest != self.attributes["key"]:
            raise StoreCorruptError(
                f"the specification in {self.path} is not the one that its key was made from",
                remedy="Run `featcache verify --repair --store …`: the store keeps a copy of its document.",
            )

    @classmethod
    def from_arrays(
        cls,
        features: Mapping[str, NDArray[Any]],
        samples: pd.DataFrame,
        *,
        dataset: str,
        model: str,
        home: Path | str | None = None,
        tasks: Sequence[Task] = (),
    ) -> FeatureStore:
        """Put embeddings made elsewhere into a store whose key says so, and open it.

        Takes what :func:`featcache.store.store_from_arrays` takes.

        Examples
        --------
        >>> X = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
        >>> table = pd.DataFrame({"id": ["a", "b", "c"], "split": ["train", "train", "test"]})
        >>> FeatureStore.from_arrays({"cls": X}, table, dataset="mine", model="theirs")  # doctest: +SKIP
        """
        from featcache.store.imported import store_from_arrays

        return cls(store_from_arrays(features, samples, dataset=dataset, model=model, home=home, tasks=tasks))

    def __repr__(self) -> str:
        return f"<FeatureStore {self.dataset} {self.model} {len(self)} rows {self.path}>"

    def __len__(self) -> int:
        return len(self._view[1])

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __getitem__(self, name: str) -> FeatureArray:
        if name not in self.names:
            raise ConfigurationError(
                f"{self.path.name} has no array {name!r}{nearest(name, self.names)}",
                remedy=f"It has: {', '.join(self.names)}.",
            )
        if name not in self._tokens:
            return FeatureArray(self._backend, name, self._view[1])
        return self.array_of(name, self._view[2])

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
        """The feature arrays: ``cls``, ``intermediate``, ``patch_mean``, ``patches`` …"""
        arrays = [name for family in self._families.values() for name in family if name not in NOT_FEATURES]
        return [*arrays, *self._tokens]

    @property
    def attributes(self) -> dict[str, Any]:
        """Format version, key, specification and provenance, as stored."""
        return self._backend.attributes

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The questions that the samples' labels answer."""
        return self.table.tasks

    @property
    def split_origin(self) -> str:
        """Where the split comes from."""
        return self.table.split_origin

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences that every result on this dataset must carry."""
        return self.table.notes

    @cached_property
    def failures(self) -> tuple[Failure, ...]:
        """The samples in quarantine at the last extraction."""
        return self._backend.failures()

    @property
    def samples(self) -> pd.DataFrame:
        """One row per feature row in the same order: ``id`` first, then path, split, labels …; a copy."""
        return self._view[0].copy()

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

    def blocks(
        self, expression: str = "cls", rows: Any = slice(None), *, size: int = 4096
    ) -> Iterator[tuple[slice | NDArray[np.int64], NDArray[Any]]]:
        """An array that may be larger than memory, a block of rows at a time.

        Parameters
        ----------
        expression
            The name of an array: blocks are ``store[name][rows]``, as stored. Or an expression of
            :meth:`features`: blocks are (n, D) float32.
        rows
            Anything that indexes the rows.
        size
            Rows of a block; the last may be shorter.

        Yields
        ------
        rows : slice or ndarray
            The rows of the view in this block: a slice if ``rows`` is one of step 1, else (n,) row numbers.
        array : ndarray
            Their values, (n, ...).

        Raises
        ------
        ConfigurationError
            If ``size`` is not positive or there is no such array.

        Examples
        --------
        >>> total = sum(block.sum(axis=0, dtype=float) for _, block in store.blocks("cls"))  # doctest: +SKIP
        """
        if size < 1:
            raise ConfigurationError(f"blocks of {size} rows cannot be read", remedy="Give a size of at least 1.")
        one_array = expression in self.names
        numbers = np.atleast_1d(np.arange(len(self))[rows])
        in_order = isinstance(rows, slice) and rows.step in (None, 1)
        for first in range(0, len(numbers), size):
            part = numbers[first : first + size]
            block = slice(int(part[0]), int(part[-1]) + 1) if in_order else part
            yield block, self[expression][block] if one_array else self.features(expression, block)

    def torch(self, *, split: str | None = None, features: str = "cls", target: str | None = None) -> TorchView:
        """A map-style PyTorch dataset that ``DataLoader`` workers share without copying the features.

        Parameters
        ----------
        split
            ``train``, ``val``, ``test``; None for all rows.
        features
            See :meth:`features`.
        target
            A task or a column; None for features alone, of labelled and unlabelled rows.

        Returns
        -------
        TorchView
            Items are (D,) float32 tensors; with a target, tuples of that and the label. The rows are those of
            :meth:`arrays`. Labels that are text become their number in ``classes``: the task's classes, or the
            sorted texts of a column.

        Raises
        ------
        ConfigurationError
            If there is no such target or array.

        Examples
        --------
        >>> from torch.utils.data import DataLoader
        >>> data = store.torch(split="train", target="lobe")  # doctest: +SKIP
        >>> loader = DataLoader(data, batch_size=256, shuffle=True, num_workers=2)  # doctest: +SKIP
        """
        from featcache.store.torch_view import view_of

        return view_of(self, split=split, features=features, target=target)

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
                else "Name its label column(s) with --label-column and extract or import again; nothing is recomputed.",
            )
        return self.tasks[names.index(name)]

    def array_of(self, name: str, digests: NDArray[np.uint8]) -> FeatureArray:
        """An array whose rows are those of (n, 16) digests, whatever the samples table says.

        ``array_of(…).rows`` is -1 where the store has no such row; reading it raises a StoreError.
        """
        if name in self._tokens:
            backend = self._tokens[name]
            form = TokenForm.of_family(name)
            decoded = np.dtype(self.key.dtype) if form is not None and form.dtype == "int8" else None
            rows = locate_rows(*backend.committed(), digests)
            return FeatureArray(backend, TOKENS, rows, label=name, decoded=decoded)
        return FeatureArray(self._backend, name, self.rows_of(digests))

    @property
    def row_digests(self) -> NDArray[np.uint8]:
        """(n, 16) digest of each row, in the order of ``samples``."""
        return self._view[2]

    @property
    def digests(self) -> NDArray[np.uint8]:
        """(n, 16) digests of all committed rows, also of those that no sample needs."""
        return self._backend.committed()[0]

    @cached_property
    def dead_rows(self) -> int:
        """Committed rows that no sample needs any more (tombstones): ``gc`` removes them."""
        return len(self.digests) - len(np.unique(self._view[1]))

    def rows_of(self, digests: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Row number in the container of each of (n, 16) digests, -1 where it is not committed."""
        return locate_rows(*self._backend.committed(), digests)

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
    def _view(self) -> tuple[pd.DataFrame, NDArray[np.int64], NDArray[np.uint8]]:
        """The samples that have features, the row number in the container of each, and their digests."""
        frame = self.table.frame
        digests = digests_from_text(frame["digest"].tolist())
        rows = self.rows_of(digests)
        present = rows >= 0
        if not present.all():
            frame, rows, digests = frame[present], rows[present], digests[present]
        return frame.drop(columns="digest").reset_index(drop=True), rows, digests

    @cached_property
    def _tokens(self) -> dict[str, Backend]:
        """The families of tokens inside a Zarr store; a packed store has them among its arrays."""
        if self.path.is_file():
            return {}
        return {family: open_backend(self.path / family) for family in token_families(self.path)}

    @cached_property
    def table(self) -> SampleTable:
        """The dataset's table, digests included; that inside a self-contained packed store; else bare ids."""
        table = packed_samples(self.path) if self.path.is_file() else None
        if table is None:
            table = read_samples(self.path.parent)
        if table is not None:
            return table
        digests, rows = self._backend.committed()
        names = self._backend.ids()
        return bare_table(digests, [names[row] for row in rows.tolist()])


def digests_from_text(texts: Sequence[str | None]) -> NDArray[np.uint8]:
    """(n, 16) digests from 32 hexadecimal digits each; a missing one becomes :data:`NO_ROW`."""
    try:
        joined = "".join(texts)  # type: ignore[arg-type]  # the quick way, where none is missing
    except TypeError:
        joined = "".join(text if isinstance(text, str) else "0" * 32 for text in texts)
    try:
        return np.frombuffer(bytes.fromhex(joined), np.uint8).reshape(-1, 16)
    except ValueError as error:
        raise StoreCorruptError(
            f"the samples table has a digest that is none ({error})",
            remedy="`featcache verify` looks at all files; `featcache extract` writes the table anew.",
        ) from error
