"""``preview``: some samples of a dataset as a model will see them, before anybody spends hours on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from featcache.datasets import Dataset, load_dataset
from featcache.errors import ConfigurationError
from featcache.extraction.jobs import Job
from featcache.extraction.plan import _recipe, portable_name, record_samples
from featcache.extraction.reading import JobReader, Recipe, Space
from featcache.imaging import Preprocess
from featcache.models import resolve_model
from featcache.records import Failure, PreviewTile, Task
from featcache.store import find_home

if TYPE_CHECKING:
    import torch

__all__ = ["Preview", "preview"]


@dataclass(frozen=True, slots=True)
class Preview:
    """What a model will see of a dataset."""

    dataset: str
    """Name of the dataset."""
    model: str
    """Name of the model whose input this is."""
    preprocess: Preprocess
    """The recipe, resolved."""
    tiles: tuple[PreviewTile, ...]
    """In the order of the classes in turn."""


def preview(
    dataset: str | Dataset,
    *,
    model: str = "pixels",
    n: int = 12,
    preprocess: str | Preprocess = "model",
    image_size: int | None = None,
    root: Path | str | None = None,
    home: Path | str | None = None,
    seed: int = 0,
    registry_name: str | None = None,
    **dataset_options: Any,
) -> Preview:
    """Read and preprocess some samples exactly as an extraction does; no weights are loaded.

    Parameters
    ----------
    dataset
        A registry name, or a loaded :class:`~featcache.datasets.Dataset`.
    model
        Whose input size, mean and deviation count.
    n
        How many samples; all classes (without a task: all volumes) take turns.
    preprocess
        As in :func:`featcache.extract`.
    image_size
        Input size in pixels; default the recipe's.
    root, home, registry_name
        As in :func:`featcache.extract`. Nothing is written to the home.
    seed
        Of the choice.
    **dataset_options
        For the dataset's loader.

    Returns
    -------
    Preview
        With at most ``n`` tiles. An unreadable image is a tile with a failure.

    Raises
    ------
    FeatcacheError
        For unknown names, missing files, or a number below 1.
    """
    if n < 1:
        raise ConfigurationError(f"{n} samples are none to look at", remedy="Pass n = 1 or more.")
    spec = resolve_model(model)
    folder = find_home(home)
    if registry_name is None:
        registry_name = portable_name(dataset) if isinstance(dataset, str) else dataset.name
    loaded = load_dataset(dataset, root=root, home=folder, **dataset_options) if isinstance(dataset, str) else dataset
    recipe = _recipe(preprocess, spec, image_size, loaded, registry_name) if isinstance(preprocess, str) else preprocess
    rows = chosen_rows(loaded, n, seed)
    some = replace(loaded, samples=loaded.samples.iloc[rows].reset_index(drop=True))
    labels = _labels(some)
    digests, failures = record_samples(some, folder / some.name, registry_name, write=False)
    unreadable = {failure.id: failure for failure in failures}
    jobs = [
        Job(some.sample(row), some.samples["path"].iloc[row], cast(bytes, digest), row)
        for row, digest in enumerate(digests)
        if some.samples["id"].iloc[row] not in unreadable
    ]
    # Samples of one file or series together: each volume is decoded once.
    jobs.sort(key=lambda job: (job.relative_path, job.sample.selector.series or ""))
    found = dict(zip((job.sample.id for job in jobs), _read(jobs, recipe), strict=True))
    tiles = tuple(
        PreviewTile(sample, label, None, unreadable[sample])
        if sample in unreadable
        else PreviewTile(sample, label, *found[sample])
        for sample, label in zip(some.samples["id"].tolist(), labels, strict=True)
    )
    return Preview(loaded.name, spec.name, recipe, tiles)


def chosen_rows(dataset: Dataset, n: int, seed: int) -> NDArray[np.int64]:
    """Rows in which the groups (classes, or volumes if there is no task) take turns, each in a random order."""
    order = np.random.default_rng(seed).permutation(len(dataset.samples))
    groups = pd.Series(_groups(dataset), dtype="object").iloc[order].reset_index(drop=True)
    turn = groups.groupby(groups, sort=False).cumcount().to_numpy()
    place = groups.map({group: place for place, group in enumerate(sorted(groups.unique()))}).to_numpy()
    return np.asarray(order[np.lexsort((place, turn))][:n], dtype=np.int64)


def _groups(dataset: Dataset) -> list[str]:
    """What takes turns: the label, or the volume."""
    if _task(dataset) is not None:
        return _labels(dataset)
    volumes = dataset.samples["volume"]
    return [str(volume) for volume in volumes.where(volumes.notna(), "").tolist()]


def _task(dataset: Dataset) -> Task | None:
    """The first task whose targets are words."""
    return next((task for task in dataset.tasks if task.type != "segmentation"), None)


def _labels(dataset: Dataset) -> list[str]:
    """Each sample's target in words: a class, or the names of its positive labels."""
    task = _task(dataset)
    if task is None:
        return [""] * len(dataset.samples)
    if task.type != "multilabel":
        column = dataset.samples[task.columns[0]]
        return [str(value) for value in column.where(column.notna(), "?").tolist()]
    values = dataset.samples[list(task.columns)].apply(pd.to_numeric).to_numpy(dtype=float, na_value=np.nan)
    names = np.array(task.classes, dtype=object)
    return [", ".join(names[row == 1]) or ("?" if np.isnan(row).all() else "none of the labels") for row in values]


_STAGES = ("read", "decode", "preprocess")


def _read(jobs: Sequence[Job], recipe: Preprocess) -> Iterator[tuple[NDArray[np.uint8] | None, Failure | None]]:
    """Of each job the pixels as they are seen, or why there are none."""
    import torch

    reader = JobReader([Recipe(recipe)])
    for number, job in enumerate(jobs):
        tensor = torch.empty(3, recipe.crop, recipe.crop)
        (failure,) = reader.read(job, number, [Space(tensor)], dict.fromkeys(_STAGES, 0.0)).failures
        yield (visible(tensor, recipe), None) if failure is None else (None, failure)


def visible(tensor: torch.Tensor, recipe: Preprocess) -> NDArray[np.uint8]:
    """Undo the normalisation: (3, S, S) to (S, S, 3) bytes; of standardised values, mean +- 3 deviations."""
    channels = tensor.numpy().transpose(1, 2, 0)
    shown = (channels + 3) / 6 if recipe.intensity == "zscore" else channels * recipe.std + recipe.mean
    bytes_: NDArray[np.uint8] = np.rint(np.clip(shown, 0, 1) * 255).astype(np.uint8)
    return bytes_
