"""``read``: one file to one :class:`~featcache.records.Image`, by the decoder that its extension names."""

from __future__ import annotations

from pathlib import Path, PurePath

import numpy as np

from featcache.errors import ImageError
from featcache.records import Image
from featcache.registry import load_dotted

__all__ = ["DECODER_VERSIONS", "decoder_of", "read"]

DECODER_VERSIONS = {"nifti": 1, "raster": 1}
"""Semantic version of each decoder, part of the cache key of the datasets that use it.

Raise one when a change makes that decoder return other pixels for some file.
"""

_LOADERS = {
    "nifti": "featcache.imaging.nifti:load",
    "raster": "featcache.imaging.raster:load",
}
_EXTENSIONS = {
    ".bmp": "raster",
    ".jpeg": "raster",
    ".jpg": "raster",
    ".nii": "nifti",
    ".nii.gz": "nifti",
    ".png": "raster",
    ".tif": "raster",
    ".tiff": "raster",
    ".webp": "raster",
}


def decoder_of(path: PurePath | str) -> str | None:
    """Name of the decoder for a path, by its extension in any case; None if there is none.

    Examples
    --------
    >>> decoder_of("scan.NII.GZ"), decoder_of("notes.txt")
    ('nifti', None)
    """
    stem, dot, last = str(path).rpartition(".")  # text, not paths: this runs for every file of a dataset
    found = _EXTENSIONS.get(dot + last)
    if found is not None:
        return found
    last = last.lower()
    return _EXTENSIONS.get(f".{stem.lower().rpartition('.')[2]}.gz" if last == "gz" else f".{last}") if dot else None


def read(path: Path) -> Image:
    """Decode one image file.

    Parameters
    ----------
    path
        PNG, JPEG, TIFF, BMP, WebP, or NIfTI (``.nii``, ``.nii.gz``).

    Returns
    -------
    Image
        The pixels in the file's own dtype, never scaled.

    Raises
    ------
    ImageError
        If the file is missing, empty, damaged, not of a known kind, or holds NaN or infinite values.
    """
    decoder = decoder_of(path)
    if decoder is None:
        raise ImageError(
            f"no decoder for the extension of {path.name!r}",
            remedy=f"Known extensions: {' '.join(sorted(_EXTENSIONS))}.",
        )
    try:
        if path.stat().st_size == 0:
            raise ImageError("the file is empty (0 bytes)", remedy="Copy it again from its source.")
        image: Image = load_dotted(_LOADERS[decoder])(path)
    except FileNotFoundError:
        raise ImageError("the file does not exist", remedy="Restore it or remove its row from the table.") from None
    except PermissionError:
        raise ImageError("the file may not be read", remedy="Give this user read permission.") from None
    if image.array.dtype.kind == "f" and not np.isfinite(image.array).all():
        raise ImageError(
            f"{np.count_nonzero(~np.isfinite(image.array))} values are NaN or infinite",
            remedy="Repair the file: a non-finite pixel would make the whole feature row meaningless.",
        )
    return image
