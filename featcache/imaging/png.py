"""PNG chunks and checksums, and a fast decoder for what X-ray archives are made of: 8-bit grey, not interlaced.

Pillow unpacks with zlib and undoes the row filters in one pass; here ISA-L unpacks and a compiled loop undoes the
filters, with the same result to the bit. Everything else stays with Pillow.

Checksums: the CRC of each critical chunk is compared for every PNG, and the Adler-32 of the pixels on the fast path.
Pillow looks at neither, so that a flipped bit would pass as an image.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from featcache.errors import ImageError

__all__ = ["SIGNATURE", "Chunks", "decode_grey", "is_plain_grey", "parse"]

SIGNATURE = b"\x89PNG\r\n\x1a\n"

WORTH_PIXELS = 64 << 20
"""Pixels that a process leaves to Pillow before it loads the compiled loop. Loading costs 0.4 s, 0.8 s the first time
on a machine, and then saves about 7 ms a megapixel: a single image must not pay for it."""

_IGNORED = {b"gAMA", b"pHYs", b"sBIT", b"cHRM", b"sRGB", b"iCCP", b"tIME", b"bKGD", b"hIST", b"tRNS"}
"""Ancillary chunks that change nothing here: Pillow does not apply them either. Others may hold an orientation."""
_ZLIB = 15

Unfilter = Callable[[NDArray[np.uint8], NDArray[np.uint8]], int]


@dataclass(frozen=True, slots=True)
class Chunks:
    """What a PNG file says of itself."""

    width: int
    """Pixels of a row."""
    height: int
    """Rows."""
    depth: int
    """Bits of a sample."""
    colour: int
    """0 grey, 2 RGB, 3 palette, 4 grey with alpha, 6 RGB with alpha."""
    interlaced: bool
    """Whether rows come in seven passes."""
    other: frozenset[bytes]
    """Names of its further chunks."""
    data: tuple[memoryview, ...]
    """The compressed pixels."""


def parse(content: bytes) -> Chunks:
    """Split a PNG file into its chunks and compare the checksums of the critical ones.

    Raises
    ------
    ImageError
        If the file breaks off, has no header or end, or a checksum differs.
    """
    view = memoryview(content)
    header: tuple[int, ...] | None = None
    data: list[memoryview] = []
    other: set[bytes] = set()
    position, ended = len(SIGNATURE), False
    while not ended:
        if position + 12 > len(view):
            raise _damaged("the file is truncated: it has no end chunk")
        (length,) = struct.unpack_from(">I", view, position)
        name = bytes(view[position + 4 : position + 8])
        body = view[position + 8 : position + 8 + length]
        if position + 12 + length > len(view):
            raise _damaged("the file is truncated inside a chunk")
        if name[0] & 0x20 == 0:  # an upper case letter: critical
            (expected,) = struct.unpack_from(">I", view, position + 8 + length)
            if isal_zlib.crc32(view[position + 4 : position + 8 + length]) != expected:
                raise _damaged("a checksum does not match")
        if name == b"IHDR" and length == 13:
            header = struct.unpack(">IIBBBBB", body)
        elif name == b"IDAT":
            data.append(body)
        elif name == b"IEND":
            ended = True
        else:
            other.add(name)
        position += 12 + length
    if header is None or not data or 0 in header[:2]:
        raise _damaged("it has no header or no pixels")
    return Chunks(header[0], header[1], header[2], header[3], header[6] != 0, frozenset(other), tuple(data))


def is_plain_grey(chunks: Chunks) -> bool:
    """Whether :func:`decode_grey` can take it: 8-bit grey, not interlaced, nothing that could turn the picture."""
    return (chunks.depth, chunks.colour, chunks.interlaced) == (8, 0, False) and chunks.other <= _IGNORED


def decode_grey(chunks: Chunks) -> NDArray[np.uint8] | None:
    """Decode a plain grey PNG, or leave it to Pillow as long as compiled code would not repay its loading.

    Returns
    -------
    ndarray or None
        (height, width) uint8; None: use Pillow.

    Raises
    ------
    ImageError
        If the pixels are truncated or damaged.
    """
    unfilter = _unfilter_when_worth(chunks.width * chunks.height)
    return None if unfilter is None else _decode(chunks, unfilter)


def _decode(chunks: Chunks, unfilter: Unfilter) -> NDArray[np.uint8]:
    size = chunks.height * (chunks.width + 1)
    packed = chunks.data[0] if len(chunks.data) == 1 else b"".join(chunks.data)
    inflate = isal_zlib.decompressobj(wbits=_ZLIB)
    try:
        # Never more than the header promises: a small file can hold gigabytes. The second call reads the checksum.
        raw = inflate.decompress(packed, size)
        inflate.decompress(inflate.unconsumed_tail, 1)
    except isal_zlib.error:  # type: ignore[misc]
        raise _damaged("the compressed pixels are damaged") from None
    if len(raw) < size:
        raise _damaged("the compressed pixels are truncated")
    pixels = np.empty((chunks.height, chunks.width), np.uint8)
    if unfilter(np.frombuffer(raw, np.uint8).reshape(chunks.height, chunks.width + 1), pixels):
        raise _damaged("a row has an unknown filter")
    return pixels


_lock = threading.Lock()
_state: dict[str, Any] = {"pixels": 0, "unfilter": None}


def _unfilter_when_worth(pixels: int) -> Unfilter | None:
    """The compiled loop once enough pixels have gone by; while one thread loads it, others go on with Pillow."""
    found: Unfilter | None = _state["unfilter"]
    if found is not None:
        return found
    _state["pixels"] += pixels  # a lost update between threads only delays
    if _state["pixels"] < WORTH_PIXELS or not _lock.acquire(blocking=False):
        return None
    try:
        if _state["unfilter"] is None:
            from featcache.imaging.png_filters import unfilter

            unfilter(np.zeros((1, 2), np.uint8), np.empty((1, 1), np.uint8))  # compiles, or reads the disk cache
            _state["unfilter"] = unfilter
        loaded: Unfilter = _state["unfilter"]
        return loaded
    finally:
        _lock.release()


def _damaged(what: str) -> ImageError:
    return ImageError(f"the PNG file is damaged: {what}", remedy="Copy it again from its source.")
