"""``TorchView``: a split of a store as a map-style dataset of PyTorch. Importing this imports torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from featcache.errors import ConfigurationError, StoreCorruptError
from featcache.registry import nearest
from featcache.store.feature_store import FeatureStore

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TorchView", "view_of"]


class TorchView(Dataset[Any]):
    """Rows of a store, read when they are asked for. Made by :meth:`FeatureStore.torch`.

    Workers of a ``DataLoader`` share it: what is pickled or inherited is the store's path, the digests and the
    labels of the rows (16 bytes a row and the labels), never features. Each process opens the store for itself,
    when it first reads, and finds its rows by their digests, so that a store that grew or was compacted in between
    still gives the same rows.

    Parameters
    ----------
    path
        Of the store.
    features
        See :meth:`FeatureStore.features`.
    digests
        (n, 16) uint8, the rows.
    labels
        (n,) or (n, L); None for features alone.
    classes
        What labels stand for: names of the classes, or of the L columns; may be empty.

    Attributes
    ----------
    labels : torch.Tensor or None
        (n,) int64 classes, (n,) numbers, or (n, L) float32 with NaN for missing ones.
    classes : tuple of str
        As given.
    """

    def __init__(
        self,
        path: Path,
        features: str,
        *,
        digests: NDArray[np.uint8],
        labels: NDArray[Any] | None = None,
        classes: Sequence[str] = (),
    ) -> None:
        self.path = path
        self.features = features
        self.classes = tuple(classes)
        self.labels = None if labels is None else torch.from_numpy(np.ascontiguousarray(labels))
        self._digests = digests
        self._opened: tuple[int, _Rows] | None = None

    def __len__(self) -> int:
        return len(self._digests)

    def __repr__(self) -> str:
        return f"<TorchView {self.path.name} {self.features} {len(self)} rows>"

    def __getitem__(self, row: int) -> Any:
        """One row: (D,) float32, or with a target a tuple of it and its label."""
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: Sequence[int]) -> list[Any]:
        """Several rows in one read, as ``DataLoader`` asks for a batch."""
        numbers = np.asarray(rows, dtype=np.int64)
        features = list(torch.from_numpy(self._store.features(self.features, numbers)))
        return features if self.labels is None else list(zip(features, self.labels[numbers], strict=True))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    @property
    def _store(self) -> _Rows:
        """The store as this process opened it: an HDF5 file must not be shared across a fork."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), _Rows(self.path, self._digests))
        return self._opened[1]


class _Rows(FeatureStore):
    """A store whose view is the rows of some digests; the samples table is not read."""

    def __init__(self, path: Path, digests: NDArray[np.uint8]) -> None:
        super().__init__(path)
        self._digests, self._rows = digests, self.rows_of(digests)
        lost = int((self._rows < 0).sum())
        if lost:
            raise StoreCorruptError(
                f"{lost} of {len(digests)} rows are no longer in {path}", remedy="Call store.torch() again."
            )

    @cached_property
    def _view(self) -> tuple[pd.DataFrame, NDArray[np.int64], NDArray[np.uint8]]:
        import pandas as pd

        return pd.DataFrame(index=range(len(self._rows))), self._rows, self._digests


def view_of(store: FeatureStore, *, split: str | None, features: str, target: str | None) -> TorchView:
    """See :meth:`FeatureStore.torch`.

    Raises
    ------
    ConfigurationError
        If there is no such target or array.
    """
    store.features(features, slice(0, 0))  # An unknown array is an error here, not in a worker.
    chosen = np.ones(len(store), bool)
    if split is not None:
        chosen = (store.samples["split"] == split).fillna(False).to_numpy(dtype=bool)
    labels: NDArray[Any] | None = None
    classes: tuple[str, ...] = ()
    if target is not None:
        task = next((task for task in store.tasks if task.name == target), None)
        columns = list(task.columns) if task is not None else [target]
        unknown = [name for name in columns if name not in store.samples]
        if unknown:
            raise ConfigurationError(
                f"{store.dataset} has no task or column {unknown[0]!r}"
                + nearest(unknown[0], [*(task.name for task in store.tasks), *store.samples.columns])
            )
        table = store.samples[columns]
        chosen = chosen & table.notna().any(axis=1).to_numpy()
        table = table[chosen]
        if len(columns) > 1:
            labels, classes = table.to_numpy(dtype=np.float32, na_value=np.nan), tuple(columns)
        else:
            labels, classes = _numbers(table[columns[0]], task.classes if task is not None else ())
    return TorchView(store.path, features, digests=store._view[2][chosen], labels=labels, classes=classes)


def _numbers(values: pd.Series[Any], classes: tuple[str, ...]) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Labels as numbers: classes and texts as their place among the classes, other numbers as they are."""
    import pandas as pd

    if not classes and pd.api.types.is_numeric_dtype(values.dtype):
        array = values.to_numpy()
        return array.astype(np.float32 if array.dtype.kind == "f" else np.int64), ()
    texts = values.astype(str)
    classes = classes or tuple(sorted(texts.unique()))
    codes = pd.Index(classes).get_indexer(pd.Index(texts)).astype(np.int64)
    if (codes < 0).any():
        raise ConfigurationError(
            f"the label {texts.iloc[int(np.argmin(codes))]!r} is none of the classes {', '.join(classes)}",
            remedy="Extract again with the labels that are meant: nothing is recomputed.",
        )
    return codes, classes
