"""The contract of common/protocol.py in JAX: one `lax.scan` over the steps of a chunk, buffers donated."""

import collections
import functools
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx, serialization
from jax import Array
from jaxtyping import Float, Int, Real, UInt8

from backends.jax import optimizers
from backends.jax.shapes import checked
from backends.jax.vae import VAE, log_weights, objective
from common import cache, config, tf32
from common.config import Device, Dtype, Factors, Model, Optimizer, Precision, Training, stored
from common.errors import UserError
from common.noise import NOISE_BLOCK, noise_blocks, seed_for
from common.parameters import State, group
from common.protocol import Description

# float64 is a setting of the suite; every array here names its dtype, so that this changes nothing in float32.
jax.config.update("jax_enable_x64", True)

# XLA may leave out a rounding to bfloat16 where float32 follows, and on a GPU does. Here what is written is computed.
EXACTLY: Any = {"xla_allow_excess_precision": False}

# On a CPU XLA copies a step's weights before it writes the new ones, unless it's told to find out that it needn't.
IN_PLACE: Any = {"xla_cpu_copy_insertion_use_region_analysis": True}

folder = cache.programs()
if folder is None:  # whatever JAX's own variables say
    jax.config.update("jax_compilation_cache_dir", None)
elif jax.config.jax_compilation_cache_dir is None:
    jax.config.update("jax_compilation_cache_dir", str(folder / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
events: collections.Counter[str] = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: events.update([event]))

EXPORT_SUFFIX = ".msgpack"


def describe() -> Description:
    """Raises `UserError` where no platform is here that JAX_PLATFORMS names."""
    named = jax.config.jax_platforms
    try:
        gpus = [device.device_kind for device in jax.devices() if device.platform == "gpu"]
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"JAX has no device here, since JAX_PLATFORMS is '{named}'; unset it.") from error
    devices = {"cpu": platform.machine()} if not named or "cpu" in named.split(",") else {}
    if gpus:
        devices["cuda"] = gpus[0]
    return Description(versions={name: version(name) for name in ("jax", "jaxlib", "flax", "optax")}, devices=devices)


def programs_compiled() -> int | None:
    """None where none was asked for, or the cache is off."""
    asked, given = (events[f"/jax/compilation_cache/{event}"] for event in ("compile_requests_use_cache", "cache_hits"))
    return asked - given if asked and jax.config.jax_compilation_cache_dir else None


def select(device: Device) -> jax.Device:
    """The device. Raises `UserError` where it isn't there."""
    if device not in describe().devices:
        named = jax.config.jax_platforms
        remedy = f"unset JAX_PLATFORMS, which is '{named}', " if named else "use --device cpu, "
        raise UserError(f"JAX has no device '{device}' here; {remedy}or install environments/jax-cuda.txt.")
    return jax.devices(device)[0]


def rounded(factors: Factors) -> jnp.dtype:
    """The dtype of a product's factors, TF32 switched on for its own and off for others."""
    jax.config.update("jax_default_matmul_precision", "tensorfloat32" if tf32.settle(factors == "tf32") else "highest")
    return jnp.dtype(stored(factors))


