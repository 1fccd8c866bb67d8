"""``TokenCoding``: an encoder's patch tokens as a family stores them: layers, projection, 8-bit numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featcache.store import SCALES, TOKENS, TokenForm

if TYPE_CHECKING:
    import torch

__all__ = ["TokenCoding", "finite_when_read"]

_LARGEST = 127


@dataclass(slots=True)
class TokenCoding:
    """From patches to the arrays of a family, on the device that computed them."""

    form: TokenForm
    """What is kept."""
    basis: NDArray[np.float32] | None = None
    """(layers, 1 + d, D) if tokens are projected: the mean, and below it the components."""

    def __call__(self, patches: torch.Tensor) -> dict[str, torch.Tensor]:
        """Encode a batch.

        Parameters
        ----------
        patches
            (B, h, w, D) float32, or (B, layers, h, w, D).

        Returns
        -------
        dict
            ``tokens`` of the same shape with D or d numbers a token: float32, or int8 in -127 to 127 with
            ``scales`` (…, h, w) float32, the largest absolute number of the token by 127. Not finite tokens give a
            scale that is not.
        """
        tokens = patches if self.basis is None else self._projected(patches)
        if self.form.dtype != "int8":
            return {TOKENS: tokens}
        import torch

        scales = tokens.abs().amax(dim=-1) / _LARGEST
        codes = torch.round(tokens / torch.where(scales > 0, scales, 1.0)[..., None])
        return {TOKENS: codes.nan_to_num(0.0, 0.0, 0.0).to(torch.int8), SCALES: scales}

    def _projected(self, patches: torch.Tensor) -> torch.Tensor:
        import torch

        basis = torch.from_numpy(self.basis).to(patches.device)
        mean, components = basis[:, 0], basis[:, 1:]
        if self.form.layers == 1:
            return (patches - mean[0]) @ components[0].T
        centred = patches - mean[:, None, None, :]
        return torch.einsum("blhwk,lck->blhwc", centred, components)


def finite_when_read(features: Mapping[str, NDArray[Any]], dtype: np.dtype[Any]) -> NDArray[np.bool_]:
    """(B,) whether the largest number of every int8 token can be given in the type of the features."""
    with np.errstate(over="ignore"):
        largest = (features[SCALES] * _LARGEST).astype(dtype)
    finite: NDArray[np.bool_] = np.isfinite(largest.reshape(len(largest), -1)).all(axis=1)
    return finite
