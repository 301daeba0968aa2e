"""The contract of common/protocol.py in TensorFlow: a chunk is one XLA-compiled loop over its steps."""

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from jaxtyping import Float, Int, Real, UInt8

from backends.tensorflow import devices, optimizers, world
from backends.tensorflow.shapes import checked
from backends.tensorflow.vae import VAE, log_weights, objective
from common.config import Config
from common.noise import EVALUATION_NOISE, NOISE_BLOCK, TRAINING_NOISE, noise_blocks, seed_for
from common.parameters import State, group, noise_size, refuse_unlike, shapes
from common.world import of_session

EXPORT_SUFFIX = ".weights.h5"
# A session owns its variables, so that it traces each of its functions once for each shape. TensorFlow counts the traces of all
# sessions as one function's, and would warn of retracing in a process that has many sessions.
tf.get_logger().addFilter(lambda record: "triggered tf.function retracing" not in record.getMessage())


def _variable(vae: VAE, name: str) -> keras.Variable:
    """The variable of this portable name: `weight` is a Dense layer's `kernel`."""
    owner: Any = vae
    keys = name.removesuffix("weight") + "kernel" if name.endswith(".weight") else name
    for key in keys.split("."):
        owner = owner[int(key)] if key.isdigit() else getattr(owner, key)
    return owner


def _seed_pair(*seed: Any) -> tf.Tensor:
    """`seed_for` as a seed of TensorFlow's stateless draws: 32 bits and a zero, as int32."""
    return tf.constant(np.array([seed_for(*seed), 0], np.uint32).view(np.int32))


class _Buffer(io.BytesIO):
    """A file in memory for Keras. Keras leaves a file on a full disk open, and HDF5 then crashes at the process's end."""

    def __str__(self) -> str:
        return EXPORT_SUFFIX


