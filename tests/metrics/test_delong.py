"""DeLong's test against the formulas of the papers, and as a procedure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import roc_auc_score

from featcache.errors import ProbeError
from featcache.metrics import auroc, compare, delong
from tests.metrics.test_comparison import paired


def kernel(positive: NDArray[Any], negative: NDArray[Any]) -> NDArray[Any]:
    """psi of DeLong et al., for all pairs."""
    return (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)


def literal(y: NDArray[Any], one: NDArray[Any], two: NDArray[Any]) -> tuple[float, float]:
    """Standard error and p-value of the difference, from the structural components and their covariances."""
    tables = [kernel(score[y == 1], score[y == 0]) for score in (one, two)]
    m, n = tables[0].shape
    s10 = np.cov([table.mean(axis=1) for table in tables])
    s01 = np.cov([table.mean(axis=0) for table in tables])
    contrast = np.array([1, -1])
    error = float(np.sqrt(contrast @ (s10 / m + s01 / n) @ contrast))
    z = (tables[0].mean() - tables[1].mean()) / error
    return error, float(2 * stats.norm.sf(abs(z)))


@pytest.mark.parametrize("decimals", [8, 0])  # without and with many ties
@pytest.mark.parametrize("seed", range(3))
def test_the_test_is_that_of_the_paper(decimals: int, seed: int) -> None:
    y, one, two, _ = (part[:, 0] if part.ndim == 2 else part for part in paired(120, better=0.3, seed=seed))
    one, two = np.round(one, decimals), np.round(two, decimals)
    error, p_value = literal(y, one, two)
    found = delong(y, one, two)
    assert (found.first, found.second) == pytest.approx((roc_auc_score(y, one), roc_auc_score(y, two)), abs=1e-12)
    assert found.p_value == pytest.approx(p_value, abs=1e-12)
    value = found.first - found.second
    expected = stats.norm.interval(0.95, value, error)
    assert (found.difference.low, found.difference.high) == pytest.approx(tuple(expected), abs=1e-12)
    assert (found.test, found.n_rows, found.n_groups, found.metric) == ("delong", 120, 120, "auroc")


def test_groups_of_one_row_change_nothing() -> None:
    y, one, two, _ = (part[:, 0] if part.ndim == 2 else part for part in paired(60))
    named, unnamed = delong(y, one, two, [f"patient {i}" for i in range(60)]), delong(y, one, two)
    assert named.test == unnamed.test == "delong"
    assert named.p_value == pytest.approx(unnamed.p_value, abs=1e-12)
    assert named.difference.low == pytest.approx(unnamed.difference.low, abs=1e-12)


def test_clusters_have_the_variance_of_obuchowski() -> None:
    y, one, two, groups = (part[:, 0] if part.ndim == 2 else part for part in paired(40, rows_a_group=3, seed=2))
    y = (np.random.default_rng(0).random(len(y)) < 0.5).astype(float)  # positives and negatives in one patient
    one, two = one + y, two + y
    positive, negative = y == 1, y == 0
    m, n, clusters = positive.sum(), negative.sum(), np.unique(groups)

    def covariance(first: NDArray[Any], second: NDArray[Any]) -> float:
        parts: list[list[NDArray[Any]]] = []
        for score in (first, second):
            table = kernel(score[positive], score[negative])
            area = table.mean()
            by_positive = [(table.mean(axis=1) - area)[groups[positive] == g].sum() for g in clusters]
            by_negative = [(table.mean(axis=0) - area)[groups[negative] == g].sum() for g in clusters]
            parts.append([np.array(by_positive), np.array(by_negative)])
        (x1, y1), (x2, y2) = parts
        with_positive, with_negative = len(np.unique(groups[positive])), len(np.unique(groups[negative]))
        s10 = with_positive / ((with_positive - 1) * m) * (x1 @ x2)
        s01 = with_negative / ((with_negative - 1) * n) * (y1 @ y2)
        s11 = len(clusters) / (len(clusters) - 1) * (x1 @ y2 + y1 @ x2) / 2
        return float(s10 / m + s01 / n + 2 * s11 / (m * n))

    variance = covariance(one, one) + covariance(two, two) - 2 * covariance(one, two)
    found = delong(y, one, two, groups)
    assert found.test == "obuchowski"
    assert (found.n_rows, found.n_groups) == (120, 40)
    half = (found.difference.high - found.difference.low) / 2
    assert half == pytest.approx(stats.norm.ppf(0.975) * np.sqrt(variance), abs=1e-12)


def test_ignoring_patients_is_too_sure_and_naming_them_is_not() -> None:
    """600 comparisons without a difference, three rows a patient; the standard error is below one percent."""
    y, one, two, groups = paired(100, 600, rows_a_group=3, seed=1)
    rows = [delong(y[:, j], one[:, j], two[:, j]).shown for j in range(600)]
    patients = [delong(y[:, j], one[:, j], two[:, j], groups).shown for j in range(600)]
    assert np.mean(rows) > 0.1
    assert 0.03 <= np.mean(patients) <= 0.08


def test_the_bootstrap_finds_nearly_the_same_interval() -> None:
    y, one, two, groups = paired(400, better=0.3, rows_a_group=2)
    exact = delong(y[:, 0], one[:, 0], two[:, 0], groups).difference
    drawn = compare(auroc, y, one, two, groups, n=4000).difference
    width = exact.high - exact.low
    assert abs(drawn.low - exact.low) < 0.1 * width
    assert abs(drawn.high - exact.high) < 0.1 * width


def test_missing_labels_are_left_out() -> None:
    y, one, two, groups = (part[:, 0] if part.ndim == 2 else part for part in paired(60, rows_a_group=2))
    missing = np.random.default_rng(0).random(len(y)) < 0.3
    holes = np.where(missing, np.nan, y)
    expected = delong(y[~missing], one[~missing], two[~missing], groups[~missing])
    assert delong(holes, np.where(missing, np.nan, one), two, groups) == expected


def test_what_cannot_be_tested_is_undefined() -> None:
    assert np.isnan(delong([0, 0], [0.1, 0.2], [0.1, 0.3]).p_value)
    assert np.isnan(delong([np.nan, np.nan], [0.1, 0.2], [0.1, 0.3]).first)
    # The variance of neither area can be estimated from this.
    degenerate = delong([0, 0, 1, 1], [1, 2, 3, 4], [1, 1, 1, 1])
    assert (degenerate.first, degenerate.second) == (1.0, 0.5)
    assert np.isnan([degenerate.p_value, degenerate.difference.low]).all()
    assert not degenerate.shown
    one_positive = delong([0, 0, 1], [1, 3, 2], [1, 2, 3])
    assert np.isnan(one_positive.p_value)
    same = delong([0, 0, 1, 1], [1, 3, 2, 4], [1, 3, 2, 4])
    assert (same.p_value, same.difference.low, same.difference.high) == (1.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0, 1], [0.1, 0.2], [0.1]), "does not fit"),
        (([[0], [1]], [[0.1], [0.2]], [[0.1], [0.2]]), "does not fit"),
        (([0, 2], [0.1, 0.2], [0.1, 0.2]), "not 0, 1 or NaN"),
        (([0, 1], [0.1, np.inf], [0.1, 0.2]), r"score_first is not finite in 1 rows, first: \[1\]"),
        (([0, 1], [0.1, 0.2], [0.1, 0.2], ["a"]), "1 groups for 2 rows"),
    ],
)
def test_bad_input_is_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ProbeError, match=message):
        delong(*arguments)
