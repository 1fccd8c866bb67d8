"""Episodes of few-shot learning: which training rows are the support, drawn from a seed, stored and replayed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featcache.errors import ProbeError
from featcache.probes.base import check_targets

__all__ = ["Episodes", "check_shots", "class_members", "draw_episodes", "patient_codes", "too_few"]

_FORMAT = 1


@dataclass(frozen=True, slots=True, eq=False)
class Episodes:
    """Support rows of every shot and episode, as indices into the training rows.

    The same episodes can be replayed on any features of the same training rows in the same order.

    Examples
    --------
    >>> episodes = Episodes(shots=(1,), rows=((np.array([0, 2]), np.array([1, 3])),), n_rows=4, protocol="mine")
    >>> episodes.n_episodes, Episodes.from_dict(episodes.to_dict()).support(1, 1).tolist()
    (2, [1, 3])
    """

    shots: tuple[int, ...]
    """Images (``study``: patients) a class, ascending."""
    rows: tuple[tuple[NDArray[np.int64], ...], ...]
    """``rows[i][e]`` are the distinct support rows of ``shots[i]`` in episode e."""
    n_rows: int
    """Number of training rows that the indices refer to."""
    protocol: str
    """How they were drawn: ``random``, ``study``, ``spaced``, or a name of the user's."""
    seed: int | None = None
    """Of the draw; None where it is deterministic."""

    def __post_init__(self) -> None:
        if not self.shots or list(self.shots) != sorted(set(self.shots)) or self.shots[0] < 1:
            raise ProbeError(f"shots must be distinct positive numbers in ascending order, got {self.shots}")
        counts = {len(episodes) for episodes in self.rows}
        if len(self.rows) != len(self.shots) or len(counts) != 1 or counts == {0}:
            raise ProbeError(
                f"episodes for {len(self.rows)} shots with {sorted(counts)} episodes each do not fit {self.shots}",
                remedy="Give every shot the same number of episodes, at least one.",
            )
        for shot, episode, support in self:
            distinct = np.unique(support) if support.ndim == 1 and support.dtype.kind in "iu" else support[:0]
            if not len(distinct) or len(distinct) != len(support) or distinct[0] < 0 or distinct[-1] >= self.n_rows:
                raise ProbeError(
                    f"episode {episode} of {shot} shots must be distinct rows between 0 and {self.n_rows - 1}, "
                    f"got {len(support)} of dtype {support.dtype}"
                )

    def __iter__(self) -> Iterator[tuple[int, int, NDArray[np.int64]]]:
        """(shot, episode, support rows), shots first."""
        for shot, episodes in zip(self.shots, self.rows, strict=True):
            for number, support in enumerate(episodes):
                yield shot, number, support

    @property
    def n_episodes(self) -> int:
        """Episodes of each shot."""
        return len(self.rows[0])

    def support(self, shot: int, episode: int) -> NDArray[np.int64]:
        """The rows of one episode."""
        if shot not in self.shots or not 0 <= episode < self.n_episodes:
            raise ProbeError(
                f"there is no episode {episode} of {shot} shots: shots are {self.shots}, episodes 0 to "
                f"{self.n_episodes - 1}"
            )
        return self.rows[self.shots.index(shot)][episode]

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, fit for JSON."""
        return {
            "format": _FORMAT,
            "protocol": self.protocol,
            "seed": self.seed,
            "n_rows": self.n_rows,
            "shots": list(self.shots),
            "rows": [[support.tolist() for support in episodes] for episodes in self.rows],
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Episodes:
        """The inverse of :meth:`to_dict`.

        Raises
        ------
        ProbeError
            If a field is missing, the format is newer, or rows do not fit.
        """
        missing = {"format", "protocol", "seed", "n_rows", "shots", "rows"} - set(content)
        if missing or content["format"] != _FORMAT:
            raise ProbeError(
                f"these are no episodes of format {_FORMAT}: "
                + (f"{sorted(missing)} missing" if missing else f"format {content['format']}"),
                remedy="Use what Episodes.to_dict wrote.",
            )
        return cls(
            shots=tuple(int(shot) for shot in content["shots"]),
            rows=tuple(
                tuple(np.asarray(support, dtype=np.int64) for support in episodes) for episodes in content["rows"]
            ),
            n_rows=int(content["n_rows"]),
            protocol=str(content["protocol"]),
            seed=None if content["seed"] is None else int(content["seed"]),
        )


def draw_episodes(
    y: ArrayLike,
    shots: Sequence[int] = (1, 2, 4, 8, 16),
    n_episodes: int = 100,
    seed: int = 0,
    groups: ArrayLike | None = None,
) -> Episodes:
    """Random episodes: in each, n rows of every class; a support of more shots contains those of fewer.

    Parameters
    ----------
    y
        (n,) class indices; a class without rows is passed over. Or (n, L) multi-label 0, 1 and NaN: a label's
        rows are its positives, and no row is drawn for two labels (the label with fewest positives draws first),
        though a row drawn for one may carry others.
    shots
        Rows a class.
    n_episodes
        Episodes of each shot.
    seed
        Episode e of a seed is the same whatever ``n_episodes`` is.
    groups
        (n,) patient of each row. Then patients are drawn, and one row of each: an episode has no two rows of
        one patient as long as a class has other patients. Where it has not, further rows of patients that are
        already in it fill up, so that every support has as many rows as was asked for.

    Returns
    -------
    Episodes
        With protocol ``"random"``; rows are in the order of the classes.

    Raises
    ------
    ProbeError
        If an input is invalid, or a class has fewer rows than the most shots.

    References
    ----------
    The n images a class and t tries of Oquab et al., "DINOv2", arXiv 2304.07193; nested as here so that curves
    over shots are smooth.

    Examples
    --------
    >>> episodes = draw_episodes([0, 0, 0, 1, 1, 1], shots=(1, 2), n_episodes=3)
    >>> [len(episodes.support(2, e)) for e in range(3)]
    [4, 4, 4]
    """
    targets, _ = check_targets(y, len(np.atleast_1d(y)))
    counts = check_shots(shots)
    if n_episodes < 1:
        raise ProbeError(f"n_episodes must be positive, got {n_episodes}", remedy="The usual number is 100.")
    codes = patient_codes(groups, len(targets))
    members = class_members(targets)
    if targets.ndim == 1:
        members = {name: rows for name, rows in members.items() if len(rows)}
    most = counts[-1]
    short = {name: len(rows) for name, rows in members.items() if len(rows) < most}
    if short:
        raise too_few(short, most, "rows")
    pools = {name: _Pool(rows, codes[rows]) for name, rows in members.items()}
    first = sorted(pools, key=lambda name: (len(members[name]), name)) if targets.ndim == 2 else list(pools)
    drawn: list[list[NDArray[np.int64]]] = []
    for episode in range(n_episodes):
        rng = np.random.default_rng([seed, episode])
        taken: dict[int, NDArray[np.int64]] = {}
        used = np.empty(0, dtype=np.int64)
        for name in first:
            occupied = np.concatenate(list(taken.values())) if targets.ndim == 2 and taken else used[:0]
            taken[name] = pools[name].draw(most, used, occupied, rng)
            if len(taken[name]) < most:
                raise too_few({name: len(taken[name])}, most, "rows that no rarer label has taken")
            used = np.concatenate([used, codes[taken[name]]])
        drawn.append([taken[name] for name in pools])
    return Episodes(
        shots=counts,
        rows=tuple(tuple(np.concatenate([rows[:shot] for rows in lists]) for lists in drawn) for shot in counts),
        n_rows=len(targets),
        protocol="random",
        seed=seed,
    )


class _Pool:
    """The rows of one class, by patient."""

    def __init__(self, rows: NDArray[np.int64], codes: NDArray[np.int64]) -> None:
        order = np.argsort(codes, kind="stable")
        self.rows, self.codes = rows[order], codes[order]
        self.patients, self.start, self.count = np.unique(self.codes, return_index=True, return_counts=True)

    def draw(
        self, most: int, used: NDArray[np.int64], occupied: NDArray[np.int64], rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Up to ``most`` rows: of patients not in ``used`` first, none of the rows ``occupied``."""
        # Enough that ``most`` are left over when those used are among them.
        size = min(len(self.patients), most + len(used))
        fresh = rng.choice(len(self.patients), size=size, replace=False)
        fresh = fresh[~np.isin(self.patients[fresh], used)][:most]
        picked: NDArray[np.int64] = self.rows[self.start[fresh] + rng.integers(self.count[fresh])]
        if len(picked) == most:
            return picked
        free = np.flatnonzero(~np.isin(self.rows, np.concatenate([picked, occupied])))
        rest = rng.permutation(free)
        # A patient's first further row comes before any patient's second.
        seen: dict[int, int] = {}
        for patient in [*used.tolist(), *self.patients[fresh].tolist()]:
            seen[patient] = seen.get(patient, 0) + 1
        turn = np.empty(len(rest), dtype=np.int64)
        for place, patient in enumerate(self.codes[rest].tolist()):
            turn[place] = seen.get(patient, 0)
            seen[patient] = turn[place] + 1
        rest = rest[np.argsort(turn, kind="stable")][: most - len(picked)]
        filled: NDArray[np.int64] = np.concatenate([picked, self.rows[rest]])
        return filled


