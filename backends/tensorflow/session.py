"""The contract of common/protocol.py in TensorFlow: one XLA-compiled loop over the steps of a chunk."""

import contextlib
import io
import os
import platform
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# XLA compiles all that counts here, with the same results bit for bit; on, TensorFlow announces it in every process.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np
import tensorflow as tf
from jaxtyping import Float, Int, Real, UInt8

from backends.tensorflow import optimizers
from backends.tensorflow.shapes import checked
from backends.tensorflow.vae import VAE, log_weights, objective
from common import config, tf32
from common.config import Device, Dtype, Factors, Model, Optimizer, Precision, Training, stored
from common.errors import UserError
from common.noise import NOISE_BLOCK, noise_blocks, seed_for
from common.parameters import State, group, shapes
from common.protocol import Description

EXPORT_SUFFIX = ".weights.h5"


def describe() -> Description:
    devices = {"cpu": platform.machine()}
    for gpu in tf.config.list_physical_devices("GPU"):
        devices.setdefault("cuda", tf.config.experimental.get_device_details(gpu)["device_name"])
    versions = {"keras": version("keras")}
    for name in ("tensorflow", "tensorflow-cpu"):
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return Description(versions=versions, devices=devices)


def programs_compiled() -> int | None:
    """None: TensorFlow's own cache of XLA programs is an option of the environment, and doesn't say what it gave."""
    return None


def select(device: Device) -> str:
    """The device's name. Raises `UserError` where it isn't there."""
    if device not in describe().devices:
        raise UserError(
            f"TensorFlow has no device '{device}' here; use --device cpu, or install environments/tensorflow-cuda.txt."
        )
    return {"cpu": "/CPU:0", "cuda": "/GPU:0"}[device]


def rounded(factors: Factors) -> str:
    """The dtype of a product's factors, TF32 switched on for its own and off for others."""
    tf.config.experimental.enable_tensor_float_32_execution(tf32.settle(factors == "tf32"))
    return stored(factors)


def variable(vae: VAE, name: str) -> keras.Variable:
    """The variable of this portable name: `weight` is a Dense layer's `kernel`."""
    owner: Any = vae
    for key in name.replace("weight", "kernel").split("."):
        owner = owner[int(key)] if key.isdigit() else getattr(owner, key)
    return owner


def seed_pair(*seed: Any) -> tf.Tensor:
    """What stateless draws take: 32 bits, as int32."""
    return tf.constant(np.array([seed_for(*seed), 0], np.uint32).view(np.int32))


class Buffer(io.BytesIO):
    """A file in memory for Keras, which leaves one on a full disk open, and HDF5 crashes at the process's end."""

    def __str__(self) -> str:
        return EXPORT_SUFFIX


