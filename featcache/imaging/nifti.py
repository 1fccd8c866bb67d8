"""NIfTI-1 and NIfTI-2 volumes through nibabel, unpacked by ISA-L, reoriented to canonical RAS."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any, cast

import nibabel
import numpy as np
from isal import igzip, isal_zlib
from nibabel.filebasedimages import ImageFileError
from nibabel.volumeutils import apply_read_scaling
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray

from featcache.errors import ImageError
from featcache.records import Image, Selector

__all__ = ["load"]

_GZIP_MAGIC = b"\x1f\x8b"
_GZIP = 31
"""zlib's ``wbits`` for a gzip wrapper with its checksum."""
_HEADER_BYTES = 1024
_HEADER_PACKED = 65536
_MILLIMETRES = {"meter": 1000.0, "micron": 0.001}


def load(path: Path, selector: Selector = Selector()) -> Image:  # noqa: B008 - frozen
    """Decode a NIfTI file to an (X, Y, Z) array whose axes point right, anterior, superior.

    The header's scale factors are applied, as every viewer does; unscaled files keep their dtype. A ``.nii.gz`` is
    unpacked in one go, which is several times faster than a stream and checks the gzip checksum.

    Parameters
    ----------
    path
        ``.nii`` or ``.nii.gz``.
    selector
        ``time`` chooses a point of a 4D file; one with a single point needs none.

    Raises
    ------
    ImageError
        If the file is damaged or truncated, is not three-dimensional after the choice of a time point, holds colours
        or complex numbers, or has an affine that cannot be inverted.
    """
    try:
        volume, stored = _open(path)
        array = _time_point(volume, stored, selector.time)
    except (
        ImageFileError,
        OSError,
        EOFError,
        ValueError,
        KeyError,
        WrapStructError,
        OverflowError,
        zlib.error,
        isal_zlib.error,  # type: ignore[misc]
    ) as error:
        if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
            raise
        raise ImageError(
            f"the file is no readable NIfTI volume ({error})", remedy="Copy it again from its source."
        ) from error
    if array.dtype.kind not in "iufb":
        raise ImageError(f"the voxels are of type {array.dtype}, expected real numbers", remedy="Convert the file.")
    affine = np.asarray(volume.affine, dtype=np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise ImageError(
            "the affine cannot be inverted: the directions of the axes are unknown",
            remedy="Repair the sform or qform of the header.",
        )
    value_range = (float(array.min()), float(array.max()))  # before axes are flipped: in the order of memory
    notes: tuple[str, ...] = ()
    if int(volume.header["sform_code"]) == 0 and int(volume.header["qform_code"]) == 0:
        notes = ("The header has no orientation: the axes are taken as left, anterior, superior, as nibabel does.",)
    canonical = nibabel.as_closest_canonical(type(volume)(array, affine, volume.header, dtype=array.dtype))
    array = cast(NDArray[Any], np.asanyarray(canonical.dataobj))
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    scale = _MILLIMETRES.get(volume.header.get_xyzt_units()[0], 1.0)
    x, y, z = (float(size) * scale for size in canonical.header.get_zooms()[:3])
    return Image(
        array=array,
        kind="volume",
        value_range=value_range,
        spacing=(x, y, z),
        affine=np.diag([scale, scale, scale, 1.0]) @ canonical.affine,
        notes=notes,
    )


def _open(path: Path) -> tuple[Any, NDArray[Any] | None]:
    """A nibabel image, and of a compressed file its stored voxels as a view of the unpacked bytes."""
    with path.open("rb") as file:
        packed = file.read(2) == _GZIP_MAGIC
    if not packed:
        return nibabel.load(path), None
    content = path.read_bytes()
    start = isal_zlib.decompressobj(wbits=_GZIP).decompress(content[:_HEADER_PACKED], _HEADER_BYTES)
    for kind in (nibabel.Nifti1Image, nibabel.Nifti2Image):
        if kind.header_class.may_contain_header(start):
            header = kind.header_class(start[: kind.header_class.template_dtype.itemsize])
            voxels = int(np.prod(header.get_data_shape(), dtype=np.int64))
            unpacked = _unpack(content, header.get_data_offset() + voxels * header.get_data_dtype().itemsize)
            volume = kind.from_bytes(unpacked)
            proxy = volume.dataobj
            return volume, np.ndarray(proxy.shape, proxy.dtype, unpacked, proxy.offset, order="F")
    raise ImageFileError("it does not begin with a NIfTI header")


def _unpack(content: bytes, size: int) -> bytes:
    """Unpack a gzip file of one or several members, checking lengths and checksums."""
    unpacked = isal_zlib.decompress(content, _GZIP, size + 1)  # one more, or the buffer grows to see the end
    # One call ends with the first member. Files of several are rare (bgzip, concatenated parts).
    return unpacked if len(unpacked) >= size else igzip.decompress(content)  # type: ignore[no-untyped-call]


def _time_point(volume: Any, stored: NDArray[Any] | None, time: int | None) -> NDArray[Any]:
    """The voxels of one time point, rescaled."""
    shape = tuple(volume.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    points = shape[3] if len(shape) == 4 else 1
    if len(shape) not in {3, 4} or 0 in shape:
        raise ImageError(
            f"the volume has shape {tuple(volume.shape)}, expected three dimensions, or four with time last",
            remedy="Split the file into three-dimensional volumes.",
        )
    if points > 1 and time is None:
        raise ImageError(
            f"the volume has shape {shape}, and the sample names none of its {points} time points",
            remedy=f"Give the sample a time from 0 to {points - 1}, or split the file into one a time point.",
        )
    if time is not None and not 0 <= time < points:
        raise ImageError(f"time point {time} is outside 0..{points - 1}", remedy="Check the time points.")
    rest = (time or 0,) + (0,) * (volume.ndim - 4) if volume.ndim > 3 else ()
    part, proxy = (slice(None),) * 3 + rest, volume.dataobj
    if stored is None:
        return cast(NDArray[Any], np.asanyarray(proxy[part]))
    # What the proxy does, without its copy of the bytes.
    scaled: NDArray[Any] = apply_read_scaling(stored[part], np.asanyarray(proxy.slope), np.asanyarray(proxy.inter))
    return scaled
