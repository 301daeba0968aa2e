"""The product of a layer in bfloat16, forward and backward, written so that XLA computes it fast on a CPU.

XLA has a fast product of bfloat16 there. It uses it only for a float32 result, and only where no transposition is folded into
the left factor; otherwise it converts both factors to float32 first: see docs/bfloat16.md.
"""

import jax
import jax.numpy as jnp
from jax import Array


def bfloat16_linear(x: Array, weight: Array, bias: Array | None) -> Array:
    """x·weight + bias, [*rows, inputs]·[inputs, outputs] + [outputs]: all three are rounded to bfloat16, and so is the sum."""
    result = bfloat16_product(x.reshape(-1, x.shape[-1]).astype(jnp.bfloat16), weight)
    if bias is not None:
        result = result + bias.astype(jnp.bfloat16).astype(jnp.float32)
    return result.astype(jnp.bfloat16).reshape(*x.shape[:-1], -1)


@jax.custom_vjp
def bfloat16_product(x: Array, weight: Array) -> Array:
    """x·weight in float32, x bfloat16 [rows, inputs], the weight rounded; x's gradient is bfloat16, the weight's float32."""
    return _sum(x, weight.astype(jnp.bfloat16), contract=(1, 0))


def _forward(x: Array, weight: Array) -> tuple[Array, tuple[Array, Array]]:
    return bfloat16_product(x, weight), (x, weight.astype(jnp.bfloat16))


def _backward(factors: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, weight = factors
    gradient = gradient.astype(jnp.bfloat16)  # it is one already, converted to float32 by the rounding of the result
    # Transpose through a third axis, so that XLA doesn't fold it into the product.
    transposed = jax.lax.optimization_barrier(x[None]).transpose(2, 0, 1).reshape(x.shape[::-1])
    return _sum(gradient, weight, contract=(1, 1)).astype(jnp.bfloat16), _sum(transposed, gradient, contract=(1, 0))


bfloat16_product.defvjp(_forward, _backward)


def _sum(left: Array, right: Array, *, contract: tuple[int, int]) -> Array:
    axes = (((contract[0],), (contract[1],)), ((), ()))
    return jax.lax.dot_general(left, right, axes, preferred_element_type=jnp.float32)
