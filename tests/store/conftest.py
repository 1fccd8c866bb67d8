"""A store made without any encoder: rows are known numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from featcache.records import Task
from featcache.store import Key, SampleTable, open_writer, row_digest, write_samples

MakeStore = Callable[..., Path]
ARRAYS = {"cls": (8,), "intermediate": (3, 8), "patch_mean": (8,)}


def make_key(**changes: object) -> Key:
    fields = {
        "model": "tiny",
        "weights": "0" * 64,
        "precision": "fp32",
        "runtime": "torch",
        "dtype": "float16",
        "preprocess": {"crop": 8},
        "decoders": {"raster": 1},
        "encoder": 1,
    }
    return Key(**{**fields, **changes})  # type: ignore[arg-type]


def digest_of(name: str) -> bytes:
    return row_digest(b"0" * 16, name)


def features_of(names: list[str], dtype: str = "float16") -> dict[str, np.ndarray]:
    """Features that depend on the row's name only."""
    arrays = {}
    for array, shape in ARRAYS.items():
        rows = [np.random.default_rng([*name.encode(), len(array)]).normal(size=shape) for name in names]
        arrays[array] = np.array(rows).astype(dtype).reshape(len(names), *shape)
    return arrays


@pytest.fixture
def make_store(home: Path) -> MakeStore:
    """Commit rows (in one or several sessions) and write the samples table. Returns the store's path."""

    def make(
        sessions: list[list[str]],
        samples: pd.DataFrame | None = None,
        key: Key | None = None,
        tasks: tuple[Task, ...] = (),
        dataset: str = "data",
    ) -> Path:
        key = key or make_key()
        names = [name for session in sessions for name in session]
        folder = home / dataset
        if samples is None:
            samples = pd.DataFrame({"id": names, "digest": [digest_of(name).hex() for name in names]})
            samples["split"] = ["train", "test"] * (len(names) // 2) + ["train"] * (len(names) % 2)
        write_samples(folder, SampleTable("table", samples, tasks, "table", ()))
        for session in sessions:
            with open_writer(folder, key, arrays=ARRAYS, planned_rows=len(names), provenance={}) as writer:
                for position, number in enumerate(writer.reserve(len(session))):
                    part = session[position * writer.chunk_rows : (position + 1) * writer.chunk_rows]
                    digests = np.frombuffer(b"".join(map(digest_of, part)), np.uint8).reshape(-1, 16)
                    writer.commit(number, digests, part, features_of(part, key.dtype))
        return folder / key.store_name

    return make