def path(name: str) -> tuple[str | int, ...]:
    """Where NNX keeps a parameter of this portable name."""
    keys = name.removesuffix("weight") + "kernel" if name.endswith(".weight") else name
    return tuple(int(key) if key.isdigit() else key for key in keys.split("."))


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
        self.device, self.dtype = select(device), jnp.dtype(dtype)
        self.model, self.settings, self.training = model, optimizer, training
        with jax.default_device(self.device):
            factors = rounded(config.factors(dtype, precision))

            def build() -> tuple[nnx.GraphDef, nnx.State]:
                graph, _, constants = nnx.split(VAE(model, dtype=self.dtype, factors=factors, rngs=nnx.Rngs(0)), nnx.Param, ...)
                return graph, constants

            # Parameters come from `state`. Compiled, their initial values, which nobody asks for, aren't drawn.
            self.graph, self.constants = jax.jit(build)()
        self.parameters = self._own(group(state, "parameters"))
        self.ema = self._own(group(state, "ema") if training.ema_decay else {})
        self.step = int(state["step"])
        self.optimizer = optimizers.create(optimizer)
        moments = self._own(group(state, "optimizer"))
        # Optax's count starts on no device in particular; a chunk returns it on this one, for which it would compile again.
        empty = jax.eval_shape(self.optimizer.init, self.parameters)
        loaded = optimizers.load_moments(empty, moments, self.step, optimizer)
        self.moments = jax.device_put(loaded, self.device)

    def _own(self, arrays: State) -> dict[str, Array]:
        return {name: jax.device_put(np.asarray(value, self.dtype), self.device) for name, value in arrays.items()}

    def _vae(self, parameters: dict[str, Array]) -> VAE:
        """The model with these parameters."""
        state = nnx.from_flat_state({path(name): nnx.Param(value) for name, value in parameters.items()})
        return nnx.merge(self.graph, state, self.constants)

    def _objective(
        self, parameters: dict[str, Array], x: Array, noise: Array, kl_weight: Array
    ) -> tuple[Array, dict[str, Array]]:
        quantities = self._vae(parameters)(x, noise)
        return objective(log_weights(quantities, kl_weight)), quantities

    @checked
    def place(self, images: UInt8[np.ndarray, "images pixels"]) -> UInt8[Array, "images pixels"]:
        return jax.block_until_ready(jax.device_put(images, self.device))

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
        noise: Float[np.ndarray, "steps samples batch latent"] | None,
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
        key = jax.random.key(seed_for(seed, "training noise"))
        carry = (self.parameters, self.moments, self.ema)
        carry, values = self._train(carry, *jax.device_put((handle, key, chunk), self.device))
        self.parameters, self.moments, self.ema = carry
        self.step += steps
        objectives, elbos = jax.device_get(values)
        return objectives, elbos

    @functools.partial(jax.jit, static_argnums=0, donate_argnums=1, compiler_options=EXACTLY | IN_PLACE)
    def _train(self, carry: Any, handle: Array, key: Array, chunk: dict[str, Array]) -> Any:
        batch = chunk["rows"].shape[1]
        shape = (self.training.objective_samples, batch, self.model.latent_size)

        def step(carry: Any, t: dict[str, Array]) -> Any:
            parameters, moments, ema = carry
            x = handle[t["rows"]].astype(self.dtype)
            noise = t["noise"] if "noise" in t else jax.random.normal(jax.random.fold_in(key, t["step"]), shape, self.dtype)
            gradient = jax.value_and_grad(self._objective, has_aux=True)
            (value, quantities), ascent = gradient(parameters, x, noise, t["kl_weight"])
            descent = jax.tree.map(jnp.negative, ascent)
            updates, moments = self.optimizer.update(descent, moments, parameters)
            parameters = jax.tree.map(lambda p, u: p - t["learning_rate"] * u, parameters, updates)
            if ema:
                ema = optax.incremental_update(parameters, ema, 1 - self.training.ema_decay)
            return (parameters, moments, ema), (value, log_weights(quantities, 1.0).mean())

        return jax.lax.scan(step, carry, chunk)

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
            key = jax.device_put(jax.random.key(seed_for(seed, "evaluation noise")), self.device)
            epsilon = self._evaluation_noise(key, indices, np.arange(blocks.start, blocks.stop))[: len(samples)]
        else:
            epsilon = jax.device_put(noise.astype(self.dtype), self.device)
        return np.asarray(self._log_weights(self.ema or self.parameters, handle, indices, epsilon))

    @functools.partial(jax.jit, static_argnums=0)
    def _evaluation_noise(self, key: Array, images: Array, blocks: Array) -> Array:
        """[samples, batch, latent]: a block of samples is a function of (key, image, block)."""

        def draw(image: Array, block: Array) -> Array:
            image_key = jax.random.fold_in(jax.random.fold_in(key, image), block)
            return jax.random.normal(image_key, (NOISE_BLOCK * self.model.latent_size,), self.dtype)  # two axes compile slowly

        draws = jax.vmap(lambda image: jax.vmap(lambda block: draw(image, block))(blocks))(images)
        return jnp.moveaxis(draws.reshape(len(images), -1, self.model.latent_size), 0, 1)

    @functools.partial(jax.jit, static_argnums=0, compiler_options=EXACTLY)
    def _log_weights(self, parameters: dict[str, Array], handle: Array, indices: Array, noise: Array) -> Array:
        return log_weights(self._vae(parameters)(handle[indices].astype(self.dtype), noise), 1.0)

    @checked
    def inspect(
        self,
        handle: UInt8[Array, "images pixels"],
        indices: Int[np.ndarray, "batch"],
        *,
        noise: Float[np.ndarray, "samples batch latent"],
        kl_weight: float,
    ) -> dict[str, np.ndarray]:
        arguments = (handle[indices].astype(self.dtype), noise.astype(self.dtype), kl_weight)
        gradient = jax.jit(jax.value_and_grad(self._objective, has_aux=True), compiler_options=EXACTLY)
        (value, quantities), gradients = gradient(self.parameters, *arguments)
        quantities |= {"log_weights": log_weights(quantities, kl_weight), "objective": value}
        quantities |= {f"gradient/{name}": gradient for name, gradient in gradients.items()}
        return {name: np.asarray(value) for name, value in quantities.items()}

    @checked
    def gradient(
        self,
        handle: UInt8[Array, "images pixels"],
        indices: Int[np.ndarray, "batch"],
        *,
        noise: Float[np.ndarray, "samples batch latent"],
        kl_weight: float,
    ) -> Callable[[int], None]:
        x, epsilon = handle[indices].astype(self.dtype), jax.device_put(noise.astype(self.dtype), self.device)

        def value(parameters: dict[str, Array], x: Array, noise: Array) -> Array:
            return self._objective(parameters, x, noise, kl_weight)[0]

        gradient = jax.jit(jax.grad(value), compiler_options=EXACTLY)

        def launch(repeats: int) -> None:
            for _ in range(repeats):
                gradients = gradient(self.parameters, x, epsilon)
            jax.block_until_ready(gradients)

        return launch

    @checked
    def encode(
        self, images: Real[np.ndarray, "batch pixels"]
    ) -> tuple[Float[np.ndarray, "batch latent"], Float[np.ndarray, "batch latent"]]:
        quantities = self._vae(self.ema or self.parameters).encode(jnp.asarray(images, self.dtype))
        return np.asarray(quantities["loc"]), np.asarray(quantities["scale"])

    @checked
    def decode(self, latents: Float[np.ndarray, "batch latent"]) -> Float[np.ndarray, "batch pixels"]:
        logits = self._vae(self.ema or self.parameters).decoder(jnp.asarray(latents, self.dtype))
        return np.asarray(jax.nn.sigmoid(logits))

    def export(self, file: Path) -> None:
        """The NNX state of the `Param`s, as a nested dictionary in Flax's msgpack."""
        state = nnx.state(self._vae(self.ema or self.parameters), nnx.Param)
        file.write_bytes(serialization.to_bytes(nnx.to_pure_dict(state)))

    def state(self) -> State:
        arrays = (
            {f"parameters/{name}": value for name, value in self.parameters.items()}
            | {f"ema/{name}": value for name, value in self.ema.items()}
            | {f"optimizer/{name}": value for name, value in optimizers.moments(self.moments).items()}
        )
        return {"step": np.array(self.step, dtype=np.int64)} | {name: np.array(value) for name, value in arrays.items()}

    def synchronize(self) -> None:
        jax.block_until_ready((self.parameters, self.moments, self.ema))


