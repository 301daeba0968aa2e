"""The flow is a flow: its log-det is that of its Jacobian, in each backend."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from common.config import Config
from common.masks import made_masks
from common.parameters import State, fresh_state, initial_parameters
from tests.parity.conftest import deviation, random_state, session, small

Jacobian = Callable[[Config, State, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def pytorch_jacobian(config: Config, state: State, z: np.ndarray, context: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    import torch

    flow = session("pytorch", config, state).vae.flow
    h = torch.tensor(context)
    jacobian = torch.autograd.functional.jacobian(lambda z: flow(z[None, None], h[None])["z"][0, 0], torch.tensor(z))
    return jacobian.numpy(), flow(torch.tensor(z)[None, None], h[None])["log_det"].detach().numpy()


def jax_jacobian(config: Config, state: State, z: np.ndarray, context: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    import jax

    s = session("jax", config, state)
    flow = s._vae(s.parameters).flow
    z, context = jax.numpy.asarray(z), jax.numpy.asarray(context)
    jacobian = jax.jacobian(lambda z: flow(z[None, None], context[None])["z"][0, 0])(z)
    return np.asarray(jacobian), np.asarray(flow(z[None, None], context[None])["log_det"])


def tensorflow_jacobian(config: Config, state: State, z: np.ndarray, context: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    import tensorflow as tf

    flow = session("tensorflow", config, state).vae.flow
    point, h = tf.constant(z), tf.constant(context)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(point)
        result = flow(point[None, None], h[None])
        out = result["z"][0, 0]
    return tape.jacobian(out, point, experimental_use_pfor=False).numpy(), result["log_det"].numpy()


JACOBIANS: dict[str, Jacobian] = {"pytorch": pytorch_jacobian, "jax": jax_jacobian, "tensorflow": tensorflow_jacobian}


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_log_det_is_that_of_the_jacobian(backend: str, depth: int) -> None:
    config = small("flow", flow_depth=depth, latent_size=5)
    draws = np.random.default_rng(depth)
    for size in (0.1, 1.0, 10.0):
        z, context = size * draws.normal(size=5), draws.normal(size=5)
        jacobian, log_det = JACOBIANS[backend](config, random_state(config), z, context)
        sign, expected = np.linalg.slogdet(jacobian)
        assert sign == (-1) ** ((depth - 1) * (5 // 2))  # each reversal of five latents swaps two pairs
        assert abs(log_det.item() - expected) < 1e-10 * max(1, abs(expected))


def test_the_jacobian_is_zero_where_the_mask_says_so(backend: str) -> None:
    config = small("flow", flow_depth=1, latent_size=5, hidden_size=40)
    draws = np.random.default_rng(0)
    jacobian, _ = JACOBIANS[backend](config, random_state(config), draws.normal(size=5), draws.normal(size=5))
    assert (jacobian[np.triu_indices(5, k=1)] == 0).all()
    assert (jacobian[np.tril_indices(5)] != 0).all()


def test_every_latent_of_every_block_moves_with_the_image(backend: str) -> None:
    config = small("flow", flow_depth=2)
    s = session(backend, config, random_state(config))
    handle = s.place(np.eye(12, dtype=np.uint8))
    noise = np.zeros((1, 12, 4))
    q = s.inspect(handle, np.arange(12, dtype=np.int32), noise=noise, kl_weight=1.0)
    for name in ("flow.blocks.0.z", "flow.blocks.1.z"):
        assert (q[name][0].std(0) > 1e-3).all()


def test_a_new_block_scales_by_the_gate_exactly(backend: str) -> None:
    config = small("flow", flow_depth=1, data_bias=False)
    initial = initial_parameters(config.model, training=config.training, pixel_log_odds=np.zeros(12))
    state = fresh_state(initial, optimizer=config.optimizer, training=config.training, dtype="float64")
    s = session(backend, config, state)
    noise = np.random.default_rng(0).normal(size=(1, 12, 4))
    q = s.inspect(s.place(np.eye(12, dtype=np.uint8)), np.arange(12, dtype=np.int32), noise=noise, kl_weight=1.0)
    assert deviation(q["z"], q["base_z"] / (1 + np.exp(-2.0))) < 1e-14


def test_far_out_values_and_gradients_are_finite(backend: str) -> None:
    config = small("flow")
    state = {k: v * (30 if "made.out" in k else 1) for k, v in random_state(config).items()}
    s = session(backend, config, state)
    noise = 1e3 * np.random.default_rng(0).normal(size=(1, 12, 4))
    q = s.inspect(s.place(np.eye(12, dtype=np.uint8)), np.arange(12, dtype=np.int32), noise=noise, kl_weight=1.0)
    for name, value in q.items():
        assert np.isfinite(value).all(), name


def test_masks_compose_to_strictly_earlier_latents() -> None:
    for latent, hidden in ((1, 3), (2, 7), (5, 11), (8, 4), (128, 512)):
        masks = {name: mask.astype(np.int64) for name, mask in made_masks(latent_size=latent, hidden_size=hidden).items()}
        reach = masks["first"] @ masks["second"] @ masks["out"]
        assert reach.shape == (latent, 2 * latent)
        for half in (reach[:, :latent], reach[:, latent:]):
            assert (half[np.tril_indices(latent)] == 0).all()
            if hidden >= latent:
                assert (half[np.triu_indices(latent, k=1)] > 0).all()
        # Every output has a path from the context, which enters all hidden units of the first layer.
        assert ((masks["second"] @ masks["out"]).sum(0) > 0).all()
