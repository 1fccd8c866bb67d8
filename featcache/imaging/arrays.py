"""NumPy files: ``.npy``, and ``.npz`` with one array a split as MedMNIST ships them."""

from __future__ import annotations

import math
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from featcache.errors import ImageError
from featcache.records import Image, Selector

__all__ = ["MAX_PIXELS", "image_of", "load", "refuse_large"]

MAX_PIXELS = 200_000_000
"""Of one image; a stack may have any number of them."""


def load(path: Path, selector: Selector = Selector()) -> Image:  # noqa: B008 - frozen
    """Read an array file into memory, never as a map: a map would change with the file. Pickles are never loaded.

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
        If the file is damaged, holds no numbers, images of more than :data:`MAX_PIXELS`, or several arrays of which
        none is named.
    """
    try:
        _refuse_large_header(path)
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.lib.npyio.NpzFile):
            with found as archive:
                name = _member(archive.files, selector.array)
                if archive.zip is not None:
                    stored = name if name in archive.zip.namelist() else f"{name}.npy"
                    with archive.zip.open(stored) as member:
                        refuse_large(_header_shape(member))
                found = archive[name]
        elif selector.array is not None:
            raise ImageError(
                f"the sample names the array {selector.array!r}, and the file holds one without a name",
                remedy="Leave the array out of the sample's selector.",
            )
        return image_of(found)
    except MemoryError as error:
        raise ImageError(f"the array does not fit into memory ({error})", remedy="Split the file.") from None
    except (OSError, EOFError, ValueError, KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
            raise
        if "allow_pickle" in str(error):  # numpy's words for objects and for whatever is no array file
            raise ImageError(
                "the file holds no arrays of numbers; pickled Python objects can run code and are never loaded",
                remedy="Check that the download is complete, or save the pixels as an array of numbers.",
            ) from None
        raise ImageError(
            f"the file is no readable array file ({error})", remedy="Copy it again from its source."
        ) from None


def refuse_large(shape: tuple[int, ...]) -> None:
    """Refuse images of more than :data:`MAX_PIXELS` before they are unpacked.

    Raises
    ------
    ImageError
        That says the size.

    Examples
    --------
    >>> refuse_large((1_000_000, 28, 28, 3))
    """
    plane = shape[:-1] if len(shape) > 2 and shape[-1] in (1, 3) else shape
    area = math.prod(plane[-2:])
    if area > MAX_PIXELS:
        raise ImageError(
            f"{' x '.join(map(str, shape))} values: {area:,} pixels an image are more than the limit of {MAX_PIXELS:,}",
            remedy="Resize the picture first.",
        )


def _refuse_large_header(path: Path) -> None:
    with path.open("rb") as file:
        if file.read(6) == b"\x93NUMPY":
            file.seek(0)
            refuse_large(_header_shape(file))


def _header_shape(file: IO[bytes]) -> tuple[int, ...]:
    """What an array's header says; () for a version that only structured arrays have."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)[0]
    return np.lib.format.read_array_header_2_0(file)[0] if version == (2, 0) else ()


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
