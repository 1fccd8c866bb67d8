"""Episodes: what is drawn, by patient and by the study's protocols, and that it can be replayed."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from featcache.errors import ProbeError
from featcache.probes import Episodes, draw_episodes, spaced_episodes, study_episodes
from featcache.records import evenly_spaced


def data(n: int = 300, classes: int = 4, seed: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, classes, n), rng.integers(0, n // 3, n)


@pytest.mark.parametrize("grouped", [False, True])
def test_every_support_has_n_rows_of_each_class_and_contains_the_smaller_ones(grouped: bool) -> None:
    y, patients = data()
    episodes = draw_episodes(y, (1, 2, 8), n_episodes=20, seed=3, groups=patients if grouped else None)
    for shot, number, support in episodes:
        assert np.bincount(y[support]).tolist() == [shot] * 4
        assert len(set(support)) == len(support)
        assert set(support) <= set(episodes.support(8, number))
    assert len({tuple(sorted(episodes.support(8, e))) for e in range(20)}) == 20


def test_no_two_rows_of_a_patient_while_there_are_others() -> None:
    y, patients = data()
    for _, _, support in draw_episodes(y, (1, 8), n_episodes=30, groups=patients):
        assert len(set(patients[support])) == len(support)
    plain = draw_episodes(y, (8,), n_episodes=30)
    assert any(len(set(patients[support])) < len(support) for _, _, support in plain)


def test_rows_of_the_same_patients_fill_up_evenly_where_a_class_has_too_few() -> None:
    y = np.array([0] * 9 + [1] * 9)
    patients = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2, *range(3, 12)])
    for _, _, support in draw_episodes(y, (3, 6, 9), n_episodes=10, groups=patients):
        counts = np.bincount(patients[support[y[support] == 0]], minlength=3)
        assert counts.max() - counts.min() == 0
        assert len(set(patients[support[y[support] == 1]])) == (y[support] == 1).sum()


def test_all_rows_are_equally_likely() -> None:
    y = np.repeat([0, 1], 10)
    drawn = np.concatenate([s for _, _, s in draw_episodes(y, (2,), n_episodes=2000, seed=1)])
    frequency = np.bincount(drawn, minlength=20) / 2000
    np.testing.assert_allclose(frequency, 0.2, atol=5 * (0.2 * 0.8 / 2000) ** 0.5)


def test_patients_are_equally_likely_whatever_their_number_of_rows() -> None:
    y = np.array([0] * 13 + [1] * 4)
    patients = np.array([0] * 10 + [1, 2, 3] + [4, 5, 6, 7])
    drawn = np.array([s[0] for _, _, s in draw_episodes(y, (1,), n_episodes=2000, groups=patients)])
    np.testing.assert_allclose(np.bincount(patients[drawn]) / 2000, 0.25, atol=0.05)


def test_a_seed_gives_the_same_episodes_however_many_are_drawn() -> None:
    y, patients = data()
    few, many = (draw_episodes(y, (2, 4), n, seed=5, groups=patients) for n in (3, 10))
    for shot, number, support in few:
        np.testing.assert_array_equal(support, many.support(shot, number))
    assert few.to_dict() != draw_episodes(y, (2, 4), 3, seed=6, groups=patients).to_dict()


def test_labels_get_positives_of_their_own() -> None:
    rng = np.random.default_rng(0)
    Y = (rng.random((400, 5)) < [0.5, 0.3, 0.1, 0.1, 0.2]).astype(float)
    Y[rng.random(Y.shape) < 0.1] = np.nan
    for shot, _, support in draw_episodes(Y, (1, 4), n_episodes=10):
        assert len(set(support)) == len(support) == 5 * shot
        for label in range(5):
            assert (Y[support[label * shot : (label + 1) * shot], label] == 1).all()


def reference_study(Y: Any, patients: Any, shot: int, names: list[str]) -> list[int]:
    """The protocol as a loop over patients."""
    taken: set[Any] = set()
    support = []
    for name in sorted(names):
        label, found = names.index(name), []
        for patient in dict.fromkeys(patients):
            mine = [row for row, other in enumerate(patients) if other == patient]
            if patient not in taken and len(found) < shot and all(Y[row][label] == 1 for row in mine):
                found.append(patient)
                support += mine
        assert len(found) == shot
        taken |= set(found)
    return sorted(support)


def test_study_takes_the_first_patients_all_of_whose_images_carry_the_label() -> None:
    rng = np.random.default_rng(2)
    patients = np.array([f"p{number}" for number in rng.permutation(np.repeat(np.arange(150), 2))[:260]])
    Y = (rng.random((260, 3)) < 0.6).astype(float)
    Y[rng.random(Y.shape) < 0.02] = np.nan
    names = ["Mass", "Edema", "Nodule"]
    episodes = study_episodes(Y, patients, (1, 2, 8), names)
    assert (episodes.n_episodes, episodes.seed, episodes.protocol) == (1, None, "study")
    for shot, _, support in episodes:
        assert sorted(support.tolist()) == reference_study(Y.tolist(), patients.tolist(), shot, names)


def test_evenly_spaced_rows_are_those_of_the_formula() -> None:
    for n in range(1, 60):
        for k in range(1, n + 1):
            indices = evenly_spaced(n, k)
            expected = [round(i * (n / k)) for i in range(k)]
            assert len(set(indices)) == k
            assert indices.max() < n
            assert indices.tolist() == expected
    y = np.array([0, 1, 0, 1, 0, 1, 0])
    assert spaced_episodes(y, (2,)).support(2, 0).tolist() == [0, 4, 1, 5]


def test_stored_episodes_are_the_same_after_json() -> None:
    y, patients = data()
    episodes = draw_episodes(y, (1, 4), 5, seed=2, groups=patients)
    content = json.loads(json.dumps(episodes.to_dict()))
    again = Episodes.from_dict(content)
    assert again.to_dict() == episodes.to_dict()
    assert (again.shots, again.seed, again.n_rows, again.protocol) == ((1, 4), 2, 300, "random")
    assert again.support(4, 3).dtype == np.int64
    with pytest.raises(ProbeError, match=r"\['rows'\] missing"):
        Episodes.from_dict({name: value for name, value in content.items() if name != "rows"})
    with pytest.raises(ProbeError, match="format 9"):
        Episodes.from_dict(content | {"format": 9})


def test_more_shots_than_rows_or_patients_names_the_counts() -> None:
    y = np.array([0] * 20 + [1] * 3 + [2] * 5)
    with pytest.raises(ProbeError, match=r"1: 3, 2: 5\nUse at most 3 shots"):
        draw_episodes(y, (1, 8))
    with pytest.raises(ProbeError, match="1: 3, 2: 5"):
        spaced_episodes(y, (8,))
    Y = np.array([[1, 0], [1, 1], [0, 1], [1, 0]])
    with pytest.raises(ProbeError, match=r"2 patients .* too few for Mass: 1"):
        study_episodes(Y, [0, 1, 2, 3], (2,), ["Edema", "Mass"])
    with pytest.raises(ProbeError, match="no rarer label has taken"):
        draw_episodes(np.ones((3, 2)), (2,), 1)
    with pytest.raises(ProbeError, match=r"0: 0\nLeave these classes out"):
        draw_episodes(np.array([[0, 1], [0, 1]]), (1,), 1)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ProbeError, match="shots must be positive"):
        draw_episodes([0, 1], (0,))
    with pytest.raises(ProbeError, match="shots must be positive"):
        draw_episodes([0, 1], ())
    with pytest.raises(ProbeError, match="n_episodes"):
        draw_episodes([0, 1], (1,), 0)
    with pytest.raises(ProbeError, match="groups of shape"):
        draw_episodes([0, 1], (1,), groups=[1])
    with pytest.raises(ProbeError, match="missing in 1 rows"):
        draw_episodes([0, 1], (1,), groups=[1, None])
    with pytest.raises(ProbeError, match="multi-label matrix"):
        study_episodes([0, 1], [0, 1], (1,))
    with pytest.raises(ProbeError, match="names for 2 labels"):
        study_episodes(np.eye(2), [0, 1], (1,), ["a", "a"])
    with pytest.raises(ProbeError, match="class indices"):
        spaced_episodes(np.eye(2), (1,))
    with pytest.raises(ProbeError, match="distinct rows between 0 and 2"):
        Episodes((1,), ((np.array([0, 3]),),), n_rows=3, protocol="mine")
    with pytest.raises(ProbeError, match="distinct rows"):
        Episodes((1,), ((np.array([1, 1]),),), n_rows=3, protocol="mine")
    with pytest.raises(ProbeError, match="do not fit"):
        Episodes((1, 2), ((np.array([0, 1]),),), n_rows=3, protocol="mine")
    with pytest.raises(ProbeError, match="no episode 1 of 1 shots"):
        Episodes((1,), ((np.array([0, 1]),),), n_rows=3, protocol="mine").support(1, 1)
