"""The convolutional residual network: its blocks begin with the activation (He et al. 2016b), and nothing is normalized.

An image is [images, rows, columns, channels] throughout.
"""

import math
from typing import Any

import keras
import tensorflow as tf
from jaxtyping import Float

from backends.tensorflow.networks import Linear
from backends.tensorflow.shapes import Masks, checked
from common.config import Model


@checked
def to_channels(x: Float[tf.Tensor, "images rows columns channels"]) -> Float[tf.Tensor, "images half_rows half_columns more"]:
    """Half the sides: the channels of a place are those of its 2 × 2 places, row by row."""
    n, rows, columns, channels = x.shape
    x = tf.transpose(tf.reshape(x, (n, rows // 2, 2, columns // 2, 2, channels)), (0, 1, 3, 2, 4, 5))
    return tf.reshape(x, (n, rows // 2, columns // 2, 4 * channels))


@checked
def to_space(x: Float[tf.Tensor, "images rows columns channels"]) -> Float[tf.Tensor, "images twice_rows twice_columns fewer"]:
    """The inverse of `to_channels`."""
    n, rows, columns, channels = x.shape
    x = tf.transpose(tf.reshape(x, (n, rows, columns, 2, 2, channels // 4)), (0, 1, 3, 2, 4, 5))
    return tf.reshape(x, (n, 2 * rows, 2 * columns, channels // 4))


@checked
def silu(x: Float[tf.Tensor, "*shape"]) -> Float[tf.Tensor, "*shape"]:
    """x·σ(x) (Elfwing et al. 2018), of a bfloat16 x computed in float32 and rounded once."""
    return tf.cast(tf.nn.silu(tf.cast(x, tf.float32) if x.dtype == tf.bfloat16 else x), x.dtype)


@tf.custom_gradient
@checked
def convolved(
    x: Float[tf.Tensor, "images rows columns inputs"], kernel: Float[tf.Tensor, "3 3 inputs outputs"]
) -> tuple[Float[tf.Tensor, "images rows columns outputs"], Any]:
    """Σ over i, j, a of x[n, r + i − 1, c + j − 1, a] · kernel[i, j, a, b], [n, r, c, b], with zeros around the image.

    And the function of its gradients: that of x is a convolution by the turned kernel.
    """

    def backward(result_gradient: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        turned = tf.transpose(tf.reverse(kernel, (0, 1)), (0, 1, 3, 2))
        return convolved(result_gradient, turned), kernel_gradient(x, result_gradient)

    return tf.nn.conv2d(x, kernel, strides=1, padding=((0, 0), (1, 1), (1, 1), (0, 0))), backward


@checked
def kernel_gradient(
    x: Float[tf.Tensor, "images rows columns inputs"], result_gradient: Float[tf.Tensor, "images rows columns outputs"]
) -> Float[tf.Tensor, "3 3 inputs outputs"]:
    """Σ over n, r, c of x[n, r, c, a] · result_gradient[n, r + 1 − i, c + 1 − j, b], [i, j, a, b]: a product for each row i.

    Within a loop on a CPU, XLA's own gradient of the kernel is some eighty times slower: see docs/resnet.md.
    """
    (_, rows, columns, inputs), outputs = x.shape, result_gradient.shape[-1]
    padded = tf.pad(result_gradient, ((0, 0), (1, 1), (1, 1), (0, 0)))
    moved = tf.concat([padded[:, :, 2 - j : 2 - j + columns] for j in range(3)], axis=-1)
    wide = tf.float32 if x.dtype == tf.bfloat16 else x.dtype
    left = tf.cast(tf.reshape(x, (-1, inputs)), wide)
    rights = [tf.reshape(moved[:, 2 - i : 2 - i + rows], (-1, 3 * outputs)) for i in range(3)]
    products = [tf.matmul(left, tf.cast(right, wide), transpose_a=True) for right in rights]
    return tf.transpose(tf.reshape(tf.cast(tf.stack(products), x.dtype), (3, inputs, 3, outputs)), (0, 2, 1, 3))


class Convolution(keras.layers.Layer):
    """3 × 3. x, weight and bias are rounded to `factors`, and so are product and sum."""

    def __init__(self, inputs: int, outputs: int, *, biases: int, dtype: str, factors: str):
        super().__init__(dtype=dtype, autocast=factors == dtype)
        self.factors = factors
        self.kernel = self.add_weight(shape=(3, 3, inputs, outputs), dtype=dtype, name="kernel")
        self.bias = self.add_weight(shape=(biases,), dtype=dtype, name="bias")
        self.built = True  # also where `product` alone is called

    @checked
    def product(self, x: Float[tf.Tensor, "images rows columns inputs"]) -> Float[tf.Tensor, "images rows columns outputs"]:
        return convolved(tf.cast(x, self.factors), tf.cast(self.kernel, self.factors))

    @checked
    def call(self, x: Float[tf.Tensor, "images rows columns inputs"]) -> Float[tf.Tensor, "images rows columns outputs"]:
        return self.plus_bias(self.product(x))

    def plus_bias(self, product: tf.Tensor) -> tf.Tensor:
        """Summed in float32 at least, and rounded once: so is the bias's gradient, a sum over images."""
        wide = tf.float32 if product.dtype == tf.bfloat16 else product.dtype
        return tf.cast(tf.cast(product, wide) + tf.cast(tf.cast(self.bias, self.factors), wide), product.dtype)


class Residual(keras.layers.Layer):
    """h + second(dropout(silu(first(silu(h))))); dropout drops channels (Tompson et al. 2015)."""

    def __init__(self, channels: int, *, dtype: str, factors: str):
        super().__init__(dtype=dtype, autocast=factors == dtype)
        self.first = Convolution(channels, channels, biases=channels, dtype=dtype, factors=factors)
        self.second = Convolution(channels, channels, biases=channels, dtype=dtype, factors=factors)

    @checked
    def call(
        self, h: Float[tf.Tensor, "images rows columns channels"], channel_mask: Float[tf.Tensor, "*images channels"] | None
    ) -> Float[tf.Tensor, "images rows columns channels"]:
        hidden = silu(self.first(silu(h)))
        if channel_mask is not None:
            hidden = hidden * tf.cast(tf.reshape(channel_mask, (-1, 1, 1, channel_mask.shape[-1])), hidden.dtype)
        return h + self.second(hidden)


class Encoder(keras.layers.Layer):
    """2x − 1 → half the sides → a quarter → hidden → outputs; computes in dtype `factors` and returns x's dtype."""

    def __init__(self, model: Model, inputs: int, outputs: int, *, dtype: str, factors: str):
        super().__init__(dtype=dtype)
        self.image, channels = model.image_shape, model.channels
        self.first = Linear(4, channels, use_bias=True, dtype=dtype, factors=factors)
        self.fine = [Residual(channels, dtype=dtype, factors=factors) for _ in range(model.blocks)]
        self.down = Linear(4 * channels, 2 * channels, use_bias=True, dtype=dtype, factors=factors)
        self.coarse = [Residual(2 * channels, dtype=dtype, factors=factors) for _ in range(model.blocks)]
        self.hidden = Linear(inputs // 16 * 2 * channels, model.hidden_size, use_bias=True, dtype=dtype, factors=factors)
        self.out = Linear(model.hidden_size, outputs, use_bias=True, dtype=dtype, factors=factors)

    @checked
    def call(self, x: Float[tf.Tensor, "*rows inputs"], masks: Masks) -> Float[tf.Tensor, "*rows outputs"]:
        images = math.prod(x.shape[:-1])
        h = self.first(to_channels(tf.reshape(2 * x - 1, (images, *self.image, 1))))
        for i, block in enumerate(self.fine):
            h = block(h, masks.get(f"fine.{i}.first"))
        h = self.down(to_channels(h))
        for i, block in enumerate(self.coarse):
            h = block(h, masks.get(f"coarse.{i}.first"))
        h = tf.reshape(silu(h), (*x.shape[:-1], math.prod(h.shape[1:])))
        h = silu(self.hidden(h))
        return tf.cast(self.out(h), x.dtype)


class Decoder(keras.layers.Layer):
    """latents → hidden → a quarter of the sides → half → pixels; computes in dtype `factors` and returns z's dtype."""

    def __init__(self, model: Model, inputs: int, outputs: int, *, dtype: str, factors: str):
        super().__init__(dtype=dtype)
        (rows, columns), channels = model.image_shape, model.channels
        self.image = (rows // 4, columns // 4, 2 * channels)
        self.first = Linear(inputs, model.hidden_size, use_bias=True, dtype=dtype, factors=factors)
        self.hidden = Linear(model.hidden_size, math.prod(self.image), use_bias=True, dtype=dtype, factors=factors)
        self.coarse = [Residual(2 * channels, dtype=dtype, factors=factors) for _ in range(model.blocks)]
        self.up = Linear(2 * channels, 4 * channels, use_bias=True, dtype=dtype, factors=factors)
        self.fine = [Residual(channels, dtype=dtype, factors=factors) for _ in range(model.blocks)]
        self.out = Convolution(channels, 4, biases=outputs, dtype=dtype, factors=factors)

    @checked
    def call(self, z: Float[tf.Tensor, "*rows inputs"], masks: Masks) -> Float[tf.Tensor, "*rows outputs"]:
        h = silu(self.first(z))
        h = tf.reshape(self.hidden(h), (math.prod(z.shape[:-1]), *self.image))
        for i, block in enumerate(self.coarse):
            h = block(h, masks.get(f"coarse.{i}.first"))
        h = to_space(self.up(h))
        for i, block in enumerate(self.fine):
            h = block(h, masks.get(f"fine.{i}.first"))
        # A bias for each pixel: added once the channels have become pixels.
        h = tf.reshape(to_space(self.out.product(silu(h))), (*z.shape[:-1], self.out.bias.shape[0]))
        return tf.cast(self.out.plus_bias(h), z.dtype)
