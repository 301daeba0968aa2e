"""How shapes are checked in PyTorch: at each call in eager mode, and not at all inside `torch.compile`."""

import functools
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from common import shapes

Quantities = dict[str, Float[Tensor, "..."]]
Masks = dict[str, Float[Tensor, "..."]]  # layer → 0 where dropout drops a unit, else 1/(1 − dropout), [*rows, units]


def checked(function: shapes.Function) -> shapes.Function:
    """See `common.shapes.checked`. Dynamo would trace the check too, and right shapes then raise an error."""
    checking = shapes.checked(function)
    if checking is function:
        return function

    @functools.wraps(function)
    def checking_when_eager(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs) if torch.compiler.is_compiling() else checking(*args, **kwargs)

    return cast(shapes.Function, checking_when_eager)
