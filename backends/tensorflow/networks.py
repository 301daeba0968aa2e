"""The encoder's and the decoder's network, and its layer."""

import keras
import tensorflow as tf
from jaxtyping import BFloat16, Float

from backends.tensorflow.shapes import checked


class Linear(keras.layers.Dense):
    """x·weight + bias, all three rounded to `factors`, which is the result's dtype too; parameters are of `dtype`."""

    def __init__(self, inputs: int, outputs: int, *, use_bias: bool, dtype: str, factors: str):
        super().__init__(outputs, use_bias=use_bias, dtype=dtype if factors == dtype else f"mixed_{factors}")
        self.build((None, inputs))

    @checked
    def call(self, x: Float[tf.Tensor, "*rows inputs"]) -> Float[tf.Tensor, "*rows outputs"]:
        if self.compute_dtype != "bfloat16":
            return super().call(x)
        result = bfloat16_dot(x, tf.convert_to_tensor(self.kernel))
        return result + self.bias if self.use_bias else result


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


@tf.custom_gradient
def bfloat16_product(
    x: BFloat16[tf.Tensor, "rows inputs"], weight: BFloat16[tf.Tensor, "inputs outputs"]
) -> BFloat16[tf.Tensor, "rows outputs"]:
    """x·weight, summed in float32; its gradients too."""

    def backward(gradient: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # Through three axes, a transposition is none that XLA would fold.
        transposed = tf.reshape(tf.transpose(x[None], (2, 0, 1)), x.shape[::-1])
        return _sum(gradient, weight, transpose_b=True), _sum(transposed, gradient, transpose_b=False)

    return _sum(x, weight, transpose_b=False), backward


def _sum(left: tf.Tensor, right: tf.Tensor, *, transpose_b: bool) -> tf.Tensor:
    if tf.executing_eagerly():  # TensorFlow outside XLA lacks this product; in float32, those of two bfloat16 are exact too
        left, right = tf.cast(left, tf.float32), tf.cast(right, tf.float32)
    return tf.cast(tf.matmul(left, right, transpose_b=transpose_b, output_type=tf.float32), tf.bfloat16)


def bfloat16_dot(x: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    """[*rows, inputs]·[inputs, outputs]."""
    rows = tf.reshape(x, (-1, x.shape[-1]))
    return tf.reshape(bfloat16_product(rows, weight), (*x.shape[:-1], weight.shape[-1]))
