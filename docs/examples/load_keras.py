"""Weights from `python -m benchmarks export CHECKPOINT --to keras`, in plain Keras. Copy it: nothing of vaebench is used.

    python load_keras.py model.weights.h5 inputs.npz outputs.npz [ROWS COLUMNS]

inputs:  images [batch, pixels] of 0 and 1; noise [batch, latent], standard normal
outputs: loc, scale, z ~ q(z|x) [batch, latent]; log_q, log_p_z [batch]; probabilities p(x = 1|z) [batch, pixels]

ROWS and COLUMNS are an image's, where the network is `resnet` and the image isn't a square.

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


def halved(x):
    """[images, rows, columns, channels]: the channels of a place are those of its 2 × 2 places."""
    n, rows, columns, channels = x.shape
    x = ops.transpose(ops.reshape(x, (n, rows // 2, 2, columns // 2, 2, channels)), (0, 1, 3, 2, 4, 5))
    return ops.reshape(x, (n, rows // 2, columns // 2, 4 * channels))


def doubled(x):
    n, rows, columns, channels = x.shape
    x = ops.transpose(ops.reshape(x, (n, rows, columns, 2, 2, channels // 4)), (0, 1, 3, 2, 4, 5))
    return ops.reshape(x, (n, 2 * rows, 2 * columns, channels // 4))


class Convolution(keras.layers.Layer):
    def __init__(self, inputs, outputs, biases, **options):
        super().__init__(**options)
        self.kernel = self.add_weight(shape=(3, 3, inputs, outputs), name="kernel")
        self.bias = self.add_weight(shape=(biases,), name="bias")
        self.built = True

    def product(self, x):
        return ops.conv(x, self.kernel, padding="same", data_format="channels_last")

    def call(self, x):
        return self.product(x) + self.bias


class Residual(keras.layers.Layer):
    def __init__(self, channels, **options):
        super().__init__(**options)
        self.first = Convolution(channels, channels, channels, **options)
        self.second = Convolution(channels, channels, channels, **options)

    def call(self, h):
        return h + self.second(ops.silu(self.first(ops.silu(h))))


def through(blocks, h):
    for block in blocks:
        h = block(h)
    return h


class Encoder(keras.layers.Layer):
    def __init__(self, image_shape, channels, blocks, hidden, outputs, **options):
        super().__init__(**options)
        self.image_shape = image_shape
        self.first = dense(4, channels, **options)
        self.fine = [Residual(channels, **options) for _ in range(blocks)]
        self.down = dense(4 * channels, 2 * channels, **options)
        self.coarse = [Residual(2 * channels, **options) for _ in range(blocks)]
        self.hidden = dense(math.prod(image_shape) // 16 * 2 * channels, hidden, **options)
        self.out = dense(hidden, outputs, **options)

    def call(self, x):
        h = through(self.fine, self.first(halved(ops.reshape(2 * x - 1, (len(x), *self.image_shape, 1)))))
        h = ops.reshape(ops.silu(through(self.coarse, self.down(halved(h)))), (len(x), -1))
        return self.out(ops.silu(self.hidden(h)))


class Decoder(keras.layers.Layer):
    def __init__(self, image_shape, channels, blocks, hidden, latent, **options):
        super().__init__(**options)
        self.map = (image_shape[0] // 4, image_shape[1] // 4, 2 * channels)
        self.first = dense(latent, hidden, **options)
        self.hidden = dense(hidden, math.prod(self.map), **options)
        self.coarse = [Residual(2 * channels, **options) for _ in range(blocks)]
        self.up = dense(2 * channels, 4 * channels, **options)
        self.fine = [Residual(channels, **options) for _ in range(blocks)]
        self.out = Convolution(channels, 4, math.prod(image_shape), **options)

    def call(self, z):
        h = through(self.coarse, ops.reshape(self.hidden(ops.silu(self.first(z))), (len(z), *self.map)))
        h = ops.silu(through(self.fine, doubled(self.up(h))))
        return ops.reshape(doubled(self.out.product(h)), (len(z), -1)) + self.out.bias


class MADE(keras.layers.Layer):
    """Autoregressive without a mask: the masked weights are 0 in the file."""

    def __init__(self, latent, hidden, has_context, **options):
        super().__init__(**options)
        self.first = dense(latent, hidden, **options)
        self.context = dense(latent, hidden, use_bias=False, **options) if has_context else None
        self.second = dense(hidden, hidden, **options)
        self.out = dense(hidden, 2 * latent, **options)

    def call(self, z, context):
        hidden = ops.relu(self.first(z) + (self.context(context) if self.context else 0))
        return ops.split(self.out(ops.relu(self.second(hidden))), 2, axis=-1)


class Block(keras.layers.Layer):
    def __init__(self, latent, hidden, has_context, **options):
        super().__init__(**options)
        self.made = MADE(latent, hidden, has_context, **options)
        self.gate_bias = self.add_weight(shape=(latent,), name="gate_bias")

    def call(self, z, context):
        m, s = self.made(z, context)
        s = s + self.gate_bias
        gate = ops.sigmoid(s)
        return gate * z + (1 - gate) * m, ops.sum(ops.log_sigmoid(s), -1)


class Flow(keras.layers.Layer):
    def __init__(self, latent, hidden, depth, has_context, **options):
        super().__init__(**options)
        self.blocks = [Block(latent, hidden, has_context, **options) for _ in range(depth)]

    def call(self, z, context):
        log_det = 0
        for i, block in enumerate(self.blocks):
            z, block_log_det = block(z if i == 0 else ops.flip(z, -1), context)  # reversed between two blocks
            log_det = log_det + block_log_det
        return z, log_det


class VAE(keras.Model):
    """A mean-field model has depth 0, and a standard prior prior_depth 0; an MLP has no residual blocks."""

    def __init__(self, image_shape, latent, hidden, depth, prior_depth, channels, blocks, **options):
        super().__init__(**options)
        pixels, outputs = math.prod(image_shape), (3 if depth else 2) * latent
        sizes = (image_shape, channels, blocks, hidden)
        self.encoder = Encoder(*sizes, outputs, **options) if blocks else MLP(pixels, hidden, outputs, **options)
        self.flow = Flow(latent, hidden, depth, True, **options) if depth else None
        self.prior = Flow(latent, hidden, prior_depth, False, **options) if prior_depth else None
        self.decoder = Decoder(*sizes, latent, **options) if blocks else MLP(latent, hidden, pixels, **options)
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

    def log_prior(self, z):
        """log p(z)."""
        u, log_det = self.prior(z, None) if self.prior else (z, 0)
        return -0.5 * ops.sum(ops.square(u) + math.log(2 * math.pi), -1) + log_det

    def decode(self, z):
        """p(x = 1|z)."""
        return ops.sigmoid(self.decoder(z))


def load(path, *image_shape):
    with h5py.File(path) as file:  # the sizes; the weights themselves are for Keras to read
        latent, hidden = file["decoder/first/vars/0"].shape
        pixels = len(file["decoder/out/vars/1"])
        depths = [len(file[f"{name}/blocks"]) if name in file else 0 for name in ("flow", "prior")]
        blocks = len(file["encoder/fine"]) if "fine" in file["encoder"] else 0
        channels = len(file["encoder/first/vars/1"])
        dtype = str(file["decoder/out/vars/1"].dtype)
    square = math.isqrt(pixels) ** 2 == pixels
    shape = image_shape or ((math.isqrt(pixels),) * 2 if square else (1, pixels))
    vae = VAE(shape, latent, hidden, *depths, channels, blocks, dtype=dtype)
    vae.load_weights(path)
    return vae


if __name__ == "__main__":
    vae = load(sys.argv[1], *map(int, sys.argv[4:]))
    dtype = vae.decoder.out.bias.dtype
    with np.load(sys.argv[2]) as inputs:
        images, noise = (ops.convert_to_tensor(inputs[name], dtype) for name in ("images", "noise"))
    loc, scale, *_ = vae.encode(images)
    z, log_q = vae.sample(images, noise)
    outputs = {"loc": loc, "scale": scale, "z": z, "log_q": log_q, "log_p_z": vae.log_prior(z)}
    outputs["probabilities"] = vae.decode(z)
    np.savez(sys.argv[3], **{name: ops.convert_to_numpy(value) for name, value in outputs.items()})
