"""Few-shot heads against scikit-learn and plain loops, one classifier an episode."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import scipy.stats
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestCentroid

from featcache.errors import ConfigurationError, ProbeError
from featcache.probes import Episodes, FewShot, draw_episodes, learning_curve, mean_interval, study_episodes
from featcache.probes import fewshot as module

SHOTS = (1, 2, 5)
HEADS = ("centroid", "ridge", "logistic", "knn")


def data(n: int = 240, seed: int = 0, classes: int = 4) -> tuple[NDArray[Any], NDArray[Any]]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    centre = np.random.default_rng(9).normal(size=(classes, 30))
    X = (rng.normal(size=(n, 30)) + centre[y]) * np.arange(1, 31) ** -0.5 + 3
    return X.astype(np.float32).astype(np.float64), y


def labels(n: int = 300, seed: int = 0, missing: float = 0.0) -> tuple[NDArray[Any], NDArray[Any]]:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 20)).astype(np.float32).astype(np.float64)
    Y = (X[:, :3] + 0.5 * rng.normal(size=(n, 3)) > 0.3).astype(float)
    Y[rng.random(Y.shape) < missing] = np.nan
    return X, Y


def transformed(X: Any, support: Any, transform: str) -> tuple[Any, Any]:
    """The support's rows, and a function of other rows."""
    mean = support.mean(axis=0) if transform == "cl2" else 0.0

    def apply(rows: Any) -> Any:
        moved = rows - mean
        return moved if transform == "none" else moved / np.linalg.norm(moved, axis=1, keepdims=True)

    return apply(support), apply(X)


def softmax(values: Any) -> Any:
    power = np.exp(values - values.max(axis=1, keepdims=True))
    return power / power.sum(axis=1, keepdims=True)


def sigmoid(values: Any) -> Any:
    return 1 / (1 + np.exp(-values))


def squared_distances(rows: Any, centres: Any) -> Any:
    return ((rows[:, None, :] - centres[None]) ** 2).sum(axis=2)


def by_hand(head: str, Z: Any, y: Any, Q: Any, settings: dict[str, Any]) -> Any:
    """Scores of exclusive classes, each head in its textbook form."""
    classes = np.unique(y)
    if head == "centroid":
        return softmax(-squared_distances(Q, np.stack([Z[y == c].mean(axis=0) for c in classes])))
    if head == "ridge":
        return softmax(Ridge(alpha=settings["alpha"]).fit(Z, 2.0 * (y[:, None] == classes) - 1).predict(Q))
    if head == "logistic":
        fitted = LogisticRegression(C=settings["C"], tol=1e-10, max_iter=10_000).fit(Z, y)
        return fitted.predict_proba(Q)
    similarity = Q @ Z.T
    scores = np.zeros((len(Q), len(classes)))
    for row, near in enumerate(similarity):
        nearest = np.argsort(-near, kind="stable")[: settings["k"]]
        weight = np.exp(near[nearest] / settings["temperature"])
        for one, value in zip(nearest, weight / weight.sum(), strict=True):
            scores[row, y[one]] += value
    return scores


def scores_by_episode(probe: FewShot, X: Any) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    for shot, number, scores in probe.iter_scores(X):
        yield probe.episodes_.support(shot, number), scores


@pytest.mark.parametrize(
    ("head", "transform"),
    [(head, how) for head in HEADS for how in ("cl2", "l2", "none") if (head, how) != ("knn", "none")],
)
def test_each_episode_equals_one_classifier_fitted_by_hand(head: Any, transform: Any) -> None:
    (X, y), (Q, _) = data(), data(seed=1, n=70)
    settings = {"alpha": 0.3, "C": 4.0, "k": 3, "temperature": 0.1}
    probe = FewShot(SHOTS, n_episodes=4, head=head, normalize=transform, **settings).fit(X, y)
    seen = 0
    for support, scores in scores_by_episode(probe, Q):
        Z, rows = transformed(Q, X[support], transform)
        np.testing.assert_allclose(scores, by_hand(head, Z, y[support], rows, settings), atol=2e-5)
        seen += 1
    assert seen == 12


