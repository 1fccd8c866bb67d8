"""MATLAB 7.3 files, which are HDF5: the figshare brain tumor set keeps one image in each, as ``cjdata/image``."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from featcache.errors import ImageError
from featcache.imaging.arrays import image_of, refuse_large
from featcache.records import Image, Selector

__all__ = ["DEFAULT_MEMBERS", "load"]

DEFAULT_MEMBERS = ("cjdata/image", "image")
"""Looked for where the sample names no member."""


def load(path: Path, selector: Selector = Selector()) -> Image:  # noqa: B008 - frozen
    """Read one array of a MATLAB 7.3 file in the orientation in which MATLAB shows it.

    MATLAB keeps columns together and HDF5 rows, so that MATLAB writes a matrix of H x W as a data set of (W, H), and
    an H x W x N array as (N, W, H). Rows and columns are put back: the latter is a stack of N images, or with N = 3
    one in colour. A logical matrix has the values 0 and 255.

    Parameters
    ----------
    path
        The file.
    selector
        ``array`` is the path of the array inside, for example ``cjdata/tumorMask``, or the last part of it; default:
        the first of :data:`DEFAULT_MEMBERS` that exists, or else the only array in the file that could be an image.

    Raises
    ------
    ImageError
        If the file is damaged or of an older version, too large, or has no such array or several.
    """
    try:
        with h5py.File(path, "r") as file:
            data = file[_member(file, selector.array)]
            logical = data.attrs.get("MATLAB_class") == b"logical"
            refuse_large(data.shape)
            found = np.asarray(data[()])
    except MemoryError as error:
        raise ImageError(f"the array does not fit into memory ({error})", remedy="Split the file.") from None
    except (OSError, KeyError, ValueError, RuntimeError, TypeError) as error:
        if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
            raise
        raise ImageError(
            f"the file is no readable MATLAB 7.3 file ({type(error).__name__})",
            remedy="Copy it again from its source, or save it in MATLAB with the option -v7.3.",
        ) from None
    if found.ndim >= 2:
        found = found.swapaxes(-1, -2)
        if found.ndim == 3 and found.shape[0] == 3:
            found = np.moveaxis(found, 0, -1)
    return image_of(found.astype(np.bool_) if logical else found)


def _member(file: h5py.File, wanted: str | None) -> str:
    """The path of the array that is meant."""
    paths: list[str] = []

    def collect(path: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and not path.startswith("#"):  # MATLAB keeps the insides of cells in #refs#
            paths.append(path)

    file.visititems(collect)
    if wanted is None:
        found = [path for path in DEFAULT_MEMBERS if path in paths][:1] or [
            path
            for path in paths
            if file[path].dtype.kind in "uif"
            and min(file[path].shape[-2:], default=1) > 1  # numbers are 1 x 1, text 1 x n
        ]
    else:
        found = [path for path in paths if path == wanted] or [
            path for path in paths if path.rpartition("/")[2] == wanted
        ]
    if len(found) != 1:
        what = "that could be the image" if wanted is None else f"called {wanted!r}"
        raise ImageError(
            f"the file has {len(found) or 'no'} array{'s' * (len(found) > 1)} {what}; it holds "
            f"{', '.join(sorted(paths)[:12]) or 'nothing'}",
            remedy="Name one with the selector's array.",
        )
    return found[0]