create = Session


def probe(*, products: list[tuple[int, int, int]], device: Device, dtype: Factors) -> Callable[[int], None]:
    """See `Backend.probe`: one compiled call a repeat; every product is an output, so that none is optimised away."""
    where, draws = select(device), np.random.default_rng(0)
    factor = rounded(dtype)
    summed = jnp.promote_types(factor, jnp.float32)
    factors = [
        (draws.standard_normal((m, k)).astype(factor), draws.standard_normal((k, n)).astype(factor)) for m, k, n in products
    ]
    placed = jax.device_put(factors, where)
    multiply = jax.jit(lambda pairs: [jnp.matmul(left, right, preferred_element_type=summed) for left, right in pairs])

    def launch(repeats: int) -> None:
        for _ in range(repeats):
            results = multiply(placed)
        jax.block_until_ready(results)

    return launch


def copy(*, size: int, device: Device) -> Callable[[int], None]:
    """See `Backend.copy`."""
    source = jax.device_put(np.zeros(size // 4, np.float32), select(device))
    add = jax.jit(lambda x: x + 1)

    def launch(repeats: int) -> None:
        for _ in range(repeats):
            target = add(source)
        jax.block_until_ready(target)

    return launch


def device_peak(device: Device) -> int | None:
    """See `Backend.device_peak`."""
    return int(select(device).memory_stats()["peak_bytes_in_use"]) if device == "cuda" else None
