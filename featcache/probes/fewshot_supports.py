"""The support rows of episodes as arrays of one shape: transformed, padded, with what is known of their targets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from featcache.errors import ProbeError
from featcache.probes.base import row_blocks
from featcache.probes.episodes import Episodes

__all__ = [
    "Drawn",
    "Normalisation",
    "Supports",
    "drawn_rows",
    "refuse_unknown",
    "support_blocks",
    "transformed_supports",
    "what_supports_lack",
]

Floats: TypeAlias = NDArray[np.float64]
Singles: TypeAlias = NDArray[np.float32]
Normalisation: TypeAlias = Literal["cl2", "l2", "none"]


@dataclass(frozen=True, slots=True)
class Supports:
    """B supports of at most n rows; what is beyond a support's own rows is zero and known in no column."""

    rows: Singles
    """(B, n, D) as the heads see them."""
    target: Floats
    """(B, n, C) 0 and 1; 0 where not known."""
    known: NDArray[np.bool_]
    """(B, n, C)."""
    center: Singles
    """(B, D) what was subtracted besides the origin; zero unless ``cl2``."""


def support_blocks(episodes: Episodes, numbers_per_row: int) -> Iterator[tuple[int, slice]]:
    """(place of the shots, episodes) with a bounded count of numbers, for so many in a support row.

    Examples
    --------
    >>> episodes = Episodes(shots=(1,), rows=((np.array([0, 2]), np.array([1, 3])),), n_rows=4, protocol="mine")
    >>> list(support_blocks(episodes, 8))
    [(0, slice(0, 2, None))]
    """
    for shot, supports in enumerate(episodes.rows):
        longest = max(map(len, supports))
        for block in row_blocks(len(supports), longest * (numbers_per_row + 8 * longest)):
            yield shot, block


@dataclass(frozen=True, slots=True)
class Drawn:
    """The u training rows that occur in an episode, each prepared once."""

    rows: Singles
    """(u, D) without the origin; for ``l2`` of length 1."""
    target: Floats
    """(u, C) 0, 1 and NaN."""
    place: NDArray[np.int64]
    """(n,) where a training row is among them; of rows that are not, another's."""


def drawn_rows(
    features: Singles, indicator: Floats, episodes: Episodes, origin: Floats, normalize: Normalisation
) -> Drawn:
    """Do once what a transformation does to a row in every support: subtract the origin; for ``l2`` the length.

    Parameters
    ----------
    features
        (n, D) training rows.
    indicator
        (n, C) targets 0, 1 and NaN.
    episodes
        Rows that they do not name are not copied.
    origin
        (D,); not for ``l2``.
    normalize
        ``cl2``, ``l2`` or ``none``.

    Examples
    --------
    >>> X, origin = np.array([[9.0, 9.0], [2.0, 5.0]], dtype=np.float32), np.array([1.0, 1.0])
    >>> episodes = Episodes(shots=(1,), rows=((np.array([1]),),), n_rows=2, protocol="mine")
    >>> drawn_rows(X, np.eye(2), episodes, origin, "none").rows.tolist()
    [[1.0, 4.0]]
    """
    occurs = np.zeros(len(features), dtype=bool)
    for _, _, support in episodes:
        occurs[support] = True
    rows = features[occurs]
    if normalize == "l2":
        length: Singles = np.sqrt(np.einsum("nd,nd->n", rows, rows))[:, None]
        length[length == 0] = 1
        rows /= length
    else:
        rows -= origin.astype(np.float32)
    return Drawn(rows, indicator[occurs], np.cumsum(occurs) - 1)


def transformed_supports(drawn: Drawn, supports: Sequence[NDArray[np.int64]], *, normalize: Normalisation) -> Supports:
    """The rows of some supports as :class:`featcache.probes.FewShot` transforms them.

    Parameters
    ----------
    drawn
        From :func:`drawn_rows`.
    supports
        B arrays of row numbers.
    normalize
        ``cl2``, ``l2`` or ``none``.

    Examples
    --------
    >>> episodes = Episodes(shots=(1,), rows=((np.array([0, 1]),),), n_rows=2, protocol="mine")
    >>> X = np.array([[3.0, 4.0], [0.0, 2.0]], dtype=np.float32)
    >>> part = transformed_supports(
    ...     drawn_rows(X, np.eye(2), episodes, np.zeros(2), "l2"), episodes.rows[0], normalize="l2"
    ... )
    >>> (5 * part.rows[0, 0]).round(3).tolist()
    [3.0, 4.0]
    """
    index = np.full((len(supports), max(map(len, supports))), -1)
    for place, support in enumerate(supports):
        index[place, : len(support)] = drawn.place[support]
    real = (index >= 0)[:, :, None]
    # Advanced indexing copies, so that the rest can be in place: this is where the time of small heads goes.
    Z = drawn.rows[index]
    ragged = not real.all()
    if ragged:
        Z *= real
    center = np.zeros((len(supports), drawn.rows.shape[1]), np.float32)
    if normalize == "cl2":
        center = (Z.sum(axis=1, dtype=np.float64) / real.sum(axis=1)).astype(np.float32)
        Z -= center[:, None, :]
        if ragged:
            Z *= real
        length = np.sqrt(np.einsum("bnd,bnd->bn", Z, Z))[:, :, None]
        Z /= np.where(length > 0, length, np.float32(1))
    Y = drawn.target[index]
    known = real & ~np.isnan(Y)
    return Supports(Z, np.where(known, Y, 0.0), known, center)


def refuse_unknown(episodes: Episodes, indicator: Floats) -> None:
    """Raise :class:`ProbeError` if a label is missing in every row of a support.

    Examples
    --------
    >>> episodes = Episodes(shots=(1,), rows=((np.array([0]),),), n_rows=1, protocol="mine")
    >>> refuse_unknown(episodes, np.array([[1.0]]))
    """
    for shot, episode, support in episodes:
        never = np.flatnonzero(np.isnan(indicator[support]).all(axis=0))
        if len(never):
            raise ProbeError(
                f"labels {never.tolist()} are missing in every row of episode {episode} of {shot} shots",
                remedy="Leave these labels out, or give other episodes.",
            )


def what_supports_lack(episodes: Episodes, indicator: Floats, *, multilabel: bool) -> list[str]:
    """Notes on classes that never occur and labels that have one value in a support.

    Examples
    --------
    >>> episodes = Episodes(shots=(1,), rows=((np.array([0]),),), n_rows=1, protocol="mine")
    >>> what_supports_lack(episodes, np.array([[1.0, 0.0]]), multilabel=False)
    ['Classes [1] do not occur in training: their score is 0.']
    """
    if not multilabel:
        absent = np.flatnonzero(~indicator.any(axis=0)).tolist()
        return [f"Classes {absent} do not occur in training: their score is 0."] if absent else []
    constant = sum(
        bool((np.nanmin(indicator[support], axis=0) == np.nanmax(indicator[support], axis=0)).any())
        for _, _, support in episodes
    )
    return [f"In {constant} supports a label has one value: its score is constant there."] if constant else []
