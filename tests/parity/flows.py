"""Each backend's flow and its derivatives, with NumPy at the border.

Points and contexts are [points, latent]; derivatives are by the framework's own reverse mode, one pass an output.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from common.protocol import Session


@dataclass(frozen=True)
class Value:
    """z [points, latent], log_det [points] and their derivatives by the points and by their contexts."""

    z: np.ndarray
    log_det: np.ndarray
    jacobian: np.ndarray  # ∂z'_i/∂z_j, [points, i, j]
    context_jacobian: np.ndarray  # ∂z'_i/∂h_j, [points, i, j]
    log_det_gradient: np.ndarray  # [points, latent]
    log_det_context_gradient: np.ndarray  # [points, latent]

    def arrays(self) -> dict[str, np.ndarray]:
        return dict(vars(self))


def pytorch(s: Session, z: np.ndarray, context: np.ndarray, block: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    import torch

    points, h = torch.tensor(z, requires_grad=True), torch.tensor(context, requires_grad=True)
    flow = s.vae.flow
    if block is None:
        result = flow(points[None], h)
        out, log_det = result["z"], result["log_det"]
    else:
        out, log_det = flow.blocks[block](points[None], h)
    columns = [*out[0].unbind(-1), log_det[0]]
    rows = [torch.autograd.grad(column.sum(), (points, h), retain_graph=True) for column in columns]
    by_z, by_h = (np.stack([row[k].numpy() for row in rows], 1) for k in (0, 1))
    return np.stack([column.detach().numpy() for column in columns], -1), by_z, by_h


def jax(s: Session, z: np.ndarray, context: np.ndarray, block: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    import jax
    import jax.numpy as jnp

    def columns(z, h):
        flow = s._vae(s.parameters).flow
        if block is None:
            result = flow(z[None, None], h[None])
            out, log_det = result["z"], result["log_det"]
        else:
            out, log_det = flow.blocks[block](z[None, None], h[None])
        value = jnp.append(out[0, 0], log_det[0, 0])
        return value, value

    (by_z, by_h), value = jax.jit(jax.vmap(jax.jacrev(columns, (0, 1), has_aux=True)))(z, context)
    return np.asarray(value), np.asarray(by_z), np.asarray(by_h)


def tensorflow(s: Session, z: np.ndarray, context: np.ndarray, block: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    import tensorflow as tf

    points, h = tf.constant(z), tf.constant(context)
    flow = s.vae.flow
    with tf.GradientTape(persistent=True) as tape:
        tape.watch((points, h))
        if block is None:
            result = flow(points[None], h)
            out, log_det = result["z"], result["log_det"]
        else:
            out, log_det = flow.blocks[block](points[None], h)
        columns = [*tf.unstack(out[0], axis=-1), log_det[0]]
    rows = [tape.gradient(column, (points, h)) for column in columns]
    by_z, by_h = (np.stack([row[k].numpy() for row in rows], 1) for k in (0, 1))
    return np.stack([column.numpy() for column in columns], -1), by_z, by_h


FLOWS: dict[str, Callable[..., tuple[np.ndarray, np.ndarray, np.ndarray]]] = {
    "pytorch": pytorch,
    "jax": jax,
    "tensorflow": tensorflow,
}


def evaluate(backend: str, s: Session, z: np.ndarray, context: np.ndarray, *, block: int | None = None) -> Value:
    """The whole flow, or one block of it, at these points. The last column that a backend gives is the log-det."""
    value, by_z, by_h = FLOWS[backend](s, z, context, block)
    return Value(value[:, :-1], value[:, -1], by_z[:, :-1], by_h[:, :-1], by_z[:, -1], by_h[:, -1])


def pytorch_block(s: Session, i: int) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    import torch

    return lambda z, context: s.vae.flow.blocks[i](torch.tensor(z)[None], torch.tensor(context))[0][0].detach().numpy()


def jax_block(s: Session, i: int) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    import jax

    return jax.jit(lambda z, context: s._vae(s.parameters).flow.blocks[i](z[None], context)[0][0])


def tensorflow_block(s: Session, i: int) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    import tensorflow as tf

    return lambda z, context: s.vae.flow.blocks[i](tf.constant(z)[None], tf.constant(context))[0][0].numpy()


BLOCKS = {"pytorch": pytorch_block, "jax": jax_block, "tensorflow": tensorflow_block}


def invert(backend: str, s: Session, z: np.ndarray, context: np.ndarray, *, depth: int) -> np.ndarray:
    """The points that the flow takes to z: block by block from the last, latent by latent in the block's order.

    An output is affine in its own latent, given those before it; its values at 0 and 1 therefore say where it is z. Nothing
    else of the flow is used, neither m nor the gate.
    """
    for i in reversed(range(depth)):
        block = BLOCKS[backend](s, i)
        found = np.zeros_like(z)
        for k in range(z.shape[-1]):
            found[:, k] = 0
            at_0 = np.asarray(block(found, context))[:, k]
            found[:, k] = 1
            at_1 = np.asarray(block(found, context))[:, k]
            found[:, k] = (z[:, k] - at_0) / (at_1 - at_0)
        z = found[:, ::-1].copy() if i > 0 else found
    return z
