"""The contract of common/protocol.py in JAX: a chunk is one `lax.scan` over its steps, with donated buffers."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx, serialization
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Float, Int, Real, UInt8

from backends.jax import devices, optimizers, world
from backends.jax.compiling import EXACTLY, IN_PLACE
from backends.jax.shapes import checked
from backends.jax.vae import VAE, log_weights, objective
from backends.jax.world import AXIS, EVERYWHERE
from common.config import Config
from common.noise import EVALUATION_NOISE, NOISE_BLOCK, TRAINING_NOISE, noise_blocks, seed_for
from common.parameters import State, group, noise_size, refuse_unlike

EXPORT_SUFFIX = ".msgpack"
GENERATOR = "threefry2x32"  # whatever JAX_DEFAULT_PRNG_IMPL says


def _path(name: str) -> tuple[str | int, ...]:
    """Where NNX keeps a parameter of this portable name."""
    keys = name.removesuffix("weight") + "kernel" if name.endswith(".weight") else name
    return tuple(int(key) if key.isdigit() else key for key in keys.split("."))


def _name(path: tuple[str | int, ...]) -> str:
    """The inverse of `_path`."""
    name = ".".join(map(str, path))
    return name.removesuffix("kernel") + "weight" if name.endswith(".kernel") else name


class Scorer:
    """See `common.protocol.Scorer`.

    Each session compiles its own programs. A jitted function that is shared by all would keep every session alive in its cache.
    """

    def __init__(self, config: Config, parameters: State):
        self.config, self.model = config, config.model
        self.device, self.dtype = devices.select(config.device), jnp.dtype(config.dtype)
        with jax.default_device(self.device):
            factors = devices.rounded(config.factors)

            def build() -> tuple[nnx.GraphDef, nnx.State]:
                vae = VAE(config.model, dtype=self.dtype, factors=factors, rngs=nnx.Rngs(0))
                graph, parameters, constants = nnx.split(vae, nnx.Param, ...)
                refuse_unlike((_name(path) for path, _ in nnx.to_flat_state(parameters)), config.model)
                return graph, constants

            # The parameters are given. Compiled, NNX's own initial values aren't drawn, since nothing uses them.
            self.graph, self.constants = jax.jit(build)()
        self.parameters = self._own(parameters)
        self.compiled_noise = jax.jit(self._evaluation_noise)
        self.compiled_log_weights = jax.jit(self._log_weights, compiler_options=EXACTLY)
        self.compiled_slopes = jax.jit(self._slopes, compiler_options=EXACTLY)

    @property
    def _judged(self) -> dict[str, Array]:
        """The judged parameters."""
        return self.parameters

    def _own(self, arrays: State) -> dict[str, Array]:
        """Portable arrays by name, on the device, in the dtype."""
        return {name: jax.device_put(np.asarray(value, self.dtype), self.device) for name, value in arrays.items()}

    def _vae(self, parameters: dict[str, Array]) -> VAE:
        """The model with these parameters."""
        state = nnx.from_flat_state({_path(name): nnx.Param(value) for name, value in parameters.items()})
        return nnx.merge(self.graph, state, self.constants)

    def images(self, handle: Array, indices: np.ndarray) -> Array:
        """[batch, pixels], in the dtype."""
        return world.here(handle)[indices].astype(self.dtype)

    def given(self, values: np.ndarray) -> Array:
        """Given numbers on the device, in the dtype."""
        return jax.device_put(values.astype(self.dtype), self.device)

    @checked
    def place(self, images: UInt8[np.ndarray, "images pixels"]) -> UInt8[Array, "images pixels"]:
        return jax.block_until_ready(self._placed(images))

    def _placed(self, images: np.ndarray) -> Array:
        """The images where `train` and the other calls read them."""
        return jax.device_put(images, self.device)

    @checked
    def log_weights(
        self,
        handle: UInt8[Array, "images pixels"],
        indices: Int[np.ndarray, "batch"],
        *,
        samples: range,
        seed: int,
        noise: Float[np.ndarray, "samples batch latent"] | None,
    ) -> Float[np.ndarray, "samples batch"]:
        if noise is None:
            blocks = noise_blocks(samples)
            key = jax.device_put(jax.random.key(seed_for(seed, EVALUATION_NOISE), impl=GENERATOR), self.device)
            epsilon = self.compiled_noise(key, indices, np.arange(blocks.start, blocks.stop))[: len(samples)]
        else:
            epsilon = self.given(noise)
        return np.asarray(self.compiled_log_weights(self._judged, world.here(handle), indices, epsilon))

    def _evaluation_noise(self, key: Array, images: Array, blocks: Array) -> Array:
        """[samples, batch, latent]: a block of samples is a function of (key, image, block)."""

        def draw(image: Array, block: Array) -> Array:
            image_key = jax.random.fold_in(jax.random.fold_in(key, image), block)
            return jax.random.normal(image_key, (NOISE_BLOCK * self.model.latent_size,), self.dtype)  # two axes compile slowly

        draws = jax.vmap(lambda image: jax.vmap(lambda block: draw(image, block))(blocks))(images)
        return jnp.moveaxis(draws.reshape(len(images), -1, self.model.latent_size), 0, 1)

    def _log_weights(self, parameters: dict[str, Array], handle: Array, indices: Array, noise: Array) -> Array:
        return log_weights(self._vae(parameters)(handle[indices].astype(self.dtype), noise), 1.0)

    @checked
    def outputs(
        self, handle: UInt8[Array, "images pixels"], indices: Int[np.ndarray, "batch"]
    ) -> Float[np.ndarray, "batch outputs"]:
        return np.asarray(self._vae(self._judged).encoder(self.images(handle, indices), {}))

    @checked
    def slopes(
        self,
        handle: UInt8[Array, "images pixels"],
        indices: Int[np.ndarray, "batch"],
        *,
        outputs: Float[np.ndarray, "batch outputs"],
        noise: Float[np.ndarray, "samples batch latent"],
    ) -> tuple[
        Float[np.ndarray, "samples batch"], Float[np.ndarray, "samples batch latent"], Float[np.ndarray, "batch outputs"]
    ]:
        found = self.compiled_slopes(self._judged, world.here(handle), indices, self.given(outputs), self.given(noise))
        log_w, by_noise, by_outputs = jax.device_get(found)
        return log_w, by_noise, by_outputs

    def _slopes(self, parameters: dict[str, Array], handle: Array, indices: Array, outputs: Array, noise: Array) -> Any:
        x = handle[indices].astype(self.dtype)

        def total(outputs: Array, noise: Array) -> tuple[Array, Array]:
            vae = self._vae(parameters)
            quantities = vae.draw(vae.moments(outputs), noise)
            log_w = log_weights(quantities | vae.joint(x, quantities["z"], {}), 1.0)
            return log_w.sum(), log_w

        (_, log_w), (by_outputs, by_noise) = jax.value_and_grad(total, (0, 1), has_aux=True)(outputs, noise)
        return log_w, by_noise, by_outputs

    @checked
    def inspect(
        self,
        handle: UInt8[Array, "images pixels"],
        indices: Int[np.ndarray, "batch"],
        *,
        noise: Float[np.ndarray, "samples batch draws"],
        kl_weight: float,
    ) -> dict[str, np.ndarray]:
        gradient = jax.jit(jax.value_and_grad(self._objective, has_aux=True), compiler_options=EXACTLY)
        (value, quantities), gradients = gradient(
            world.here(self.parameters), self.images(handle, indices), self.given(noise), kl_weight
        )
        quantities |= {"log_weights": log_weights(quantities, kl_weight), "objective": value}
        quantities |= {f"gradient/{name}": gradient for name, gradient in gradients.items()}
        return {name: np.asarray(value) for name, value in quantities.items()}

    def _objective(
        self, parameters: dict[str, Array], x: Array, noise: Array, kl_weight: Array | float
    ) -> tuple[Array, dict[str, Array]]:
        """The objective and every quantity, from images x [batch, pixels] and noise [samples, batch, draws]."""
        quantities = self._vae(parameters)(x, noise)
        return objective(log_weights(quantities, kl_weight)), quantities

    @checked
    def encode(
        self, images: Real[np.ndarray, "batch pixels"], noise: Float[np.ndarray, "samples batch latent"]
    ) -> Float[np.ndarray, "samples batch latent"]:
        return np.asarray(self._vae(self._judged).posterior(self.given(images), self.given(noise), {})["z"])

    @checked
    def noise_of(
        self, images: Real[np.ndarray, "batch pixels"], latents: Float[np.ndarray, "samples batch latent"]
    ) -> Float[np.ndarray, "samples batch latent"]:
        return np.asarray(self._vae(self._judged).posterior_noise(self.given(images), self.given(latents)))

    @checked
    def prior(self, noise: Float[np.ndarray, "batch latent"]) -> Float[np.ndarray, "batch latent"]:
        return np.asarray(self._vae(self._judged).prior_sample(self.given(noise)))

    @checked
    def decode(self, latents: Float[np.ndarray, "batch latent"]) -> Float[np.ndarray, "batch pixels"]:
        logits = self._vae(self._judged).decoder(self.given(latents), {})
        return np.asarray(jax.nn.sigmoid(logits))

    def export(self, file: Path) -> None:
        """The NNX state of the `Param`s, as a nested dictionary in Flax's msgpack."""
        state = nnx.state(self._vae(self._judged), nnx.Param)
        file.write_bytes(serialization.to_bytes(nnx.to_pure_dict(state)))

    def synchronize(self) -> None:
        jax.block_until_ready(self._resident())

    def _resident(self) -> Any:
        """The arrays that a call may still be computing."""
        return self.parameters


