"""``my_data.py:MySet``: a dataset that a user's own Python file makes."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from featcache.datasets.base import Dataset, checked_name
from featcache.datasets.roots import configured_places
from featcache.errors import ConfigurationError, DatasetError
from featcache.registry import nearest

__all__ = ["load_python"]


def load_python(target: str, *, root: Path | str | None = None, **options: Any) -> Dataset:
    """Run a file and call what it defines. Only name files that you trust: their code runs.

    Parameters
    ----------
    target
        ``"path/my_data.py:name"``. A function is called with ``root`` and the options and returns a
        :class:`~featcache.datasets.Dataset`; a class is called in the same way and its ``load()`` returns one.
    root
        The folder with the files; default what ``featcache.toml`` or FEATCACHE_DATA has under ``name``. Where there
        is none, ``root`` is not passed: the function may have a default.
    **options
        Its own options.

    Raises
    ------
    DatasetError
        If there is no such file or name, it fails, or what it returns is no Dataset.
    ConfigurationError
        If it does not take an option, or needs a root.
    """
    file_name, _, name = target.rpartition(":")
    file = Path(file_name).absolute()
    maker = _named(_executed(file), name, file)
    places = [Path(root)] if root is not None else configured_places(name)
    found = next((place.absolute() for place in places if place.is_dir()), None)
    if root is not None and found is None:
        raise DatasetError(f"dataset {target!r}: no folder {root}", remedy="Pass --root DIR.")
    if found is not None:
        options["root"] = found
    try:
        made = maker(**options)
    except TypeError as error:
        if error.__traceback__ is None or error.__traceback__.tb_next is not None:
            raise  # it was called and failed inside
        raise ConfigurationError(
            f"{target} cannot be called with {', '.join(options) or 'no arguments'}: {error}",
            remedy="It takes root (from --root) and the options that are given.",
        ) from error
    dataset = made.load() if not isinstance(made, Dataset) and callable(getattr(made, "load", None)) else made
    if not isinstance(dataset, Dataset):
        raise DatasetError(
            f"{target} returns {type(dataset).__name__}, expected featcache.Dataset",
            remedy="docs/datasets.md shows a function that does.",
        )
    checked_name(dataset.name)
    return dataset


def _executed(file: Path) -> Any:
    """The module of a file, under a name that is its own."""
    if not file.is_file():
        raise DatasetError(f"no Python file {file}", remedy="Expected --dataset path/my_data.py:MySet.")
    name = f"featcache_user_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise DatasetError(f"{file} is no Python file", remedy="Its name must end with .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        sys.modules.pop(name, None)
        raise DatasetError(
            f"{file} cannot be run: {type(error).__name__}: {error}", remedy=f"Try: python {file.name}"
        ) from error
    return module


def _named(module: Any, name: str, file: Path) -> Any:
    maker = getattr(module, name, None)
    if not callable(maker):
        defined = [known for known, value in vars(module).items() if callable(value) and not known.startswith("_")]
        raise DatasetError(
            f"{file} defines no function or class {name!r}{nearest(name, defined)}",
            remedy="Expected --dataset path/my_data.py:MySet.",
        )
    return maker
