"""TIFF and BigTIFF: up to 8 bits through Pillow, deeper samples through libtiff (imagecodecs), pages as a stack."""

from __future__ import annotations

import io
import mmap
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.errors import ImageError
from featcache.imaging import raster
from featcache.records import Image, Selector

__all__ = ["load", "page_count", "page_headers"]

_BITS, _PHOTOMETRIC, _ORIENTATION, _SAMPLES, _PLANAR = 258, 262, 274, 277, 284
_SIZES = {1: 1, 3: 2, 4: 4, 16: 8}
_FORMATS = {1: "B", 3: "H", 4: "I", 16: "Q"}
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2
_SEPARATE = 2


@dataclass(frozen=True, slots=True)
class Page:
    """What the directory of one page says."""

    width: int
    height: int
    bits: int
    """Of one sample."""
    photometric: int
    orientation: int
    samples: int
    planar: int


def load(path: Path, selector: Selector = Selector()) -> Image:  # noqa: B008 - frozen
    """Decode a TIFF: a plane, or with ``selector.frame`` the stack of its pages.

    8, 16 and 32 bits, integers and floats, stay what they are (16-bit floats become 32-bit ones); WhiteIsZero is
    inverted, alpha dropped, the orientation applied. Another kind of picture under this name is read as what it is.

    Raises
    ------
    ImageError
        If it is damaged, too large, or has several pages and none is named, or pages that differ in size.
    """
    content = path.read_bytes()
    pages = page_headers(content)
    if not pages:
        return raster.load(path, selector)
    area = sum(page.width * page.height for page in pages) if selector.frame is not None else 0
    area = max(area, *(page.width * page.height for page in pages))
    if area > raster.MAX_PIXELS:
        raise ImageError(
            f"{area:,} pixels are more than the limit of {raster.MAX_PIXELS:,}", remedy="Resize the picture first."
        )
    if len(pages) > 1 and selector.frame is None:
        raise ImageError(
            f"the TIFF has {len(pages)} pages and the sample names none",
            remedy=f"Write one file a page, or give the sample a frame from 0 to {len(pages) - 1}.",
        )
    arrays = [_page(content, index, page) for index, page in enumerate(pages)]
    if len({(array.shape, array.dtype) for array in arrays}) > 1:
        raise ImageError("the pages differ in size or kind", remedy="Write one file a page.")
    array = arrays[0] if len(arrays) == 1 else np.stack(arrays)
    return Image(array=array, kind="plane" if len(arrays) == 1 else "stack", value_range=_full_scale(array, arrays[0]))


def _full_scale(array: NDArray[Any], page: NDArray[Any]) -> tuple[float, float]:
    if page.dtype.kind != "f" and (page.dtype == np.uint8 or page.ndim == 3):
        return 0.0, float(np.iinfo(array.dtype).max)
    return float(array.min()), float(array.max())


def page_headers(content: bytes | mmap.mmap) -> list[Page]:
    """The directories of a TIFF 6.0 or BigTIFF file in their order; none if it is no TIFF.

    Raises
    ------
    ImageError
        If a directory lies outside the file.
    """
    order = {b"II": "<", b"MM": ">"}.get(content[:2])
    if order is None or content[2:4] not in (struct.pack(order + "H", 42), struct.pack(order + "H", 43)):
        return []
    big = struct.unpack(order + "H", content[2:4])[0] == 43
    pages: list[Page] = []
    seen: set[int] = set()
    try:
        offset: int = struct.unpack_from(order + ("Q" if big else "I"), content, 8 if big else 4)[0]
        while offset and offset not in seen:
            seen.add(offset)
            page, offset = _directory(content, offset, order, big=big)
            pages.append(page)
    except (struct.error, KeyError) as error:
        raise ImageError(
            f"the file is truncated or damaged (its directory, {type(error).__name__})",
            remedy="Copy it again from its source.",
        ) from None
    return pages


def page_count(path: Path) -> int:
    """Pages of a TIFF, from its directories alone; 1 of what is no readable TIFF, so that its reader says why.

    Examples
    --------
    >>> page_count(Path("pyproject.toml"))
    1
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return max(1, len(page_headers(content)))
    except (ImageError, OSError, ValueError):  # ValueError: an empty file cannot be mapped
        return 1


def _directory(content: bytes | mmap.mmap, offset: int, order: str, *, big: bool) -> tuple[Page, int]:
    """One page and where the next directory is. TIFF 6.0, section 2."""
    count: int = struct.unpack_from(order + ("Q" if big else "H"), content, offset)[0]
    start, size, room = offset + (8 if big else 2), (20 if big else 12), (8 if big else 4)
    found: dict[int, int] = {}
    for place in range(start, start + count * size, size):
        tag, kind, values = struct.unpack_from(order + ("HHQ" if big else "HHI"), content, place)
        if kind in _SIZES and values:
            where = place + size - room
            if values * _SIZES[kind] > room:
                where = struct.unpack_from(order + ("Q" if big else "I"), content, where)[0]
            found[tag] = struct.unpack_from(order + _FORMATS[kind], content, where)[0]
    following: int = struct.unpack_from(order + ("Q" if big else "I"), content, start + count * size)[0]
    page = Page(
        width=found[256],
        height=found[257],
        bits=found.get(_BITS, 1),
        photometric=found.get(_PHOTOMETRIC, _BLACK_IS_ZERO),
        orientation=found.get(_ORIENTATION, 1),
        samples=found.get(_SAMPLES, 1),
        planar=found.get(_PLANAR, 1),
    )
    return page, following


def _page(content: bytes, index: int, page: Page) -> NDArray[Any]:
    plain = page.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB)
    big_endian_bigtiff = content[:4] == b"MM\x00\x2b"  # Pillow does not know it
    if plain and (page.bits > 8 or (page.bits == 8 and big_endian_bigtiff)):
        return _deep(content, index, page)
    return raster.picture(io.BytesIO(content), index, content[:12])


def _deep(content: bytes, index: int, page: Page) -> NDArray[Any]:
    import imagecodecs

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            array: NDArray[Any] = imagecodecs.tiff_decode(content, index=index)
    except (imagecodecs.TiffError, ValueError, IndexError, RuntimeError) as error:
        raise ImageError(
            f"the file is truncated or damaged ({error})", remedy="Copy it again from its source."
        ) from error
    if page.samples > 1 and page.planar == _SEPARATE:
        array = np.moveaxis(array, 0, -1)
    if array.ndim == 3:
        array = array[..., :3] if array.shape[-1] >= 3 else array[..., 0]
    if page.photometric == _WHITE_IS_ZERO and array.dtype.kind == "u":
        array = np.array(np.iinfo(array.dtype).max, array.dtype) - array
    if array.dtype == np.float16:
        array = array.astype(np.float32)
    return np.ascontiguousarray(raster.upright(array, page.orientation))
