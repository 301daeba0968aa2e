"""The same small problem for every backend: weights, images, noise."""

from __future__ import annotations

import numpy as np
import pytest

from common.config import Config, Model
from common.parameters import State, fresh_state, initial_parameters
from common.protocol import BACKENDS, Session, load

IMAGES = (np.random.default_rng(0).random((300, 12)) < 0.3).astype(np.uint8)


@pytest.fixture(params=["mean-field", "flow"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def small(family: str, **changes: object) -> Config:
    settings = {
        "dtype": "float64",
        "latent_size": 4,
        "hidden_size": 11,
        "flow_depth": 2,
        "batch_size": 20,
        "steps": 40,
        "warm_up": 10,
    }
    return Config(model=Model(pixels=12)).replace(variational=family, **settings | changes)


def random_state(config: Config, *, seed: int = 1) -> State:
    """A state whose parameters are all away from their initial zeros; masked weights stay 0."""
    draws = np.random.default_rng(seed)
    initial = initial_parameters(config.model, training=config.training, pixel_log_odds=draws.normal(size=12))
    moved = {name: value + 0.3 * draws.normal(size=value.shape) for name, value in initial.items()}
    return fresh_state(moved, optimizer=config.optimizer, training=config.training, dtype=config.dtype)


def session(backend: str, config: Config, state: State) -> Session:
    return load(backend).create(
        config.model, state, optimizer=config.optimizer, training=config.training, device="cpu", dtype=config.dtype
    )


def deviation(a: np.ndarray, b: np.ndarray) -> float:
    """max|a − b| / max|b|."""
    return float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-300))
