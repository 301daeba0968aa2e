"""The model in NumPy, written from its definition and from no backend: what the three are held against.

z ← gate·z + (1 − gate)·m, gate = σ(s + gate_bias), (m, s) = MADE(z; h) (Kingma et al. 2016, eq. 10-14). Everything is float64.
"""

from __future__ import annotations

import numpy as np

from common.config import Config, Model
from common.parameters import State


def masks(latent: int, hidden: int) -> dict[str, np.ndarray]:
    """MADE's three masks, [in, out] each, entry by entry."""
    degrees = [i * latent // hidden for i in range(hidden)]
    latents = list(range(1, latent + 1))
    return {
        "first": np.array([[float(i <= d) for d in degrees] for i in latents]),
        "second": np.array([[float(c <= d) for d in degrees] for c in degrees]),
        "out": np.array([[float(d < o) for o in latents + latents] for d in degrees]),
    }


def dependencies(model: Model, *, depth: int, reverse: bool = True) -> np.ndarray:
    """Whether output i of `depth` blocks can depend on latent j, bool [outputs, latents]: the masks, composed.

    A block's output i is a function of its own latent and of those that have a path through the three masks to m_i or s_i.
    """
    n = model.latent_size
    mask = masks(n, model.hidden_size)
    paths = (mask["first"] @ mask["second"] @ mask["out"] > 0).reshape(n, 2, n).any(1).T
    block = (paths | np.eye(n, dtype=bool)).astype(int)
    result = block
    for _ in range(depth - 1):
        result = block @ (result[::-1] if reverse else result)
    return result > 0


def linear(state: State, name: str, x: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    weight = state[f"parameters/{name}.weight"].astype(np.float64)
    bias = state.get(f"parameters/{name}.bias")
    out = x @ (weight if mask is None else weight * mask)
    return out if bias is None else out + bias.astype(np.float64)


def mlp(state: State, name: str, x: np.ndarray) -> np.ndarray:
    """inputs → hidden → hidden → outputs, ReLU between."""
    x = np.maximum(linear(state, f"{name}.first", x), 0)
    x = np.maximum(linear(state, f"{name}.second", x), 0)
    return linear(state, f"{name}.out", x)


def block(state: State, i: int, z: np.ndarray, context: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(z, log gate) after block i, [samples, batch, latent] each, for z of that shape and context [batch, latent]."""
    name = f"flow.blocks.{i}"
    latent, hidden = state[f"parameters/{name}.made.first.weight"].shape
    mask = masks(latent, hidden)
    x = linear(state, f"{name}.made.first", z, mask["first"]) + linear(state, f"{name}.made.context", context)
    x = np.maximum(linear(state, f"{name}.made.second", np.maximum(x, 0), mask["second"]), 0)
    m, s = np.split(linear(state, f"{name}.made.out", x, mask["out"]), 2, axis=-1)
    s = s + state[f"parameters/{name}.gate_bias"].astype(np.float64)
    log_gate, log_rest = -np.logaddexp(0, -s), -np.logaddexp(0, s)
    return np.exp(log_gate) * z + np.exp(log_rest) * m, log_gate


def flow(config: Config, state: State, z: np.ndarray, context: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(z, log gate) after all blocks, [samples, batch, latent] and [depth, samples, batch, latent]."""
    log_gates = []
    for i in range(config.model.flow_depth):
        z, log_gate = block(state, i, z[..., ::-1] if i > 0 else z, context)
        log_gates.append(log_gate)
    return z, np.stack(log_gates)


def log_normal(x: np.ndarray) -> np.ndarray:
    """log N(x; 0, I) of the last axis."""
    return -0.5 * (x**2 + np.log(2 * np.pi)).sum(-1)


def log_likelihood(state: State, x: np.ndarray, z: np.ndarray) -> np.ndarray:
    """log p(x|z), [samples, batch], for images [batch, pixels] and latents [samples, batch, latent]."""
    logits = mlp(state, "decoder", z)
    return (x * logits - np.logaddexp(0, logits)).sum(-1)


def log_weights(config: Config, state: State, x: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """log p(x|z) + log p(z) − log q(z|x), [samples, batch], for images [batch, pixels], noise [samples, batch, latent]."""
    loc, s, *context = np.split(mlp(state, "encoder", x), 3 if config.model.variational == "flow" else 2, axis=-1)
    scale = np.logaddexp(0, s)
    z, log_q = loc + scale * noise, log_normal(noise) - np.log(scale).sum(-1)
    if context:
        z, log_gates = flow(config, state, z, context[0])
        log_q = log_q - log_gates.sum((0, -1))
    return log_likelihood(state, x, z) + log_normal(z) - log_q
