"""Linear heads against torch: one nn.Linear and one torch.optim.SGD for each head."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from featcache.errors import ProbeError
from featcache.probes import LinearHeads
from featcache.probes.blocks import TokenBlocks
from featcache.probes.heads import HeadBank, batches, train_heads

N, D = 90, 6


def tokens(n: int = N, seed: int = 0) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(seed)
    shapes = {"cls": (n, D), "intermediate": (n, 3, D), "patch_mean": (n, D)}
    return {name: rng.normal(size=shape).astype(np.float16) for name, shape in shapes.items()}


def targets(kind: str, blocks: dict[str, NDArray[Any]], seed: int = 1) -> NDArray[Any]:
    """Classes or labels that need the deepest CLS token and the mean patch."""
    rng = np.random.default_rng(seed)
    signal = blocks["cls"][:, 0] + 2.0 * blocks["intermediate"][:, 0, 1] + 2.0 * blocks["patch_mean"][:, 2]
    signal = signal.astype(float) + 0.3 * rng.normal(size=len(signal))
    if kind == "classes":
        return np.digitize(signal, [-1.0, 1.0])
    y = (np.stack([signal, blocks["cls"][:, 1]], axis=1) > 0.2).astype(float)
    if kind == "missing":
        y[rng.random(y.shape) < 0.2] = np.nan
    return y


def beside(blocks: dict[str, NDArray[Any]], n: int, pool: bool) -> NDArray[np.float32]:
    """The concatenation that the protocol describes."""
    parts = [blocks["intermediate"][:, place] for place in range(4 - n, 3)] + [blocks["cls"]]
    return np.concatenate([*parts, *([blocks["patch_mean"]] if pool else [])], axis=1).astype(np.float32)


def torch_head(
    X: NDArray[np.float32], y: NDArray[Any], order: list[NDArray[Any]], start: Any, *, lr: float, summed: bool
) -> tuple[NDArray[Any], NDArray[Any]]:
    import torch

    head = torch.nn.Linear(X.shape[1], len(start[0]))
    with torch.no_grad():
        head.weight.copy_(torch.tensor(start[0]))
        head.bias.copy_(torch.tensor(start[1]))
    optimizer = torch.optim.SGD(head.parameters(), lr=lr, momentum=0.9, weight_decay=0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(order), eta_min=0)
    for rows in order:
        out, truth = head(torch.tensor(X[rows])), torch.tensor(y[rows])
        if y.ndim == 1:
            loss = torch.nn.functional.cross_entropy(out, truth)
        else:
            known = ~truth.isnan()
            loss = torch.nn.functional.binary_cross_entropy_with_logits(out[known], truth[known].float())
            loss = loss * len(rows) if summed else loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return head.weight.detach().numpy(), head.bias.detach().numpy()


@pytest.mark.parametrize("kind", ["classes", "labels", "missing"])
@pytest.mark.parametrize(("protocol", "factor"), [("dinov2", 16 / 256), ("study", 1.0)])
def test_every_head_ends_where_torch_ends(protocol: Any, factor: float, kind: str) -> None:
    blocks = tokens()
    y = targets(kind, blocks)
    probe = LinearHeads(protocol)
    rule = probe._check_settings()
    checked = TokenBlocks.check(blocks)
    heads = probe._heads(checked, rule)
    assert len(heads) == {"dinov2": 13 * 4, "study": 4 * 4}[protocol]
    outputs = 3 if y.ndim == 1 else 2
    bank = HeadBank(heads, [head.lr * factor for head in heads], checked, outputs, seed=0)
    starts = [bank.weights(place) for place in range(len(heads))]
    assert np.std(np.concatenate([start[0].ravel() for start in starts])) == pytest.approx(0.01, rel=0.05)
    train_heads(bank, checked, y, batch_size=16, n_iter=20, summed=protocol == "study", seed=5)
    order = list(batches(N, 16, 20, 5))
    for place in range(0, len(heads), 3):
        head = bank.heads[place]
        X = beside(blocks, head.n_last_blocks, head.avgpool)
        weight, bias = torch_head(X, y, order, starts[place], lr=head.lr * factor, summed=protocol == "study")
        found = bank.weights(place)
        np.testing.assert_allclose(found[0], weight, atol=1e-5, rtol=1e-4)
        np.testing.assert_allclose(found[1], bias, atol=1e-5, rtol=1e-4)
        np.testing.assert_allclose(
            bank.logits(checked, slice(None))[:, place * outputs : (place + 1) * outputs],
            X @ weight.T + bias,
            atol=1e-4,
        )


def test_batches_are_permutations_cut_in_order() -> None:
    found = list(batches(10, 4, 7, 0))
    assert [len(rows) for rows in found] == [4, 4, 2, 4, 4, 2, 4]
    assert sorted(np.concatenate(found[:3])) == sorted(np.concatenate(found[3:6])) == list(range(10))


def test_the_head_that_sees_the_signal_is_chosen_and_refitted_on_all_rows() -> None:
    train, val, test = (tokens(400, seed) for seed in range(3))
    y, y_val = targets("labels", train), targets("labels", val)
    probe = LinearHeads("study", epochs=20, batch_size=32).fit(train, y, val, y_val)
    assert (probe.n_last_blocks_, probe.avgpool_) == (4, True)
    assert len(probe.val_scores_) == 16
    best = max(scores["auroc"] for scores in probe.val_scores_.values())
    assert probe.val_scores_[probe.lr_, 4, True]["auroc"] == best
    assert "on val (400 rows); one head trained on all 800 rows (study protocol)" in probe.selection_
    assert probe.n_iter_ == 20 * 25
    both = {name: np.concatenate([train[name], val[name]]) for name in train}
    alone = LinearHeads(
        "study", epochs=20, batch_size=32, learning_rates=(probe.lr_,), n_last_blocks=(4,), avgpool=(True,)
    ).fit(both, np.concatenate([y, y_val]))
    np.testing.assert_array_equal(alone.predict_scores(test), probe.predict_scores(test))
    assert "nothing to choose" in alone.selection_
    logits = beside(test, 4, True) @ probe.coef_.T + probe.intercept_
    np.testing.assert_allclose(probe.predict_scores(test), 1 / (1 + np.exp(-logits)), atol=1e-5)


def test_plain_features_are_one_cls_token() -> None:
    X = tokens()["cls"]
    probe = LinearHeads(n_iter=5).fit(X, targets("classes", tokens()))
    assert (probe.n_last_blocks_, probe.avgpool_) == (1, False)
    scores = probe.predict_scores(X)
    np.testing.assert_allclose(scores.sum(axis=1), 1)
    assert "held out by row" in probe.selection_
    np.testing.assert_array_equal(LinearHeads(n_iter=5).fit(X, targets("classes", tokens())).predict_scores(X), scores)


def test_groups_are_held_out_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    from featcache.probes import linear

    seen = []
    hold_out = linear.hold_out
    monkeypatch.setattr(linear, "hold_out", lambda *args: seen.append(hold_out(*args)) or seen[-1])
    groups = np.arange(N) // 3
    LinearHeads(n_iter=3).fit(tokens(), targets("classes", tokens()), groups=groups)
    ((fitted, held),) = seen
    assert set(groups[fitted]).isdisjoint(groups[held])


@pytest.mark.parametrize(
    ("settings", "change", "message"),
    [
        ({"protocol": "dino"}, {}, "protocol 'dino' is unknown"),
        ({"learning_rates": (0.0,)}, {}, "learning_rates must be positive"),
        ({"batch_size": 0}, {}, "must be positive"),
        ({"n_last_blocks": (5,)}, {}, "last 4 blocks"),
        ({"avgpool": (True,)}, {"patch_mean": None}, "avgpool needs"),
        ({}, {"patches": np.ones((N, 2))}, "patches"),
        ({}, {"intermediate": np.ones((N, D))}, "intermediate: expected"),
        ({}, {"patch_mean": np.ones((N - 1, D))}, "patch_mean has 89 rows"),
        ({}, {"patch_mean": np.full((N, D), np.nan)}, "patch_mean has NaN"),
    ],
)
def test_bad_settings_and_blocks_are_refused(settings: Any, change: Any, message: str) -> None:
    blocks = {name: value for name, value in {**tokens(), **change}.items() if value is not None}
    with pytest.raises(ProbeError, match=message):
        LinearHeads(**{"n_iter": 2, **settings}).fit(blocks, targets("classes", tokens()))


def test_scores_need_the_blocks_that_were_fitted() -> None:
    with pytest.raises(ProbeError, match="not fitted"):
        LinearHeads().predict_scores(tokens())
    probe = LinearHeads(n_iter=2).fit(tokens(), targets("classes", tokens()))
    with pytest.raises(ProbeError, match="features were fitted"):
        probe.predict_scores(tokens()["cls"])
