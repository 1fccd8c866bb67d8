"""DICOM transfer syntaxes to pixels: pydicom's frame machinery with the decoders of imagecodecs and pylibjpeg-rle.

pydicom finds the frames, checks lengths, mends signs and unused bits and converts colour; only the decoding of one
compressed frame is ours. One decoder a syntax, never a second one when the first fails: another library may
round a lossy frame differently, and features must not depend on what happens to be installed.

This module has the form of a pydicom decoding plugin, but the decoders it is added to are ours: ``pixel_array`` of
another part of the program stays as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from pydicom.pixels.decoders.base import Decoder, DecodeRunner, get_decoder
from rle.utils import decode_pixel_data as decode_rle

__all__ = ["DECODER_DEPENDENCIES", "decode_frame", "decoder_for", "is_available"]

_JPEG = (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit)
_JPEG_LOSSLESS = (uid.JPEGLossless, uid.JPEGLosslessSV1)
_JPEG_LS = (uid.JPEGLSLossless, uid.JPEGLSNearLossless)
_JPEG_2000 = (uid.JPEG2000Lossless, uid.JPEG2000, uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K)

_END_OF_IMAGE = b"\xff\xd9"
_PADDING = b"\x00\x20\xff"

_COMPRESSED = (*_JPEG, *_JPEG_LOSSLESS, *_JPEG_LS, *_JPEG_2000, uid.RLELossless)
DECODER_DEPENDENCIES = {**dict.fromkeys(_COMPRESSED, ("imagecodecs",)), uid.RLELossless: ("pylibjpeg-rle",)}
"""Compressed transfer syntaxes that are decoded here; pydicom asks a plugin for this table."""


def is_available(syntax: str) -> bool:
    """Whether a transfer syntax is decoded here; pydicom asks a plugin for this."""
    return syntax in DECODER_DEPENDENCIES


@cache
def decoder_for(syntax: str) -> Decoder:
    """The pydicom decoder of a transfer syntax, with our plugin alone where it is compressed.

    Raises
    ------
    NotImplementedError
        For a syntax that holds no still images (MPEG, JPIP) or that is not known.
    """
    known = uid.UID(syntax)
    if known not in DECODER_DEPENDENCIES:
        return get_decoder(known)
    decoder = Decoder(known)
    decoder.add_plugin("imagecodecs", (__name__, "decode_frame"))
    return decoder


def decode_frame(src: bytes, runner: DecodeRunner) -> memoryview:
    """One compressed frame to little-endian samples; the runner is told how they are laid out.

    Parameters
    ----------
    src
        The code stream of one frame.
    runner
        pydicom's: geometry and sample format of the data set, corrected in place where the stream differs.

    Returns
    -------
    memoryview
        Bytes of rows x columns x samples, colour by pixel (RLE: colour by plane); pydicom copies them once.
    """
    frame = _FRAME_DECODERS[runner.transfer_syntax](src, runner)
    expected = runner.rows * runner.columns * runner.samples_per_pixel
    if frame.size != expected:
        raise ValueError(f"the stream holds {frame.size} samples, the header says {expected}")
    return np.ascontiguousarray(frame).data.cast("B")


def _jpeg(src: bytes, runner: DecodeRunner) -> NDArray[Any]:
    if not src.rstrip(_PADDING).endswith(_END_OF_IMAGE):
        raise ValueError("the JPEG stream is truncated")  # libjpeg would fill the rest with grey
    # No colour transform here: pydicom converts afterwards by the photometric interpretation it has settled on.
    space = "GRAYSCALE" if runner.samples_per_pixel == 1 else "RGB"
    return _sized(imagecodecs.jpeg8_decode(src, colorspace=space, outcolorspace=space), runner)


def _jpeg_ls(src: bytes, runner: DecodeRunner) -> NDArray[Any]:
    return _sized(imagecodecs.jpegls_decode(src), runner)


def _jpeg_2000(src: bytes, runner: DecodeRunner) -> NDArray[Any]:
    frame = _sized(imagecodecs.jpeg2k_decode(src), runner)
    if runner.photometric_interpretation in {"YBR_ICT", "YBR_RCT"}:
        runner.set_option("photometric_interpretation", "RGB")  # the stream's own transform has been undone
    return frame


def _rle(src: bytes, runner: DecodeRunner) -> NDArray[Any]:
    # As fast as that of imagecodecs, which ends the process with a segmentation fault on some damaged frames.
    try:
        decoded = decode_rle(
            src, version=2, rows=runner.rows, columns=runner.columns, bits_allocated=runner.bits_allocated
        )
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of Rust, and no Exception: it would end the run
            raise
        raise ValueError("the RLE segments do not fit the frame") from None
    runner.set_option("planar_configuration", 1)
    return np.frombuffer(decoded, f"<u{max(1, runner.bits_allocated // 8)}")


def _sized(frame: NDArray[Any], runner: DecodeRunner) -> NDArray[Any]:
    runner.set_option("bits_allocated", 8 * frame.dtype.itemsize)
    if frame.ndim == 3:
        runner.set_option("planar_configuration", 0)
    return frame


_FRAME_DECODERS: dict[str, Callable[[bytes, DecodeRunner], NDArray[Any]]] = {
    **dict.fromkeys((*_JPEG, *_JPEG_LOSSLESS), _jpeg),
    **dict.fromkeys(_JPEG_LS, _jpeg_ls),
    **dict.fromkeys(_JPEG_2000, _jpeg_2000),
    uid.RLELossless: _rle,
}
