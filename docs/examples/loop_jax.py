"""The mean-field model trained by a plain JAX loop, with nothing of this suite, which is measured against it."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

LOG_2_PI = math.log(2 * math.pi)


def mlp(key: Array, sizes: tuple[int, ...]) -> list[tuple[Array, Array]]:
    keys = jax.random.split(key, len(sizes) - 1)
    layers = zip(keys, sizes[:-1], sizes[1:], strict=True)
    return [(jax.random.normal(k, (m, n), jnp.float32) / math.sqrt(m), jnp.zeros(n, jnp.float32)) for k, m, n in layers]


def apply(layers: list[tuple[Array, Array]], x: Array) -> Array:
    for weight, bias in layers[:-1]:
        x = jax.nn.relu(x @ weight + bias)
    weight, bias = layers[-1]
    return x @ weight + bias


def create(images: np.ndarray, *, hidden: int, latent: int, learning_rate: float) -> Callable[[np.ndarray], np.ndarray]:
    """A function that trains on the minibatches `rows` [steps, batch] and returns their ELBOs [steps], in nats per image."""
    key, encoder, decoder = jax.random.split(jax.random.key(0), 3)
    pixels = images.shape[1]
    parameters = {
        "encoder": mlp(encoder, (pixels, hidden, hidden, 2 * latent)),
        "decoder": mlp(decoder, (latent, hidden, hidden, pixels)),
    }
    optimizer = optax.adam(learning_rate)
    carry = (parameters, optimizer.init(parameters), key)
    data = jnp.asarray(images)

    def loss(parameters: Any, x: Array, noise: Array) -> Array:
        loc, s = jnp.split(apply(parameters["encoder"], x), 2, axis=-1)
        scale = jax.nn.softplus(s)
        z = loc + scale * noise
        log_q = -0.5 * (noise**2 + LOG_2_PI).sum(-1) - jnp.log(scale).sum(-1)
        log_p_z = -0.5 * (z**2 + LOG_2_PI).sum(-1)
        log_p_x = -optax.sigmoid_binary_cross_entropy(apply(parameters["decoder"], z), x).sum(-1)
        return -(log_p_x + log_p_z - log_q).mean()

    @functools.partial(jax.jit, donate_argnums=0)
    def scan(carry: Any, data: Array, rows: Array) -> tuple[Any, Array]:
        def step(carry: Any, batch: Array) -> tuple[Any, Array]:
            parameters, moments, key = carry
            key, own = jax.random.split(key)
            noise = jax.random.normal(own, (len(batch), latent), jnp.float32)
            value, gradient = jax.value_and_grad(loss)(parameters, data[batch].astype(jnp.float32), noise)
            updates, moments = optimizer.update(gradient, moments)
            return (optax.apply_updates(parameters, updates), moments, key), -value

        return jax.lax.scan(step, carry, rows)

    def train(rows: np.ndarray) -> np.ndarray:
        nonlocal carry
        carry, elbos = scan(carry, data, rows)
        return np.asarray(elbos)

    return train