def check_shots(shots: Sequence[int]) -> tuple[int, ...]:
    """Distinct shots, ascending; an error unless they are positive whole numbers."""
    counts = tuple(sorted({int(shot) for shot in shots}))
    if not counts or counts[0] < 1 or any(shot != int(shot) for shot in shots):
        raise ProbeError(f"shots must be positive whole numbers, got {tuple(shots)}", remedy="Use (1, 2, 4, 8, 16).")
    return counts


def patient_codes(groups: ArrayLike | None, n: int) -> NDArray[np.int64]:
    """(n,) number of each row's patient; each row its own where there are no groups."""
    if groups is None:
        return np.arange(n)
    values = np.asarray(groups)
    if values.shape != (n,):
        raise ProbeError(f"groups of shape {values.shape} do not fit {n} rows")
    missing = np.flatnonzero([value is None or str(value) == "nan" for value in values.tolist()])
    if len(missing):
        raise ProbeError(
            f"the group (patient) is missing in {len(missing)} rows, first: {missing[:5].tolist()}",
            remedy="Fill in the patients, or pass groups=None where the protocol allows it.",
        )
    _, codes = np.unique(values.astype(str) if values.dtype.kind == "O" else values, return_inverse=True)
    numbers: NDArray[np.int64] = codes.astype(np.int64)
    return numbers


def class_members(targets: NDArray[Any]) -> dict[int, NDArray[np.int64]]:
    """Rows of each class, or positives of each label."""
    if targets.ndim == 1:
        return {name: np.flatnonzero(targets == name) for name in range(int(targets.max()) + 1)}
    return {name: np.flatnonzero(column == 1) for name, column in enumerate(targets.T)}


def too_few(found: Mapping[Any, int], shots: int, what: str) -> ProbeError:
    """The error that says which classes have too few rows or patients for so many shots."""
    listed = ", ".join(f"{name}: {count}" for name, count in list(found.items())[:20])
    return ProbeError(
        f"{shots} shots need {shots} {what} of every class or label; there are too few for {listed}",
        remedy=f"Use at most {min(found.values())} shots, or leave these classes out."
        if min(found.values())
        else "Leave these classes out of the task.",
    )
