"""A unit that is never active leaves no denormal numbers in Adam's moments: some processors take a hundred cycles for each."""

from __future__ import annotations

import numpy as np

from tests.parity.conftest import IMAGES, random_state, session, small

STEPS = 10
SMALLEST = np.finfo(np.float32).tiny


def test_moments_that_decay_end_at_zero(backend: str) -> None:
    config = small("mean-field", dtype="float32")
    state = random_state(config)
    state["parameters/encoder.first.bias"][0] = -1e3
    for name in ("optimizer/first_moment/encoder.first.weight", "optimizer/first_moment/encoder.first.bias"):
        state[name][..., 0] = 2 * SMALLEST  # 0.9^10 of it is denormal
    s = session(backend, config, state)
    rows = np.arange(20 * STEPS, dtype=np.int32).reshape(STEPS, 20)
    schedule = {"learning_rates": np.full(STEPS, 1e-3), "kl_weights": np.ones(STEPS)}
    s.train(s.place(IMAGES), rows, first_step=0, **schedule, seed=5, noise=None)
    for name, value in s.state().items():
        assert not np.any((value != 0) & (np.abs(value) < SMALLEST)), name
    assert not s.state()["optimizer/first_moment/encoder.first.weight"][..., 0].any()