class Scorer:
    """See `common.protocol.Scorer`."""

    def __init__(self, config: Config, parameters: State):
        self.config, self.model = config, config.model
        self.device, self.dtype = devices.select(config.device), tf.as_dtype(config.dtype)
        self.factors = devices.rounded(config.factors)
        self.vae, self.parameters = self._network(parameters)
        self.judged = self.vae

    def _network(self, values: State) -> tuple[VAE, dict[str, keras.Variable]]:
        """A network with these parameters, and its variables."""
        with tf.device(self.device):
            vae = VAE(self.model, dtype=self.dtype.name, factors=self.factors)
        variables = {name: _variable(vae, name) for name in shapes(self.model)}
        known = {id(own): name for name, own in variables.items()}
        refuse_unlike((known.get(id(own), own.path) for own in vae.trainable_variables), self.model)
        for name, own in variables.items():
            own.assign(values[name].astype(self.dtype.name))
        return vae, variables

    def images(self, handle: tf.Tensor, indices: np.ndarray | tf.Tensor) -> tf.Tensor:
        """[batch, pixels], in the dtype."""
        return tf.cast(tf.gather(handle, indices), self.dtype)

    def given(self, values: np.ndarray) -> tf.Tensor:
        """Given numbers on the device, in the dtype."""
        return tf.constant(values, self.dtype)

    @checked
    def place(self, images: UInt8[np.ndarray, "images pixels"]) -> UInt8[tf.Tensor, "images pixels"]:
        with tf.device(self.device):
            return tf.identity(tf.constant(images))

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
                pair = _seed_pair(seed, EVALUATION_NOISE)
                epsilon = self._evaluation_noise(pair, rows, tf.range(blocks.start, blocks.stop))[: len(samples)]
            else:
                epsilon = self.given(noise)
            return self._log_weights(handle, rows, epsilon).numpy()

    # By TensorFlow's kernels, which draw on all cores: through XLA, these small draws take three times as long.
    @tf.function(autograph=False)
    def _evaluation_noise(self, seed: tf.Tensor, images: tf.Tensor, blocks: tf.Tensor) -> tf.Tensor:
        """[samples, batch, latent]: a block of samples is a function of (seed, image, block)."""

        @tf.xla.experimental.jit_scope(compile_ops=False)  # XLA, which TF_XLA_FLAGS can switch on, draws other numbers
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
        return log_weights(self.judged(self.images(handle, indices), noise), 1.0)

    @checked
    def outputs(
        self, handle: UInt8[tf.Tensor, "images pixels"], indices: Int[np.ndarray, "batch"]
    ) -> Float[np.ndarray, "batch outputs"]:
        with tf.device(self.device):
            return self.judged.encoder(self.images(handle, indices), {}).numpy()

    @checked
    def slopes(
        self,
        handle: UInt8[tf.Tensor, "images pixels"],
        indices: Int[np.ndarray, "batch"],
        *,
        outputs: Float[np.ndarray, "batch outputs"],
        noise: Float[np.ndarray, "samples batch latent"],
    ) -> tuple[
        Float[np.ndarray, "samples batch"], Float[np.ndarray, "samples batch latent"], Float[np.ndarray, "batch outputs"]
    ]:
        with tf.device(self.device):
            rows = tf.constant(indices, tf.int32)
            log_w, by_noise, by_outputs = self._slopes(handle, rows, self.given(outputs), self.given(noise))
        return log_w.numpy(), by_noise.numpy(), by_outputs.numpy()

    @tf.function(jit_compile=True, autograph=False)
    def _slopes(self, handle: tf.Tensor, indices: tf.Tensor, outputs: tf.Tensor, noise: tf.Tensor) -> Any:
        with tf.GradientTape() as tape:
            tape.watch((outputs, noise))
            quantities = self.judged.draw(self.judged.moments(outputs), noise)
            log_w = log_weights(quantities | self.judged.joint(self.images(handle, indices), quantities["z"], {}), 1.0)
            total = tf.reduce_sum(log_w)
        by_outputs, by_noise = tape.gradient(total, (outputs, noise))
        return log_w, by_noise, by_outputs

    @checked
    def inspect(
        self,
        handle: UInt8[tf.Tensor, "images pixels"],
        indices: Int[np.ndarray, "batch"],
        *,
        noise: Float[np.ndarray, "samples batch draws"],
        kl_weight: float,
    ) -> dict[str, np.ndarray]:
        with tf.device(self.device), tf.GradientTape() as tape:
            quantities = self.vae(self.images(handle, indices), self.given(noise))
            quantities["log_weights"] = log_weights(quantities, kl_weight)
            quantities["objective"] = objective(quantities["log_weights"])
        gradients = tape.gradient(quantities["objective"], [p.value for p in self.parameters.values()])
        quantities |= {f"gradient/{name}": g for name, g in zip(self.parameters, gradients, strict=True)}
        return {name: value.numpy() for name, value in quantities.items()}

    @checked
    def encode(
        self, images: Real[np.ndarray, "batch pixels"], noise: Float[np.ndarray, "samples batch latent"]
    ) -> Float[np.ndarray, "samples batch latent"]:
        with tf.device(self.device):
            return self.judged.posterior(self.given(images), self.given(noise), {})["z"].numpy()

    @checked
    def noise_of(
        self, images: Real[np.ndarray, "batch pixels"], latents: Float[np.ndarray, "samples batch latent"]
    ) -> Float[np.ndarray, "samples batch latent"]:
        with tf.device(self.device):
            return self.judged.posterior_noise(self.given(images), self.given(latents)).numpy()

    @checked
    def prior(self, noise: Float[np.ndarray, "batch latent"]) -> Float[np.ndarray, "batch latent"]:
        with tf.device(self.device):
            return self.judged.prior_sample(self.given(noise)).numpy()

    @checked
    def decode(self, latents: Float[np.ndarray, "batch latent"]) -> Float[np.ndarray, "batch pixels"]:
        with tf.device(self.device):
            return tf.sigmoid(self.judged.decoder(self.given(latents), {})).numpy()

    def export(self, file: Path) -> None:
        """Keras's weights."""
        self.judged.built = True  # all its layers are
        buffer = _Buffer()
        with warnings.catch_warnings():  # TensorFlow's variables don't know NumPy 2's argument `copy`
            warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
            keras.saving.save_weights(self.judged, buffer)
        file.write_bytes(buffer.getvalue())

    def synchronize(self) -> None:
        tf.test.experimental.sync_devices()


