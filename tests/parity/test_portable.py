"""Train 50 steps in A, save, load, train 50 more in B: it is 100 steps in C, for every A, B and C, the same one too."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from common import checkpoints
from common.checkpoints import Checkpoint
from common.config import Config
from common.data import minibatches
from common.noise import training_noise
from common.parameters import State, noise_size
from common.protocol import BACKENDS, Session
from common.schedules import kl_weights, learning_rates
from tests.parity.conftest import deviation, random_state, session, small

HALF = 50
TOLERANCE = 1e-9
# The hand-over falls into the warm-up and the cosine's middle. What compiles is slow, so that each model has one rule.
SETTINGS = {"steps": 2 * HALF, "warm_up": 70, "ema_decay": 0.9, "noise": "shared", "latent_size": 3, "hidden_size": 7}
IMAGES = (np.random.default_rng(0).random((300, 16)) < 0.3).astype(np.uint8)
RULES = {
    "mean-field": {"optimizer": "rmsprop", "rmsprop_centered": True, "rmsprop_epsilon": 1e-6},
    "flow": {"optimizer": "adam", "weight_decay": 0.1, "flow_depth": 1},
    "mean-field resnet": {
        "network": "resnet",
        "image_shape": (4, 4),
        "channels": 2,
        "dropout": 0.2,
        "prior": "flow",
        "prior_depth": 1,
        "weight_decay": 0.1,
        "decayed": "weights",
    },
}


def train(session: Session, config: Config, *, first_step: int) -> State:
    """The state after another half of the steps, in one chunk: every session compiles the same."""
    training, part = config.training, {"first_step": first_step, "steps": HALF}
    shape = (training.objective_samples, training.batch_size, noise_size(config.model))
    session.train(
        session.place(np.ascontiguousarray(IMAGES[:, : config.model.pixels])),
        minibatches(images=len(IMAGES), batch_size=training.batch_size, seed=training.seed, **part),
        learning_rates=learning_rates(config.optimizer, total_steps=training.steps, **part),
        kl_weights=kl_weights(training, **part),
        noise=training_noise(seed=training.seed, shape=shape, dtype=config.dtype, **part),
        first_step=first_step,
        seed=training.seed,
    )
    return session.state()


@dataclass(frozen=True)
class Halves:
    config: Config
    files: dict[str, Path]  # a backend's checkpoint after the first half
    whole: dict[str, State]  # a backend's state after both


@pytest.fixture(scope="module", params=RULES)
def halves(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Halves:
    config = small(request.param.split()[0], **SETTINGS | RULES[request.param])
    found = Halves(config, {}, {})
    for backend in BACKENDS:
        own = session(backend, config, random_state(config))
        state = train(own, config, first_step=0)
        found.files[backend] = tmp_path_factory.mktemp(backend) / "half.h5"
        checkpoints.save(Checkpoint(config, backend, "quick", "digits", "ab" * 32, state), found.files[backend])
        found.whole[backend] = train(own, config, first_step=HALF)
    return found


def continued(backend: str, state: State, config: Config) -> State:
    return train(session(backend, config, state), config, first_step=int(state["step"]))


def off(ours: State, theirs: State) -> dict[str, float]:
    """Every array's deviation."""
    assert ours.keys() == theirs.keys()
    return {name: deviation(value, theirs[name]) for name, value in ours.items()}


def test_half_in_one_and_half_in_another_is_all_in_a_third(halves: Halves) -> None:
    for first, second in itertools.product(BACKENDS, repeat=2):
        loaded = checkpoints.load(halves.files[first])
        assert (loaded.backend, int(loaded.state["step"])) == (first, HALF)
        result = continued(second, loaded.state, halves.config)
        assert int(result["step"]) == 2 * HALF
        for third, whole in halves.whole.items():
            for name, deviating in off(result, whole).items():
                assert deviating <= TOLERANCE, f"{name}: {first}, then {second} is {deviating:.1e} off {third}"


def test_nothing_in_the_file_is_idle(halves: Halves) -> None:
    """Each group of arrays matters: moved by a thousandth, it moves the result by more than the tolerance."""
    state = checkpoints.load(halves.files["jax"]).state
    groups = {name.rpartition("/")[0] for name in state if "/" in name}
    assert groups == {"parameters", "ema", "optimizer/first_moment", "optimizer/second_moment"}
    for group in groups:
        moved = {name: value * 1.001 if name.startswith(f"{group}/") else value for name, value in state.items()}
        result = continued("pytorch", moved, halves.config)
        assert max(off(result, halves.whole["pytorch"]).values()) > 100 * TOLERANCE, group


def test_every_backend_hands_back_the_file(halves: Halves) -> None:
    """Loading and saving again changes no bit, whoever wrote it."""
    for first, second in itertools.product(BACKENDS, repeat=2):
        state = checkpoints.load(halves.files[first]).state
        again = session(second, halves.config, state).state()
        assert again.keys() == state.keys()
        for name, value in state.items():
            assert again[name].dtype == value.dtype, name
            assert np.array_equal(again[name], value), f"{name}: {first}, then {second}"
