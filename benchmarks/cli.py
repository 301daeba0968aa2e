"""What every command of `python -m benchmarks` parses its arguments with."""

from __future__ import annotations

from typing import Any

import tyro


def parse(kind: type, arguments: list[str], *, command: str, description: str) -> Any:
    """The arguments as a `kind`; a bad one ends here, with a sentence and exit code 2."""
    return tyro.cli(kind, args=arguments, prog=f"python -m benchmarks {command}", description=description)
