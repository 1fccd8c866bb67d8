"""Decoding against the usual libraries: PNG, DICOM JPEG-LS and JPEG lossless, .nii.gz, and resizing. One core.

In each repeat every peer takes its turn on the same file, so that a noisy moment hits all of them; medians. Both sides
read the file from the page cache and end with an array in memory; the arrays are compared before anything is timed.
What featcache does besides (checksums, minimum and maximum, canonical orientation) is in its time.

    python benchmarks/decode.py                  # about a minute
    python benchmarks/decode.py --repeats 5

The pictures are made here: smooth noise with grain, 8 or 12 bits deep, which compresses about as an X-ray does.

pydicom's default for a syntax is the first of its plugins whose package is installed: for JPEG-LS it asks gdcm,
pylibjpeg, pyjpegls, for JPEG lossless gdcm, pylibjpeg. So it depends on what a user installed beside pydicom:

    pip install pydicom "pylibjpeg[all]"               pylibjpeg, whose decoder is pylibjpeg-libjpeg (GPL)
    pip install pydicom python-gdcm                    gdcm, also beside pylibjpeg[all]
    pip install pydicom pyjpegls                       pyjpegls for JPEG-LS, none for JPEG lossless

Each that is installed has its row, which says for which of these it is the default. pylibjpeg-libjpeg is no requirement
of this project; to time it in the same run without installing it:

    pip install --no-deps --target peers pylibjpeg-libjpeg
    PYTHONPATH=peers python benchmarks/decode.py
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import imagecodecs
import nibabel
import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import JPEGLosslessSV1, JPEGLSLossless, generate_uid

from featcache.imaging import png, read

Array = np.ndarray[Any, Any]
Peers = dict[str, Callable[[], Array]]
SYNTAXES = {
    "DICOM JPEG-LS, 2048 x 2048, 12 bit in 16": JPEGLSLossless,
    "DICOM JPEG lossless, 2048 x 2048, 12 bit in 16": JPEGLosslessSV1,
}
FILES = dict(zip(SYNTAXES, ("ls.dcm", "ll.dcm"), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description="Decode against Pillow, pydicom and nibabel.")
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    warnings.simplefilter("ignore")
    png.WORTH_PIXELS = 0  # the compiled loop from the first image on
    print(f"{platform.processor() or platform.machine()}, one core; medians of {options.repeats} alternated repeats\n")
    print(f"{'':48}{'per second':>12}{'of the peer':>14}")
    with tempfile.TemporaryDirectory() as folder:
        for title, peers, exact in cases(Path(folder)):
            table(title, peers, options.repeats, exact=exact)


def cases(folder: Path) -> list[tuple[str, Peers, bool]]:
    """(title, peers; the first is featcache and the second what it is compared with, whether they agree exactly)."""
    byte = (picture(1024, 230.0, 2.5)).astype(np.uint8)
    Image.fromarray(byte).save(folder / "grey.png")
    deep = picture(2048, 3800.0, 6.0).astype(np.uint16)
    dicom(deep, JPEGLSLossless, imagecodecs.jpegls_encode(deep), folder / "ls.dcm")
    dicom(deep, JPEGLosslessSV1, imagecodecs.jpeg8_encode(deep, lossless=True, bitspersample=12), folder / "ll.dcm")
    volume = np.stack([picture(256, 1500.0, 10.0, seed=seed) for seed in range(150)], axis=-1).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(volume, np.diag([-1.0, 1.0, 1.2, 1.0])), folder / "t1.nii.gz")
    return [
        (
            "PNG, 1024 x 1024, 8-bit grey",
            {"featcache": lambda: read(folder / "grey.png").array, "Pillow": lambda: pillow(folder / "grey.png")},
            True,
        ),
        *((title, dicom_peers(folder / FILES[title], syntax), True) for title, syntax in SYNTAXES.items()),
        (
            ".nii.gz, 256 x 256 x 150, int16",
            {
                "featcache": lambda: read(folder / "t1.nii.gz").array,
                "nibabel": lambda: np.asanyarray(
                    nibabel.as_closest_canonical(nibabel.load(folder / "t1.nii.gz")).dataobj
                ),
            },
            True,
        ),
        ("resize 1024 -> 224, uint8, bicubic", resizers(byte), False),
    ]


def dicom_peers(path: Path, syntax: str) -> Peers:
    peers: Peers = {"featcache": lambda: read(path).array}
    for plugin, where in PACKAGES.items():
        if plugin in get_decoder(syntax).available_plugins:
            peers[f"pydicom, {plugin}: {where}"] = (  # type: ignore[misc]
                lambda plugin=plugin: with_plugin(path, plugin)
            )
    return peers


PACKAGES = {
    "pylibjpeg": "default with pylibjpeg[all]",
    "gdcm": "default with python-gdcm",
    "pyjpegls": "default with pyjpegls alone",
}
"""pydicom's plugins for JPEG-LS and JPEG lossless, and beside which packages each is the one that it takes."""