class Session:
    def __init__(
        self,
        model: Model,
        state: State,
        *,
        optimizer: Optimizer,
        training: Training,
        device: Device,
        dtype: Dtype,
        precision: Precision,
    ):
        self.device, self.dtype = select(device), tf.as_dtype(dtype)
        self.model, self.settings, self.training = model, optimizer, training
        with tf.device(self.device):
            factors = rounded(config.factors(dtype, precision))
            self.vae = self.judged = VAE(model, dtype=dtype, factors=factors)
            self.parameters = {name: variable(self.vae, name) for name in shapes(model)}
            self.ema: dict[str, keras.Variable] = {}
            if training.ema_decay:
                self.judged = VAE(model, dtype=dtype, factors=factors)
                self.ema = {name: variable(self.judged, name) for name in shapes(model)}
            self.optimizer = optimizers.create(optimizer, dtype)
            self.optimizer.build(list(self.parameters.values()))
        self.moments = optimizers.slots(self.optimizer, list(self.parameters), optimizer)
        for variables, prefix in ((self.parameters, "parameters"), (self.ema, "ema"), (self.moments, "optimizer")):
            values = group(state, prefix)
            for name, own in variables.items():
                own.assign(values[name].astype(dtype))
        self.optimizer.iterations.assign(int(state["step"]))

    @checked
    def place(self, images: UInt8[np.ndarray, "images pixels"]) -> UInt8[tf.Tensor, "images pixels"]:
        with tf.device(self.device):
            return tf.identity(tf.constant(images))

    @checked
    def train(
        self,
        handle: UInt8[tf.Tensor, "images pixels"],
        indices: Int[np.ndarray, "steps batch"],
        *,
        first_step: int,
        learning_rates: Float[np.ndarray, "steps"],
        kl_weights: Float[np.ndarray, "steps"],
        seed: int,
        noise: Float[np.ndarray, "steps samples batch latent"] | None,
    ) -> tuple[Float[np.ndarray, "steps"], Float[np.ndarray, "steps"]]:
        with tf.device(self.device):
            objectives, elbos = self._train(
                handle,
                tf.constant(indices, tf.int32),
                tf.constant(first_step, tf.int32),
                tf.constant(learning_rates, self.dtype),
                tf.constant(kl_weights, self.dtype),
                seed_pair(seed, "training noise"),
                None if noise is None else tf.constant(noise, self.dtype),
            )
        return objectives.numpy(), elbos.numpy()

    @tf.function(jit_compile=True, autograph=False)
    def _train(
        self,
        handle: tf.Tensor,
        rows: tf.Tensor,
        first_step: tf.Tensor,
        learning_rates: tf.Tensor,
        kl_weights: tf.Tensor,
        seed: tf.Tensor,
        noise: tf.Tensor | None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        steps, batch = rows.shape
        shape = (self.training.objective_samples, batch, self.model.latent_size)
        parameters = list(self.parameters.values())

        def step(t: tf.Tensor, objectives: tf.TensorArray, elbos: tf.TensorArray) -> Any:
            x = tf.cast(tf.gather(handle, rows[t]), self.dtype)
            if noise is None:
                step_seed = tf.random.experimental.stateless_fold_in(seed, first_step + t)
                epsilon = tf.random.stateless_normal(shape, step_seed, dtype=self.dtype)
            else:
                epsilon = noise[t]
            with tf.GradientTape() as tape:
                quantities = self.vae(x, epsilon)
                value = objective(log_weights(quantities, kl_weights[t]))
                loss = -value
            gradients = tape.gradient(loss, [p.value for p in parameters])
            self.optimizer.rate.assign(learning_rates[t])
            self.optimizer.apply(gradients, parameters)
            for name, average in self.ema.items():
                average.assign(average + (1 - self.training.ema_decay) * (self.parameters[name] - average))
            elbo = tf.reduce_mean(log_weights(quantities, 1.0))
            return t + 1, objectives.write(t, value), elbos.write(t, elbo)

        empty = (tf.TensorArray(self.dtype, steps), tf.TensorArray(self.dtype, steps))
        _, objectives, elbos = tf.while_loop(lambda t, *_: t < steps, step, (tf.constant(0), *empty))
        return objectives.stack(), elbos.stack()

    @checked
    def log_weights(
        self,
        handle: UInt8[tf.Tensor, "images pixels"],
        indices: Int[np.ndarray, "batch"],
        *,
        samples: range,
        seed: int,
        noise: Float[np.ndarray, "samples batch latent"] | None,
    ) -> Float[np.ndarray, "samples batch"]:
        with tf.device(self.device):
            rows = tf.constant(indices, tf.int32)
            if noise is None:
                blocks = noise_blocks(samples)
                pair = seed_pair(seed, "evaluation noise")
                epsilon = self._evaluation_noise(pair, rows, tf.range(blocks.start, blocks.stop))[: len(samples)]
            else:
                epsilon = tf.constant(noise, self.dtype)
            return self._log_weights(handle, rows, epsilon).numpy()

    # By TensorFlow's kernels, which draw on all cores: through XLA, these small draws take three times as long.
    @tf.function(autograph=False)
    def _evaluation_noise(self, seed: tf.Tensor, images: tf.Tensor, blocks: tf.Tensor) -> tf.Tensor:
        """[samples, batch, latent]: a block of samples is a function of (seed, image, block)."""

        def draw(position: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
            image, block = position
            image_seed = tf.random.experimental.stateless_fold_in(seed, image)
            block_seed = tf.random.experimental.stateless_fold_in(image_seed, block)
            return tf.random.stateless_normal((NOISE_BLOCK, self.model.latent_size), block_seed, dtype=self.dtype)

        positions = (tf.repeat(images, blocks.shape[0]), tf.tile(blocks, images.shape))
        draws = tf.map_fn(draw, positions, fn_output_signature=self.dtype)
        return tf.transpose(tf.reshape(draws, (images.shape[0], -1, self.model.latent_size)), (1, 0, 2))

    @tf.function(jit_compile=True, autograph=False)
    def _log_weights(self, handle: tf.Tensor, indices: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
        return log_weights(self.judged(tf.cast(tf.gather(handle, indices), self.dtype), noise), 1.0)

    @checked
    def inspect(
        self,
        handle: UInt8[tf.Tensor, "images pixels"],
        indices: Int[np.ndarray, "batch"],
        *,
        noise: Float[np.ndarray, "samples batch latent"],
        kl_weight: float,
    ) -> dict[str, np.ndarray]:
        with tf.device(self.device), tf.GradientTape() as tape:
            quantities = self.vae(tf.cast(tf.gather(handle, indices), self.dtype), tf.constant(noise, self.dtype))
            quantities["log_weights"] = log_weights(quantities, kl_weight)
            quantities["objective"] = objective(quantities["log_weights"])
        gradients = tape.gradient(quantities["objective"], [p.value for p in self.parameters.values()])
        quantities |= {f"gradient/{name}": g for name, g in zip(self.parameters, gradients, strict=True)}
        return {name: value.numpy() for name, value in quantities.items()}

    @checked
    def gradient(
        self,
        handle: UInt8[tf.Tensor, "images pixels"],
        indices: Int[np.ndarray, "batch"],
        *,
        noise: Float[np.ndarray, "samples batch latent"],
        kl_weight: float,
    ) -> Callable[[int], None]:
        with tf.device(self.device):
            x, epsilon = tf.cast(tf.gather(handle, indices), self.dtype), tf.constant(noise, self.dtype)

        @tf.function(jit_compile=True, autograph=False)
        def gradient(x: tf.Tensor, noise: tf.Tensor) -> list[tf.Tensor]:
            with tf.GradientTape() as tape:
                value = objective(log_weights(self.vae(x, noise), kl_weight))
            gradients: list[tf.Tensor] = tape.gradient(value, [p.value for p in self.parameters.values()])
            return gradients

        def launch(repeats: int) -> None:
            with tf.device(self.device):
                for _ in range(repeats):
                    gradients = gradient(x, epsilon)
            gradients[-1].numpy()

        return launch

    @checked
    def encode(
        self, images: Real[np.ndarray, "batch pixels"]
    ) -> tuple[Float[np.ndarray, "batch latent"], Float[np.ndarray, "batch latent"]]:
        with tf.device(self.device):
            quantities = self.judged.encode(tf.constant(images, self.dtype))
            return quantities["loc"].numpy(), quantities["scale"].numpy()

    @checked
    def decode(self, latents: Float[np.ndarray, "batch latent"]) -> Float[np.ndarray, "batch pixels"]:
        with tf.device(self.device):
            return tf.sigmoid(self.judged.decoder(tf.constant(latents, self.dtype))).numpy()

    def export(self, file: Path) -> None:
        """Keras's weights."""
        self.judged.built = True  # all its layers are
        buffer = Buffer()
        with warnings.catch_warnings():  # TensorFlow's variables don't know NumPy 2's argument `copy`
            warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
            keras.saving.save_weights(self.judged, buffer)
        file.write_bytes(buffer.getvalue())

    def state(self) -> State:
        variables = (
            {f"parameters/{name}": value for name, value in self.parameters.items()}
            | {f"ema/{name}": value for name, value in self.ema.items()}
            | {f"optimizer/{name}": value for name, value in self.moments.items()}
        )
        step = np.array(self.optimizer.iterations.numpy(), dtype=np.int64)
        return {"step": step} | {name: value.numpy().copy() for name, value in variables.items()}

    def synchronize(self) -> None:
        tf.test.experimental.sync_devices()


create = Session


def probe(*, products: list[tuple[int, int, int]], device: Device, dtype: Factors) -> Callable[[int], None]:
    """See `Backend.probe`: one compiled call a repeat; every product is an output, so that none is optimised away."""
    where, draws = select(device), np.random.default_rng(0)
    factor = rounded(dtype)
    summed = tf.float32 if factor == "bfloat16" else None
    with tf.device(where):
        factors = [
            (tf.constant(draws.standard_normal((m, k)), factor), tf.constant(draws.standard_normal((k, n)), factor))
            for m, k, n in products
        ]
    multiply = tf.function(lambda: [tf.matmul(left, right, output_type=summed) for left, right in factors], jit_compile=True)

    def launch(repeats: int) -> None:
        with tf.device(where):
            for _ in range(repeats):
                results = multiply()
        results[-1].numpy()

    return launch


def copy(*, size: int, device: Device) -> Callable[[int], None]:
    """See `Backend.copy`."""
    where = select(device)
    with tf.device(where):
        source = tf.zeros(size // 4)
    add = tf.function(lambda: source + 1, jit_compile=True)

    def launch(repeats: int) -> None:
        with tf.device(where):
            for _ in range(repeats):
                target = add()
            target[0].numpy()

    return launch


def device_peak(device: Device) -> int | None:
    """See `Backend.device_peak`."""
    return int(tf.config.experimental.get_memory_info("GPU:0")["peak"]) if device == "cuda" else None
