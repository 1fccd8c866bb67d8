"""NIfTI 1 and 2: headers by nibabel, ``.gz`` inflated by ISA-L, volumes in canonical RAS."""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import Any, cast

import nibabel
import numpy as np
from isal import igzip, isal_zlib
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import apply_read_scaling
from numpy.typing import NDArray

from featcache.errors import ImageError
from featcache.imaging.orientation import canonical, canonical_shape, invertible
from featcache.records import Image, Selector, VolumeGeometry

__all__ = ["load", "read_geometry"]

_HEADER_BYTES = {348: nibabel.Nifti1Header, 540: nibabel.Nifti2Header}
_MILLIMETRES = {"meter": 1000.0, "micron": 0.001}
_CHUNK = 1 << 20  # stays in the processor's cache on its way into the array
_FAULTS: tuple[type[Exception], ...] = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    OverflowError,
    zlib.error,
    cast(Any, isal_zlib.error),
    ImageFileError,
    HeaderDataError,
)
_DAMAGED = "Copy it again from its source."


def load(path: Path, selector: Selector = Selector()) -> Image:  # noqa: B008 - frozen
    """Decode a NIfTI file to an (X, Y, Z) array whose axes point right, anterior, superior.

    The header's scale factors are applied, as every viewer does; unscaled files keep their dtype. The array is
    nibabel's, number by number. The content, not the name, says whether the file is compressed; the checksum at
    the end of a compressed one is always compared, also where an early time point is all that is kept.

    Parameters
    ----------
    path
        ``.nii`` or ``.nii.gz``, NIfTI 1 or 2, either byte order.
    selector
        ``time`` chooses a point of a 4D file, from 0; one with a single point needs none. The others are passed over
        and never in memory.

    Raises
    ------
    ImageError
        If the file is damaged or no NIfTI, has several time points and none is named, has other dimensions, holds
        no real numbers, or its affine cannot be inverted.
    """
    try:
        with _opened(path) as file:
            header = _header(file, path)
            shape = _shape(header, selector.time)
            scale = _MILLIMETRES.get(header.get_xyzt_units()[0], 1.0)
            affine = np.diag([scale, scale, scale, 1.0]) @ invertible(header.get_best_affine())
            array = _volume(file, header, shape, selector.time or 0)
            if isinstance(file, igzip.IGzipFile):
                while file.read(_CHUNK):  # the rest, to its checksum
                    pass
    except _FAULTS as error:
        if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
            raise
        raise ImageError(f"the file is no readable NIfTI volume ({error})", remedy=_DAMAGED) from error
    except MemoryError as error:
        raise ImageError(
            f"the header asks for more than the memory of this machine ({error})", remedy=_DAMAGED
        ) from error
    notes: tuple[str, ...] = ()
    if int(header["sform_code"]) == 0 and int(header["qform_code"]) == 0:
        notes = ("The header has no orientation: the axes are taken as left, anterior, superior, as nibabel does.",)
    flat = array.reshape(-1, order="F")  # a view: in the order of memory, before axes are flipped
    value_range = (float(flat.min()), float(flat.max()))
    array, affine, spacing = canonical(array, affine)
    return Image(
        array=array,
        kind="volume",
        value_range=value_range,
        spacing=spacing,
        affine=affine,
        notes=notes,
    )


def _opened(path: Path) -> Any:
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    return igzip.IGzipFile(path, "rb") if compressed else path.open("rb")  # type: ignore[no-untyped-call]


def _header(file: Any, path: Path) -> Any:
    start = file.read(4)
    for size, kind in _HEADER_BYTES.items():
        for order in ("little", "big"):
            if start == size.to_bytes(4, order):
                block = start + _exactly(file, size - 4)
                magic = block[344:348] if size == 348 else block[4:8]
                if magic[:1] + magic[2:3] not in (b"n1", b"n2"):
                    raise ImageFileError(f"the header's magic is {magic!r}")
                if magic[1:2] == b"i":
                    raise ImageFileError("the voxels are in a second file, expected one .nii")
                return kind(block, endianness="<" if order == "little" else ">")
    raise ImageFileError(f"{path.name} starts with {start!r}")


def _shape(header: Any, time: int | None) -> tuple[int, ...]:
    """(I, J, K); the time point is there."""
    shape = tuple(int(size) for size in header.get_data_shape())
    if len(shape) < 3 or any(size != 1 for size in shape[4:]) or min(shape) < 1:
        raise ImageError(
            f"the volume has the shape {shape}, expected three dimensions, or four with time",
            remedy="Write its parts as files of three dimensions.",
        )
    count = shape[3] if len(shape) > 3 else 1
    if time is None and count > 1:
        raise ImageError(
            f"the volume has shape {shape}, and the sample names none of its {count} time points",
            remedy=f"Give the sample a time from 0 to {count - 1}.",
        )
    if not 0 <= (time or 0) < count:
        raise ImageError(f"time point {time} is outside 0..{count - 1}", remedy="Check the time points of the file.")
    return shape[:3]


def _volume(file: Any, header: Any, shape: tuple[int, ...], time: int) -> NDArray[Any]:
    dtype = header.get_data_dtype()
    if dtype.kind not in "buif":
        raise ImageError(
            f"the voxels are {dtype}, expected real numbers", remedy="Write one real quantity a file, for example grey."
        )
    size = math.prod(shape) * dtype.itemsize
    file.seek(int(header.get_data_offset()) + time * size)
    voxels = np.empty(shape, dtype, order="F")
    target = memoryview(voxels.reshape(-1, order="F").view(np.uint8).data)
    while target:
        count = file.readinto(target[:_CHUNK])
        if not count:
            raise EOFError(f"it ends {len(target):,} bytes early")
        target = target[count:]
    slope, intercept = header.get_slope_inter()
    if slope is not None:
        voxels = apply_read_scaling(voxels, np.asanyarray(slope), np.asanyarray(intercept))
    return voxels.astype(voxels.dtype.newbyteorder("="), copy=False)


def _exactly(file: Any, size: int) -> bytes:
    content: bytes = file.read(size)
    if len(content) < size:
        raise EOFError(f"the header ends after {len(content)} bytes")
    return content


def read_geometry(path: Path) -> tuple[VolumeGeometry, bool]:
    """Where the voxels lie, from the header alone, and whether the header says so (else it is nibabel's guess).

    Raises
    ------
    ImageError
        If the header is damaged or its affine cannot be inverted.
    """
    try:
        with _opened(path) as file:
            header = _header(file, path)
        size = tuple(int(length) for length in header.get_data_shape())
        shape = _shape(header, None if len(size) < 4 or size[3] == 1 else 0)
        raw = invertible(header.get_best_affine())
    except _FAULTS as error:
        if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
            raise
        raise ImageError(f"the file is no readable NIfTI volume ({error})", remedy=_DAMAGED) from error
    scale = _MILLIMETRES.get(header.get_xyzt_units()[0], 1.0)
    _, affine, _ = canonical(np.broadcast_to(np.uint8(0), shape), np.diag([scale, scale, scale, 1.0]) @ raw)
    x, y, z = canonical_shape((shape[0], shape[1], shape[2]), raw)[0]
    known = int(header["sform_code"]) != 0 or int(header["qform_code"]) != 0
    return VolumeGeometry((x, y, z), affine, (shape[0], shape[1], shape[2]), raw, scale), known
