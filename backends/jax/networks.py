"""The encoder's and the decoder's network."""

from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from backends.jax.shapes import checked


class MLP(nnx.Module):
    """inputs → hidden → hidden → outputs, ReLU between."""

    def __init__(self, inputs: int, hidden: int, outputs: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.first = nnx.Linear(inputs, hidden, dtype=dtype, param_dtype=dtype, rngs=rngs)
        self.second = nnx.Linear(hidden, hidden, dtype=dtype, param_dtype=dtype, rngs=rngs)
        self.out = nnx.Linear(hidden, outputs, dtype=dtype, param_dtype=dtype, rngs=rngs)

    @checked
    def __call__(self, x: Float[Array, "*rows inputs"]) -> Float[Array, "*rows outputs"]:
        x = nnx.relu(self.first(x))
        x = nnx.relu(self.second(x))
        return self.out(x)
