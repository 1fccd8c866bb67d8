"""Several draws of a training set: the mean of the single ones, an interval over draws, all in the ledger."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from featcache.errors import ConfigurationError
from featcache.evaluation.segmentation import HeadSettings, segment
from featcache.evaluation.segmentation.rows import Shots, draw_shots, segmentation_task, select_segment_rows
from featcache.results import Ledger
from featcache.store import FeatureStore, open_masks
from tests.evaluation.segmentation.test_segmenting import RIDGE, store

__all__ = ["store"]


def test_several_draws_give_the_mean_of_single_ones_with_a_t_interval(store: FeatureStore) -> None:
    outcome = segment(store, RIDGE, shots=(1, 2), n_tries=3, n_bootstrap=20)
    assert [run.parameters for run in outcome.result.runs] == [
        {"head": "linear", "shots": count, "tries": 3} for count in (1, 2)
    ]
    run = outcome.result.runs[1]
    single = [
        segment(store, HeadSettings(solver="ridge", seed=seed), shots=(2,), n_bootstrap=20).result.runs[0]
        for seed in (0, 1, 2)
    ]
    values = [one.metrics["dice"].value for one in single]
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    found = run.metrics["dice"]
    np.testing.assert_allclose((found.value, found.low, found.high), (np.mean(values), low, high), atol=1e-9)
    assert [(part.column, part.value) for part in run.subgroups] == [("try", f"seed {seed}") for seed in (0, 1, 2)]
    np.testing.assert_allclose([part.metrics["dice"].value for part in run.subgroups], values)
    for label, estimate in run.per_class["dice"].items():
        np.testing.assert_allclose(estimate.value, np.mean([one.per_class["dice"][label].value for one in single]))


def test_the_ledger_keeps_which_images_each_try_learned_from(store: FeatureStore) -> None:
    result = segment(store, RIDGE, shots=(2,), n_tries=2, n_bootstrap=20).result
    read = Ledger.beside(store.path).read(result.id)
    assert read.episodes is not None
    task = segmentation_task(store, None)
    masks = open_masks(store.path.parent.parent, store.dataset, task=task.name)
    train = select_segment_rows(store, masks, task, "train")
    assert [(draw["seed"], draw["ids"]) for draw in read.episodes["draws"]] == [
        (seed, list(draw_shots(train, Shots(2), seed).ids)) for seed in (0, 1)
    ]
    assert all("penalty" in draw["chosen"] for draw in read.episodes["draws"])
    assert read.config["resampled"] == "draws"
    again = segment(store, RIDGE, shots=(2,), n_tries=2, n_bootstrap=20)
    assert (again.result.id, again.predictions) == (result.id, None)


def test_several_tries_of_one_training_set_are_refused(store: FeatureStore) -> None:
    with pytest.raises(ConfigurationError, match="drawn at random"):
        segment(store, RIDGE, n_tries=2)
    with pytest.raises(ConfigurationError, match="drawn at random"):
        segment(store, RIDGE, shots=(2,), shot_protocol="study", n_tries=2)
