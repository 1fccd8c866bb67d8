"""Resampling between the grid of tokens and the input square, as two small matrices: one GEMM an axis."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["area_matrix", "area_shares", "bilinear_matrix", "bilinear_places", "upsampled"]


def bilinear_matrix(cells: int, size: int) -> NDArray[np.float32]:
    """Weights of ``cells`` values in each of ``size`` values between them.

    Parameters
    ----------
    cells, size
        Elements of the axis before and after.

    Returns
    -------
    (size, cells) float32
        ``bilinear_matrix(h, S) @ plane @ bilinear_matrix(w, S).T`` is torch's ``interpolate(mode="bilinear",
        align_corners=False)``.

    Examples
    --------
    >>> bilinear_matrix(2, 4)
    array([[1.  , 0.  ],
           [0.75, 0.25],
           [0.25, 0.75],
           [0.  , 1.  ]], dtype=float32)
    """
    place = bilinear_places(cells, size)
    first = np.floor(place).astype(np.int64).clip(0, max(cells - 2, 0))
    share = place - first
    weights = np.zeros((size, cells), np.float64)
    weights[np.arange(size), first] = 1 - share
    weights[np.arange(size), np.minimum(first + 1, cells - 1)] += share
    return weights.astype(np.float32)


def bilinear_places(cells: int, size: int) -> NDArray[np.float64]:
    """(size,) where each of ``size`` values is among the cells: 0 at the first, ``cells - 1`` at the last.

    Examples
    --------
    >>> bilinear_places(2, 4).tolist()
    [0.0, 0.25, 0.75, 1.0]
    """
    places: NDArray[np.float64] = ((np.arange(size) + 0.5) * (cells / size) - 0.5).clip(0, cells - 1)
    return places


def area_matrix(size: int, cells: int) -> NDArray[np.float32]:
    """(cells, size) float32: the share that each of ``size`` elements has in each of ``cells`` cells.

    Examples
    --------
    >>> area_matrix(3, 2).round(3)
    array([[0.667, 0.333, 0.   ],
           [0.   , 0.333, 0.667]], dtype=float32)
    """
    edges, borders = np.arange(size + 1) / size, np.arange(cells + 1) / cells
    low = np.maximum(edges[None, :-1], borders[:-1, None])
    high = np.minimum(edges[None, 1:], borders[1:, None])
    weights: NDArray[np.float32] = ((high - low).clip(0) * cells).astype(np.float32)
    return weights


def area_shares(labels: NDArray[np.uint8], n_classes: int, grid: tuple[int, int]) -> NDArray[np.float32]:
    """The share of each class in each token: soft targets at token resolution.

    Parameters
    ----------
    labels
        (b, S, S) class numbers.
    n_classes
        C.
    grid
        (h, w) of the tokens.

    Returns
    -------
    (b, h, w, C) float32
        Shares add up to 1.

    Examples
    --------
    >>> area_shares(np.array([[[0, 1], [1, 1]]], np.uint8), 2, (1, 1))
    array([[[[0.25, 0.75]]]], dtype=float32)
    """
    rows, columns = area_matrix(labels.shape[1], grid[0]), area_matrix(labels.shape[2], grid[1])
    shares = [rows @ (labels == number).astype(np.float32) @ columns.T for number in range(n_classes)]
    return np.stack(shares, axis=-1)


def upsampled(logits: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """(..., h, w) logits at (..., size, size), bilinearly.

    Examples
    --------
    >>> upsampled(np.array([[0.0, 1.0]], np.float32), 2)
    array([[0., 1.],
           [0., 1.]], dtype=float32)
    """
    rows, columns = bilinear_matrix(logits.shape[-2], size), bilinear_matrix(logits.shape[-1], size)
    return np.asarray(rows @ logits @ columns.T, dtype=np.float32)
