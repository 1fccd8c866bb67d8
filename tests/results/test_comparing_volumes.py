"""Two segmentations compared volume by volume, against a bootstrap written out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from featcache.errors import ResultError
from featcache.records import Estimate, ProbeRun, Result, Subgroup
from featcache.results import compare_results

CLASSES = ("background", "liver", "spleen")


def result(table: NDArray[np.float64], groups: NDArray[np.int64] | None, name: str, **changes: object) -> Result:
    """Of ``probe segment``, with one volume a row."""
    names = tuple(f"v{number}" for number in range(len(table)))
    none = float("nan")

    def scores(row: NDArray[np.float64]) -> dict[str, Estimate]:
        pairs = zip(CLASSES[1:], row.tolist(), strict=True)
        return {f"dice {label}": Estimate(value, none, none) for label, value in pairs}

    parts = tuple(Subgroup("volume", volume, 5, scores(row)) for volume, row in zip(names, table, strict=True))
    run = ProbeRun({"head": "linear"}, "test", len(table), {}, None, {}, parts)
    found = Result(
        probe="segment", dataset="scans", model=name, key="k", task="organs", classes=CLASSES, config={"split": "test"},
        runs=(run,), ids=names, targets=np.full(len(table), np.nan), groups=groups, notes=(), seconds=0.0, id=name,
    )  # fmt: skip
    return replace(found, **changes)  # type: ignore[arg-type]


def tables(shift: float) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    rng = np.random.default_rng(3)
    patients = np.repeat(np.arange(15), 2)
    base = (0.7 + 0.1 * rng.standard_normal((15, 2)))[patients]
    one = base + 0.03 * rng.standard_normal(base.shape)
    two = base + 0.03 * rng.standard_normal(base.shape) - shift
    one[4, 1] = two[4, 1] = np.nan
    return one, two, patients


def test_a_paired_bootstrap_by_patient_shows_a_difference_that_is_there() -> None:
    one, two, patients = tables(0.05)
    found = compare_results(result(one, patients, "a"), result(two, patients, "b"), n_bootstrap=4000)
    (dice,) = found.metrics
    expected = np.nanmean(one, axis=0).mean() - np.nanmean(two, axis=0).mean()
    assert dice.difference.value == pytest.approx(expected)
    rng, drawn = np.random.default_rng(9), []
    for _ in range(4000):
        rows = np.concatenate([np.flatnonzero(patients == who) for who in rng.integers(0, 15, 15)])
        drawn.append(np.nanmean(one[rows], axis=0).mean() - np.nanmean(two[rows], axis=0).mean())
    np.testing.assert_allclose(
        (dice.difference.low, dice.difference.high), np.percentile(drawn, (2.5, 97.5)), atol=2e-3
    )
    assert dice.shown
    assert "a has a higher dice than b" in dice.sentence("a", "b")
    assert [label for label, _ in found.labels] == ["liver", "spleen"]
    assert (found.n_rows, dice.n_groups) == (30, 15)


def test_no_difference_is_said_as_not_shown() -> None:
    one, two, patients = tables(0.0)
    (dice,) = compare_results(result(one, patients, "a"), result(two, patients, "b")).metrics
    assert not dice.shown
    assert dice.sentence().startswith("No difference in dice shown")


def test_volumes_are_paired_by_name() -> None:
    one, two, patients = tables(0.05)
    straight = compare_results(result(one, patients, "a"), result(two, patients, "b"))
    other = result(two, patients, "b")
    run = replace(other.runs[0], subgroups=other.runs[0].subgroups[::-1])
    turned = compare_results(result(one, patients, "a"), replace(other, runs=(run,), ids=other.ids[::-1]))
    assert turned.metrics == straight.metrics


def test_few_patients_and_missing_ids_are_said_and_pooled_scores_refused() -> None:
    one, two, _ = tables(0.05)
    few = compare_results(result(one[:4], None, "a"), result(two[:6], None, "b"))
    assert any("Only 4 patients or volumes" in note for note in few.notes)
    assert any("independent" in note for note in few.notes)
    assert any("2 volumes that only one" in note for note in few.notes)
    pooled = result(two, None, "b")
    pooled = replace(pooled, runs=(replace(pooled.runs[0], subgroups=()),))
    with pytest.raises(ResultError, match="pools its pixels"):
        compare_results(result(one, None, "a"), pooled)
    with pytest.raises(ResultError, match="no metric 'auroc'"):
        compare_results(result(one, None, "a"), result(two, None, "b"), metrics=("auroc",))
