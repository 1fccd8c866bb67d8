"""Image files to pixels: ``read(path) -> Image``, ``select`` one plane, ``Preprocess`` for the encoder.

Importing this package is cheap: decoders load with the first file, torch with the first tensor.
"""

from featcache.imaging.planes import select
from featcache.imaging.preprocess import PRESETS, Preprocess, preset, to_tensor
from featcache.imaging.reader import DECODER_VERSIONS, decoder_of, files_of, read, unit_of

__all__ = [
    "DECODER_VERSIONS",
    "PRESETS",
    "Preprocess",
    "decoder_of",
    "files_of",
    "preset",
    "read",
    "select",
    "to_tensor",
    "unit_of",
]
