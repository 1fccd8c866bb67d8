"""Image files to pixels: ``read(path) -> Image``, ``select`` one plane, ``prepare`` it for the encoder.

Importing this package is cheap: decoders load with the first file, torch with the first tensor.
"""

from featcache.imaging.intensity import WINDOWS
from featcache.imaging.planes import select
from featcache.imaging.prepare import cropped, normalised, prepare
from featcache.imaging.preprocess import Preprocess, to_tensor
from featcache.imaging.presets import PRESETS, preset
from featcache.imaging.reader import DECODER_VERSIONS, decoder_of, files_of, read, unit_of

__all__ = [
    "DECODER_VERSIONS",
    "PRESETS",
    "Preprocess",
    "WINDOWS",
    "cropped",
    "decoder_of",
    "files_of",
    "normalised",
    "prepare",
    "preset",
    "read",
    "select",
    "to_tensor",
    "unit_of",
]
