"""The estimators against exact answers: NumPy log weights of a linear-Gaussian model."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from common import estimators


class LinearGaussian:
    """z ~ N(0,1), x|z ~ N(z,1), q(z|x) = N(x/2 + 0.3, 1/2): p(x) = N(0, 2), and KL(q‖posterior) is known."""

    def __init__(self, x: np.ndarray, *, shift: float):
        self.x, self.shift = x, shift
        self.asked: list[range] = []

    def log_weights(self, handle: Any, indices: np.ndarray, *, samples: range, seed: int, noise: None) -> np.ndarray:
        self.asked.append(samples)
        draws = np.stack(
            [np.random.default_rng((seed, int(i))).standard_normal(10**5)[samples.start : samples.stop] for i in indices], 1
        )
        x = self.x[indices]
        z = x / 2 + self.shift + draws * np.sqrt(0.5)

        def log_normal(value: np.ndarray, mean: Any, variance: float) -> np.ndarray:
            return -0.5 * ((value - mean) ** 2 / variance + np.log(2 * np.pi * variance))

        return log_normal(z, 0, 1) + log_normal(x, z, 1) - log_normal(z, x / 2 + self.shift, 0.5)


X = np.random.default_rng(0).normal(size=50) * np.sqrt(2)
EXACT = float((-0.5 * (X**2 / 2 + np.log(2 * np.pi * 2))).mean())


def judge(model: LinearGaussian, samples: int, **changes: int) -> estimators.Estimates:
    settings = {"seed": 0, "image_batch": 7, "sample_block": 100} | changes
    images = np.arange(50, dtype=np.int32)
    return estimators.estimate(model, None, images=images, samples=samples, report=lambda n: None, **settings)  # type: ignore[arg-type]


def test_an_exact_posterior_gives_log_px_with_one_sample() -> None:
    result = judge(LinearGaussian(X, shift=0), 1)
    assert abs(result.elbo - EXACT) < 1e-12
    assert abs(result.log_px - EXACT) < 1e-12
    assert abs(judge(LinearGaussian(X, shift=0), 40).ess - 40) < 1e-9


def test_elbo_falls_short_by_the_kl_and_log_px_converges() -> None:
    model = LinearGaussian(X, shift=0.3)
    kl = 0.3**2 / (2 * 0.5)
    few, many = judge(model, 20), judge(model, 20_000)
    assert abs(many.elbo - (EXACT - kl)) < 5 * 0.6 / np.sqrt(50 * 20_000)
    assert abs(many.log_px - EXACT) < 5 * 0.5 / np.sqrt(50 * 20_000)
    assert few.elbo < few.log_px < EXACT + 0.05


@pytest.mark.parametrize("samples", [1, 2, 24, 25, 26, 99, 100, 101, 1000])
def test_exactly_k_samples(samples: int) -> None:
    model = LinearGaussian(X, shift=0.3)
    result = judge(model, samples, sample_block=60)
    assert result.importance_samples == samples
    covered = sorted({k for asked in model.asked for k in asked})
    assert covered == list(range(samples))
    assert sum(len(asked) for asked in model.asked) == samples * -(-50 // 7)


def test_blocks_change_nothing() -> None:
    model = LinearGaussian(X, shift=0.3)
    whole, parts = (dataclasses.asdict(judge(model, 130, **c)) for c in ({}, {"image_batch": 50, "sample_block": 25}))
    assert parts == pytest.approx(whole, rel=1e-12)


def test_far_apart_weights_do_not_overflow() -> None:
    log_w = np.array([[-1e5, 800.0], [-1e5 + np.log(3), -800.0]])
    assert np.allclose(estimators.log_mean_exp(log_w), [-1e5 + np.log(2), 800 - np.log(2)])
    assert np.allclose(estimators.effective_sample_size(log_w), [16 / 10, 1])


def test_the_standard_error_is_that_of_the_mean() -> None:
    draws = np.random.default_rng(0).normal(size=(2000, 50)) * 3
    errors = [estimators.standard_error(row) for row in draws]
    assert abs(np.mean(errors) / draws.mean(1).std() - 1) < 0.1
