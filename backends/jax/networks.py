"""The encoder's and the decoder's network, and its layer."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from backends.jax.shapes import checked


class Linear(nnx.Linear):
    """x·weight + bias, all three rounded to `factors`, which is the result's dtype too; parameters are of `dtype`."""

    def __init__(self, inputs: int, outputs: int, *, use_bias: bool, dtype: DTypeLike, factors: DTypeLike, rngs: nnx.Rngs):
        super().__init__(inputs, outputs, use_bias=use_bias, dtype=factors, param_dtype=dtype, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self._affine(x, self.kernel[...])

    def _affine(self, x: Array, weight: Array) -> Array:
        if self.dtype == jnp.bfloat16:
            return bfloat16_linear(x, weight, None if self.bias is None else self.bias[...])
        rows = x.reshape(-1, x.shape[-1])  # with more axes, XLA copies what it transposes for the weight's gradient
        result = rows @ weight if self.bias is None else rows @ weight + self.bias
        return result.reshape(*x.shape[:-1], -1)


class MLP(nnx.Module):
    """inputs → hidden → hidden → outputs, ReLU between; `factors` is the dtype inside, that of x the result's."""

    def __init__(self, inputs: int, hidden: int, outputs: int, *, dtype: DTypeLike, factors: DTypeLike, rngs: nnx.Rngs):
        options: Any = {"use_bias": True, "dtype": dtype, "factors": factors, "rngs": rngs}
        self.first = Linear(inputs, hidden, **options)
        self.second = Linear(hidden, hidden, **options)
        self.out = Linear(hidden, outputs, **options)

    @checked
    def __call__(self, x: Float[Array, "*rows inputs"]) -> Float[Array, "*rows outputs"]:
        hidden = nnx.relu(self.first(x))
        hidden = nnx.relu(self.second(hidden))
        return self.out(hidden).astype(x.dtype)


# XLA has a fast product of bfloat16 on a CPU, but takes it only for a float32 result, and only where no transposition of the
# left factor, which it would fold into the product, makes it convert both factors to float32 first: see docs/bfloat16.md.


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
    gradient = gradient.astype(jnp.bfloat16)  # which it was before it passed the result's rounding
    # Through three axes, a transposition is none that XLA would fold.
    transposed = jax.lax.optimization_barrier(x[None]).transpose(2, 0, 1).reshape(x.shape[::-1])
    return _sum(gradient, weight, contract=(1, 1)).astype(jnp.bfloat16), _sum(transposed, gradient, contract=(1, 0))


bfloat16_product.defvjp(_forward, _backward)


def _sum(left: Array, right: Array, *, contract: tuple[int, int]) -> Array:
    axes = (((contract[0],), (contract[1],)), ((), ()))
    return jax.lax.dot_general(left, right, axes, preferred_element_type=jnp.float32)