def test_two_classes_and_predictions_equal_scikit_learn() -> None:
    (X, y), (Q, _) = data(classes=2), data(classes=2, seed=1, n=50)
    for head, reference in (
        ("centroid", NearestCentroid()),
        ("logistic", LogisticRegression(tol=1e-10, max_iter=10_000)),
    ):
        probe = FewShot((2, 8), n_episodes=5, head=head, normalize="none", C=1).fit(X, y)  # type: ignore[arg-type]
        for support, scores in scores_by_episode(probe, Q):
            fitted = reference.fit(X[support], y[support])
            np.testing.assert_array_equal(scores.argmax(axis=1), fitted.predict(Q))
            if head == "logistic":
                np.testing.assert_allclose(scores, fitted.predict_proba(Q), atol=2e-5)


@pytest.mark.parametrize("missing", [0.0, 0.15])
@pytest.mark.parametrize("head", HEADS)
def test_each_label_is_learnt_from_the_rows_that_know_it(head: Any, missing: float) -> None:
    (X, Y), (Q, _) = labels(missing=missing), labels(n=40, seed=1)
    probe = FewShot((4, 8), n_episodes=3, head=head, alpha=0.5, C=2.0, k=4).fit(X, Y)
    for support, scores in scores_by_episode(probe, Q):
        Z, rows = transformed(Q, X[support], "cl2")
        near = np.argsort(-(rows @ Z.T), axis=1, kind="stable")[:, :4]
        for label in range(3):
            known = ~np.isnan(Y[support, label])
            P, target = Z[known], Y[support, label][known]
            if len(np.unique(target)) < 2:
                expected = np.full(len(Q), target[0])
            elif head == "centroid":
                zero, one = (squared_distances(rows, P[target == value].mean(axis=0)[None])[:, 0] for value in (0, 1))
                expected = sigmoid(zero - one)
            elif head == "ridge":
                expected = sigmoid(Ridge(alpha=0.5).fit(P, 2 * target - 1).predict(rows))
            elif head == "logistic":
                expected = LogisticRegression(C=2.0, tol=1e-10, max_iter=9999).fit(P, target).predict_proba(rows)[:, 1]
            else:
                weight = np.exp(np.take_along_axis(rows @ Z.T, near, axis=1) / 0.07)
                there = weight * known[near]
                share = (there * np.nan_to_num(Y[support, label])[near]).sum(axis=1)
                total = there.sum(axis=1)
                expected = np.where(total > 0, share / np.where(total > 0, total, 1), target.mean())
            np.testing.assert_allclose(scores[:, label], expected, atol=5e-5)


def test_supports_of_different_sizes_do_not_mix() -> None:
    (X, Y), (Q, _) = labels(), labels(n=30, seed=1)
    rng = np.random.default_rng(0)
    supports = tuple(rng.choice(len(X), size, replace=False) for size in (9, 40, 17))
    together = Episodes((1,), (supports,), n_rows=len(X), protocol="mine")
    for head in HEADS:
        scores = [s for _, _, s in FewShot(head=head).fit(X, Y, episodes=together).iter_scores(Q)]  # type: ignore[arg-type]
        for support, found in zip(supports, scores, strict=True):
            alone = Episodes((1,), ((support,),), n_rows=len(X), protocol="mine")
            ((_, _, expected),) = FewShot(head=head).fit(X, Y, episodes=alone).iter_scores(Q)  # type: ignore[arg-type]
            np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("head", HEADS)
def test_blocks_and_batches_change_nothing(head: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (X, y), (Q, _) = data(), data(seed=1, n=33)
    probe = FewShot((1, 3), n_episodes=7, head=head)
    whole = np.stack([scores for _, _, scores in probe.fit(X, y).iter_scores(Q)])
    monkeypatch.setattr(
        module, "row_blocks", lambda n, _, at_least=1: (slice(i, min(n, i + 2)) for i in range(0, n, 2))
    )
    np.testing.assert_allclose(np.stack([s for _, _, s in probe.fit(X, y).iter_scores(Q)]), whole, atol=1e-6)


def test_scores_come_one_episode_at_a_time() -> None:
    X, y = data()
    probe = FewShot((1, 2), n_episodes=3).fit(X, y)
    blocks = probe.iter_scores(X[:5])
    assert inspect.isgenerator(blocks)
    assert [(shot, number) for shot, number, _ in blocks] == [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)]
    with pytest.raises(ProbeError, match="NaN"):  # at the call, not at the first block
        probe.iter_scores(X[:5] * np.nan)


