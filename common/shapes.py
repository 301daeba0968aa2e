"""Whether backends check the shapes of their tensors: one switch, read here alone. docs/shapes.md says what it does."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar, cast, get_args

from common.errors import UserError

Function = TypeVar("Function", bound=Callable[..., Any])
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

SWITCH = "VAEBENCH_CHECK_SHAPES"


def switched_on() -> bool:
    """Raises `UserError` for a value that is neither 0 nor 1."""
    value = os.environ.get(SWITCH) or "0"
    if value not in ("0", "1"):
        raise UserError(f"The environment variable {SWITCH} is '{value}'; set it to 1 to check shapes, or to 0.")
    return value == "1"


def checked(function: Function, *, around: Decorator = lambda check: check) -> Function:
    """The same object where the switch is off; else one that holds each call's arguments and result to their annotations.

    A name such as `batch` is one size throughout a call. `around` decorates the check, not the function. Raises
    `jaxtyping.TypeCheckError`, which names function, argument, the shape that it has and the one that it should have.
    """
    if not switched_on():
        return function
    from beartype import beartype
    from jaxtyping import jaxtyped

    for hint in function.__annotations__.values():
        name_in_full(hint)
    return cast(Function, jaxtyped(function, typechecker=lambda signature: around(beartype(signature))))


def name_in_full(hint: Any) -> None:
    """Give the array types in this annotation the module of their arrays.

    beartype caches dict[…], tuple[…] and X | Y by their text, where PyTorch's Tensor and TensorFlow's would be one type.
    """
    from jaxtyping import AbstractArray

    for part in get_args(hint):
        name_in_full(part)
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        hint.__module__ = hint.array_type.__module__
