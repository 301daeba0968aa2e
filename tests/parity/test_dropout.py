"""Dropout: its masks are noise of training, and nothing else drops a unit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from common import noise
from common.config import Config, Model
from common.parameters import droppable, layers, noise_size
from common.protocol import BACKENDS
from common.training import chunk
from tests.parity.conftest import deviation, random_state, session, small

IMAGES = (np.random.default_rng(0).random((60, 96)) < 0.3).astype(np.uint8)
ROWS = np.arange(20, dtype=np.int32)


def config_of(network: str, **changes: object) -> Config:
    shape: dict[str, Any] = {"image_shape": (12, 8), "network": network, "channels": 3}
    return small("mean-field", **shape | {"dropout": 0.25} | changes)


def state_of(config: Config) -> dict[str, np.ndarray]:
    return random_state(config.replace(data_bias=False))


@pytest.mark.parametrize("network", ["mlp", "resnet"])
def test_noise_has_a_draw_for_each_unit_that_can_be_dropped(network: str) -> None:
    config = config_of(network)
    units = droppable(config.model)
    assert noise_size(config.model) == config.model.latent_size + sum(units.values())
    assert set(units) < {layer.name for layer in layers(config.model)}
    assert not [name for name in units if name.endswith((".out", ".second")) and network == "resnet"]
    assert noise_size(config.replace(dropout=0.0).model) == config.model.latent_size


def test_a_unit_is_dropped_with_the_probability() -> None:
    draws = np.random.default_rng(0).standard_normal(100_000)
    for rate in (0.1, 0.5, 0.9):
        assert (draws < noise.dropped_below(rate)).mean() == pytest.approx(rate, abs=0.01)


@pytest.mark.parametrize("network", ["mlp", "resnet"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_training_drops_and_nothing_else_does(backend: str, network: str) -> None:
    """With all draws high no unit is dropped, and each has 1/(1 − rate); without the draws, as in evaluation, each has 1."""
    config = config_of(network)
    state = state_of(config)
    s, plain = session(backend, config, state), session(backend, config.replace(dropout=0.0), state)
    handle = s.place(IMAGES)
    draws = np.random.default_rng(2).normal(size=(2, 20, noise_size(config.model)))
    z_alone = draws[..., : config.model.latent_size]

    def logits(who: Any, noise: np.ndarray) -> np.ndarray:
        return np.asarray(who.inspect(handle, ROWS, noise=noise, kl_weight=1.0)["logits"])

    assert np.array_equal(logits(s, z_alone), logits(plain, z_alone))
    evaluated = [who.log_weights(handle, ROWS, samples=range(2), seed=3, noise=None) for who in (s, plain)]
    assert np.array_equal(*evaluated)
    assert np.array_equal(s.decode(z_alone[0]), plain.decode(z_alone[0]))
    assert np.array_equal(s.encode(IMAGES[:20], z_alone), plain.encode(IMAGES[:20], z_alone))

    high = draws.copy()
    high[..., config.model.latent_size :] = 5
    scaled = {
        name: value / 0.75 if name.endswith(".weight") and follows(name, network) else value for name, value in state.items()
    }
    larger = session(backend, config.replace(dropout=0.0), scaled)
    assert deviation(logits(s, high), logits(larger, z_alone)) < 1e-12
    assert deviation(logits(s, draws), logits(s, high)) > 1e-3


def follows(name: str, network: str) -> bool:
    """Whether the weight's input is dropped out."""
    ends = ("coder.second.weight", "coder.out.weight") if network == "mlp" else "second.weight"
    return name.startswith("parameters/") and name.endswith(ends)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_masks_are_a_function_of_seed_and_step(backend: str) -> None:
    """Of 6 steps at once, or of 2 and 4; another seed has other masks. The encoder reads the first sample's draws."""
    config = config_of("mlp", steps=6, objective_samples=2)
    state = state_of(config)
    found = []
    for seed, parts in ((0, [6]), (0, [2, 4]), (1, [6])):
        s = session(backend, config, state)
        done, handle = 0, s.place(IMAGES)
        for steps in parts:
            arguments = chunk(config, images=60, first_step=done, steps=steps) | {
                "seed": seed,
                "learning_rates": np.zeros(steps),
            }
            objective, _ = s.train(handle, **arguments)
            done += steps
        found.append(objective[-1])
    assert found[0] == found[1]
    assert found[0] != found[2]


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_encoder_reads_the_first_samples_draws(backend: str) -> None:
    config = config_of("mlp")
    s = session(backend, config, state_of(config))
    handle, latent = s.place(IMAGES), config.model.latent_size
    draws = np.random.default_rng(2).normal(size=(2, 20, noise_size(config.model)))
    hidden = 2 * config.model.hidden_size
    other = draws.copy()
    other[1, :, latent : latent + hidden] *= -1  # of the encoder
    first, second = (s.inspect(handle, ROWS, noise=each, kl_weight=1.0) for each in (draws, other))
    assert np.array_equal(first["logits"], second["logits"])
    assert Model().dropout == 0
