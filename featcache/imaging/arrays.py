"""NumPy files: ``.npy``, and ``.npz`` with one array a split as MedMNIST ships them."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.errors import ImageError
from featcache.records import Image, Selector

__all__ = ["image_of", "load"]


def load(path: Path, selector: Selector = Selector()) -> Image:  # noqa: B008 - frozen
    """Read an array file. Pickled objects are never loaded.

    Parameters
    ----------
    path
        ``.npy`` or ``.npz``.
    selector
        ``array`` names the array of an ``.npz``; one that holds a single array needs none.

    Returns
    -------
    Image
        A plane for (H, W), (H, W, 1) and (H, W, 3); otherwise a stack of such planes or of volumes without
        geometry: (N, H, W), (N, H, W, 3), (N, D, H, W).

    Raises
    ------
    ImageError
        If the file is damaged, holds no numbers, or several arrays of which none is named.
    """
    try:
        if path.suffix.lower() == ".npy":
            return image_of(np.load(path, mmap_mode="r", allow_pickle=False))
        with np.load(path, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ImageError("the content is no .npz archive", remedy="Check the extension.")
            return image_of(archive[_member(archive.files, selector.array)])
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
            raise
        raise ImageError(
            f"the file is no readable array file ({type(error).__name__})",
            remedy="Copy it again from its source; arrays of Python objects are never read.",
        ) from None


def image_of(array: NDArray[Any]) -> Image:
    """An array without geometry as a plane or a stack.

    Raises
    ------
    ImageError
        If it holds no real numbers or has no or too many dimensions.
    """
    if array.dtype.kind not in "iufb":
        raise ImageError(f"the array is of type {array.dtype}, expected real numbers", remedy="Convert the file.")
    if array.dtype.kind == "b":
        array = array.astype(np.uint8) * np.uint8(255)
    if array.ndim > 2 and array.shape[-1] == 1:
        array = array[..., 0]
    if not 2 <= array.ndim <= 4 or 0 in array.shape:
        raise ImageError(
            f"the array has shape {array.shape}, expected (H, W), (H, W, 3), or a stack of images",
            remedy="Check that the right array is named.",
        )
    plane = array.ndim == 2 or (array.ndim == 3 and array.shape[-1] == 3)
    full = (0.0, 255.0) if array.dtype == np.uint8 else (float(array.min()), float(array.max()))
    return Image(
        array=array.astype(array.dtype.newbyteorder("="), copy=False),
        kind="plane" if plane else "stack",
        value_range=full,
    )


def _member(names: list[str], wanted: str | None) -> str:
    if wanted is None and len(names) == 1:
        return names[0]
    if wanted is not None and wanted in names:
        return wanted
    found = ", ".join(names[:12]) or "nothing"
    what = "the sample names none of its arrays" if wanted is None else f"the archive has no array {wanted!r}"
    raise ImageError(f"{what}: it holds {found}", remedy="Name one with the selector's array.")
