"""How tyro reads a number or a choice here: a wrong one is a sentence, also among several values of one flag."""

from __future__ import annotations

import contextlib
import typing
from collections.abc import Sequence
from typing import Any

from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec

from common.errors import UserError, did_you_mean

RULES = ConstructorRegistry()


class UnfitError(Exception):
    """A text that isn't what its flag takes; `wanted` says what it takes. Of a ValueError tyro can lose the reason."""

    def __init__(self, text: str, wanted: str):
        super().__init__(text)
        self.text, self.wanted = text, wanted

    def as_user_error(self, arguments: Sequence[str]) -> UserError:
        """The sentence; `arguments` are those of the command, and name the flag before the text."""
        flag = "An argument"
        for argument in arguments:
            name, equals, value = argument.partition("=")
            flag = name.replace("_", "-") if name.startswith("--") else flag
            if self.text in (argument, value if equals else None):
                break
        return UserError(f"{flag} is '{self.text}'; {self.wanted}")


@RULES.primitive_rule
def whole(info: Any) -> Any:
    """A whole number; 1e4 is one."""

    def read(texts: list[str]) -> int:
        with contextlib.suppress(ValueError):
            return int(texts[0])
        with contextlib.suppress(ValueError, OverflowError):
            if (number := float(texts[0])).is_integer():
                return int(number)
        raise UnfitError(texts[0], f"it must be a whole number.{did_you_mean(texts[0], ())}")

    if info.type is not int:
        return None
    return PrimitiveConstructorSpec(
        nargs=1, metavar="INT", instance_from_str=read, is_instance=_is_int, str_from_instance=lambda value: [str(value)]
    )


@RULES.primitive_rule
def number(info: Any) -> Any:
    """A number."""

    def read(texts: list[str]) -> float:
        try:
            return float(texts[0])
        except ValueError as error:
            raise UnfitError(texts[0], f"it must be a number.{did_you_mean(texts[0], ())}") from error

    if info.type is not float:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="FLOAT",
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, float) or _is_int(value),
        str_from_instance=lambda value: [str(value)],
    )


@RULES.primitive_rule
def choice(info: Any) -> Any:
    """One of a Literal's texts."""
    choices = typing.get_args(info.type)

    def read(texts: list[str]) -> str:
        if texts[0] not in choices:
            raise UnfitError(texts[0], f"choose from {', '.join(choices)}.{did_you_mean(texts[0], choices)}")
        return texts[0]

    if info.type_origin is not typing.Literal or not all(isinstance(one, str) for one in choices):
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=f"{{{','.join(choices)}}}",
        instance_from_str=read,
        is_instance=lambda value: value in choices,
        str_from_instance=lambda value: [value],
    )


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
