"""NIfTI volumes through nibabel, reoriented to canonical RAS."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any, cast

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray

from featcache.errors import ImageError
from featcache.records import Image, Selector

__all__ = ["load"]


def load(path: Path, selector: Selector = Selector()) -> Image:  # noqa: B008 - frozen
    """Decode a three-dimensional NIfTI file to an (X, Y, Z) array whose axes point right, anterior, superior.

    The header's scale factors are applied, as every viewer does; unscaled files keep their dtype.
    """
    try:
        volume = nibabel.load(path)
        if len(volume.shape) != 3:
            raise ImageError(
                f"the volume has shape {volume.shape}, expected three dimensions",
                remedy="Split a 4D file into one file a time point.",
            )
        volume = nibabel.as_closest_canonical(volume)
        array = cast(NDArray[Any], np.asanyarray(volume.dataobj))
    except (ImageFileError, OSError, EOFError, ValueError, zlib.error, np.linalg.LinAlgError) as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        raise ImageError(
            f"the file is no readable NIfTI volume ({error})", remedy="Copy it again from its source."
        ) from error
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    x, y, z = (float(size) for size in volume.header.get_zooms()[:3])
    return Image(
        array=array,
        kind="volume",
        value_range=(float(array.min()), float(array.max())),
        spacing=(x, y, z),
    )
