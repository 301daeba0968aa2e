"""The length of a chunk changes nothing, bit for bit, on the device's own noise."""

from __future__ import annotations

import numpy as np
import pytest

from common.schedules import kl_weights, learning_rates
from tests.parity.conftest import IMAGES, random_state, session, small

STEPS = 9


# Whole runs of mean-field in other chunks are in tests/benchmarks/test_runs.py.
@pytest.mark.parametrize("family", [pytest.param("mean-field", marks=pytest.mark.slow), "flow"])
def test_chunks_change_nothing_bit_for_bit(backend: str, family: str) -> None:
    config = small(family, objective_samples=2, ema_decay=0.9, weight_decay=0.1, dtype="float32", flow_depth=1)
    rows = np.random.default_rng(3).integers(0, 300, (STEPS, config.training.batch_size)).astype(np.int32)
    results = []
    for lengths in ((9,), (4, 4, 1)):  # a loop of one step is another program to a compiler
        s = session(backend, config, random_state(config))
        handle, returned = s.place(IMAGES), []
        for first, steps in zip(np.cumsum((0, *lengths[:-1])).tolist(), lengths, strict=True):
            window = {"first_step": first, "steps": steps}
            returned.append(
                s.train(
                    handle,
                    rows[first : first + steps],
                    first_step=first,
                    learning_rates=learning_rates(config.optimizer, total_steps=STEPS, **window),
                    kl_weights=kl_weights(config.training, **window),
                    seed=5,
                    noise=None,
                )
            )
        objective, elbo = (np.concatenate(values) for values in zip(*returned, strict=True))
        results.append(s.state() | {"objective": objective, "elbo": elbo})
    whole, parts = results
    assert int(whole["step"]) == STEPS
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        assert np.array_equal(value, parts[name]), name
    # Each step has noise of its own.
    assert len(np.unique(whole["objective"])) == STEPS