def test_evaluate_is_the_metric_of_each_episode() -> None:
    (X, y), (Q, t) = data(), data(seed=1, n=80)
    probe = FewShot(SHOTS, n_episodes=6, head="ridge").fit(X, y)
    values = probe.evaluate_many(Q, t, {"accuracy": "accuracy", "area": "auroc", "mine": lambda y, s: float(len(s))})
    scores = [s for _, _, s in probe.iter_scores(Q)]
    expected = np.array([(s.argmax(axis=1) == t).mean() for s in scores]).reshape(3, 6)
    np.testing.assert_allclose(values["accuracy"], expected, atol=1e-12)
    areas = np.array([roc_auc_score(t, s, multi_class="ovr") for s in scores]).reshape(3, 6)
    np.testing.assert_allclose(values["area"], areas, atol=1e-12)
    assert (values["mine"] == 80).all()
    np.testing.assert_array_equal(probe.evaluate(Q, t), values["accuracy"])
    mean = probe.predict_scores(Q)
    assert list(mean) == list(SHOTS)
    np.testing.assert_allclose(mean[2], np.mean(scores[6:12], axis=0), atol=1e-12)


def test_more_shots_are_better_here() -> None:
    (X, y), (Q, t) = data(), data(seed=1)
    curve = learning_curve((1, 4, 16), FewShot((1, 4, 16), n_episodes=30).fit(X, y).evaluate(Q, t))
    assert curve[0].value < curve[1].value < curve[2].value
    assert curve[0].high < curve[2].low


def test_replayed_episodes_on_other_features_are_the_same_rows() -> None:
    (X, y), (Q, t) = data(), data(seed=1)
    first = FewShot((1, 2), n_episodes=5, seed=4).fit(X, y)
    stored = Episodes.from_dict(first.episodes_.to_dict())
    again = FewShot((16,), n_episodes=99, seed=0).fit(X, y, episodes=stored)
    np.testing.assert_array_equal(again.evaluate(Q, t), first.evaluate(Q, t))
    assert FewShot().fit(X[:, :7], y, episodes=stored).shots_ == (1, 2)
    with pytest.raises(ProbeError, match="240 training rows, the features have 100"):
        FewShot().fit(X[:100], y[:100], episodes=stored)


def test_study_protocol_runs_on_labels() -> None:
    X, Y = labels(n=400)
    patients = np.arange(400) // 2 + 1000
    episodes = study_episodes(Y, patients, (1, 2, 4), ["b", "a", "c"])
    values = FewShot(head="logistic").fit(X, Y, episodes=episodes).evaluate(*labels(seed=5), "auroc")
    assert values.shape == (3, 1)
    assert (values > 0.5).all()
    assert np.isnan(learning_curve((1, 2, 4), values)[0].low)


def test_patients_are_respected() -> None:
    X, y = data()
    patients = np.arange(240) // 3
    probe = FewShot((4,), n_episodes=10).fit(X, y, groups=patients)
    assert all(len(set(patients[s])) == len(s) for _, _, s in probe.episodes_)


@pytest.mark.parametrize("head", HEADS)
def test_classes_and_labels_that_cannot_be_learnt_have_constant_scores(head: Any) -> None:
    (X, y), (Q, _) = data(classes=3), data(seed=1, n=9)
    y = np.where(y == 1, 3, y)  # no row of class 1
    probe = FewShot((2,), n_episodes=2, head=head).fit(X, y, n_classes=5)
    for _, _, scores in probe.iter_scores(Q):
        assert (scores[:, [1, 4]] == 0).all()
        np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)
    assert probe.notes_ == ("Classes [1, 4] do not occur in training: their score is 0.",)
    Y = np.stack([y == 0, np.ones(len(y)), np.zeros(len(y))], axis=1).astype(float)
    support = Episodes((4,), ((np.array([*np.flatnonzero(y == 0)[:4], *np.flatnonzero(y == 2)[:4]]),),), 240, "mine")
    fitted = FewShot(head=head).fit(X, Y, episodes=support)
    ((_, _, scores),) = fitted.iter_scores(Q)
    np.testing.assert_array_equal(scores[:, 1:], np.tile([1.0, 0.0], (9, 1)))
    assert "In 1 supports a label has one value" in fitted.notes_[0]
    Y[:, 1] = np.nan
    with pytest.raises(ProbeError, match=r"labels \[1\] are missing in every row of episode 0"):
        FewShot(head=head).fit(X, Y, episodes=support)


