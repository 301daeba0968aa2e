"""How shapes are checked in JAX: at each call outside `jax.jit`, and inside it once, while it traces."""

from jax import Array
from jaxtyping import Float

from common.shapes import checked as checked

Quantities = dict[str, Float[Array, "..."]]
