"""The memory of L-BFGS against the dense update it stands for, and step lengths against quadratics."""

from __future__ import annotations

import numpy as np
import pytest

from featcache.probes.line_search import secant_lengths
from featcache.probes.step_memory import StepMemory


def test_two_loops_are_the_dense_bfgs_update_of_each_problem() -> None:
    """Nocedal and Wright, equation 6.17: H becomes (I - rho s y') H (I - rho y s') + rho s s'."""
    rng = np.random.default_rng(0)
    memory = StepMemory(5, 1)
    memory.resize(np.zeros(0, np.int64), np.zeros(0, np.int64), 3)
    spectrum = rng.uniform(0.5, 2, (5, 3)).astype(np.float32)
    dense = []
    for _ in range(3):
        step = rng.normal(size=(5, 3)).astype(np.float32)
        bend = (step * spectrum).astype(np.float32)  # a quadratic with this diagonal
        memory.remember(step, bend, np.zeros(3, bool), lambda values: values)
        dense.append((step.astype(float), bend.astype(float)))
    gradient = rng.normal(size=(5, 3)).astype(np.float32)
    found = memory.direction(gradient, lambda values: values)
    for column in range(3):
        s, y = (part[:, column] for part in dense[-1])
        H = np.eye(5) * (s @ y) / (y @ y)
        for steps, bends in dense:
            s, y = steps[:, column], bends[:, column]
            side = np.eye(5) - np.outer(s, y) / (s @ y)
            H = side @ H @ side.T + np.outer(s, s) / (s @ y)
        np.testing.assert_allclose(found[:, column], -H @ gradient[:, column], rtol=1e-3, atol=1e-4)


def test_forgotten_and_fresh_problems_go_down_the_gradient() -> None:
    memory = StepMemory(2, 2)
    memory.resize(np.zeros(0, np.int64), np.zeros(0, np.int64), 2)
    step = np.ones((2, 4), np.float32)
    memory.remember(step, 4 * step, np.array([False, True]), lambda values: values)
    gradient = np.arange(8, dtype=np.float32).reshape(2, 4)
    np.testing.assert_array_equal(memory.direction(gradient, lambda values: values)[:, 2:], -gradient[:, 2:])
    memory.forget(np.array([0]))
    memory.gamma[0] = 1
    np.testing.assert_array_equal(memory.direction(gradient, lambda values: values), -gradient)


@pytest.mark.parametrize("best", [0.01, 0.4, 1.3, 7.0, 50.0])
def test_step_lengths_come_near_the_minimum_of_a_line(best: float) -> None:
    bend = np.array([0.1, 3.0])
    length = secant_lengths(-bend * best, bend * (1 - best), lambda where: bend * (where - best))
    assert (np.abs(bend * (length - best)) <= 0.3 * bend * best + 1e-12).all()
