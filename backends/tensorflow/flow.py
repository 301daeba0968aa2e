"""Autoregressive flows: the posterior's (Kingma et al. 2016, eq. 10-14), and the prior's, without a context."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from jaxtyping import Float

from backends.tensorflow.bfloat16 import bfloat16_linear
from backends.tensorflow.networks import Linear
from backends.tensorflow.shapes import Quantities, checked
from common.masks import made_masks


class MaskedLinear(Linear):
    """x·(weight ∘ mask) + bias, all three and the result rounded to `factors`."""

    def __init__(self, mask: np.ndarray, *, dtype: str, factors: str):
        inputs, outputs = mask.shape
        super().__init__(inputs, outputs, use_bias=True, dtype=dtype, factors=factors)
        self.mask = tf.constant(mask, dtype)

    @checked
    def call(self, x: Float[tf.Tensor, "*rows inputs"]) -> Float[tf.Tensor, "*rows outputs"]:
        if self.factors == "bfloat16":
            return bfloat16_linear(x, self.kernel * self.mask, self.bias.value)
        return tf.tensordot(x, self.kernel * self.mask, axes=1) + self.bias


class MADE(keras.layers.Layer):
    """(m, s) of each latent from the latents before it and, where it `has_context`, the context (Germain et al. 2015)."""

    def __init__(self, latent: int, hidden: int, *, has_context: bool, dtype: str, factors: str):
        super().__init__(dtype=dtype)
        masks = made_masks(latent_size=latent, hidden_size=hidden)
        self.first = MaskedLinear(masks["first"], dtype=dtype, factors=factors)
        self.context = Linear(latent, hidden, use_bias=False, dtype=dtype, factors=factors) if has_context else None
        self.second = MaskedLinear(masks["second"], dtype=dtype, factors=factors)
        self.out = MaskedLinear(masks["out"], dtype=dtype, factors=factors)

    @checked
    def call(
        self, z: Float[tf.Tensor, "samples batch latent"], context: Float[tf.Tensor, "batch latent"] | None
    ) -> tuple[Float[tf.Tensor, "samples batch latent"], Float[tf.Tensor, "samples batch latent"]]:
        if (self.context is None) != (context is None):
            raise ValueError("A MADE takes a context exactly where it was made for one.")
        hidden = self.first(z)
        if self.context is not None and context is not None:
            hidden = hidden + self.context(context)
        hidden = tf.nn.relu(self.second(tf.nn.relu(hidden)))
        m, s = tf.split(tf.cast(self.out(hidden), z.dtype), 2, axis=-1)
        return m, s


class Block(keras.layers.Layer):
    """z ← gate·z + (1 − gate)·m with gate = σ(s + gate_bias); its log|det ∂z'/∂z| is Σ log gate."""

    def __init__(self, latent: int, hidden: int, *, has_context: bool, dtype: str, factors: str):
        super().__init__(dtype=dtype)
        self.made = MADE(latent, hidden, has_context=has_context, dtype=dtype, factors=factors)
        self.gate_bias = self.add_weight(shape=(latent,), dtype=dtype, name="gate_bias")

    @checked
    def call(
        self, z: Float[tf.Tensor, "samples batch latent"], context: Float[tf.Tensor, "batch latent"] | None
    ) -> tuple[Float[tf.Tensor, "samples batch latent"], Float[tf.Tensor, "samples batch"]]:
        m, s = self.made(z, context)
        s = s + self.gate_bias
        gate = tf.sigmoid(s)
        return gate * z + (1 - gate) * m, tf.reduce_sum(tf.math.log_sigmoid(s), -1)

    @checked
    def inverse(
        self, z: Float[tf.Tensor, "samples batch latent"], context: Float[tf.Tensor, "batch latent"] | None
    ) -> Float[tf.Tensor, "samples batch latent"]:
        """The point that the block takes to z: latent by latent, since (m, s) of each depend on those before it."""
        index = tf.range(z.shape[-1])
        point = tf.zeros_like(z)
        for i in range(z.shape[-1]):
            m, s = self.made(point, context)
            gate = tf.sigmoid(s + self.gate_bias)
            point = tf.where(index == i, (z - (1 - gate) * m) / gate, point)
        return point


class Flow(keras.layers.Layer):
    """Blocks in a row; the latent axis is reversed between two of them."""

    def __init__(self, latent: int, hidden: int, depth: int, *, has_context: bool, dtype: str, factors: str):
        super().__init__(dtype=dtype)
        options: Any = {"has_context": has_context, "dtype": dtype, "factors": factors}
        self.blocks = [Block(latent, hidden, **options) for _ in range(depth)]

    @checked
    def call(self, z: Float[tf.Tensor, "samples batch latent"], context: Float[tf.Tensor, "batch latent"] | None) -> Quantities:
        """Each block's z and log_det under `blocks.I.`, the last z as `z` and the sum of all log-dets as `log_det`."""
        quantities: Quantities = {}
        log_det = tf.zeros_like(z[..., 0])
        for i, block in enumerate(self.blocks):
            if i > 0:
                z = tf.reverse(z, [-1])
            z, block_log_det = block(z, context)
            log_det = log_det + block_log_det
            quantities |= {f"blocks.{i}.z": z, f"blocks.{i}.log_det": block_log_det}
        return quantities | {"z": z, "log_det": log_det}

    @checked
    def inverse(
        self, z: Float[tf.Tensor, "samples batch latent"], context: Float[tf.Tensor, "batch latent"] | None
    ) -> Float[tf.Tensor, "samples batch latent"]:
        """The point that the blocks take to z."""
        for i in reversed(range(len(self.blocks))):
            point = self.blocks[i].inverse(z, context)
            z = tf.reverse(point, [-1]) if i else point
        return z
