"""The encoder's and the decoder's network, and its layer."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from backends.jax.bfloat16 import bfloat16_linear
from backends.jax.shapes import Masks, checked
from common.config import Model


class Linear(nnx.Linear):
    """x·weight + bias, all three and the result rounded to `factors`; the parameters are of `dtype`."""

    def __init__(self, inputs: int, outputs: int, *, use_bias: bool, dtype: DTypeLike, factors: DTypeLike, rngs: nnx.Rngs):
        super().__init__(inputs, outputs, use_bias=use_bias, dtype=factors, param_dtype=dtype, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self._affine(x, self.kernel[...])

    def _affine(self, x: Array, weight: Array) -> Array:
        if self.dtype == jnp.bfloat16:
            return bfloat16_linear(x, weight, None if self.bias is None else self.bias[...])
        rows = x.reshape(-1, x.shape[-1])  # with more axes, XLA copies the transposed x for the weight's gradient
        result = rows @ weight if self.bias is None else rows @ weight + self.bias
        return result.reshape(*x.shape[:-1], -1)


@checked
def dropped(x: Float[Array, "*rows units"], masks: Masks, layer: str) -> Float[Array, "*rows units"]:
    """x times the layer's mask; x itself where no mask is given, as in evaluation."""
    return x * masks[layer].astype(x.dtype) if layer in masks else x


class MLP(nnx.Module):
    """inputs → hidden → hidden → outputs, ReLU between; computes in dtype `factors` and returns x's dtype."""

    def __init__(self, model: Model, inputs: int, outputs: int, *, dtype: DTypeLike, factors: DTypeLike, rngs: nnx.Rngs):
        options: Any = {"use_bias": True, "dtype": dtype, "factors": factors, "rngs": rngs}
        hidden = model.hidden_size
        self.first = Linear(inputs, hidden, **options)
        self.second = Linear(hidden, hidden, **options)
        self.out = Linear(hidden, outputs, **options)

    @checked
    def __call__(self, x: Float[Array, "*rows inputs"], masks: Masks) -> Float[Array, "*rows outputs"]:
        hidden = dropped(nnx.relu(self.first(x)), masks, "first")
        hidden = dropped(nnx.relu(self.second(hidden)), masks, "second")
        return self.out(hidden).astype(x.dtype)
