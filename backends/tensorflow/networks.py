"""The encoder's and the decoder's network, and its layer."""

import keras
import tensorflow as tf
from jaxtyping import Float

from backends.tensorflow.bfloat16 import bfloat16_linear
from backends.tensorflow.shapes import Masks, checked
from common.config import Model


class Linear(keras.layers.Dense):
    """x·weight + bias, all three and the result rounded to `factors`; the parameters are of `dtype`."""

    def __init__(self, inputs: int, outputs: int, *, use_bias: bool, dtype: str, factors: str):
        super().__init__(outputs, use_bias=use_bias, dtype=dtype, autocast=factors == dtype)
        self.factors = factors
        self.build((None, inputs))

    def call(self, x: tf.Tensor) -> tf.Tensor:
        if self.factors != "bfloat16":
            return super().call(x)
        return bfloat16_linear(x, self.kernel.value, self.bias.value if self.use_bias else None)


@checked
def dropped(x: Float[tf.Tensor, "*rows units"], masks: Masks, layer: str) -> Float[tf.Tensor, "*rows units"]:
    """x times the layer's mask; x itself where no mask is given, as in evaluation."""
    return x * tf.cast(masks[layer], x.dtype) if layer in masks else x


class MLP(keras.layers.Layer):
    """inputs → hidden → hidden → outputs, ReLU between; computes in dtype `factors` and returns x's dtype."""

    def __init__(self, model: Model, inputs: int, outputs: int, *, dtype: str, factors: str):
        super().__init__(dtype=dtype)
        hidden = model.hidden_size
        self.first = Linear(inputs, hidden, use_bias=True, dtype=dtype, factors=factors)
        self.second = Linear(hidden, hidden, use_bias=True, dtype=dtype, factors=factors)
        self.out = Linear(hidden, outputs, use_bias=True, dtype=dtype, factors=factors)

    @checked
    def call(self, x: Float[tf.Tensor, "*rows inputs"], masks: Masks) -> Float[tf.Tensor, "*rows outputs"]:
        hidden = dropped(tf.nn.relu(self.first(x)), masks, "first")
        hidden = dropped(tf.nn.relu(self.second(hidden)), masks, "second")
        return tf.cast(self.out(hidden), x.dtype)
