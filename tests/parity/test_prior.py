"""The flow prior: its density is a density, its log-det is its Jacobian's, and its draws are those that the density says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from common.config import Config
from common.protocol import BACKENDS, Session
from tests.parity.conftest import IMAGES, deviation, random_state, session, small

ROWS = np.arange(40, 60, dtype=np.int32)
NOISE = np.random.default_rng(2).normal(size=(3, 20, 4))


def with_prior(backend: str, **changes: object) -> tuple[Config, Session]:
    config = small("mean-field", prior="flow", **changes)
    return config, session(backend, config, random_state(config))


def density(backend: str, s: Any, z: np.ndarray) -> np.ndarray:
    """log p(z) of points [points, latent], by the backend's own function."""
    if backend == "pytorch":
        import torch

        return s.vae.prior_density(torch.tensor(z)[None])["log_p_z"][0].detach().numpy()
    if backend == "jax":
        import jax

        return np.asarray(jax.jit(lambda z: s._vae(s.parameters).prior_density(z[None])["log_p_z"][0])(z))
    import tensorflow as tf

    return s.vae.prior_density(tf.constant(z)[None])["log_p_z"][0].numpy()


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_density_integrates_to_one(backend: str) -> None:
    """Over a grid of two latents. Far from 0 a block is affine with gates of about σ(2), and its tails are Gaussian."""
    _, s = with_prior(backend, latent_size=2, prior_depth=3)
    axis = np.linspace(-40, 40, 801)
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    log_p = density(backend, s, grid)
    assert np.exp(log_p).sum() * (axis[1] - axis[0]) ** 2 == pytest.approx(1, abs=1e-3)
    assert np.exp(log_p.reshape(801, 801))[[0, -1]].max() < 1e-6, "the grid is too small"


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_log_det_is_the_jacobians(backend: str) -> None:
    """By the framework's own reverse mode, of u = f(z) with three blocks."""
    _, s = with_prior(backend, prior_depth=3)
    points = np.random.default_rng(3).normal(size=(7, 4))
    value, jacobian = by_reverse_mode(backend, s, points)
    slogdet = np.linalg.slogdet(jacobian)[1]
    log_normal = -0.5 * (value**2 + np.log(2 * np.pi)).sum(-1)
    assert deviation(density(backend, s, points), log_normal + slogdet) < 1e-12


def by_reverse_mode(backend: str, s: Any, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """u [points, latent] and ∂u/∂z [points, latent, latent]."""
    if backend == "pytorch":
        import torch

        points = torch.tensor(z)
        u = torch.func.vmap(lambda z: s.vae.prior(z[None, None], None)["z"][0, 0])
        jacobian = torch.func.vmap(torch.func.jacrev(lambda z: s.vae.prior(z[None, None], None)["z"][0, 0]))
        with torch.no_grad():
            return u(points).numpy(), jacobian(points).numpy()
    if backend == "jax":
        import jax

        def f(z: Any) -> Any:
            return s._vae(s.parameters).prior(z[None, None], None)["z"][0, 0]

        return np.asarray(jax.vmap(f)(z)), np.asarray(jax.jit(jax.vmap(jax.jacrev(f)))(z))
    import tensorflow as tf

    points = tf.constant(z)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(points)
        u = s.vae.prior(points[None], None)["z"][0]
    return u.numpy(), tape.batch_jacobian(u, points, experimental_use_pfor=False).numpy()


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_prior_makes_z_of_noise(backend: str) -> None:
    """The blocks take each z of `prior` back to its noise."""
    _, s = with_prior(backend, prior_depth=3)
    z = s.prior(NOISE[0])
    value, _ = by_reverse_mode(backend, s, z)
    assert deviation(value, NOISE[0]) < 1e-10
    assert deviation(z, NOISE[0]) > 0.1


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_standard_prior_leaves_the_noise(backend: str) -> None:
    config = small("flow")
    s = session(backend, config, random_state(config))
    assert np.array_equal(s.prior(NOISE[0]), NOISE[0])
    assert not [name for name in s.state() if "prior" in name]


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_log_weights_have_the_priors_density(backend: str) -> None:
    config, s = with_prior(backend)
    q = s.inspect(s.place(IMAGES), ROWS, noise=NOISE, kl_weight=1.0)
    assert deviation(q["log_p_z"][0], density(backend, s, q["z"][0])) < 1e-12
    assert deviation(q["log_weights"], q["log_p_x_given_z"] + q["log_p_z"] - q["log_q"]) < 1e-12
    assert config.model.prior_depth == 4
