"""Volumes from their slices: the attention against the formula, its gradient against torch, and what it finds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from featcache.errors import ConfigurationError, ProbeError
from featcache.probes import VolumeProbe, patient_folds
from featcache.probes.bag_heads import bag_losses
from featcache.probes.bags import Bags
from featcache.probes.gated_attention import attend, attention_gradient, initial_attention

WIDTH = 16


def planted(n: int, seed: int) -> tuple[list[NDArray[np.float64]], NDArray[np.int64], list[int]]:
    """Volumes of which one marked slice tells the class; five others say louder what chance says: the mean is lost."""
    rng = np.random.default_rng(seed)
    mark, tell = np.linalg.qr(np.random.default_rng(99).normal(size=(WIDTH, 2)))[0].T
    volumes, keys = [], []
    y = np.arange(n) % 2
    for label in y:
        size = int(rng.integers(7, 16))
        key, *others = rng.choice(size, 6, replace=False)
        volume = rng.normal(size=(size, WIDTH))
        sign = 5.0 if label else -5.0
        volume[key] += 8 * mark + sign * tell
        volume[others] += 9 * rng.choice([-1, 1], size=(5, 1)) * tell
        volumes.append(volume)
        keys.append(int(key))
    return volumes, y, keys


@pytest.fixture(scope="module")
def found() -> VolumeProbe:
    X, y, _ = planted(160, 0)
    X_val, y_val, _ = planted(60, 1)
    return VolumeProbe(learning_rates=(1e-3, 3e-3), epochs=30).fit(X, y, X_val, y_val)


def test_attention_finds_the_planted_slice_where_the_mean_fails(found: VolumeProbe) -> None:
    X, y, _ = planted(160, 0)
    X_test, y_test, keys_test = planted(120, 2)
    assert roc_auc_score(y_test, found.predict_scores(X_test)[:, 1]) > 0.95
    mean = VolumeProbe("mean", learning_rates=(1e-3, 3e-3), epochs=30).fit(X, y)
    assert roc_auc_score(y_test, mean.predict_scores(X_test)[:, 1]) < 0.7
    place = [int(weights.argmax()) for weights in found.attention(X_test)]
    assert np.mean(np.array(place) == keys_test) > 0.9


def test_scores_are_those_of_the_formula(found: VolumeProbe) -> None:
    """Ilse et al. 2018, equations 8 and 9, slice by slice."""
    X, _, _ = planted(9, 3)
    p = {name: value.astype(np.float64) for name, value in found.parameters_.items()}
    for volume, score, weights in zip(X, found.predict_scores(X), found.attention(X), strict=True):
        energies = []
        slices = (volume - found.mean_) / found.scale_
        for h in slices:
            gate = 1 / (1 + np.exp(-(p["U"].T @ h)))
            energies.append(np.exp(p["w"] @ (np.tanh(p["V"].T @ h) * gate)))
        a = np.array(energies) / np.sum(energies)
        np.testing.assert_allclose(weights, a, atol=1e-5)
        logits = p["W"].T @ (a @ slices) + p["b"]
        np.testing.assert_allclose(score, np.exp(logits) / np.exp(logits).sum(), atol=1e-5)


def test_the_order_of_slices_counts_only_with_position(found: VolumeProbe) -> None:
    X, y, _ = planted(30, 4)
    turned = [volume[::-1] for volume in X]
    np.testing.assert_allclose(found.predict_scores(turned), found.predict_scores(X), atol=1e-5)
    placed = VolumeProbe(position=True, epochs=3).fit(X, y)
    assert np.abs(placed.predict_scores(turned) - placed.predict_scores(X)).max() > 1e-3


def test_position_alone_can_tell_which_slice_counts() -> None:
    """Every slice has the same marks; the first of each volume tells the class, the others are noise."""

    def volumes(n: int, seed: int) -> tuple[list[NDArray[np.float64]], NDArray[np.int64]]:
        rng = np.random.default_rng(seed)
        y = np.arange(n) % 2
        made = [4 * rng.choice([-1.0, 1.0], size=(12, 1)) + rng.normal(size=(12, 4)) for _ in y]
        for volume, label in zip(made, y, strict=True):
            volume[0] = (4 if label else -4) + rng.normal(size=4)
        return made, y

    X, y = volumes(160, 0)
    X_test, y_test = volumes(120, 1)
    settings = {"learning_rates": (3e-3,), "epochs": 40, "patience": 40}
    blind, placed = (VolumeProbe(position=position, **settings).fit(X, y) for position in (False, True))  # type: ignore[arg-type]
    areas = [roc_auc_score(y_test, probe.predict_scores(X_test)[:, 1]) for probe in (blind, placed)]
    assert areas[1] > 0.95
    assert areas[1] > areas[0] + 0.1


def test_gradient_is_autograds_for_bags_of_unequal_size_and_several_models() -> None:
    rng = np.random.default_rng(5)
    bags = Bags(rng.normal(size=(11, 3)).astype(np.float32), np.array([0, 1, 6]))
    parameters = initial_attention(2, 3, 4, rng)
    parameters = {
        name: value + rng.normal(size=value.shape).astype(np.float32) / 3 for name, value in parameters.items()
    }
    outer = rng.normal(size=(2, 3, 3)).astype(np.float32)
    ours = attention_gradient(bags, parameters, attend(bags, parameters), outer)
    for model in range(2):
        V, U, w = (torch.tensor(parameters[name][model], requires_grad=True) for name in ("V", "U", "w"))
        loss = torch.zeros(())
        for number, part in enumerate(np.split(bags.rows, bags.starts[1:])):
            h = torch.tensor(part)
            a = torch.softmax((torch.tanh(h @ V) * torch.sigmoid(h @ U)) @ w, dim=0)
            loss = loss + (torch.tensor(outer[model, number]) * (a @ h)).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        for name, leaf in (("V", V), ("U", U), ("w", w)):
            assert leaf.grad is not None
            np.testing.assert_allclose(ours[name][model], leaf.grad.numpy(), atol=2e-5)


def test_losses_are_torchs() -> None:
    rng = np.random.default_rng(6)
    logits = rng.normal(size=(2, 5, 3)).astype(np.float32)
    y = rng.integers(0, 3, 5)
    reference = [float(torch.nn.functional.cross_entropy(torch.tensor(part), torch.tensor(y))) for part in logits]
    np.testing.assert_allclose(bag_losses(logits, y, multilabel=False), reference, rtol=1e-5)
    labels = rng.integers(0, 2, (5, 3)).astype(float)
    labels[0, 1] = np.nan
    known = torch.tensor(~np.isnan(labels))
    for part, value in zip(logits, bag_losses(logits, labels, multilabel=True), strict=True):
        each = torch.nn.functional.binary_cross_entropy_with_logits(
            torch.tensor(part), torch.tensor(np.nan_to_num(labels), dtype=torch.float32), reduction="none"
        )
        assert value == pytest.approx(float(each[known].mean()), rel=1e-5)


@pytest.mark.parametrize("pool", ["mean", "max", "median"])
def test_fixed_pools_see_what_numpy_pools(pool: str) -> None:
    X, _, _ = planted(7, 7)
    pooled = Bags.check(X).pooled(pool)  # type: ignore[arg-type]
    np.testing.assert_allclose(pooled, [getattr(np, pool)(volume, axis=0) for volume in X], atol=1e-5)


def test_the_same_seed_gives_the_same_head_and_another_gives_another() -> None:
    X, y, _ = planted(24, 8)
    one, two, other = (VolumeProbe(epochs=2, seed=seed).fit(X, y).predict_scores(X) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, two)
    assert np.abs(one - other).max() > 1e-6


def test_rate_and_epochs_are_those_of_the_least_val_loss(found: VolumeProbe) -> None:
    epoch, rate = np.unravel_index(found.val_losses_.argmin(), found.val_losses_.shape)
    assert (found.epochs_, found.lr_) == (epoch + 1, (1e-3, 3e-3)[rate])
    _, y_val, _ = planted(60, 1)
    chosen = -np.log(found.val_scores_[np.arange(60), y_val]).mean()
    assert chosen == pytest.approx(found.val_losses_.min(), rel=1e-5)


def test_labels_are_learnt_each_by_itself_with_missing_ones_left_out() -> None:
    X, y, _ = planted(120, 9)
    shifted = [volume + 4 * (number % 3 == 0) for number, volume in enumerate(X)]
    labels = np.stack([np.arange(120) % 3 == 0, y], axis=1).astype(float)
    labels[::7, 1] = np.nan
    scores = VolumeProbe("mean", learning_rates=(1e-2,), epochs=20).fit(shifted, labels).predict_scores(shifted)
    assert roc_auc_score(labels[:, 0], scores[:, 0]) > 0.99


@pytest.mark.parametrize(
    ("X", "message"),
    [
        ([], "shapes"),
        ([np.ones((2, 3)), np.ones((0, 3))], "shapes"),
        ([np.ones((2, 3)), np.ones((2, 4))], "shapes"),
        ([np.ones((2, 3)), np.full((2, 3), np.nan)], "NaN"),
    ],
)
def test_wrong_volumes_are_refused(X: list[NDArray[np.float64]], message: str) -> None:
    with pytest.raises(ProbeError, match=message):
        VolumeProbe().fit(X, [0, 1][: len(X)])


def test_wrong_settings_are_refused() -> None:
    X, y, _ = planted(20, 10)
    for settings in ({"pool": "sum"}, {"epochs": 0}, {"learning_rates": (0.0,)}):
        with pytest.raises(ConfigurationError):
            VolumeProbe(**settings).fit(X, y)  # type: ignore[arg-type]
    with pytest.raises(ProbeError, match="no attention"):
        VolumeProbe("mean", epochs=1).fit(X, y).attention(X)


def test_folds_hold_whole_patients_and_classes_in_proportion() -> None:
    rng = np.random.default_rng(11)
    groups = rng.integers(0, 40, 200)
    y = groups % 2
    fold = patient_folds(y, groups, 4, seed=0)
    assert all(len(set(fold[groups == patient])) == 1 for patient in set(groups))
    patients = [len(set(groups[(fold == number) & (y == label)])) for number in range(4) for label in (0, 1)]
    assert max(patients) - min(patients) <= 1
    assert (fold != patient_folds(y, groups, 4, seed=1)).any()
    with pytest.raises(ProbeError, match="patients"):
        patient_folds([0, 1], None, 3, seed=0)
    with pytest.raises(ConfigurationError):
        patient_folds([0, 1], None, 1, seed=0)
