"""``read``: one file or series to one :class:`~featcache.records.Image`, by the decoder that its name asks for."""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import Any

import numpy as np

from featcache.errors import ImageError
from featcache.records import Image, Selector
from featcache.registry import load_dotted

__all__ = ["DECODER_VERSIONS", "decoder_of", "files_of", "read", "unit_of"]

DECODER_VERSIONS = {"array": 1, "dicom": 2, "itk": 1, "matlab": 1, "nifti": 1, "raster": 2, "tiff": 1}
"""Semantic version of each decoder, part of the cache key of the datasets that use it.

Raise one when a change makes that decoder return other pixels for some file.
"""

_LOADERS = {
    "array": "featcache.imaging.arrays:load",
    "dicom": "featcache.imaging.dicom:load",
    "itk": "featcache.imaging.itk:load",
    "matlab": "featcache.imaging.matlab:load",
    "nifti": "featcache.imaging.nifti:load",
    "raster": "featcache.imaging.raster:load",
    "tiff": "featcache.imaging.tiff:load",
}
_EXTENSIONS = {
    ".bmp": "raster",
    ".dcm": "dicom",
    ".dicom": "dicom",
    ".ima": "dicom",
    ".jpeg": "raster",
    ".jpg": "raster",
    ".mat": "matlab",
    ".mha": "itk",
    ".mhd": "itk",
    ".nii": "nifti",
    ".nii.gz": "nifti",
    ".npy": "array",
    ".npz": "array",
    ".nrrd": "itk",
    ".png": "raster",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".webp": "raster",
}
_UNIT_FIELDS: dict[str, tuple[str, ...]] = {"array": ("array",), "matlab": ("array",), "nifti": ("time",)}
"""Selector fields that change what is decoded; the others cut a part out of the decoded image."""


def decoder_of(path: PurePath | str, selector: Selector | None = None) -> str | None:
    """Name of the decoder for a sample, by the extension of its path in any case; None if there is none.

    Scanners and archives write DICOM without an extension, or with a UID as the name: both count as DICOM here, and
    the content decides when the file is read.

    Examples
    --------
    >>> decoder_of("scan.NII.GZ"), decoder_of("notes.txt"), decoder_of("PA0/ST0/IM000001"), decoder_of("1.2.840.17")
    ('nifti', None, 'dicom', 'dicom')
    """
    if selector is not None and selector.series is not None:
        return "dicom"
    stem, dot, last = str(path).rpartition(".")  # text, not paths: this runs for every file of a dataset
    found = _EXTENSIONS.get(dot + last)
    if found is not None:
        return found
    if not dot or last.isdigit() or "/" in last or "\\" in last:
        return "dicom"
    last = last.lower()
    return _EXTENSIONS.get(f".{stem.lower().rpartition('.')[2]}.gz" if last == "gz" else f".{last}")


def unit_of(path: PurePath | str, selector: Selector) -> Selector:
    """The part of a selector that :func:`read` needs: samples of one path with equal units share one decoding.

    All frames of a multi-frame DICOM file, and all pages of a TIFF, are decoded together, so ``frame`` is 0 for
    whichever is chosen.

    Examples
    --------
    >>> unit_of("head.dcm", Selector(frame=7)) == Selector(frame=0)
    True
    >>> unit_of("heart.nii.gz", Selector("axial", 7, time=2)) == Selector(time=2)
    True
    """
    if selector.series is not None:
        return Selector(series=selector.series)
    decoder = decoder_of(path)
    if decoder in {"dicom", "tiff"}:
        return Selector(frame=None if selector.frame is None else 0)
    return Selector(**{name: getattr(selector, name) for name in _UNIT_FIELDS.get(decoder or "", ())})


def files_of(path: Path, selector: Selector) -> tuple[Path, ...]:
    """The files whose bytes determine a sample: the file itself, or all slices of its DICOM series, in their order.

    Raises
    ------
    ImageError
        If the folder has no such series.
    """
    if selector.series is None:
        return _with_data_file(path)
    from featcache.imaging.series import find_series

    return find_series(path, selector.series).files


def read(path: Path, selector: Selector | None = None) -> Image:
    """Decode one image file, or one series of a folder.

    Parameters
    ----------
    path
        A file of any kind that ``docs/inputs.md`` lists; with ``selector.series`` a folder.
    selector
        Which time point, array or series to decode, and whether a multi-frame file is a stack of frames
        (:func:`unit_of`). Slices and crops are not cut out here: that is :func:`featcache.imaging.select`.

    Returns
    -------
    Image
        The pixels in the file's own dtype; DICOM and NIfTI with their rescaling applied.

    Raises
    ------
    ImageError
        If the file is missing, empty, damaged, not of a known kind, or holds NaN or infinite values.
    """
    selector = Selector() if selector is None else selector
    decoder = decoder_of(path, selector)
    if decoder is None:
        raise ImageError(
            f"no decoder for the extension of {path.name!r}",
            remedy=f"Known extensions: {' '.join(sorted(_EXTENSIONS))}; none means DICOM.",
        )
    try:
        image = _read(path, selector, decoder)
    except FileNotFoundError:
        raise ImageError("the file does not exist", remedy="Restore it or remove its row from the table.") from None
    except PermissionError:
        raise ImageError("the file may not be read", remedy="Give this user read permission.") from None
    except IsADirectoryError:
        raise ImageError(
            "the path is a folder and the sample names no series", remedy="Name a file, or a series of the folder."
        ) from None
    if image.array.dtype.kind == "f" and not np.isfinite(image.array).all():
        raise ImageError(
            f"{np.count_nonzero(~np.isfinite(image.array))} values are NaN or infinite",
            remedy="Repair the file: a non-finite pixel would make the whole feature row meaningless.",
        )
    return image


def _read(path: Path, selector: Selector, decoder: str) -> Image:
    if selector.series is not None:
        from featcache.imaging.series import find_series, load_series

        return load_series(find_series(path, selector.series).files)
    if path.stat().st_size == 0:
        raise ImageError("the file is empty (0 bytes)", remedy="Copy it again from its source.")
    load = load_dotted(_LOADERS[decoder])
    options: dict[str, Any] = {"frames": selector.frame is not None} if decoder == "dicom" else {}
    image: Image = load(path, **options) if options else load(path, unit_of(path, selector))
    return image


def _with_data_file(path: Path) -> tuple[Path, ...]:
    if path.suffix.lower() != ".mhd":
        return (path,)
    from featcache.imaging.itk import data_files

    return (path, *data_files(path))
