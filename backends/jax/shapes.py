"""How shapes are checked in JAX: at each call outside `jax.jit`, and inside it once, while it traces."""

from jax import Array
from jaxtyping import Float

from common import shapes

Quantities = dict[str, Float[Array, "..."]]
Masks = dict[str, Float[Array, "..."]]  # layer → 0 where dropout drops a unit, else 1/(1 − dropout), [*rows, units]


def checked(function: shapes.Function) -> shapes.Function:
    """See `common.shapes.checked`."""
    return shapes.checked(function)
