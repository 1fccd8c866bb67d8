"""The inverse Hessian of one column, from a sample of rows: for columns that a diagonal does not help enough."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dpotrf, dpotri

__all__ = ["inverse_hessian"]

_ROWS_PER_COLUMN = 4


def inverse_hessian(
    rows: NDArray[np.float32], curvature: NDArray[np.float32], penalty: NDArray[np.float64], *, total: float, seed: int
) -> NDArray[np.float32] | None:
    """Estimate the inverse of ``rows.T @ diag(curvature) @ rows / total + diag(penalty)``.

    About four rows a column are drawn, each with a probability proportional to its curvature (at most 1), and
    weighted by the inverse probability, so that the estimate is unbiased; where few rows are curved, they are all
    taken and it is exact (Roosta-Khorasani and Mahoney, "Sub-sampled Newton methods", Mathematical Programming 174,
    2019; Xu et al., "Sub-sampled Newton methods with non-uniform sampling", NeurIPS 2016).

    Parameters
    ----------
    rows
        (n, q) float32.
    curvature
        (n,) second derivatives of the loss by the logit, not negative.
    penalty
        (q,) not negative.
    total
        Weight of the rows.
    seed
        Of the sample.

    Returns
    -------
    (q, q) float32, symmetric positive definite; None if there is no such inverse in float64

    Examples
    --------
    >>> inverse_hessian(np.eye(2, dtype=np.float32), np.ones(2, np.float32), np.ones(2), total=1.0, seed=0).round(3)
    array([[0.5, 0. ],
           [0. , 0.5]], dtype=float32)
    """
    n, q = rows.shape
    wanted = _ROWS_PER_COLUMN * q
    chance = curvature.astype(np.float64)
    taken = np.arange(n)
    if n > wanted:
        for _ in range(4):  # what is cut off at 1 is spread over the others
            chance = np.minimum(1, chance * (wanted / max(float(chance.sum()), 1e-300)))
        taken = np.flatnonzero(np.random.default_rng(seed).random(n) < chance)
        chance = chance[taken]
    else:
        chance = np.ones(n)
    scaled = rows[taken] * np.sqrt(curvature[taken] / chance / total).astype(np.float32)[:, None]
    hessian = (scaled.T @ scaled).astype(np.float64)
    hessian[np.diag_indices(q)] += penalty + 1e-7 * np.trace(hessian) / q
    factor, failed = dpotrf(hessian, lower=True, overwrite_a=True)
    if failed:
        return None
    inverse, failed = dpotri(factor, lower=True, overwrite_c=True)
    if failed:
        return None
    lower = np.tril(inverse)
    return np.asarray(lower + np.tril(inverse, -1).T, dtype=np.float32)
