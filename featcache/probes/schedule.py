"""The order in which a grid of strengths is solved."""

from __future__ import annotations

import numpy as np

__all__ = ["solved_between"]

_SEED_DISTANCE = 8
"""Every eighth strength starts from the constant model."""


def solved_between(count: int) -> list[tuple[int, ...]]:
    """For each of ``count`` strengths the two solved ones that it starts between; none for those that come first.

    Every eighth and the last start by themselves, then the gaps are halved.

    Examples
    --------
    >>> solved_between(4)
    [(), (0, 2), (0, 3), ()]
    """
    seeds = sorted({*range(0, count, _SEED_DISTANCE), count - 1})
    found: dict[int, tuple[int, ...]] = dict.fromkeys(seeds, ())
    step = _SEED_DISTANCE
    while step > 1:
        step //= 2
        have = sorted(found)
        for place in range(0, count, step):
            if place not in found:
                right = int(np.searchsorted(have, place))
                found[place] = have[right - 1], have[right]
    return [found[place] for place in range(count)]
