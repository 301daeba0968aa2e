"""Each backend's log weights, judged by the one estimator."""

from __future__ import annotations

import numpy as np

from common import estimators
from tests.parity.conftest import IMAGES, deviation, random_state, session, small

SETTINGS = {"seed": 3, "report": lambda images: None}


def test_log_px_is_at_least_the_elbo_on_independent_draws(backend: str, family: str) -> None:
    config = small(family)
    s = session(backend, config, random_state(config))
    handle, images = s.place(IMAGES), np.arange(100, dtype=np.int32)
    one = estimators.estimate(s, handle, images=images, samples=200, image_batch=50, sample_block=100, **SETTINGS)
    other = estimators.estimate(
        s, handle, images=images, samples=200, image_batch=50, sample_block=100, **SETTINGS | {"seed": 4}
    )
    error = np.hypot(one.log_px_se, other.elbo_se)
    assert one.log_px > other.elbo - 2 * error
    assert one.log_px > one.elbo


def test_batches_and_blocks_change_nothing(backend: str, family: str) -> None:
    config = small(family)
    s = session(backend, config, random_state(config))
    handle, images = s.place(IMAGES), np.arange(7, 100, dtype=np.int32)
    results = [
        np.concatenate(
            list(estimators.stream(s, handle, images=images, samples=60, seed=3, image_batch=b, sample_block=k)), axis=1
        )
        for b, k in ((93, 60), (20, 25), (64, 30))
    ]
    assert results[0].shape == (60, 93)
    for other in results[1:]:
        assert deviation(other, results[0]) < 1e-12


def test_log_px_is_the_integral_over_a_one_dimensional_latent(backend: str, family: str) -> None:
    """p(x) = ∫ p(z) p(x|z) dz on a grid, by NumPy from the backend's decoder."""
    config = small(family, latent_size=1)
    s = session(backend, config, random_state(config))
    grid = np.linspace(-9, 9, 4001)
    p = s.decode(grid[:, None])
    images = np.arange(5, dtype=np.int32)
    x = IMAGES[images].astype(float)
    log_p_x_given_z = np.log(p) @ x.T + np.log1p(-p) @ (1 - x).T
    joint = np.exp(log_p_x_given_z) * np.exp(-0.5 * grid**2)[:, None] / np.sqrt(2 * np.pi)
    exact = np.log(np.trapezoid(joint, grid, axis=0))
    log_w = s.log_weights(s.place(IMAGES), images, samples=range(20_000), seed=0, noise=None)
    error = np.exp(log_w - log_w.max(0)).std(0) / np.exp(log_w - log_w.max(0)).mean(0) / np.sqrt(len(log_w))
    assert (np.abs(estimators.log_mean_exp(log_w) - exact) < 5 * error).all()
    assert np.median(error) < 0.1
