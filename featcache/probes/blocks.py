"""The token blocks of a store as the input of linear heads: CLS of the last blocks, and the mean patch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featcache.errors import ProbeError
from featcache.probes.base import check_rows

__all__ = ["BlockInput", "TokenBlocks"]

Features: TypeAlias = NDArray[np.floating]
BlockInput: TypeAlias = Mapping[str, ArrayLike] | ArrayLike
"""``{"cls": (n, D), "intermediate": (n, B, D), "patch_mean": (n, D)}``, the last two optional; or the (n, D) alone."""


@dataclass(frozen=True, slots=True)
class TokenBlocks:
    """Features of some rows, checked."""

    cls: Features
    """(n, D) CLS token of the last block."""
    intermediate: Features | None = None
    """(n, B, D) CLS tokens of the B blocks before it, the deepest last."""
    patch_mean: Features | None = None
    """(n, D) mean patch token of the last block."""

    @classmethod
    def check(cls, X: BlockInput, *, name: str = "X") -> TokenBlocks:
        """The blocks of ``X``, or :class:`ProbeError`: an unknown name, other rows, NaN or infinity.

        Examples
        --------
        >>> TokenBlocks.check({"cls": [[1.0, 2.0]], "intermediate": [[[1.0, 2.0], [0.0, 1.0]]]}).depth
        3
        """
        given: Mapping[str, Any] = X if isinstance(X, Mapping) and not hasattr(X, "toarray") else {"cls": X}
        unknown = sorted(set(given) - {"cls", "intermediate", "patch_mean"})
        if unknown or "cls" not in given:
            raise ProbeError(
                f"{name}: expected the blocks cls, intermediate and patch_mean, got {sorted(given)}",
                remedy="cls is needed, the others are optional.",
            )
        last = check_rows(given["cls"], name=f"{name}, cls")
        middle, mean = given.get("intermediate"), given.get("patch_mean")
        if middle is not None:
            middle = np.asarray(middle)
            if middle.ndim != 3 or (len(middle), middle.shape[2]) != last.shape or middle.shape[1] == 0:
                raise ProbeError(
                    f"{name}, intermediate: expected ({len(last)}, B, {last.shape[1]}), got {middle.shape}",
                    remedy="Give the CLS tokens of the blocks before the last, of the same rows.",
                )
            middle = check_rows(middle.reshape(len(middle), -1), name=f"{name}, intermediate").reshape(middle.shape)
        if mean is not None:
            mean = check_rows(mean, name=f"{name}, patch_mean")
            if len(mean) != len(last):
                raise ProbeError(f"{name}, patch_mean has {len(mean)} rows, cls has {len(last)}")
        return cls(last, middle, mean)

    def __len__(self) -> int:
        return len(self.cls)

    @property
    def depth(self) -> int:
        """How many last blocks there are."""
        return 1 if self.intermediate is None else 1 + self.intermediate.shape[1]

    @property
    def widths(self) -> tuple[int, int, int | None]:
        """D, depth and the mean patch's width: what fitting and scoring must have in common."""
        return self.cls.shape[1], self.depth, None if self.patch_mean is None else self.patch_mean.shape[1]

    def rows(self, which: NDArray[np.int64]) -> TokenBlocks:
        """A copy of some rows."""
        return TokenBlocks(*(None if part is None else part[which] for part in self._all()))  # type: ignore[arg-type]

    def joined(self, other: TokenBlocks) -> TokenBlocks:
        """These rows and then those of another with the same blocks."""
        both = zip(self._all(), other._all(), strict=True)
        return TokenBlocks(*(None if a is None or b is None else np.concatenate([a, b]) for a, b in both))  # type: ignore[arg-type]

    def _all(self) -> tuple[Features | None, ...]:
        return self.cls, self.intermediate, self.patch_mean

    def tokens(self, first: int, last: int, rows: NDArray[np.int64] | slice) -> NDArray[np.float32]:
        """(b, (last - first) D) float32: CLS tokens number ``first`` to ``last`` - 1 counted back from the last block.

        Number 0 is the last block's, and the deeper stands right, as in a concatenation of the last blocks.
        -1 is the mean patch, alone.
        """
        if first < 0:
            found = self.patch_mean if self.patch_mean is None else self.patch_mean[rows]
        elif first == 0:
            found = self.cls[rows]
        else:
            depth = self.depth - 1
            middle = self.intermediate
            found = None if middle is None else middle[rows, depth - last + 1 : depth - first + 1]
        if found is None:
            raise ProbeError("a head needs a block that was not given")
        return np.ascontiguousarray(found.reshape(len(found), -1), dtype=np.float32)