def default_here(syntax: str) -> str:
    """What ``pixel_array`` takes in this environment, and what is not timed because it is not installed."""
    decoder = get_decoder(syntax)
    absent = [name for name in PACKAGES if name in decoder._unavailable]
    missing = f"; not installed here, so not timed: {', '.join(absent)}" if absent else ""
    return f"  pydicom's default in this environment: {next(iter(decoder._available), 'none')}{missing}"


def with_plugin(path: Path, plugin: str) -> Array:
    file = pydicom.dcmread(path)
    file.pixel_array_options(decoding_plugin=plugin)
    return file.pixel_array


def resizers(pixels: Array) -> Peers:
    import torch

    torch.set_num_threads(1)
    source = Image.fromarray(pixels)
    tensor = torch.from_numpy(pixels)[None, None]

    def resized() -> Array:
        out = torch.nn.functional.interpolate(tensor, (224, 224), mode="bicubic", antialias=True)
        return out[0, 0].numpy()

    return {
        "torch uint8, antialias": resized,
        "Pillow": lambda: np.asarray(source.resize((224, 224), Image.Resampling.BICUBIC)),
    }


def pillow(path: Path) -> Array:
    with Image.open(path) as opened:
        return np.asarray(opened)


def table(title: str, peers: Peers, repeats: int, *, exact: bool) -> None:
    arrays = {name: decode() for name, decode in peers.items()}
    first = next(iter(arrays.values()))
    worst = max(float(np.abs(array.astype(float) - first).max()) for array in arrays.values())
    if exact and worst:
        raise SystemExit(f"{title}: the peers disagree by up to {worst:g}")
    seconds: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(repeats):
        for name, decode in peers.items():
            begin = time.perf_counter()
            decode()
            seconds[name].append(time.perf_counter() - begin)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"{title} ({'identical' if exact else f'differ by {worst:g} grey levels at most'})")
    ours = next(iter(medians.values()))
    for name, median in medians.items():
        ratio = "" if median == ours else f"{median / ours:13.2f}x"
        print(f"  {name:46}{1 / median:12.1f}{ratio}")
    if title in SYNTAXES:
        print(default_here(SYNTAXES[title]))
    print()


def picture(side: int, depth: float, grain: float, seed: int = 0) -> Array:
    """Smooth structure with grain between 0 and about ``depth``."""
    rng = np.random.default_rng(seed)
    coarse = rng.standard_normal((side // 32, side // 32)).astype(np.float32)
    smooth = np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))
    smooth = (smooth - smooth.min()) / np.ptp(smooth) * depth
    return (smooth + rng.normal(0, grain, smooth.shape)).clip(0, depth + 5 * grain)


def dicom(pixels: Array, syntax: str, stream: bytes, path: Path) -> None:
    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = syntax
    file.file_meta.MediaStorageSOPClassUID = file.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID = generate_uid()
    file.Modality, file.SamplesPerPixel, file.PhotometricInterpretation = "DX", 1, "MONOCHROME2"
    file.Rows, file.Columns = pixels.shape
    file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 16, 12, 11, 0
    file.PixelData = encapsulate([stream])
    file["PixelData"].VR = "OB"
    file.save_as(path, enforce_file_format=True)


if __name__ == "__main__":
    main()
