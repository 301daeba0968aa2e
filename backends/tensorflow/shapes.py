"""How shapes are checked in TensorFlow: at each call in eager mode, and inside `tf.function` once, while it traces."""

import tensorflow as tf
from jaxtyping import Float

from common import shapes

Quantities = dict[str, Float[tf.Tensor, "..."]]
Masks = dict[str, Float[tf.Tensor, "..."]]  # layer → 0 where dropout drops a unit, else 1/(1 − dropout), [*rows, units]


def checked(function: shapes.Function) -> shapes.Function:
    """See `common.shapes.checked`. AutoGraph would rewrite the check too, and warn that it has no source."""
    return shapes.checked(function, around=tf.autograph.experimental.do_not_convert)
