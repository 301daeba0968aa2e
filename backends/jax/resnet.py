"""The convolutional residual network: its blocks begin with the activation (He et al. 2016b), and nothing is normalized.

An image is [images, rows, columns, channels] throughout.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from backends.jax.networks import Linear
from backends.jax.shapes import Masks, checked
from common.config import Model


@checked
def to_channels(x: Float[Array, "images rows columns channels"]) -> Float[Array, "images half_rows half_columns more"]:
    """Half the sides: the channels of a place are those of its 2 × 2 places, row by row."""
    n, rows, columns, channels = x.shape
    x = x.reshape(n, rows // 2, 2, columns // 2, 2, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(n, rows // 2, columns // 2, 4 * channels)


@checked
def to_space(x: Float[Array, "images rows columns channels"]) -> Float[Array, "images twice_rows twice_columns fewer"]:
    """The inverse of `to_channels`."""
    n, rows, columns, channels = x.shape
    x = x.reshape(n, rows, columns, 2, 2, channels // 4).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(n, 2 * rows, 2 * columns, channels // 4)


@checked
def silu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """x·σ(x) (Elfwing et al. 2018), of a bfloat16 x computed in float32 and rounded once."""
    return nnx.silu(x.astype(jnp.promote_types(x.dtype, jnp.float32))).astype(x.dtype)


@jax.custom_vjp
@checked
def convolved(
    x: Float[Array, "images rows columns inputs"], kernel: Float[Array, "3 3 inputs outputs"]
) -> Float[Array, "images rows columns outputs"]:
    """Σ over i, j, a of x[n, r + i − 1, c + j − 1, a] · kernel[i, j, a, b], [n, r, c, b], with zeros around the image."""
    return jax.lax.conv_general_dilated(
        x, kernel, window_strides=(1, 1), padding=((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@checked
def kernel_gradient(
    x: Float[Array, "images rows columns inputs"], result_gradient: Float[Array, "images rows columns outputs"]
) -> Float[Array, "3 3 inputs outputs"]:
    """Σ over n, r, c of x[n, r, c, a] · result_gradient[n, r + 1 − i, c + 1 − j, b], [i, j, a, b]: a product for each row i.

    Within a loop on a CPU, XLA's own gradient of the kernel is some eighty times slower: see docs/resnet.md.
    """
    (_, rows, columns, inputs), outputs = x.shape, result_gradient.shape[-1]
    padded = jnp.pad(result_gradient, ((0, 0), (1, 1), (1, 1), (0, 0)))
    moved = jnp.concatenate([padded[:, :, 2 - j : 2 - j + columns] for j in range(3)], axis=-1)
    wide = jnp.promote_types(x.dtype, jnp.float32)
    left = x.reshape(-1, inputs).T
    rights = [moved[:, 2 - i : 2 - i + rows].reshape(-1, 3 * outputs) for i in range(3)]
    products = [jnp.matmul(left, right, preferred_element_type=wide) for right in rights]
    return jnp.stack(products).astype(x.dtype).reshape(3, inputs, 3, outputs).swapaxes(1, 2)


def _backward(saved: tuple[Array, Array], result_gradient: Array) -> tuple[Array, Array]:
    """The gradients of x and of the kernel. That of x is a convolution by the turned kernel."""
    x, kernel = saved
    turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    return convolved(result_gradient, turned), kernel_gradient(x, result_gradient)


convolved.defvjp(lambda x, kernel: (convolved(x, kernel), (x, kernel)), _backward)


class Convolution(nnx.Module):
    """3 × 3. x, weight and bias are rounded to `factors`, and so are product and sum."""

    def __init__(self, inputs: int, outputs: int, *, biases: int, dtype: DTypeLike, factors: DTypeLike, rngs: nnx.Rngs):
        self.factors = factors
        self.kernel = nnx.Param(jnp.zeros((3, 3, inputs, outputs), dtype))
        self.bias = nnx.Param(jnp.zeros(biases, dtype))

    @checked
    def product(self, x: Float[Array, "images rows columns inputs"]) -> Float[Array, "images rows columns outputs"]:
        return convolved(x.astype(self.factors), self.kernel[...].astype(self.factors))

    @checked
    def __call__(self, x: Float[Array, "images rows columns inputs"]) -> Float[Array, "images rows columns outputs"]:
        return self.plus_bias(self.product(x))

    def plus_bias(self, product: Array) -> Array:
        """Summed in float32 at least, and rounded once: so is the bias's gradient, a sum over images."""
        wide = jnp.promote_types(product.dtype, jnp.float32)
        return (product.astype(wide) + self.bias[...].astype(self.factors).astype(wide)).astype(product.dtype)


