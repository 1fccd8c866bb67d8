"""``check_dataset``: is what lies on this machine what its publisher ships?"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from featcache.datasets.base import Dataset
from featcache.datasets.catalog import DATASETS
from featcache.datasets.duplicates import merged, pixel_digest, same_files, same_pixels
from featcache.datasets.files import Tree, walk
from featcache.datasets.loading import load_dataset
from featcache.datasets.splits import SPLITS
from featcache.datasets.volumes import ITK_EXTENSIONS, VOLUME_EXTENSIONS, read_shape
from featcache.errors import DatasetError, ImageError
from featcache.imaging import decoder_of, read, unit_of
from featcache.records import Failure, Selector, Task

__all__ = ["CountCheck", "DatasetReport", "check_dataset"]


@dataclass(frozen=True, slots=True)
class CountCheck:
    """One published number beside what is here."""

    unit: str
    """``samples``, ``patients``, ``volumes`` or ``masks``."""
    split: str
    """``train``, ``val``, ``test``, or ``all``."""
    expected: int
    """As published."""
    found: int
    """On this machine."""


@dataclass(frozen=True, slots=True)
class DatasetReport:
    """What a check found; every field is a JSON value after ``dataclasses.asdict``."""

    dataset: str
    """Its name in the home."""
    root: str
    """Where it lies."""
    samples: Mapping[str, int]
    """Rows by split; ``""`` for rows without one."""
    patients: Mapping[str, int]
    """Patients by split; empty where none are known."""
    counts: tuple[CountCheck, ...]
    """The published counts; empty for generic datasets, and where options change what is loaded."""
    missing: tuple[str, ...]
    """Files that a list or a row names and that are not there."""
    surplus: tuple[str, ...]
    """Files that the loader knows and no list names."""
    unused: int
    """Further files of the same kinds below the root that no row refers to (other views, unlabelled volumes …)."""
    unreadable: tuple[Failure, ...]
    """Empty files and damaged headers; with ``decode`` all that cannot be decoded."""
    duplicates: tuple[tuple[str, ...], ...]
    """Groups of image files with the same bytes; with ``decode`` also of those with the same pixels in other bytes."""
    duplicates_across_splits: tuple[tuple[str, ...], ...]
    """Those of them that are in more than one split."""
    overlap: Mapping[str, tuple[str, ...]]
    """Patients by pair of splits (``train+test``) that both have."""
    labels: Mapping[str, Mapping[str, Mapping[str, int]]]
    """Task, split, class: rows with that label; ``(missing)`` for rows without one."""
    decoded: int
    """Files that were decoded."""
    notes: tuple[str, ...]
    """The dataset's notes."""
    seconds: float
    """Wall time."""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong: counts agree, all files are there and readable, splits share nothing."""
        agree = all(count.expected == count.found for count in self.counts)
        faults = self.missing or self.surplus or self.unreadable or self.duplicates_across_splits or self.overlap
        return agree and not faults


def check_dataset(
    name: str,
    root: Path | str | None = None,
    *,
    decode: bool = False,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> DatasetReport:
    """Compare a dataset on this machine with what its publisher ships.

    Without ``decode`` it reads tables, the names and sizes of files, headers of volumes, and of image files of equal
    size the last bytes; whole files only to prove that two are the same.

    Parameters
    ----------
    name, root, **options
        As for :func:`featcache.load_dataset`. With options the published counts are not compared.
    decode
        Decode every image and mask.
    workers
        Decoding threads; default the number of processors, at most 16.
    progress
        Called with (files decoded, files in all).

    Raises
    ------
    FeatcacheError
        If the dataset cannot be loaded at all.
    """
    begin = time.perf_counter()
    plain = set(options) <= {"dataset_name", "home"}
    dataset = load_dataset(name, root=root, **{"allow_patient_overlap": True, **options})
    images = _distinct(dataset.samples["path"])
    masks = _distinct(*(dataset.samples[column] for column in _mask_columns(dataset)))
    tree = walk(dataset.root)
    sizes, unused = _sizes(tree, [*images, *(path for path in masks if path not in set(images))])
    unreadable = [
        Failure(folder, folder, "the folder cannot be read", "Give this user access.")
        for folder in tree.unreadable
        if folder not in sizes
    ]
    unreadable += _damaged(dataset.root, sizes)
    duplicates = same_files(dataset.root, {path: sizes[path] for path in images if sizes.get(path)})
    decoded = 0
    if decode:
        known = {failure.path for failure in unreadable}
        units = [
            (path, unit)
            for path, unit in _units(dataset)
            if sizes.get(path) and path not in known and decoder_of(path, unit)
        ]
        decoded = len({path for path, _ in units})
        failures, pixels = _decode(dataset.root, units, workers or min(16, os.cpu_count() or 1), progress)
        unreadable += failures
        duplicates = merged(duplicates, same_pixels({path: pixels[path] for path in images if path in pixels}))
    expected = DATASETS[name].expected if plain and name in DATASETS else {}
    return DatasetReport(
        dataset=dataset.name,
        root=str(dataset.root),
        samples=_by_split(dataset.samples),
        patients=_by_split(dataset.samples.dropna(subset=["patient"]).drop_duplicates(["patient", "split"])),
        counts=tuple(
            CountCheck(unit, split, number, _count(dataset, unit, split))
            for unit, numbers in expected.items()
            for split, number in numbers.items()
            if unit != "patients" or dataset.samples["patient"].notna().any()
        ),
        missing=(*dataset.missing, *(path for path in (*images, *masks) if path not in sizes)),
        surplus=dataset.surplus,
        unused=unused,
        unreadable=tuple(unreadable),
        duplicates=duplicates,
        duplicates_across_splits=_across_splits(dataset.samples, duplicates),
        overlap=_overlap(dataset.samples),
        labels={task.name: _label_statistics(dataset.samples, task) for task in dataset.tasks},
        decoded=decoded,
        notes=dataset.notes,
        seconds=time.perf_counter() - begin,
    )


def _mask_columns(dataset: Dataset) -> list[str]:
    return [column for task in dataset.tasks if task.type == "segmentation" for column in task.columns]


def _distinct(*columns: pd.Series[str]) -> list[str]:
    found: dict[str, None] = {}
    for column in columns:
        found.update(dict.fromkeys(column.dropna().unique().tolist()))
    return list(found)


def _sizes(tree: Tree, paths: list[str]) -> tuple[dict[str, int | None], int]:
    """Size in bytes of each file that is there (None: a folder), and how many files like them no row refers to."""
    there = set(tree.files)
    sizes: dict[str, int | None] = {}
    for path in paths:
        try:
            place = tree.root / path
            sizes[path] = None if path not in there and place.is_dir() else place.stat().st_size
        except OSError:
            continue
    endings = tuple({path[path.rfind(".") :].lower() for path in paths if "." in path})
    used = set(paths)
    folders = tuple(f"{path}/" for path, size in sizes.items() if size is None)
    others = [path for path in tree.ending(*endings) if path not in used] if endings else []
    return sizes, sum(not path.startswith(folders) for path in others) if folders else len(others)


def _damaged(root: Path, sizes: Mapping[str, int | None]) -> list[Failure]:
    found = []
    for path, size in sizes.items():
        if size == 0:
            found.append(Failure(path, path, "the file is empty (0 bytes)", "Copy it again from its source."))
        elif path.lower().endswith((*VOLUME_EXTENSIONS, *ITK_EXTENSIONS)):
            try:
                read_shape(root / path)
            except DatasetError as error:
                found.append(Failure(path, path, error.message, error.remedy or ""))
    return found


def _units(dataset: Dataset) -> list[tuple[str, Selector]]:
    """What has to be decoded, each once: files, and the arrays, time points or series of files that hold several."""
    samples = dataset.samples
    pairs = list(zip(samples["path"].tolist(), samples["selector"].tolist(), strict=True))
    for column in _mask_columns(dataset):
        parts = samples["mask_selector"] if "mask_selector" in samples else samples["selector"]
        pairs += zip(samples[column].tolist(), parts.tolist(), strict=True)
    found = {
        (path, unit_of(path, Selector.from_text(text if isinstance(text, str) else "")))
        for path, text in dict.fromkeys(pairs)
        if isinstance(path, str)
    }
    return sorted(found, key=lambda pair: (pair[0], pair[1].to_text()))


def _decode(
    root: Path,
    units: list[tuple[str, Selector]],
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> tuple[list[Failure], dict[str, bytes]]:
    """What cannot be decoded, and a digest of the pixels of each file that is decoded in one piece."""

    def decoded(pair: tuple[str, Selector]) -> Failure | bytes:
        path, unit = pair
        try:
            return pixel_digest(read(root / path, unit).array)
        except ImageError as error:
            return Failure(path, path, error.message, error.remedy or "")
        except Exception as error:  # noqa: BLE001 - whatever a decoder raises, one file must not end the check
            return Failure(path, path, f"{type(error).__name__}: {error}", "Look at the file.")

    found: list[Failure] = []
    pixels: dict[str, bytes] = {}
    pieces = Counter(path for path, _ in units)
    with ThreadPoolExecutor(workers, "featcache-check") as pool:
        for done, outcome in enumerate(pool.map(decoded, units), start=1):
            path = units[done - 1][0]
            if isinstance(outcome, Failure):
                found.append(outcome)
            elif pieces[path] == 1:
                pixels[path] = outcome
            if progress is not None:
                progress(done, len(units))
    return found, pixels


def _by_split(rows: pd.DataFrame) -> dict[str, int]:
    counts = rows["split"].fillna("").value_counts()
    order = [*SPLITS, *sorted(set(counts.index) - {*SPLITS, ""}), ""]
    return {split: int(counts[split]) for split in order if split in counts.index}


def _count(dataset: Dataset, unit: str, split: str) -> int:
    rows = dataset.samples if split == "all" else dataset.samples[dataset.samples["split"] == split]
    if unit == "samples":
        return len(rows)
    if unit == "masks":
        return int(rows[_mask_columns(dataset)].notna().all(axis=1).sum())
    return int(rows[{"patients": "patient", "volumes": "volume"}[unit]].nunique())


def _across_splits(samples: pd.DataFrame, duplicates: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
    if not duplicates:
        return ()
    known = samples[["path", "split"]].dropna().drop_duplicates("path").set_index("path")["split"].to_dict()
    return tuple(group for group in duplicates if len({known[path] for path in group if path in known}) > 1)


def _overlap(samples: pd.DataFrame) -> dict[str, tuple[str, ...]]:
    known = samples[["patient", "split"]].dropna()
    members = {str(split): set(rows["patient"]) for split, rows in known.groupby("split")}
    names = sorted(members, key=lambda split: SPLITS.index(split) if split in SPLITS else len(SPLITS))
    pairs = [(one, two) for place, one in enumerate(names) for two in names[place + 1 :]]
    return {
        f"{one}+{two}": tuple(sorted(members[one] & members[two])) for one, two in pairs if members[one] & members[two]
    }


def _label_statistics(samples: pd.DataFrame, task: Task) -> dict[str, dict[str, int]]:
    found = {}
    for split in _by_split(samples):
        labels = samples.loc[samples["split"].fillna("") == split, list(task.columns)]
        missing = int(labels.isna().all(axis=1).sum())
        if task.type == "multilabel":
            counts = {name: int((labels[name] == 1).sum()) for name in task.columns}
        elif task.type == "segmentation":
            counts = {"with masks": len(labels) - missing}
        else:
            numbers = labels[task.columns[0]].astype("str").value_counts()
            counts = {name: int(numbers.get(name, 0)) for name in task.classes}
        found[split] = {**counts, "(missing)": missing}
    return found
