"""``TokenForm``: which patch tokens are stored and how; each form is a family of its own inside the store."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np

from featcache.errors import ConfigurationError

__all__ = ["BASIS", "SCALES", "TOKENS", "TokenDtype", "TokenForm", "is_token_family"]

TOKENS = "tokens"
"""The feature array of every family but ``vectors``; readers know it by the family's name."""

SCALES = "scales"
"""Of int8 tokens: (…, h, w) float32, what each token's numbers are to be multiplied with."""

BASIS = "segments/basis.npy"
"""Of projected tokens: (layers, 1 + d, D) float32 in the family's group, the mean and below it the components."""

TokenDtype = Literal["auto", "int8"]

_NAME = re.compile(r"patches(?:_l(?P<layers>[1-9]\d*))?(?:_pca(?P<pca>[1-9]\d*))?(?P<int8>_int8)?")


@dataclass(frozen=True, slots=True)
class TokenForm:
    """What is kept of the patch tokens of an image.

    Examples
    --------
    >>> TokenForm(layers=5, pca=64, dtype="int8").family
    'patches_l5_pca64_int8'
    >>> TokenForm.of_family("patches")
    TokenForm(layers=1, pca=None, dtype='auto')
    """

    layers: int = 1
    """Of the last so many blocks; with one there is no axis of layers."""
    pca: int | None = None
    """Principal components kept of each token; None keeps the token."""
    dtype: TokenDtype = "auto"
    """``auto``: as the store's features. ``int8``: with one scale a token, the largest number becomes 127."""

    def __post_init__(self) -> None:
        if self.layers < 1:
            raise ConfigurationError(f"tokens of {self.layers} layers", remedy="--layers is 1 or more.")
        if self.pca is not None and self.pca < 1:
            raise ConfigurationError(f"{self.pca} principal components of a token", remedy="--token-pca is 1 or more.")
        if self.dtype not in ("auto", "int8"):
            raise ConfigurationError(f"unknown type of tokens {self.dtype!r}", remedy="Known: auto, int8.")

    @property
    def family(self) -> str:
        """Name of the family, and of the array that readers see."""
        layers = f"_l{self.layers}" if self.layers > 1 else ""
        pca = "" if self.pca is None else f"_pca{self.pca}"
        return f"patches{layers}{pca}{'_int8' if self.dtype == 'int8' else ''}"

    @property
    def is_plain(self) -> bool:
        """Whether the numbers are the encoder's."""
        return self.pca is None and self.dtype == "auto"

    @classmethod
    def of_family(cls, name: str) -> Self | None:
        """The form that a family's name says; None for other names."""
        found = _NAME.fullmatch(name)
        if found is None or found["layers"] == "1":
            return None
        pca = None if found["pca"] is None else int(found["pca"])
        return cls(int(found["layers"] or 1), pca, "int8" if found["int8"] else "auto")

    def arrays(self, patches: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Shape of one row of each array, for an encoder whose last layer gives ``patches`` (h, w, D)."""
        *grid, width = patches if self.layers == 1 else (self.layers, *patches)
        shapes = {TOKENS: (*grid, self.pca or width)}
        return shapes | ({SCALES: tuple(grid)} if self.dtype == "int8" else {})

    def row_bytes(self, patches: tuple[int, ...], dtype: str) -> int:
        """Bytes of an image on disk; ``dtype`` is that of the store's features."""
        sizes = {TOKENS: 1 if self.dtype == "int8" else np.dtype(dtype).itemsize, SCALES: 4}
        return sum(math.prod(shape) * sizes[name] for name, shape in self.arrays(patches).items())


def is_token_family(name: str) -> bool:
    """Whether a family holds one grid of vectors for each image. All other arrays are of the family ``vectors``."""
    return TokenForm.of_family(name) is not None
