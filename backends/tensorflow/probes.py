"""What TensorFlow does only to be timed or counted: see `Probes` in common/protocol.py.

`programs_compiled` is the default, None: TensorFlow's own cache of XLA programs reports no hits.
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf
from jaxtyping import Float, Int, UInt8
from tensorflow.compiler.tf2xla.python import xla

from backends.tensorflow import devices
from backends.tensorflow.resnet import convolved, kernel_gradient
from backends.tensorflow.session import Session
from backends.tensorflow.shapes import checked
from backends.tensorflow.vae import log_weights, objective
from common.config import Device, Factors
from common.parameters import Product, factor_shapes


def products(*, products: list[Product], device: Device, dtype: Factors) -> Callable[[int], None]:
    """One compiled loop over the repeats, as a chunk is one over its steps. XLA removes no product.

    Every product is a result of the loop, and a barrier keeps the factors from being constants of the loop.
    """
    where, draws = devices.select(device), np.random.default_rng(0)
    factor = devices.rounded(dtype)
    summed = tf.float32 if factor == "bfloat16" else None
    with tf.device(where):
        pairs = [[tf.constant(draws.standard_normal(shape), factor) for shape in factor_shapes(sizes)] for sizes in products]

    def product(left: tf.Tensor, right: tf.Tensor, sizes: Product) -> tf.Tensor:
        if len(sizes) == 3:
            return tf.matmul(left, right, output_type=summed)
        *_, of_weight = sizes
        return kernel_gradient(left, right) if of_weight else convolved(left, right)

    def every(i: tf.Tensor, *_: tf.Tensor) -> list[tf.Tensor]:
        *barred, i = xla.optimization_barrier(*(array for pair in pairs for array in pair), i)
        triples = zip(barred[::2], barred[1::2], products, strict=True)
        return [i + 1, *(product(left, right, sizes) for left, right, sizes in triples)]

    with tf.device(where):
        once = tf.function(lambda: every(tf.constant(0))[1:], autograph=False).get_concrete_function()
        empty = [tf.zeros(result.shape, result.dtype) for result in once.outputs]

    @tf.function(jit_compile=True, autograph=False)
    def multiply(repeats: tf.Tensor) -> list[tf.Tensor]:
        results: list[tf.Tensor] = tf.while_loop(lambda i, *_: i < repeats, every, [tf.constant(0), *empty])
        return results

    def launch(repeats: int) -> None:
        with tf.device(where):
            results = multiply(tf.constant(repeats))
        results[-1].numpy()

    return launch


def copy(*, size: int, device: Device) -> Callable[[int], None]:
    """One compiled call a repeat."""
    where = devices.select(device)
    with tf.device(where):
        source = tf.zeros(size // 4)
    add = tf.function(lambda: source + 1, jit_compile=True)

    def launch(repeats: int) -> None:
        with tf.device(where):
            for _ in range(repeats):
                target = add()
            target[0].numpy()

    return launch


@checked
def gradient(
    session: Session,
    handle: UInt8[tf.Tensor, "images pixels"],
    indices: Int[np.ndarray, "batch"],
    *,
    noise: Float[np.ndarray, "samples batch draws"],
    kl_weight: float,
) -> Callable[[int], None]:
    """One compiled call a repeat."""
    with tf.device(session.device):
        x, epsilon = session.images(handle, indices), session.given(noise)

    @tf.function(jit_compile=True, autograph=False)
    def compiled(x: tf.Tensor, noise: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            value = objective(log_weights(session.vae(x, noise), kl_weight))
        gradients: list[tf.Tensor] = tape.gradient(value, [p.value for p in session.parameters.values()])
        return gradients

    def launch(repeats: int) -> None:
        with tf.device(session.device):
            for _ in range(repeats):
                gradients = compiled(x, epsilon)
        gradients[-1].numpy()

    return launch


def device_peak(device: Device) -> int | None:
    """By TensorFlow's allocator."""
    return int(tf.config.experimental.get_memory_info("GPU:0")["peak"]) if device == "cuda" else None
