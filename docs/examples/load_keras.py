"""Weights from `python -m benchmarks export CHECKPOINT --to keras`, in plain Keras. Copy it: nothing of vaebench is used.

    python load_keras.py model.weights.h5 inputs.npz outputs.npz

inputs:  images [batch, pixels] of 0 and 1; noise [batch, latent], standard normal
outputs: loc, scale [batch, latent]; z ~ q(z|x) [batch, latent]; log_q [batch]; probabilities p(x = 1|z) [batch, pixels]

It uses `keras.ops` alone, so that it runs on any of Keras's backends (KERAS_BACKEND=jax, torch or tensorflow).
"""

import math
import sys

import h5py
import keras
import numpy as np
from keras import ops


def dense(inputs, outputs, **options):
    layer = keras.layers.Dense(outputs, **options)
    layer.build((None, inputs))
    return layer


class MLP(keras.layers.Layer):
    def __init__(self, inputs, hidden, outputs, **options):
        super().__init__(**options)
        self.first = dense(inputs, hidden, **options)
        self.second = dense(hidden, hidden, **options)
        self.out = dense(hidden, outputs, **options)

    def call(self, x):
        return self.out(ops.relu(self.second(ops.relu(self.first(x)))))


class MADE(keras.layers.Layer):
    """Autoregressive without a mask: the masked weights are 0 in the file."""

    def __init__(self, latent, hidden, **options):
        super().__init__(**options)
        self.first = dense(latent, hidden, **options)
        self.context = dense(latent, hidden, use_bias=False, **options)
        self.second = dense(hidden, hidden, **options)
        self.out = dense(hidden, 2 * latent, **options)

    def call(self, z, context):
        hidden = ops.relu(self.first(z) + self.context(context))
        return ops.split(self.out(ops.relu(self.second(hidden))), 2, axis=-1)


class Block(keras.layers.Layer):
    def __init__(self, latent, hidden, **options):
        super().__init__(**options)
        self.made = MADE(latent, hidden, **options)
        self.gate_bias = self.add_weight(shape=(latent,), name="gate_bias")

    def call(self, z, context):
        m, s = self.made(z, context)
        s = s + self.gate_bias
        gate = ops.sigmoid(s)
        return gate * z + (1 - gate) * m, ops.sum(ops.log_sigmoid(s), -1)


class Flow(keras.layers.Layer):
    def __init__(self, latent, hidden, depth, **options):
        super().__init__(**options)
        self.blocks = [Block(latent, hidden, **options) for _ in range(depth)]

    def call(self, z, context):
        log_det = 0
        for i, block in enumerate(self.blocks):
            z, block_log_det = block(z if i == 0 else ops.flip(z, -1), context)  # reversed between two blocks
            log_det = log_det + block_log_det
        return z, log_det


class VAE(keras.Model):
    """A mean-field model has depth 0."""

    def __init__(self, pixels, latent, hidden, depth, **options):
        super().__init__(**options)
        self.encoder = MLP(pixels, hidden, (3 if depth else 2) * latent, **options)
        self.flow = Flow(latent, hidden, depth, **options) if depth else None
        self.decoder = MLP(latent, hidden, pixels, **options)
        self.built = True  # all its layers are

    def encode(self, x):
        """loc and scale of q's Gaussian base and, for a flow, the context."""
        loc, s, *context = ops.split(self.encoder(x), 3 if self.flow else 2, axis=-1)
        return loc, ops.softplus(s), *context

    def sample(self, x, noise):
        """z ~ q(z|x) and log q(z|x)."""
        loc, scale, *context = self.encode(x)
        z = loc + scale * noise
        log_q = -0.5 * ops.sum(ops.square(noise) + math.log(2 * math.pi), -1) - ops.sum(ops.log(scale), -1)
        if self.flow:
            z, log_det = self.flow(z, *context)
            log_q = log_q - log_det
        return z, log_q

    def decode(self, z):
        """p(x = 1|z)."""
        return ops.sigmoid(self.decoder(z))


def load(path):
    with h5py.File(path) as file:  # the sizes; the weights themselves are for Keras to read
        pixels, hidden = file["encoder/first/vars/0"].shape
        latent = file["decoder/first/vars/0"].shape[0]
        depth = len(file["flow/blocks"]) if "flow" in file else 0
        dtype = str(file["decoder/out/vars/1"].dtype)
    vae = VAE(pixels, latent, hidden, depth, dtype=dtype)
    vae.load_weights(path)
    return vae


if __name__ == "__main__":
    vae = load(sys.argv[1])
    dtype = vae.decoder.out.bias.dtype
    with np.load(sys.argv[2]) as inputs:
        images, noise = (ops.convert_to_tensor(inputs[name], dtype) for name in ("images", "noise"))
    loc, scale, *_ = vae.encode(images)
    z, log_q = vae.sample(images, noise)
    outputs = {"loc": loc, "scale": scale, "z": z, "log_q": log_q, "probabilities": vae.decode(z)}
    np.savez(sys.argv[3], **{name: ops.convert_to_numpy(value) for name, value in outputs.items()})
