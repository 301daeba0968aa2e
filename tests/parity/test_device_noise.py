"""The rung `device-noise` on a backend in NumPy, whose noise is right, or wrong in one way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from benchmarks.parity import device_noise
from common import estimators
from common.config import Config
from common.noise import NOISE_BLOCK, noise_blocks
from common.parameters import State
from tests.parity import reference
from tests.parity.conftest import small

Shape = tuple[int, ...]


def drawn(shape: Shape, *position: int) -> np.ndarray:
    return np.random.default_rng(position).standard_normal(shape)


@dataclass
class Drawing:
    """A backend and its session. `training` draws for a step, `evaluation` for a block of an image's samples."""

    training: Callable[[Shape, int, int, int], np.ndarray] = lambda shape, seed, step, first: drawn(shape, 1, seed, step)
    evaluation: Callable[[Shape, int, int, int], np.ndarray] = lambda shape, seed, image, block: drawn(
        shape, 2, seed, image, block
    )

    def create(self, config: Config, state: State) -> Any:
        self.config, self.state = config, state
        return self

    def place(self, images: np.ndarray) -> np.ndarray:
        return images.astype(np.float64)

    def train(self, handle: np.ndarray, indices: np.ndarray, *, first_step: int, seed: int, **_: Any) -> Any:
        shape = (self.config.training.objective_samples, indices.shape[1], self.config.model.latent_size)
        noise = [self.training(shape, seed, first_step + t, first_step) for t in range(len(indices))]
        log_w = [
            reference.log_weights(self.config, self.state, handle[rows], n) for rows, n in zip(indices, noise, strict=True)
        ]
        return np.array([estimators.log_mean_exp(each).mean() for each in log_w]), np.array([each.mean() for each in log_w])

    def log_weights(self, handle: np.ndarray, indices: np.ndarray, *, samples: range, seed: int, noise: None) -> np.ndarray:
        shape = (NOISE_BLOCK, self.config.model.latent_size)
        draws = [[self.evaluation(shape, seed, i, block) for block in noise_blocks(samples)] for i in indices]
        stacked = np.array([np.concatenate(blocks) for blocks in draws]).swapaxes(0, 1)
        return reference.log_weights(self.config, self.state, handle[indices], stacked)


def broken(**wrong: Any) -> set[str]:
    """What the rung says of a backend with this noise."""
    backend: Any = Drawing(**wrong)
    return {name for name, count in device_noise.faults(backend, small("mean-field")).items() if count}


def test_right_noise_has_no_fault() -> None:
    assert broken() == set()


@pytest.mark.parametrize(
    ("wrong", "count"),
    [
        (lambda shape, seed, step, first: drawn(shape, 1, seed), "draws that come twice"),
        (lambda shape, seed, step, first: drawn(shape, 1, step), "draws that come twice"),
        (lambda shape, seed, step, first: drawn(shape, 1, seed + step), "draws that come twice"),
        (lambda shape, seed, step, first: drawn(shape, 1, seed, step - first), "draws that come twice"),
        (
            lambda shape, seed, step, first: np.repeat(drawn(shape[1:], 1, seed, step)[None], shape[0], 0),
            "samples with one draw",
        ),
        (lambda shape, seed, step, first: np.repeat(drawn(shape, 1, seed, step)[:, :1], shape[1], 1), "draws that come twice"),
        (lambda shape, seed, step, first: np.repeat(drawn(shape, 1, seed, step)[..., :1], shape[2], 2), "not standard normal"),
        (lambda shape, seed, step, first: drawn(shape, 1, seed, step) + 0.5, "not standard normal"),
        (lambda shape, seed, step, first: drawn(shape, 1, seed, step, first), "another call, other draws"),
    ],
)
def test_a_fault_of_training_noise_is_seen(wrong: Any, count: str) -> None:
    assert f"training: {count}" in broken(training=wrong)


@pytest.mark.parametrize(
    ("wrong", "count"),
    [
        (lambda shape, seed, image, block: drawn(shape, 2, image, block), "draws that come twice"),
        (lambda shape, seed, image, block: drawn(shape, 2, seed, block), "draws that come twice"),
        (lambda shape, seed, image, block: drawn(shape, 2, seed, image), "draws that come twice"),
        (
            lambda shape, seed, image, block: np.repeat(drawn(shape, 2, seed, image, block)[:1], NOISE_BLOCK, 0),
            "draws that come twice",
        ),
        (lambda shape, seed, image, block: drawn(shape, 2, seed, image, block) * 1.2, "not standard normal"),
        (lambda shape, seed, image, block: np.random.default_rng().standard_normal(shape), "another call, other draws"),
    ],
)
def test_a_fault_of_evaluation_noise_is_seen(wrong: Any, count: str) -> None:
    assert f"evaluation: {count}" in broken(evaluation=wrong)


def test_a_draw_of_both_is_seen() -> None:
    both = "training and evaluation: draws in both"
    assert broken(evaluation=lambda shape, seed, image, block: drawn(shape, 1, seed, image)) >= {both}
    assert broken(training=lambda shape, seed, step, first: drawn(shape, 2, seed, 0, step)) == {both}
