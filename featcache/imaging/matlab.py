"""MATLAB 7.3 files, which are HDF5: the figshare brain tumor set keeps one image in each, as ``cjdata/image``."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from featcache.errors import ImageError
from featcache.imaging.arrays import image_of
from featcache.records import Image, Selector

__all__ = ["DEFAULT_MEMBERS", "load"]

DEFAULT_MEMBERS = ("cjdata/image", "image")
"""Looked for where the sample names no member."""


def load(path: Path, selector: Selector = Selector()) -> Image:  # noqa: B008 - frozen
    """Read one array of a MATLAB 7.3 file in the orientation in which MATLAB shows it.

    MATLAB stores columns first and HDF5 rows first, so that the axes come out reversed; they are put back.

    Parameters
    ----------
    path
        The file.
    selector
        ``array`` is the path of the array inside, for example ``cjdata/image``; default: the first of
        :data:`DEFAULT_MEMBERS` that exists.

    Raises
    ------
    ImageError
        If the file is damaged or of an older version, or has no such array.
    """
    named = selector.array
    names = DEFAULT_MEMBERS if named is None else (named, f"cjdata/{named}")
    try:
        with h5py.File(path, "r") as file:
            found = next((name for name in names if isinstance(file.get(name), h5py.Dataset)), None)
            if found is None:
                raise ImageError(
                    f"the file has no array {' or '.join(names)}; on the top level it has {', '.join(list(file)[:12])}",
                    remedy="Name one with the selector's array.",
                )
            return image_of(np.asarray(file[found][()]).T)
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
            raise
        raise ImageError(
            f"the file is no readable MATLAB 7.3 file ({type(error).__name__})",
            remedy="Copy it again from its source, or save it in MATLAB with the option -v7.3.",
        ) from None
