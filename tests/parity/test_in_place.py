"""JAX's chunk of steps writes what a step changes over what it was."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tests.parity.conftest import IMAGES, random_state, session, small

jax = pytest.importorskip("jax")

COPY = re.compile(r"= f64\[([\d,]*)\]\S* copy\(")  # of an array of this shape, in a compiled program's text


@pytest.mark.parametrize(
    ("family", "optimizer"),
    [
        ("flow", "adam"),
        ("mean-field", "rmsprop"),
        pytest.param("mean-field", "adam", marks=pytest.mark.slow),
        pytest.param("flow", "rmsprop", marks=pytest.mark.slow),
    ],
)
def test_a_step_copies_no_weights(family: str, optimizer: str) -> None:
    config = small(family, optimizer=optimizer, ema_decay=0.9)
    s, steps = session("jax", config, random_state(config)), 3
    chunk = {
        "step": np.arange(steps, dtype=np.int32),
        "rows": np.zeros((steps, 20), np.int32),
        "learning_rate": np.ones(steps),
        "kl_weight": np.ones(steps),
    }
    carry = (s.parameters, s.moments, s.ema)
    program = s.compiled_chunk.lower(carry, IMAGES, jax.random.key(0), chunk).compile().as_text()
    copied = {tuple(int(n) for n in shape.split(",") if n) for shape in COPY.findall(program)}
    shapes = {value.shape for value in s.parameters.values()}
    assert (11, 11) in shapes
    assert not copied & shapes
