"""The encoder's and the decoder's network."""

import keras
import tensorflow as tf
from jaxtyping import Float

from backends.tensorflow.shapes import checked


class MLP(keras.layers.Layer):
    """inputs → hidden → hidden → outputs, ReLU between."""

    def __init__(self, inputs: int, hidden: int, outputs: int, *, dtype: str):
        super().__init__(dtype=dtype)
        self.first = keras.layers.Dense(hidden, dtype=dtype)
        self.second = keras.layers.Dense(hidden, dtype=dtype)
        self.out = keras.layers.Dense(outputs, dtype=dtype)
        self.first.build((None, inputs))
        self.second.build((None, hidden))
        self.out.build((None, hidden))

    @checked
    def call(self, x: Float[tf.Tensor, "*rows inputs"]) -> Float[tf.Tensor, "*rows outputs"]:
        x = tf.nn.relu(self.first(x))
        x = tf.nn.relu(self.second(x))
        return self.out(x)
