"""The study's two few-shot protocols: patients a finding, and evenly spaced rows. Nothing in them is random."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from featcache.errors import ProbeError
from featcache.probes.base import check_targets
from featcache.probes.episodes import Episodes, check_shots, class_members, patient_codes, too_few
from featcache.records import evenly_spaced

__all__ = ["spaced_episodes", "study_episodes"]


def study_episodes(
    Y: ArrayLike, groups: ArrayLike, shots: Sequence[int] = (1, 2, 4, 8, 16), label_names: Sequence[str] | None = None
) -> Episodes:
    """The study's multi-label protocol: patients a finding, all their images, one episode of each shot.

    For each label in alphabetical order the first N patients (in order of their first row) all of whose images
    carry the label and whom no label before has taken. Nothing is random, and supports need not be nested.

    Parameters
    ----------
    Y
        (n, L) multi-label 0, 1 and NaN; a missing label is not carried.
    groups
        (n,) patient of each row.
    shots
        Patients a label.
    label_names
        L names, for the alphabetical order; None takes the columns in their order.

    Returns
    -------
    Episodes
        With protocol ``"study"`` and no seed.

    Raises
    ------
    ProbeError
        If an input is invalid or a label has too few patients.

    References
    ----------
    The few-shot protocol on NIH ChestX-ray14 of the study that this project follows.

    Examples
    --------
    >>> Y = [[1, 0], [1, 0], [1, 1], [0, 1]]
    >>> study_episodes(Y, ["a", "a", "b", "c"], shots=(1,), label_names=["Edema", "Mass"]).support(1, 0)
    array([0, 1, 2])
    """
    targets, count = check_targets(Y, len(np.atleast_1d(Y)))
    counts = check_shots(shots)
    if targets.ndim != 2:
        raise ProbeError(
            "the study's patients a finding need an (n, L) multi-label matrix, got class indices",
            remedy="Use spaced_episodes for exclusive classes.",
        )
    names = [f"{column:09d}" for column in range(count)] if label_names is None else list(label_names)
    if len(names) != count or len(set(names)) != count:
        raise ProbeError(f"there are {len(set(names))} different names for {count} labels")
    codes = patient_codes(groups, len(targets))
    _, first_row = np.unique(codes, return_index=True)
    patients = np.argsort(first_row, kind="stable")
    carries = np.stack([np.bincount(codes, weights=column != 1) == 0 for column in targets.T], axis=1)
    rows = []
    for shot in counts:
        free = np.ones(len(patients), dtype=bool)
        support = []
        for label in sorted(range(count), key=lambda column: names[column]):
            chosen = patients[(carries[:, label] & free)[patients]][:shot]
            if len(chosen) < shot:
                what = "patients all of whose images carry it and whom no label before has taken"
                raise too_few({label if label_names is None else names[label]: len(chosen)}, shot, what)
            free[chosen] = False
            support.append(np.flatnonzero(np.isin(codes, chosen)))
        rows.append((np.concatenate(support),))
    return Episodes(shots=counts, rows=tuple(rows), n_rows=len(targets), protocol="study")


def spaced_episodes(y: ArrayLike, shots: Sequence[int] = (1, 2, 4, 8, 16)) -> Episodes:
    """The study's protocol for exclusive classes: N evenly spaced rows of each class, one episode of each shot.

    Parameters
    ----------
    y
        (n,) class indices; a class without rows is passed over.
    shots
        Rows a class.

    Returns
    -------
    Episodes
        With protocol ``"spaced"`` and no seed; supports need not be nested.

    Raises
    ------
    ProbeError
        If an input is invalid or a class has fewer rows than the most shots.

    Examples
    --------
    >>> spaced_episodes([0, 0, 0, 0, 1, 1], shots=(2,)).support(2, 0)
    array([0, 2, 4, 5])
    """
    targets, _ = check_targets(y, len(np.atleast_1d(y)))
    counts = check_shots(shots)
    if targets.ndim != 1:
        raise ProbeError(
            "evenly spaced rows need class indices, got a multi-label matrix",
            remedy="Use study_episodes, which takes patients a finding.",
        )
    members = {name: rows for name, rows in class_members(targets).items() if len(rows)}
    short = {name: len(rows) for name, rows in members.items() if len(rows) < counts[-1]}
    if short:
        raise too_few(short, counts[-1], "rows")
    rows = tuple(
        (np.concatenate([pool[evenly_spaced(len(pool), shot)] for pool in members.values()]),) for shot in counts
    )
    return Episodes(shots=counts, rows=rows, n_rows=len(targets), protocol="spaced")