class Session(Scorer):
    """See `common.protocol.Session`."""

    def __init__(self, config: Config, state: State):
        super().__init__(config, group(state, "parameters"))
        self.training = config.training
        self.ema = self._own(group(state, "ema") if self.training.ema_decay else {})
        self.step = int(state["step"])
        self.optimizer = optimizers.create(config.optimizer)
        moments = self._own(group(state, "optimizer"))
        # Optax's count starts on no particular device. A chunk returns it on this one, and JAX would compile again for it.
        empty = jax.eval_shape(self.optimizer.init, self.parameters)
        loaded = optimizers.load_moments(empty, moments, self.step, config.optimizer)
        self.moments = jax.device_put(loaded, self.device)
        options: Any = {"donate_argnums": 0, "compiler_options": EXACTLY | IN_PLACE}
        self.mesh = world.mesh(config.device, size=self.training.devices)
        if self.mesh:
            trained = (self.parameters, self.moments, self.ema)
            self.parameters, self.moments, self.ema = world.spread(trained, over=self.mesh, by=EVERYWHERE)
            options["out_shardings"] = NamedSharding(self.mesh, EVERYWHERE)
        self.compiled_chunk = jax.jit(self._chunk, **options)

    @property
    def _judged(self) -> dict[str, Array]:
        """The judged parameters."""
        judged: dict[str, Array] = world.here(self.ema or self.parameters)
        return judged

    def _placed(self, images: np.ndarray) -> Array:
        return super()._placed(images) if self.mesh is None else world.spread(images, over=self.mesh, by=EVERYWHERE)

    @checked
    def train(
        self,
        handle: UInt8[Array, "images pixels"],
        indices: Int[np.ndarray, "steps batch"],
        *,
        first_step: int,
        learning_rates: Float[np.ndarray, "steps"],
        kl_weights: Float[np.ndarray, "steps"],
        seed: int,
        noise: Float[np.ndarray, "steps samples batch draws"] | None,
    ) -> tuple[Float[np.ndarray, "steps"], Float[np.ndarray, "steps"]]:
        steps = len(indices)
        chunk = {
            "step": np.arange(first_step, first_step + steps, dtype=np.int32),
            "rows": indices,
            "learning_rate": learning_rates.astype(self.dtype),
            "kl_weight": kl_weights.astype(self.dtype),
        }
        if noise is not None:
            chunk["noise"] = noise.astype(self.dtype)
        key = jax.random.key(seed_for(seed, TRAINING_NOISE), impl=GENERATOR)
        carry = (self.parameters, self.moments, self.ema)
        carry, values = self.compiled_chunk(carry, *self._inputs(handle, key, chunk))
        self.parameters, self.moments, self.ema = carry
        self.step += steps
        objectives, elbos = jax.device_get(values)
        return objectives, elbos

    def _inputs(self, handle: Array, key: Array, chunk: dict[str, Any]) -> tuple[Array, Array, dict[str, Array]]:
        """The inputs of `_chunk` on the device, or on a mesh: there each device has its rows and, where given, their noise."""
        if self.mesh is None:
            return jax.device_put((handle, key, chunk), self.device)
        by = {"rows": PartitionSpec(None, AXIS), "noise": PartitionSpec(None, None, AXIS)}
        spread = {name: world.spread(value, over=self.mesh, by=by.get(name, EVERYWHERE)) for name, value in chunk.items()}
        return handle, world.spread(jax.random.key_data(key), over=self.mesh, by=EVERYWHERE), spread

    def _chunk(self, carry: Any, handle: Array, key: Array, chunk: dict[str, Array]) -> Any:
        """A chunk of steps: (parameters, moments, moving average) after them, and (objective [steps], elbo [steps]).

        On a mesh each device computes the gradient of its own rows, and all take the same step by the mean. A key is drawn from
        as if there were one device: the draws of a row don't depend on the number of devices.
        """
        if self.mesh:
            key = jax.random.wrap_key_data(key, impl=GENERATOR)
        gradients = self._gradients if self.mesh is None else self._shared_gradients
        batch = chunk["rows"].shape[1]
        shape = (self.training.objective_samples, batch, noise_size(self.model))

        def step(carry: Any, t: dict[str, Array]) -> Any:
            parameters, moments, ema = carry
            noise = t["noise"] if "noise" in t else jax.random.normal(jax.random.fold_in(key, t["step"]), shape, self.dtype)
            values, descent = gradients(parameters, handle, t["rows"], noise, t["kl_weight"])
            descent = optimizers.clipped(descent, self.config.optimizer)
            updates, moments = self.optimizer.update(descent, moments, parameters)
            parameters = jax.tree.map(lambda p, u: p - t["learning_rate"] * u, parameters, updates)
            if ema:
                ema = optax.incremental_update(parameters, ema, 1 - self.training.ema_decay)
            return (parameters, moments, ema), values

        return jax.lax.scan(step, carry, chunk)

    def _gradients(self, parameters: dict[str, Array], handle: Array, rows: Array, noise: Array, kl_weight: Array) -> Any:
        """((objective, ELBO), gradient of minus the objective), from rows [batch] and noise [samples, batch, draws]."""
        x = handle[rows].astype(self.dtype)
        gradient = jax.value_and_grad(self._objective, has_aux=True)
        (value, quantities), ascent = gradient(parameters, x, noise, kl_weight)
        return (value, log_weights(quantities, 1.0).mean()), jax.tree.map(jnp.negative, ascent)

    def _shared_gradients(self, *inputs: Any) -> Any:
        """As `_gradients`, each device of the mesh from its own rows: the means over the devices, on all of them."""
        assert self.mesh is not None
        own = (EVERYWHERE, EVERYWHERE, PartitionSpec(AXIS), PartitionSpec(None, AXIS), EVERYWHERE)
        return jax.shard_map(
            lambda *parts: world.averaged(self._gradients(*parts)),
            mesh=self.mesh,
            in_specs=own,
            out_specs=EVERYWHERE,
            check_vma=False,  # else JAX itself would sum each gradient, in a message of its own
        )(*inputs)

    def state(self) -> State:
        arrays = (
            {f"parameters/{name}": value for name, value in self.parameters.items()}
            | {f"ema/{name}": value for name, value in self.ema.items()}
            | {f"optimizer/{name}": value for name, value in optimizers.moments(self.moments).items()}
        )
        return {"step": np.array(self.step, dtype=np.int64)} | {name: np.array(value) for name, value in arrays.items()}

    def _resident(self) -> Any:
        return self.parameters, self.moments, self.ema


describe, score, create = devices.describe, Scorer, Session
join, leave = world.join, world.leave
