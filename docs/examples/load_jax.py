"""Weights from `python -m benchmarks export CHECKPOINT --to jax`, in plain Flax NNX. Copy it: nothing of vaebench is used.

    python load_jax.py model.msgpack inputs.npz outputs.npz [ROWS COLUMNS]

inputs:  images [batch, pixels] of 0 and 1; noise [batch, latent], standard normal
outputs: loc, scale, z ~ q(z|x) [batch, latent]; log_q, log_p_z [batch]; probabilities p(x = 1|z) [batch, pixels]

ROWS and COLUMNS are an image's, where the network is `resnet` and the image isn't a square.
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


def halved(x):
    """[images, rows, columns, channels]: the channels of a place are those of its 2 × 2 places."""
    n, rows, columns, channels = x.shape
    x = x.reshape(n, rows // 2, 2, columns // 2, 2, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(n, rows // 2, columns // 2, 4 * channels)


def doubled(x):
    n, rows, columns, channels = x.shape
    x = x.reshape(n, rows, columns, 2, 2, channels // 4).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(n, 2 * rows, 2 * columns, channels // 4)


class Convolution(nnx.Module):
    def __init__(self, inputs, outputs, biases, *, dtype, **_):
        self.kernel = nnx.Param(jnp.zeros((3, 3, inputs, outputs), dtype))
        self.bias = nnx.Param(jnp.zeros(biases, dtype))

    def product(self, x):
        return jax.lax.conv_general_dilated(
            x, self.kernel[...], (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def __call__(self, x):
        return self.product(x) + self.bias


class Residual(nnx.Module):
    def __init__(self, channels, **options):
        self.first = Convolution(channels, channels, channels, **options)
        self.second = Convolution(channels, channels, channels, **options)

    def __call__(self, h):
        return h + self.second(nnx.silu(self.first(nnx.silu(h))))


def through(blocks, h):
    for block in blocks:
        h = block(h)
    return h


class Encoder(nnx.Module):
    def __init__(self, image_shape, channels, blocks, hidden, outputs, **options):
        self.image_shape = image_shape
        self.first = nnx.Linear(4, channels, **options)
        self.fine = nnx.List([Residual(channels, **options) for _ in range(blocks)])
        self.down = nnx.Linear(4 * channels, 2 * channels, **options)
        self.coarse = nnx.List([Residual(2 * channels, **options) for _ in range(blocks)])
        self.hidden = nnx.Linear(math.prod(image_shape) // 16 * 2 * channels, hidden, **options)
        self.out = nnx.Linear(hidden, outputs, **options)

    def __call__(self, x):
        h = through(self.fine, self.first(halved((2 * x - 1).reshape(-1, *self.image_shape, 1))))
        h = nnx.silu(through(self.coarse, self.down(halved(h)))).reshape(len(x), -1)
        return self.out(nnx.silu(self.hidden(h)))


class Decoder(nnx.Module):
    def __init__(self, image_shape, channels, blocks, hidden, latent, **options):
        self.map = (image_shape[0] // 4, image_shape[1] // 4, 2 * channels)
        self.first = nnx.Linear(latent, hidden, **options)
        self.hidden = nnx.Linear(hidden, math.prod(self.map), **options)
        self.coarse = nnx.List([Residual(2 * channels, **options) for _ in range(blocks)])
        self.up = nnx.Linear(2 * channels, 4 * channels, **options)
        self.fine = nnx.List([Residual(channels, **options) for _ in range(blocks)])
        self.out = Convolution(channels, 4, math.prod(image_shape), **options)

    def __call__(self, z):
        h = through(self.coarse, self.hidden(nnx.silu(self.first(z))).reshape(-1, *self.map))
        h = nnx.silu(through(self.fine, doubled(self.up(h))))
        return doubled(self.out.product(h)).reshape(len(z), -1) + self.out.bias


class MADE(nnx.Module):
    """Autoregressive without a mask: the masked weights are 0 in the file."""

    def __init__(self, latent, hidden, has_context, **options):
        self.first = nnx.Linear(latent, hidden, **options)
        self.context = nnx.Linear(latent, hidden, use_bias=False, **options) if has_context else None
        self.second = nnx.Linear(hidden, hidden, **options)
        self.out = nnx.Linear(hidden, 2 * latent, **options)

    def __call__(self, z, context):
        hidden = nnx.relu(self.first(z) + (self.context(context) if self.context else 0))
        return jnp.split(self.out(nnx.relu(self.second(hidden))), 2, axis=-1)


class Block(nnx.Module):
    def __init__(self, latent, hidden, has_context, **options):
        self.made = MADE(latent, hidden, has_context, **options)
        self.gate_bias = nnx.Param(jnp.zeros(latent))

    def __call__(self, z, context):
        m, s = self.made(z, context)
        s = s + self.gate_bias
        gate = nnx.sigmoid(s)
        return gate * z + (1 - gate) * m, nnx.log_sigmoid(s).sum(-1)


class Flow(nnx.Module):
    def __init__(self, latent, hidden, depth, has_context, **options):
        self.blocks = nnx.List([Block(latent, hidden, has_context, **options) for _ in range(depth)])

    def __call__(self, z, context):
        log_det = 0
        for i, block in enumerate(self.blocks):
            z, block_log_det = block(z if i == 0 else jnp.flip(z, -1), context)  # reversed between two blocks
            log_det = log_det + block_log_det
        return z, log_det


class VAE(nnx.Module):
    """A mean-field model has depth 0, and a standard prior prior_depth 0; an MLP has no residual blocks."""

    def __init__(self, image_shape, latent, hidden, depth, prior_depth, channels, blocks, **options):
        pixels, outputs = math.prod(image_shape), (3 if depth else 2) * latent
        sizes = (image_shape, channels, blocks, hidden)
        self.encoder = Encoder(*sizes, outputs, **options) if blocks else MLP(pixels, hidden, outputs, **options)
        self.flow = Flow(latent, hidden, depth, True, **options) if depth else None
        self.prior = Flow(latent, hidden, prior_depth, False, **options) if prior_depth else None
        self.decoder = Decoder(*sizes, latent, **options) if blocks else MLP(latent, hidden, pixels, **options)

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

    def log_prior(self, z):
        """log p(z)."""
        u, log_det = self.prior(z, None) if self.prior else (z, 0)
        return -0.5 * (jnp.square(u) + math.log(2 * math.pi)).sum(-1) + log_det

    def decode(self, z):
        """p(x = 1|z)."""
        return nnx.sigmoid(self.decoder(z))


def load(path, *image_shape):
    weights = nnx.restore_int_paths(serialization.msgpack_restore(Path(path).read_bytes()))
    latent, hidden = weights["decoder"]["first"]["kernel"].shape
    pixels = len(weights["decoder"]["out"]["bias"])
    square = math.isqrt(pixels) ** 2 == pixels
    shape = image_shape or ((math.isqrt(pixels),) * 2 if square else (1, pixels))
    depths = (len(weights[name]["blocks"]) if name in weights else 0 for name in ("flow", "prior"))
    blocks, channels = len(weights["encoder"].get("fine", ())), len(weights["encoder"]["first"]["bias"])
    dtype = weights["decoder"]["out"]["bias"].dtype
    vae = VAE(shape, latent, hidden, *depths, channels, blocks, dtype=dtype, param_dtype=dtype, rngs=nnx.Rngs(0))
    state = nnx.state(vae, nnx.Param)
    nnx.replace_by_pure_dict(state, weights)
    nnx.update(vae, state)
    return vae


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)  # for a model in float64
    vae = load(sys.argv[1], *map(int, sys.argv[4:]))
    dtype = vae.decoder.out.bias.dtype
    with np.load(sys.argv[2]) as inputs:
        images, noise = (jnp.asarray(inputs[name], dtype) for name in ("images", "noise"))
    loc, scale, *_ = vae.encode(images)
    z, log_q = vae.sample(images, noise)
    outputs = {"loc": loc, "scale": scale, "z": z, "log_q": log_q, "log_p_z": vae.log_prior(z)}
    np.savez(sys.argv[3], probabilities=vae.decode(z), **outputs)
