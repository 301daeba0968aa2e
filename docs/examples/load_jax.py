"""Weights from `python -m benchmarks export CHECKPOINT --to jax`, in plain Flax NNX. Copy it: nothing of vaebench is used.

    python load_jax.py model.msgpack inputs.npz outputs.npz

inputs:  images [batch, pixels] of 0 and 1; noise [batch, latent], standard normal
outputs: loc, scale [batch, latent]; z ~ q(z|x) [batch, latent]; log_q [batch]; probabilities p(x = 1|z) [batch, pixels]
"""

import math
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, serialization


class MLP(nnx.Module):
    def __init__(self, inputs, hidden, outputs, **options):
        self.first = nnx.Linear(inputs, hidden, **options)
        self.second = nnx.Linear(hidden, hidden, **options)
        self.out = nnx.Linear(hidden, outputs, **options)

    def __call__(self, x):
        return self.out(nnx.relu(self.second(nnx.relu(self.first(x)))))


class MADE(nnx.Module):
    """Autoregressive without a mask: the masked weights are 0 in the file."""

    def __init__(self, latent, hidden, **options):
        self.first = nnx.Linear(latent, hidden, **options)
        self.context = nnx.Linear(latent, hidden, use_bias=False, **options)
        self.second = nnx.Linear(hidden, hidden, **options)
        self.out = nnx.Linear(hidden, 2 * latent, **options)

    def __call__(self, z, context):
        hidden = nnx.relu(self.first(z) + self.context(context))
        return jnp.split(self.out(nnx.relu(self.second(hidden))), 2, axis=-1)


class Block(nnx.Module):
    def __init__(self, latent, hidden, **options):
        self.made = MADE(latent, hidden, **options)
        self.gate_bias = nnx.Param(jnp.zeros(latent))

    def __call__(self, z, context):
        m, s = self.made(z, context)
        s = s + self.gate_bias
        gate = nnx.sigmoid(s)
        return gate * z + (1 - gate) * m, nnx.log_sigmoid(s).sum(-1)


class Flow(nnx.Module):
    def __init__(self, latent, hidden, depth, **options):
        self.blocks = nnx.List([Block(latent, hidden, **options) for _ in range(depth)])

    def __call__(self, z, context):
        log_det = 0
        for i, block in enumerate(self.blocks):
            z, block_log_det = block(z if i == 0 else jnp.flip(z, -1), context)  # reversed between two blocks
            log_det = log_det + block_log_det
        return z, log_det


class VAE(nnx.Module):
    """A mean-field model has depth 0."""

    def __init__(self, pixels, latent, hidden, depth, **options):
        self.encoder = MLP(pixels, hidden, (3 if depth else 2) * latent, **options)
        self.flow = Flow(latent, hidden, depth, **options) if depth else None
        self.decoder = MLP(latent, hidden, pixels, **options)

    def encode(self, x):
        """loc and scale of q's Gaussian base and, for a flow, the context."""
        loc, s, *context = jnp.split(self.encoder(x), 3 if self.flow else 2, axis=-1)
        return loc, nnx.softplus(s), *context

    def sample(self, x, noise):
        """z ~ q(z|x) and log q(z|x)."""
        loc, scale, *context = self.encode(x)
        z = loc + scale * noise
        log_q = -0.5 * (jnp.square(noise) + math.log(2 * math.pi)).sum(-1) - jnp.log(scale).sum(-1)
        if self.flow:
            z, log_det = self.flow(z, *context)
            log_q = log_q - log_det
        return z, log_q

    def decode(self, z):
        """p(x = 1|z)."""
        return nnx.sigmoid(self.decoder(z))


def load(path):
    weights = nnx.restore_int_paths(serialization.msgpack_restore(Path(path).read_bytes()))
    pixels, hidden = weights["encoder"]["first"]["kernel"].shape
    latent = weights["decoder"]["first"]["kernel"].shape[0]
    depth = len(weights["flow"]["blocks"]) if "flow" in weights else 0
    dtype = weights["decoder"]["out"]["bias"].dtype
    vae = VAE(pixels, latent, hidden, depth, dtype=dtype, param_dtype=dtype, rngs=nnx.Rngs(0))
    state = nnx.state(vae, nnx.Param)
    nnx.replace_by_pure_dict(state, weights)
    nnx.update(vae, state)
    return vae


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)  # for a model in float64
    vae = load(sys.argv[1])
    dtype = vae.decoder.out.bias.dtype
    with np.load(sys.argv[2]) as inputs:
        images, noise = (jnp.asarray(inputs[name], dtype) for name in ("images", "noise"))
    loc, scale, *_ = vae.encode(images)
    z, log_q = vae.sample(images, noise)
    np.savez(sys.argv[3], loc=loc, scale=scale, z=z, log_q=log_q, probabilities=vae.decode(z))
