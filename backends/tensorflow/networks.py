"""The encoder's and the decoder's network, and its layer."""

import keras
import tensorflow as tf
from jaxtyping import Float

from backends.tensorflow.shapes import checked


class Linear(keras.layers.Dense):
    """x·weight + bias, all three rounded to `factors`, which is the result's dtype too; parameters are of `dtype`."""

    def __init__(self, inputs: int, outputs: int, *, use_bias: bool, dtype: str, factors: str):
        super().__init__(outputs, use_bias=use_bias, dtype=dtype, autocast=factors == dtype)
        self.factors = factors
        self.build((None, inputs))

    def call(self, x: tf.Tensor) -> tf.Tensor:
        if self.factors != "bfloat16":
            return super().call(x)
        return bfloat16_linear(x, self.kernel.value, self.bias.value if self.use_bias else None)


class MLP(keras.layers.Layer):
    """inputs → hidden → hidden → outputs, ReLU between; `factors` is the dtype inside, that of x the result's."""

    def __init__(self, inputs: int, hidden: int, outputs: int, *, dtype: str, factors: str):
        super().__init__(dtype=dtype)
        self.first = Linear(inputs, hidden, use_bias=True, dtype=dtype, factors=factors)
        self.second = Linear(hidden, hidden, use_bias=True, dtype=dtype, factors=factors)
        self.out = Linear(hidden, outputs, use_bias=True, dtype=dtype, factors=factors)

    @checked
    def call(self, x: Float[tf.Tensor, "*rows inputs"]) -> Float[tf.Tensor, "*rows outputs"]:
        hidden = tf.nn.relu(self.first(x))
        hidden = tf.nn.relu(self.second(hidden))
        return tf.cast(self.out(hidden), x.dtype)


# XLA has a fast product of bfloat16 on a CPU, but takes it only for a float32 result, and only where no transposition of the
# left factor, which it would fold into the product, makes it convert both factors to float32 first: see docs/bfloat16.md.


def bfloat16_linear(x: tf.Tensor, weight: tf.Tensor, bias: tf.Tensor | None) -> tf.Tensor:
    """x·weight + bias, [*rows, inputs]·[inputs, outputs] + [outputs]: all three are rounded to bfloat16, and so is the sum."""
    rows = tf.cast(tf.reshape(x, (-1, x.shape[-1])), tf.bfloat16)
    result = bfloat16_product(rows, tf.convert_to_tensor(weight))
    if bias is not None:
        result = result + tf.cast(tf.cast(bias, tf.bfloat16), tf.float32)
    return tf.reshape(tf.cast(result, tf.bfloat16), (*x.shape[:-1], weight.shape[-1]))


@tf.custom_gradient
def bfloat16_product(x: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    """x·weight in float32, x bfloat16 [rows, inputs], the weight rounded; x's gradient is bfloat16, the weight's float32."""
    weight = tf.cast(weight, tf.bfloat16)

    def backward(gradient: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        gradient = tf.cast(gradient, tf.bfloat16)  # which it was before it passed the result's rounding
        # Through three axes, a transposition is none that XLA would fold.
        transposed = tf.reshape(tf.transpose(x[None], (2, 0, 1)), x.shape[::-1])
        return tf.cast(_sum(gradient, weight, transpose_b=True), tf.bfloat16), _sum(transposed, gradient, transpose_b=False)

    return _sum(x, weight, transpose_b=False), backward


def _sum(left: tf.Tensor, right: tf.Tensor, *, transpose_b: bool) -> tf.Tensor:
    if tf.executing_eagerly():  # TensorFlow outside XLA lacks this product; in float32, those of two bfloat16 are exact too
        left, right = tf.cast(left, tf.float32), tf.cast(right, tf.float32)
    return tf.matmul(left, right, transpose_b=transpose_b, output_type=tf.float32)
