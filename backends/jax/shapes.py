"""How shapes are checked in JAX: at each call outside `jax.jit`, and inside it once, while it traces."""

from jax import Array
from jaxtyping import Float

from common import shapes

Quantities = dict[str, Float[Array, "..."]]


def checked(function: shapes.Function) -> shapes.Function:
    """See `common.shapes.checked`."""
    return shapes.checked(function)