class Residual(nnx.Module):
    """h + second(dropout(silu(first(silu(h))))); dropout drops channels (Tompson et al. 2015)."""

    def __init__(self, channels: int, *, dtype: DTypeLike, factors: DTypeLike, rngs: nnx.Rngs):
        options: Any = {"biases": channels, "dtype": dtype, "factors": factors, "rngs": rngs}
        self.first = Convolution(channels, channels, **options)
        self.second = Convolution(channels, channels, **options)

    @checked
    def __call__(
        self, h: Float[Array, "images rows columns channels"], channel_mask: Float[Array, "*images channels"] | None
    ) -> Float[Array, "images rows columns channels"]:
        hidden = silu(self.first(silu(h)))
        if channel_mask is not None:
            hidden = hidden * channel_mask.reshape(-1, 1, 1, channel_mask.shape[-1]).astype(hidden.dtype)
        return h + self.second(hidden)


class Encoder(nnx.Module):
    """2x − 1 → half the sides → a quarter → hidden → outputs; computes in dtype `factors` and returns x's dtype."""

    def __init__(self, model: Model, inputs: int, outputs: int, *, dtype: DTypeLike, factors: DTypeLike, rngs: nnx.Rngs):
        options: Any = {"dtype": dtype, "factors": factors, "rngs": rngs}
        self.image, channels = model.image_shape, model.channels
        self.first = Linear(4, channels, use_bias=True, **options)
        self.fine = nnx.List([Residual(channels, **options) for _ in range(model.blocks)])
        self.down = Linear(4 * channels, 2 * channels, use_bias=True, **options)
        self.coarse = nnx.List([Residual(2 * channels, **options) for _ in range(model.blocks)])
        self.hidden = Linear(inputs // 16 * 2 * channels, model.hidden_size, use_bias=True, **options)
        self.out = Linear(model.hidden_size, outputs, use_bias=True, **options)

    @checked
    def __call__(self, x: Float[Array, "*rows inputs"], masks: Masks) -> Float[Array, "*rows outputs"]:
        h = self.first(to_channels((2 * x - 1).reshape(-1, *self.image, 1)))
        for i, block in enumerate(self.fine):
            h = block(h, masks.get(f"fine.{i}.first"))
        h = self.down(to_channels(h))
        for i, block in enumerate(self.coarse):
            h = block(h, masks.get(f"coarse.{i}.first"))
        h = silu(h).reshape(*x.shape[:-1], -1)
        h = silu(self.hidden(h))
        return self.out(h).astype(x.dtype)


class Decoder(nnx.Module):
    """latents → hidden → a quarter of the sides → half → pixels; computes in dtype `factors` and returns z's dtype."""

    def __init__(self, model: Model, inputs: int, outputs: int, *, dtype: DTypeLike, factors: DTypeLike, rngs: nnx.Rngs):
        options: Any = {"dtype": dtype, "factors": factors, "rngs": rngs}
        (rows, columns), channels = model.image_shape, model.channels
        self.image = (rows // 4, columns // 4, 2 * channels)
        self.first = Linear(inputs, model.hidden_size, use_bias=True, **options)
        self.hidden = Linear(model.hidden_size, math.prod(self.image), use_bias=True, **options)
        self.coarse = nnx.List([Residual(2 * channels, **options) for _ in range(model.blocks)])
        self.up = Linear(2 * channels, 4 * channels, use_bias=True, **options)
        self.fine = nnx.List([Residual(channels, **options) for _ in range(model.blocks)])
        self.out = Convolution(channels, 4, biases=outputs, **options)

    @checked
    def __call__(self, z: Float[Array, "*rows inputs"], masks: Masks) -> Float[Array, "*rows outputs"]:
        h = silu(self.first(z))
        h = self.hidden(h).reshape(-1, *self.image)
        for i, block in enumerate(self.coarse):
            h = block(h, masks.get(f"coarse.{i}.first"))
        h = to_space(self.up(h))
        for i, block in enumerate(self.fine):
            h = block(h, masks.get(f"fine.{i}.first"))
        # A bias for each pixel: added once the channels have become pixels.
        h = to_space(self.out.product(silu(h))).reshape(*z.shape[:-1], -1)
        return self.out.plus_bias(h).astype(z.dtype)
