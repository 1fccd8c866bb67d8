"""A store with labels of every kind that a table can hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from featcache.records import Failure, Task
from featcache.store import FeatureStore, write_quarantine
from tests.store.conftest import MakeStore, digest_of, make_store

__all__ = ["NAMES", "labelled", "make_store", "samples_of"]

NAMES = [f"röw/{number}" for number in range(90)]
Labelled = Callable[..., FeatureStore]


def samples_of(names: list[str]) -> pd.DataFrame:
    count = len(names)
    return pd.DataFrame(
        {
            "id": pd.Series(names, dtype="str"),
            "digest": pd.Series([digest_of(name).hex() for name in names], dtype="str"),
            "selector": pd.Series([""] * count, dtype="str"),
            "index": pd.Series([None, *range(1, count)], dtype="Int64"),
            "split": pd.Series(["train", "test", None] * count, dtype="str")[:count],
            "finding": pd.Series(['a, "quoted"', "NA", None] * count, dtype="str")[:count],
            "score": [0.1 + number / 3 if number % 4 else None for number in range(count)],
            "flag": [number % 2 == 0 for number in range(count)],
        }
    )


@pytest.fixture
def labelled(make_store: MakeStore) -> Labelled:
    """Make and open a store of 90 rows and one duplicate, with a quarantined sample."""

    def make(dtype: str = "float16") -> FeatureStore:
        from tests.store.conftest import make_key

        samples = samples_of(NAMES)
        double = samples.iloc[[3]].assign(id="a copy of 3")
        samples = pd.concat([samples, double], ignore_index=True)
        tasks = (Task("finding", "multiclass", ("finding",), ('a, "quoted"', "NA")),)
        path = make_store([NAMES], samples, key=make_key(dtype=dtype), tasks=tasks)
        write_quarantine(path, (Failure("broken", "broken.png", "cut", "Copy it again."),))
        return FeatureStore(path)

    return make


def folder_of(path: Path) -> set[str]:
    return {file.name for file in path.iterdir()}