@pytest.mark.parametrize("head", HEADS)
def test_rows_at_or_near_the_centre_lose_no_digits(head: Any) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 16)).astype(np.float32).astype(np.float64)
    y = np.arange(40) % 2
    probe = FewShot((4,), n_episodes=1, head=head).fit(X, y)
    support = probe.episodes_.support(4, 0)
    centre = probe.origin_.astype(np.float32).astype(np.float64) + probe.center_[0, 0]
    near = (centre + 2e-4 * rng.normal(size=(6, 16))).astype(np.float32).astype(np.float64)
    ((_, _, scores),) = probe.iter_scores(near)
    # float32 subtraction of the origin is the only rounding left: compare from the same difference.
    moved = (near.astype(np.float32) - probe.origin_.astype(np.float32)).astype(np.float64) - probe.center_[0, 0]
    rows = moved / np.linalg.norm(moved, axis=1, keepdims=True)
    Z, _ = transformed(near, X[support], "cl2")
    settings = {"alpha": 1.0, "C": 1.0, "k": 20, "temperature": 0.07}
    np.testing.assert_allclose(scores, by_hand(head, Z, y[support], rows, settings), atol=1e-4)


def test_interval_is_student_t() -> None:
    values = np.random.default_rng(0).normal(0.7, 0.05, 100)
    low, high = scipy.stats.t.interval(0.95, 99, loc=values.mean(), scale=scipy.stats.sem(values))
    estimate = mean_interval([*values, np.nan])
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((values.mean(), low, high), abs=1e-12)
    (point,) = learning_curve((3,), [[*values, np.nan]])
    assert (point.shots, point.episodes) == (3, 100)
    assert point.deviation == pytest.approx(values.std(ddof=1), abs=1e-12)
    assert np.isnan(mean_interval([np.nan]).value)


def test_an_interval_ends_where_the_metric_does() -> None:
    free, bound = mean_interval([0.1, 0.9]), mean_interval([0.1, 0.9], within=(0.0, 1.0))
    assert free.low < 0
    assert free.high > 1
    assert (bound.value, bound.low, bound.high) == (free.value, 0.0, 1.0)
    (point,) = learning_curve((1,), [[0.1, 0.9]], within=(-1.0, 1.0))
    assert (point.low, point.high) == (-1.0, 1.0)


def test_interval_covers_the_mean_of_many_episodes() -> None:
    X, y = data(n=600)
    probe = FewShot((2,), n_episodes=1000, head="ridge").fit(X, y)
    values = probe.evaluate(*data(seed=1, n=200))[0]
    intervals = [mean_interval(part) for part in values.reshape(50, 20)]
    covered = sum(one.low <= values.mean() <= one.high for one in intervals)
    assert covered >= 43  # 47.5 expected; below 43 of 50 has a probability of 1 in 80


def test_bad_settings_and_input_are_refused() -> None:
    X, y = data()
    with pytest.raises(ConfigurationError, match="unknown head 'svm'"):
        FewShot(head="svm").fit(X, y)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="directions"):
        FewShot(head="knn", normalize="none").fit(X, y)
    for settings in ({"alpha": 0.0}, {"C": -1.0}, {"k": 0}, {"temperature": 0.0}):
        with pytest.raises(ProbeError, match="positive"):
            FewShot(**settings).fit(X, y)  # type: ignore[arg-type]
    with pytest.raises(ProbeError, match="16 shots need 16 rows"):
        FewShot().fit(X[:40], y[:40])
    with pytest.raises(ProbeError, match="one class"):
        FewShot((1,)).fit(X, np.zeros(240))
    with pytest.raises(ProbeError, match="not fitted"):
        FewShot().evaluate(X, y)
    probe = FewShot((1,), n_episodes=2).fit(X, y)
    with pytest.raises(ConfigurationError, match="unknown metric 'f7'"):
        probe.evaluate(X, y, "f7")
    with pytest.raises(ProbeError, match="kind of target"):
        probe.evaluate(X, np.eye(4)[y])
    with pytest.raises(ProbeError, match="expecting 30"):
        probe.iter_scores(X[:, :5])
    with pytest.raises(ProbeError, match="expected"):
        draw_episodes(np.array(3), (1,))
