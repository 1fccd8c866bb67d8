"""Decoding of DICOM files against pydicom: its default choice of a decoder, and each of its plugins by name.

    python benchmarks/decode_dicom.py                  # 2048 x 2048, 12 bits, about a minute
    python benchmarks/decode_dicom.py --size 1024 --repeats 3

Which plugin is pydicom's default depends on what is installed. pydicom 3.0 registers for JPEG-LS gdcm, pylibjpeg,
pyjpegls and for JPEG lossless gdcm, pylibjpeg, and takes the first that it finds: gdcm wherever python-gdcm is
installed, here and in a plain `pip install pydicom pylibjpeg pylibjpeg-libjpeg python-gdcm`; pylibjpeg-libjpeg (GPL)
where it is not. To time that one too, run this script where it is installed.

What is compared. Every peer reads the same file from the page cache and gives the stored samples: featcache by
``decode(read_header(path))``, pydicom by ``dcmread(path).pixel_array`` and by ``decompress`` with a named plugin. The
picture is smooth with noise in its lowest bits, as a mammogram is. Peers take turns in each repeat, on one core;
medians. Each result is compared with the picture before it is timed, so that every figure is of the exact samples.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

# Before numpy is loaded; for all alike.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "10")

import imagecodecs
import numpy as np
import pydicom
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder

from featcache.imaging.dicom import decode
from featcache.imaging.dicom_header import read_header

Array = np.ndarray[Any, Any]
BITS = 12


class Row(NamedTuple):
    """One peer on one transfer syntax."""

    syntax: str
    """Name of the transfer syntax."""
    peer: str
    """``featcache``, ``pydicom default`` (with the plugin that it is) or ``pydicom`` with a plugin's name."""
    images_per_second: float
    """On one core, median of the repeats."""
    ratio: float
    """Of featcache's speed to this peer's."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Decode DICOM with featcache and with pydicom.")
    parser.add_argument("--size", type=int, default=2048, help="rows and columns")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print(f"{platform.machine()}, Python {platform.python_version()}, pydicom {pydicom.__version__}, ", end="")
    print(f"imagecodecs {imagecodecs.__version__}; {options.size} x {options.size}, {BITS} bits, one core\n")
    print(f"{'transfer syntax':<28}{'peer':<28}{'images/s':>10}{'featcache is':>16}")
    for row in measure(size=options.size, repeats=options.repeats):
        print(f"{row.syntax:<28}{row.peer:<28}{row.images_per_second:>10.1f}{row.ratio:>15.2f}x")


def measure(*, size: int = 2048, repeats: int = 5) -> list[Row]:
    """Time every peer on every transfer syntax that can be written here.

    Parameters
    ----------
    size
        Rows and columns of the picture.
    repeats
        Turns of each peer.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    picture = synthetic(size)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, (syntax, encode) in ENCODERS.items():
            path = write(Path(folder) / "image.dcm", picture, syntax, encode)
            rows += race(name, path, picture, repeats)
    return rows


def race(name: str, path: Path, picture: Array, repeats: int) -> list[Row]:
    """Alternate all peers on one file."""
    peers: dict[str, Callable[[Path], Array]] = {"featcache": lambda file: decode(read_header(file))}
    syntax = pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID
    default = default_plugin(syntax)
    peers[f"pydicom default ({default})"] = lambda file: pydicom.dcmread(file).pixel_array
    for plugin in get_decoder(syntax).available_plugins:
        if plugin != default:
            peers[f"pydicom, {plugin}"] = by_plugin(plugin)
    seconds: dict[str, list[float]] = {}
    for peer in list(peers):
        if not np.array_equal(peers[peer](path), picture):
            print(f"{name}: {peer} gives other samples and is left out", file=sys.stderr)
            del peers[peer]
    for _ in range(repeats):
        for peer, action in peers.items():
            begin = time.perf_counter()
            action(path)
            seconds.setdefault(peer, []).append(time.perf_counter() - begin)
    medians = {peer: statistics.median(times) for peer, times in seconds.items()}
    return [Row(name, peer, 1 / median, median / medians["featcache"]) for peer, median in medians.items()]


def default_plugin(syntax: str) -> str:
    """The plugin that pydicom tries first: of those that are installed, the first that it registers."""
    decoder = get_decoder(uid.UID(syntax))
    return next(iter(decoder._available), "none") if uid.UID(syntax).is_encapsulated else "no plugin"


def by_plugin(plugin: str) -> Callable[[Path], Array]:
    """pydicom with one of its plugins."""

    def action(path: Path) -> Array:
        file = pydicom.dcmread(path)
        array: Array = get_decoder(file.file_meta.TransferSyntaxUID).as_array(file, decoding_plugin=plugin)[0]
        return array

    return action


def synthetic(size: int) -> Array:
    """(size, size) uint16: a smooth body before a dark background, with noise of a few grey levels."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size] / size
    body = np.clip(1.1 - np.hypot(x, y - 0.5) * 1.6, 0, 1) ** 0.7
    texture = sum(np.sin(40 * 2**k * (x + 0.7 * y) + 9 * np.cos(7 * y)) / 2**k for k in range(4))
    noise = rng.normal(0, 6, (size, size))
    picture = np.where(body > 0, 2600 * body + 120 * texture * body + noise + 300, np.abs(noise) / 3)
    return np.clip(np.rint(picture), 0, 2**BITS - 1).astype(np.uint16)


def write(path: Path, picture: Array, syntax: str, encode: Callable[[Array], bytes] | None) -> Path:
    """One file of the picture."""
    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = syntax if encode is not None else uid.ExplicitVRLittleEndian
    file.file_meta.MediaStorageSOPClassUID = file.SOPClassUID = uid.DigitalMammographyXRayImageStorageForPresentation
    file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID = uid.generate_uid()
    file.Rows, file.Columns = picture.shape
    file.SamplesPerPixel, file.PhotometricInterpretation, file.PixelRepresentation = 1, "MONOCHROME2", 0
    file.BitsAllocated, file.BitsStored, file.HighBit = 16, BITS, BITS - 1
    if encode is None:
        file.PixelData = picture.tobytes()
        if syntax != uid.ExplicitVRLittleEndian:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                file.compress(syntax)
    else:
        file.PixelData = encapsulate([encode(picture)])
        file["PixelData"].is_undefined_length = True
    file.save_as(path, enforce_file_format=True)
    return path


def _jpeg_lossless(picture: Array) -> bytes:
    return bytes(imagecodecs.jpeg8_encode(picture, lossless=True, predictor=1, bitspersample=BITS))


def _jpeg_2000(picture: Array) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(picture, codecformat="j2k", reversible=True, bitspersample=BITS))


ENCODERS: dict[str, tuple[str, Callable[[Array], bytes] | None]] = {
    "JPEG-LS lossless": (uid.JPEGLSLossless, None),
    "JPEG lossless": (uid.JPEGLosslessSV1, _jpeg_lossless),
    "JPEG 2000 lossless": (uid.JPEG2000Lossless, _jpeg_2000),
    "RLE": (uid.RLELossless, None),
    "uncompressed": (uid.ExplicitVRLittleEndian, None),
}
"""Transfer syntax and encoder; None for those that pydicom writes by itself."""

if __name__ == "__main__":
    main()
