"""log w at given outputs of the encoder, its derivatives, and the inverse of `encode`: each backend by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from common.protocol import Session
from tests.parity.conftest import IMAGES, deviation, random_state, session, small

ROWS = np.arange(40, 60, dtype=np.int32)
NOISE = np.random.default_rng(2).normal(size=(3, 20, 4))
STEP = 1e-5

MODELS = {
    "mean-field": {"family": "mean-field"},
    "flow": {"family": "flow"},
    "flow-prior": {"family": "flow", "prior": "flow", "prior_depth": 2},
    "resnet": {"family": "mean-field", "network": "resnet", "image_shape": (12, 8), "channels": 2, "dropout": 0.2},
}


def images_of(model: str) -> np.ndarray:
    return np.tile(IMAGES, (1, 8)) if model == "resnet" else IMAGES


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def opened(backend: str, model: str) -> tuple[Session, Any]:
    settings = dict(MODELS[model])
    config = small(str(settings.pop("family")), **settings)
    state = random_state(config) if model != "resnet" else resnet_state(config)
    s = session(backend, config, state)
    return s, s.place(images_of(model))


def resnet_state(config: Any) -> Any:
    """As `random_state`, of twelve times eight pixels."""
    from common.parameters import fresh_state, initial_parameters

    draws = np.random.default_rng(1)
    initial = initial_parameters(config.model, training=config.training, pixel_log_odds=draws.normal(size=96))
    moved = {name: value + 0.1 * draws.normal(size=value.shape) for name, value in initial.items()}
    return fresh_state(moved, optimizer=config.optimizer, training=config.training, dtype=config.dtype)


def test_at_the_encoders_outputs_log_w_is_that_of_an_evaluation(backend: str, model: str) -> None:
    s, handle = opened(backend, model)
    outputs = s.outputs(handle, ROWS)
    log_w, by_noise, by_outputs = s.slopes(handle, ROWS, outputs=outputs, noise=NOISE)
    assert deviation(log_w, s.log_weights(handle, ROWS, samples=range(3), seed=0, noise=NOISE)) < 1e-12
    assert by_noise.shape == NOISE.shape
    assert by_outputs.shape == outputs.shape == (20, 4 * (2 if model in ("mean-field", "resnet") else 3))


def test_the_derivatives_are_differences(backend: str, model: str) -> None:
    """Along a random direction each, of the noise and of the outputs; the outputs are not the encoder's."""
    s, handle = opened(backend, model)
    draws = np.random.default_rng(3)
    outputs = s.outputs(handle, ROWS) + 0.3 * draws.normal(size=s.outputs(handle, ROWS).shape)

    def log_w(outputs: np.ndarray, noise: np.ndarray) -> np.ndarray:
        return s.slopes(handle, ROWS, outputs=outputs, noise=noise)[0]

    _, by_noise, by_outputs = s.slopes(handle, ROWS, outputs=outputs, noise=NOISE)
    along = draws.normal(size=NOISE.shape)
    rise = (log_w(outputs, NOISE + STEP * along) - log_w(outputs, NOISE - STEP * along)) / (2 * STEP)
    assert deviation((by_noise * along).sum(-1), rise) < 1e-6
    along = draws.normal(size=outputs.shape)
    rise = (log_w(outputs + STEP * along, NOISE) - log_w(outputs - STEP * along, NOISE)).sum(0) / (2 * STEP)
    assert deviation((by_outputs * along).sum(-1), rise) < 1e-6


def test_the_noise_of_a_latent_is_the_noise_that_made_it(backend: str, model: str) -> None:
    s, _ = opened(backend, model)
    x = images_of(model)[ROWS]
    z = s.encode(x, NOISE)
    assert deviation(s.noise_of(x, z), NOISE) < 1e-10
    assert deviation(z, NOISE) > 0.1
