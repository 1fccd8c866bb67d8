"""Compressed transfer syntaxes: samples written by an encoder come back exactly, and as pydicom reads them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames

from featcache.errors import ImageError
from featcache.imaging import read
from featcache.imaging.dicom import decode
from featcache.imaging.dicom_header import read_header
from tests.imaging.test_dicom import make, save

RNG = np.random.default_rng(5)
# Smooth with some noise, as images are, and all of the range.
RAMP = np.add.outer(np.arange(48), 2 * np.arange(40)) % 61 / 61 + RNG.random((48, 40)) / 9
SHAPE = RAMP / RAMP.max()


def samples(bits: int, *, signed: bool = False, colour: bool = False) -> np.ndarray:
    """(48, 40) or (48, 40, 3) values that use all bits."""
    values = np.rint(SHAPE * (2**bits - 1)).astype(np.int64) - (2 ** (bits - 1) if signed else 0)
    if colour:
        values = np.stack([values, values[::-1], values[:, ::-1]], axis=-1)
    width = 8 if bits <= 8 else 16
    return values.astype(f"{'i' if signed else 'u'}{width // 8}")


def unsigned(pixels: np.ndarray, bits: int) -> np.ndarray:
    """The bit patterns: what encoders without a sign are given."""
    return (pixels.astype(np.int64) & (2**bits - 1)).astype(f"u{pixels.dtype.itemsize}")


def jpeg_lossless(predictor: int) -> Callable[[np.ndarray, int], bytes]:
    def encode(pixels: np.ndarray, bits: int) -> bytes:
        patterns = unsigned(pixels, bits)
        space = "RGB" if pixels.ndim == 3 else "GRAYSCALE"
        return imagecodecs.jpeg8_encode(
            patterns, lossless=True, predictor=predictor, bitspersample=bits, colorspace=space, outcolorspace=space
        )

    return encode


def jpeg_ls(pixels: np.ndarray, bits: int) -> bytes:
    encoder = pytest.importorskip("jpeg_ls", reason="pyjpegls is not installed")
    rows, columns, components = (*pixels.shape, 1)[:3]
    return bytes(
        encoder.encode_pixel_data(
            unsigned(pixels, bits).tobytes(),
            rows=rows,
            columns=columns,
            samples_per_pixel=components,
            bits_stored=bits,
            bits_allocated=8 * pixels.dtype.itemsize,
            photometric_interpretation="RGB" if components == 3 else "MONOCHROME2",
            pixel_representation=0,
            planar_configuration=0,
            lossy_error=0,
            interleave_mode=2 if components == 3 else 0,
        )
    )


def jpeg_2000(pixels: np.ndarray, bits: int) -> bytes:
    return imagecodecs.jpeg2k_encode(pixels, level=0, codecformat="j2k", reversible=True, bitspersample=bits, mct=False)


def high_throughput(pixels: np.ndarray, bits: int) -> bytes:
    return imagecodecs.htj2k_encode(pixels)


def rle(pixels: np.ndarray, bits: int) -> bytes:
    file = make(pixels, BitsStored=bits, HighBit=bits - 1)
    file.compress(uid.RLELossless, encoding_plugin="pydicom")
    return next(generate_frames(file.PixelData, number_of_frames=1))


def compressed(pixels: np.ndarray, bits: int, syntax: str, streams: list[bytes]) -> Dataset:
    file = make(pixels, BitsStored=bits, HighBit=bits - 1)
    file.file_meta.TransferSyntaxUID = syntax
    file.PixelData = encapsulate(streams)
    file["PixelData"].is_undefined_length = True
    return file


ENCODERS = {
    "jpeg_lossless_1": (uid.JPEGLosslessSV1, jpeg_lossless(1)),
    "jpeg_lossless_4": (uid.JPEGLossless, jpeg_lossless(4)),
    "jpeg_lossless_7": (uid.JPEGLossless, jpeg_lossless(7)),
    "jpeg_ls": (uid.JPEGLSLossless, jpeg_ls),
    "jpeg_2000": (uid.JPEG2000Lossless, jpeg_2000),
    "htj2k": (uid.HTJ2KLossless, high_throughput),
    "htj2k_rpcl": (uid.HTJ2KLosslessRPCL, high_throughput),
    "rle": (uid.RLELossless, rle),
}


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize(
    ("bits", "signed", "colour"),
    [
        (8, False, False),
        (8, False, True),
        (8, True, False),
        (10, False, False),
        (12, False, False),
        (12, True, False),
        (16, False, False),
        (16, True, False),
    ],
)
def test_lossless_samples_come_back_exactly(tmp_path: Path, name: str, bits: int, signed: bool, colour: bool) -> None:
    syntax, encode = ENCODERS[name]
    pixels = samples(bits, signed=signed, colour=colour)
    path = save(compressed(pixels, bits, syntax, [encode(pixels, bits)]), tmp_path / "a.dcm")
    found = decode(read_header(path))
    assert found.dtype == pixels.dtype
    np.testing.assert_array_equal(found, pixels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            expected = pydicom.dcmread(path).pixel_array
        except RuntimeError:  # pydicom has no decoder for this syntax, or the decoder refuses the stream
            return
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("near", [0, 3])
@pytest.mark.parametrize("planar", [0, 1])
def test_colour_jpeg_ls_by_pixel_and_by_plane(tmp_path: Path, planar: int, near: int) -> None:
    encoder = pytest.importorskip("jpeg_ls", reason="pyjpegls is not installed")
    pixels = samples(8, colour=True)
    ordered = pixels.transpose(2, 0, 1) if planar else pixels
    facts = {"rows": 48, "columns": 40, "samples_per_pixel": 3, "bits_stored": 8, "planar_configuration": planar}
    stream = bytes(encoder.encode_pixel_data(ordered.tobytes(), lossy_error=near, **facts))
    syntax = uid.JPEGLSNearLossless if near else uid.JPEGLSLossless
    path = save(compressed(pixels, 8, syntax, [stream]), tmp_path / "a.dcm")
    found = decode(read_header(path))
    assert np.abs(found.astype(int) - pixels).max() <= near
    np.testing.assert_array_equal(found, pydicom.dcmread(path).pixel_array)


def test_lossy_high_throughput_jpeg_2000(tmp_path: Path) -> None:
    pixels = samples(12)
    stream = imagecodecs.htj2k_encode(pixels, reversible=False, level=0.0005)
    path = save(compressed(pixels, 12, uid.HTJ2K, [stream]), tmp_path / "a.dcm")
    found = decode(read_header(path)).astype(int)
    assert np.abs(found - pixels).max() > 0
    assert np.abs(found - pixels).max() < 64
    # Another decoder, OpenJPH; its arithmetic rounds a little differently.
    assert np.abs(found - imagecodecs.htj2k_decode(stream).astype(int)).max() <= 1


@pytest.mark.parametrize("name", ENCODERS)
def test_frames_of_a_compressed_file_come_in_order(tmp_path: Path, name: str) -> None:
    syntax, encode = ENCODERS[name]
    frames = np.stack([samples(12), samples(12)[::-1], samples(12)[:, ::-1]])
    path = save(compressed(frames, 12, syntax, [encode(frame, 12) for frame in frames]), tmp_path / "a.dcm")
    np.testing.assert_array_equal(read(path).array, frames)


@pytest.mark.parametrize("keep", [0.05, 0.5, 0.9])
@pytest.mark.parametrize("name", ENCODERS)
def test_a_stream_that_breaks_off_is_an_error(tmp_path: Path, name: str, keep: float) -> None:
    syntax, encode = ENCODERS[name]
    pixels = samples(12)
    stream = encode(pixels, 12)
    path = save(compressed(pixels, 12, syntax, [stream[: int(len(stream) * keep)]]), tmp_path / "a.dcm")
    with pytest.raises(ImageError, match="damaged") as caught:
        read(path)
    assert caught.value.remedy


def test_padding_behind_a_jpeg_stream_is_no_damage(tmp_path: Path) -> None:
    pixels = samples(12)
    stream = jpeg_lossless(1)(pixels, 12) + bytes(40)
    path = save(compressed(pixels, 12, uid.JPEGLosslessSV1, [stream]), tmp_path / "a.dcm")
    np.testing.assert_array_equal(read(path).array, pixels)


@pytest.mark.parametrize("name", ENCODERS)
def test_a_stream_of_another_size_than_the_header_says_is_an_error(tmp_path: Path, name: str) -> None:
    syntax, encode = ENCODERS[name]
    file = compressed(samples(12), 12, syntax, [encode(samples(12), 12)])
    file.Rows = 47
    with pytest.raises(ImageError, match="damaged"):
        read(save(file, tmp_path / "a.dcm"))


@pytest.mark.parametrize("syntax", [uid.MPEG2MPML, uid.MPEG4HP41, uid.JPIPHTJ2KReferenced, "1.2.3.4.5"])
def test_videos_and_unknown_encodings_are_errors(tmp_path: Path, syntax: str) -> None:
    file = compressed(samples(8), 8, syntax, [b"no frame"])
    file.save_as(tmp_path / "a.dcm", implicit_vr=False, little_endian=True)
    with pytest.raises(ImageError, match="not supported") as caught:
        read(tmp_path / "a.dcm")
    assert caught.value.remedy