class Session(Scorer):
    """See `common.protocol.Session`."""

    def __init__(self, config: Config, state: State):
        super().__init__(config, group(state, "parameters"))
        self.training = config.training
        self.world = of_session(self.training.devices)
        self.ema: dict[str, keras.Variable] = {}
        if self.training.ema_decay:
            self.judged, self.ema = self._network(group(state, "ema"))
        with tf.device(self.device):
            self.optimizer = optimizers.create(config.optimizer, list(self.parameters), config.dtype)
            self.optimizer.build(list(self.parameters.values()))
        optimizers.load_moments(
            self.optimizer, self.parameters, group(state, "optimizer"), int(state["step"]), config.optimizer
        )

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
        noise: Float[np.ndarray, "steps samples batch draws"] | None,
    ) -> tuple[Float[np.ndarray, "steps"], Float[np.ndarray, "steps"]]:
        chunk = self._chunk if self.world.size == 1 else self._shared_chunk
        with tf.device(self.device):
            objectives, elbos = chunk(
                handle,
                tf.constant(indices, tf.int32),
                tf.constant(first_step, tf.int32),
                self.given(learning_rates),
                self.given(kl_weights),
                _seed_pair(seed, TRAINING_NOISE),
                None if noise is None else self.given(noise),
            )
        return objectives.numpy(), elbos.numpy()

    @tf.function(jit_compile=True, autograph=False)
    def _chunk(
        self,
        handle: tf.Tensor,
        rows: tf.Tensor,
        first_step: tf.Tensor,
        learning_rates: tf.Tensor,
        kl_weights: tf.Tensor,
        seed: tf.Tensor,
        noise: tf.Tensor | None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """A chunk of steps: objective [steps] and elbo [steps]."""
        steps, batch = rows.shape

        def step(t: tf.Tensor, objectives: tf.TensorArray, elbos: tf.TensorArray) -> Any:
            epsilon = self._noise(seed, first_step + t, batch) if noise is None else noise[t]
            value, elbo, gradients = self._gradients(self.images(handle, rows[t]), epsilon, kl_weights[t])
            self._update(gradients, learning_rates[t])
            return t + 1, objectives.write(t, value), elbos.write(t, elbo)

        return self._loop(step, steps)

    def _loop(self, step: Callable[..., Any], steps: int) -> tuple[tf.Tensor, tf.Tensor]:
        """`step` for t = 0 … steps − 1; the objectives and the ELBOs that it writes, [steps] each."""
        empty = (tf.TensorArray(self.dtype, steps), tf.TensorArray(self.dtype, steps))
        _, objectives, elbos = tf.while_loop(lambda t, *_: t < steps, step, (tf.constant(0), *empty))
        return objectives.stack(), elbos.stack()

    def _noise(self, seed: tf.Tensor, step: tf.Tensor, batch: int) -> tf.Tensor:
        """[samples, batch, draws]: a function of (seed, step)."""
        step_seed = tf.random.experimental.stateless_fold_in(seed, step)
        shape = (self.training.objective_samples, batch, noise_size(self.model))
        return tf.random.stateless_normal(shape, step_seed, dtype=self.dtype)

    def _gradients(self, x: tf.Tensor, epsilon: tf.Tensor, kl_weight: tf.Tensor) -> Any:
        """(objective, ELBO, gradient of minus the objective by name), from images and noise [samples, batch, draws]."""
        with tf.GradientTape() as tape:
            quantities = self.vae(x, epsilon)
            value = objective(log_weights(quantities, kl_weight))
            loss = -value
        gradients = tape.gradient(loss, {name: p.value for name, p in self.parameters.items()})
        return value, tf.reduce_mean(log_weights(quantities, 1.0)), gradients

    def _update(self, gradients: dict[str, tf.Tensor], learning_rate: tf.Tensor) -> None:
        """One step of the optimizer and of the moving average."""
        descent = optimizers.clipped(gradients, self.config.optimizer)
        self.optimizer.rate.assign(learning_rate)
        self.optimizer.apply([descent[name] for name in self.parameters], list(self.parameters.values()))
        for name, average in self.ema.items():
            average.assign(average + (1 - self.training.ema_decay) * (self.parameters[name] - average))

    @tf.function(autograph=False)
    def _shared_chunk(
        self,
        handle: tf.Tensor,
        rows: tf.Tensor,
        first_step: tf.Tensor,
        learning_rates: tf.Tensor,
        kl_weights: tf.Tensor,
        seed: tf.Tensor,
        noise: tf.Tensor | None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """As `_chunk`, on several devices: a loop over two XLA programs, with the message between them.

        What depends on the step alone is taken out of the arrays here: within an XLA program, each step would compile anew.
        """
        steps, _ = rows.shape

        def step(t: tf.Tensor, objectives: tf.TensorArray, elbos: tf.TensorArray) -> Any:
            of_step = None if noise is None else noise[t]
            inputs = (handle, rows[t], seed, first_step + t, kl_weights[t], of_step)
            value, elbo, *gradients = world.averaged(self._own_gradients(*inputs))
            self._shared_update(gradients, learning_rates[t])
            return t + 1, objectives.write(t, value), elbos.write(t, elbo)

        return self._loop(step, steps)

    @tf.function(jit_compile=True, autograph=False)
    def _own_gradients(
        self,
        handle: tf.Tensor,
        rows: tf.Tensor,
        seed: tf.Tensor,
        step: tf.Tensor,
        kl_weight: tf.Tensor,
        noise: tf.Tensor | None,
    ) -> list[tf.Tensor]:
        """Objective, ELBO and each gradient of this process's rows. The noise is drawn for the whole batch [batch]."""
        (batch,) = rows.shape
        own = self.world.own(batch)
        epsilon = self._noise(seed, step, batch) if noise is None else noise
        value, elbo, gradients = self._gradients(self.images(handle, rows[own]), epsilon[:, own], kl_weight)
        return [value, elbo, *(gradients[name] for name in self.parameters)]

    @tf.function(jit_compile=True, autograph=False)
    def _shared_update(self, gradients: list[tf.Tensor], learning_rate: tf.Tensor) -> None:
        self._update(dict(zip(self.parameters, gradients, strict=True)), learning_rate)

    def state(self) -> State:
        moments = optimizers.moments(self.optimizer, self.parameters, self.config.optimizer)
        variables = (
            {f"parameters/{name}": value for name, value in self.parameters.items()}
            | {f"ema/{name}": value for name, value in self.ema.items()}
            | {f"optimizer/{name}": value for name, value in moments.items()}
        )
        step = np.array(self.optimizer.iterations.numpy(), dtype=np.int64)
        return {"step": step} | {name: value.numpy().copy() for name, value in variables.items()}


describe, score, create = devices.describe, Scorer, Session
join, leave = world.join, world.leave
