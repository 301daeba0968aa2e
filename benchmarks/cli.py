"""What every command of `python -m benchmarks` parses its arguments with."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from typing import Any

import tyro

from common.errors import UserError
from common.protocol import BACKENDS


def parse(kind: type, arguments: list[str], *, command: str, description: str) -> Any:
    """The arguments as a `kind`; a bad one ends here, with a sentence and exit code 2."""
    return tyro.cli(kind, args=arguments, prog=f"python -m benchmarks {command}", description=description)


def known(backends: Iterable[str]) -> None:
    """Raises `UserError` for a name that is no backend's."""
    for name in backends:
        if name not in BACKENDS:
            raise UserError(f"There is no backend '{name}'; choose from {', '.join(BACKENDS)}.")


def usable(named: tuple[str, ...]) -> tuple[str, ...]:
    """The backends that are named or, where none is, those whose framework can be imported here; stderr says which can't.

    Raises `UserError` for a name that is no backend's, and where no framework can be imported.
    """
    known(named)
    answers = {} if named else {name: described(name) for name in BACKENDS}
    reasons = {name: last_words(answer) for name, answer in answers.items() if answer.returncode}
    if len(reasons) == len(BACKENDS):
        raise UserError("There is no framework here that can be imported; `python -m benchmarks list` says why.")
    for name, reason in reasons.items():
        print(f"{name} is left out: {reason}", file=sys.stderr)
    return named or tuple(name for name in BACKENDS if name not in reasons)


def described(name: str) -> subprocess.CompletedProcess[str]:
    """`python -m benchmarks describe NAME`, which ends with 0 where the backend can be used."""
    command = [sys.executable, "-m", "benchmarks", "describe", name]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def last_words(answer: subprocess.CompletedProcess[str]) -> str:
    """Of its process: why a backend can't be used."""
    return (answer.stderr.strip().splitlines() or ["unavailable"])[-1]
