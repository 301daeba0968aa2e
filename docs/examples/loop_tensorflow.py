"""The mean-field model trained by a plain TensorFlow loop, with nothing of this suite, which is measured against it."""

import math
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

LOG_2_PI = math.log(2 * math.pi)


def mlp(inputs: int, hidden: int, outputs: int) -> keras.Sequential:
    dense = keras.layers.Dense
    return keras.Sequential(
        [keras.Input((inputs,)), dense(hidden, activation="relu"), dense(hidden, activation="relu"), dense(outputs)]
    )


def create(images: np.ndarray, *, hidden: int, latent: int, learning_rate: float) -> Callable[[np.ndarray], np.ndarray]:
    """A function that trains on the minibatches `rows` [steps, batch] and returns their ELBOs [steps], in nats per image."""
    encoder, decoder = mlp(images.shape[1], hidden, 2 * latent), mlp(latent, hidden, images.shape[1])
    variables = [*encoder.trainable_variables, *decoder.trainable_variables]
    optimizer = keras.optimizers.Adam(learning_rate)
    optimizer.build(variables)
    data = tf.constant(images)

    def elbo(x: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
        loc, s = tf.split(encoder(x), 2, axis=-1)
        scale = tf.nn.softplus(s)
        z = loc + scale * noise
        log_q = -0.5 * tf.reduce_sum(noise**2 + LOG_2_PI, -1) - tf.reduce_sum(tf.math.log(scale), -1)
        log_p_z = -0.5 * tf.reduce_sum(z**2 + LOG_2_PI, -1)
        log_p_x = -tf.reduce_sum(tf.nn.sigmoid_cross_entropy_with_logits(labels=x, logits=decoder(z)), -1)
        return tf.reduce_mean(log_p_x + log_p_z - log_q)

    @tf.function(jit_compile=True)
    def loop(rows: tf.Tensor, first: tf.Tensor) -> tf.Tensor:
        elbos = tf.TensorArray(tf.float32, rows.shape[0])
        for t in tf.range(rows.shape[0]):
            x = tf.cast(tf.gather(data, rows[t]), tf.float32)
            noise = tf.random.stateless_normal((x.shape[0], latent), tf.stack([0, first + t]))
            with tf.GradientTape() as tape:
                value = elbo(x, noise)
                loss = -value
            optimizer.apply(tape.gradient(loss, variables))
            elbos = elbos.write(t, value)
        return elbos.stack()

    done = 0

    def train(rows: np.ndarray) -> np.ndarray:
        nonlocal done
        done += len(rows)
        return loop(tf.constant(rows, tf.int32), tf.constant(done)).numpy()

    return train
