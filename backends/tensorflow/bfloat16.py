"""The product of a layer in bfloat16, forward and backward, written so that XLA computes it fast on a CPU.

XLA has a fast product of bfloat16 there. It uses it only for a float32 result, and only where no transposition is folded into
the left factor; otherwise it converts both factors to float32 first: see docs/bfloat16.md.
"""

import tensorflow as tf


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
        gradient = tf.cast(gradient, tf.bfloat16)  # it is one already, converted to float32 by the rounding of the result
        # Transpose through a third axis, so that XLA doesn't fold it into the product.
        transposed = tf.reshape(tf.transpose(x[None], (2, 0, 1)), x.shape[::-1])
        return tf.cast(_sum(gradient, weight, transpose_b=True), tf.bfloat16), _sum(transposed, gradient, transpose_b=False)

    return _sum(x, weight, transpose_b=False), backward


def _sum(left: tf.Tensor, right: tf.Tensor, *, transpose_b: bool) -> tf.Tensor:
    if tf.executing_eagerly():  # outside XLA TensorFlow lacks this product; in float32 the product of two bfloat16 is exact too
        left, right = tf.cast(left, tf.float32), tf.cast(right, tf.float32)
    return tf.matmul(left, right, transpose_b=transpose_b, output_type=tf.float32)
