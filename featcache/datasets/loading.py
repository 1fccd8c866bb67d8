"""``load_dataset``: from a name to a table of samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

from featcache.datasets.base import Dataset, checked_name, refuse_invalid
from featcache.datasets.files import shown
from featcache.datasets.roots import dataset_root
from featcache.datasets.splits import split_from_file, straddling_patients
from featcache.errors import ConfigurationError, DatasetError
from featcache.registry import load_dotted, nearest

__all__ = ["load_dataset"]


def load_dataset(
    name: str,
    *,
    root: Path | str | None = None,
    split_file: Path | str | None = None,
    allow_patient_overlap: bool = False,
    dataset_name: str | None = None,
    home: Path | str | None = None,
    **options: Any,
) -> Dataset:
    """Load a dataset's table of samples. Opens no image; of volumes it reads the headers.

    Parameters
    ----------
    name
        A registry name (``featcache datasets`` lists them), ``my_data.py:MySet`` for a function or class of your own,
        or ``my_set.toml`` for a manifest: docs/datasets.md shows both.
    root
        The folder with its files; otherwise looked for as :func:`dataset_root` says.
    split_file
        CSV or Parquet with the column ``split`` and one of ``id``, ``patient``, ``volume``: replaces the split.
    allow_patient_overlap
        Load although a patient is in two splits; a note says so.
    dataset_name
        Name of a generic dataset in the home (``--name``).
    home
        Home whose salt hashes patient ids that come from DICOM headers; default FEATCACHE_HOME or the platform's
        data folder.
    **options
        What the dataset's loader takes, for example ``table`` and ``label_columns`` for ``table``.

    Raises
    ------
    UnknownNameError
        If no dataset has that name.
    DatasetError
        If the files are not there (the message shows the layout that is expected), or a split file or a table puts
        a patient into two splits.
    ConfigurationError
        If the dataset does not take an option.
    """
    dataset = _loaded(name, root, home, {name: _listed(name, value) for name, value in options.items()})
    refuse_invalid(dataset)
    if split_file is not None:
        split, notes = split_from_file(dataset.samples, Path(split_file))
        samples = dataset.samples.assign(split=split)
        kept = tuple(note for note in dataset.notes if note not in dataset.split_notes)
        dataset = replace(dataset, samples=samples, split_origin="file", notes=(*kept, *notes), split_notes=notes)
    note = _straddling_note(dataset, allow_patient_overlap)
    if note:
        dataset = replace(dataset, notes=(*dataset.notes, note))
    if dataset_name is not None:
        dataset = replace(dataset, name=checked_name(dataset_name))
    return dataset


def _listed(option: str, value: Any) -> Any:
    """Columns that are given as one text, ``-o label_columns=sex,age``, are a list of them."""
    if option.endswith("_columns") and isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _loaded(name: str, root: Path | str | None, home: Path | str | None, options: dict[str, Any]) -> Dataset:
    if ".py:" in name:
        from featcache.datasets.python_file import load_python

        return load_python(name, root=root, **options)
    loader: Callable[..., Dataset]
    if name.lower().endswith(".toml"):
        from featcache.datasets.toml_manifest import load_manifest

        loader = partial(load_manifest, Path(name), root=root)
    else:
        from featcache.datasets.catalog import DATASETS

        spec = DATASETS[name]
        loader = partial(load_dotted(spec.loader), root=dataset_root(spec, root))
        if spec.hashes_patients:
            options = {**options, "home": home}
    try:
        return loader(**options)
    except TypeError as error:
        if "unexpected keyword" not in str(error):
            raise
        unknown = [option for option in options if f"'{option}'" in str(error)]
        takes = [option for option in signature(loader).parameters if option not in ("root", "home")]
        raise ConfigurationError(
            f"dataset {name!r} does not take the option {', '.join(unknown)}"
            f"{nearest(unknown[0], takes) if unknown else ''}",
            remedy=f"It takes {', '.join(takes)}." if takes else "It takes no options.",
        ) from error


def _straddling_note(dataset: Dataset, allowed: bool) -> str | None:
    """A sentence on patients in two splits; an error where the user's own split is to blame."""
    if dataset.split_origin == "within-subject":
        return None
    patients = straddling_patients(dataset.samples)
    if not patients:
        return None
    listed = f"{len(patients)} patients are in more than one split: {shown(patients, 10)}"
    if dataset.split_origin == "official":
        return f"In the publisher's own split {listed}."
    if not allowed:
        raise DatasetError(
            f"dataset {dataset.name!r}: {listed}",
            remedy="Give every patient one split, or pass --allow-patient-overlap and report it.",
        )
    return f"{listed}: the numbers are too good."
