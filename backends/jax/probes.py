"""What JAX does only to be timed or counted: see `Probes` in common/protocol.py."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int, UInt8

from backends.jax import compiling, devices
from backends.jax.resnet import convolved, kernel_gradient
from backends.jax.session import Session
from backends.jax.shapes import checked
from common.config import Device, Factors
from common.parameters import Product, factor_shapes


def products(*, products: list[Product], device: Device, dtype: Factors) -> Callable[[int], None]:
    """One compiled loop over the repeats, as a chunk is one over its steps. XLA removes no product.

    Every product is a result of the loop, and a barrier keeps the factors from being constants of the loop.
    """
    where, draws = devices.select(device), np.random.default_rng(0)
    factor = devices.rounded(dtype)
    summed = jnp.promote_types(factor, jnp.float32)

    def product(left: Array, right: Array, sizes: Product) -> Array:
        if len(sizes) == 3:
            return jnp.matmul(left, right, preferred_element_type=summed)
        *_, of_weight = sizes
        return kernel_gradient(left, right) if of_weight else convolved(left, right)

    pairs = [[draws.standard_normal(shape).astype(factor) for shape in factor_shapes(sizes)] for sizes in products]
    placed = jax.device_put(pairs, where)

    def every(pairs: list[list[Array]]) -> list[Array]:
        return [product(left, right, sizes) for (left, right), sizes in zip(pairs, products, strict=True)]

    @jax.jit
    def multiply(repeats: int, pairs: list[list[Array]], results: list[Array]) -> list[Array]:
        return jax.lax.fori_loop(0, repeats, lambda i, _: every(jax.lax.optimization_barrier((pairs, i))[0]), results)

    results = [jnp.zeros(result.shape, result.dtype, device=where) for result in jax.eval_shape(every, placed)]

    def launch(repeats: int) -> None:
        jax.block_until_ready(multiply(repeats, placed, results))

    return launch


def copy(*, size: int, device: Device) -> Callable[[int], None]:
    """One compiled call a repeat."""
    source = jax.device_put(np.zeros(size // 4, np.float32), devices.select(device))
    add = jax.jit(lambda x: x + 1)

    def launch(repeats: int) -> None:
        for _ in range(repeats):
            target = add(source)
        jax.block_until_ready(target)

    return launch


@checked
def gradient(
    session: Session,
    handle: UInt8[Array, "images pixels"],
    indices: Int[np.ndarray, "batch"],
    *,
    noise: Float[np.ndarray, "samples batch draws"],
    kl_weight: float,
) -> Callable[[int], None]:
    """One compiled call a repeat."""
    x, epsilon = session.images(handle, indices), session.given(noise)

    def value(parameters: dict[str, Array], x: Array, noise: Array) -> Array:
        return session._objective(parameters, x, noise, kl_weight)[0]

    compiled = jax.jit(jax.grad(value), compiler_options=compiling.EXACTLY)

    def launch(repeats: int) -> None:
        for _ in range(repeats):
            gradients = compiled(session.parameters, x, epsilon)
        jax.block_until_ready(gradients)

    return launch


def device_peak(device: Device) -> int | None:
    """By XLA's allocator."""
    return int(devices.select(device).memory_stats()["peak_bytes_in_use"]) if device == "cuda" else None


def programs_compiled() -> int | None:
    """By the cache's events. None where it was asked for no program, or the cache is off."""
    asked, hit = (compiling.events[f"/jax/compilation_cache/{event}"] for event in ("compile_requests_use_cache", "cache_hits"))
    return asked - hit if asked and jax.config.jax_compilation_cache_dir else None


def uncompiled() -> str | None:
    """By JAX's own switch."""
    return compiling.uncompiled
