"""What the commands share: parsing, the results folder, and which backends can be used here."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tyro

from benchmarks.harness import environment
from benchmarks.harness.environment import ROOT
from common import protocol
from common.config import Config, Device
from common.errors import UserError
from common.protocol import BACKENDS


def parse(kind: type, arguments: list[str], *, command: str, description: str) -> Any:
    """The arguments as an object of the dataclass `kind`; tyro ends the process with exit code 2 for a bad argument.

    Raises `UserError` for a NaN, and for a folder `results` that can't be written.
    """
    asked: Any = tyro.cli(kind, args=arguments, prog=f"python -m benchmarks {command}", description=description)
    for name, value in vars(asked).items():
        if isinstance(value, float) and math.isnan(value):
            raise UserError(f"--{name.replace('_', '-')} is nan; give a number.")
        if name == "results" and isinstance(value, Path):
            writable(value)
    return asked


def writable(results: Path) -> None:
    """Raises `UserError` where the folder can't be made or written. Called before hours of work, not after."""
    there = next(folder for folder in (results, *results.absolute().parents) if os.path.exists(folder))
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise UserError(
            f"The results folder {results} can't be written ({error.strerror}); give another as --results."
        ) from error


def known(backends: Iterable[str]) -> None:
    """Raises `UserError` for a name that isn't in BACKENDS."""
    for name in backends:
        if name not in BACKENDS:
            raise UserError(f"There is no backend '{name}'; choose from {', '.join(BACKENDS)}.")


def usable(named: tuple[str, ...], *, device: Device = "cpu") -> tuple[str, ...]:
    """The named backends; where none is named, those that have the device here. stderr says why the others are left out.

    Raises `UserError` for a name that isn't in BACKENDS, and where no backend can be used.
    """
    known(named)
    found = []
    for name in () if named else BACKENDS:
        description, reason = described(name)
        if description and device in description["devices"]:
            found.append(name)
        else:
            print(f"{name} is left out: {reason or f'it has no device {device} here.'}", file=sys.stderr)
    if not (named or found):
        raise UserError(f"No backend can be used on {device} here; `python -m benchmarks list` says what there is.")
    return named or tuple(found)


def described(name: str) -> tuple[dict[str, Any] | None, str]:
    """(the backend's `Description` or None, why it is unavailable or ""), from a process that imports the framework."""
    command = [sys.executable, "-m", "benchmarks", "describe", name]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if answer.returncode:
        return None, (answer.stderr.strip().splitlines() or [f"{name} is unavailable."])[-1]
    return json.loads(answer.stdout.splitlines()[-1]), ""


def describe(arguments: list[str]) -> int:
    """The process of `described`."""
    print(json.dumps(dataclasses.asdict(protocol.load(arguments[0]).describe())))
    return 0


@dataclasses.dataclass
class Nothing:
    """The arguments of a command that has none."""


def warn_of(*configs: Config) -> None:
    """Say on stderr, before a run, that bfloat16 will make it slower where this processor lacks the instructions."""
    slow = any((config.device, config.factors) == ("cpu", "bfloat16") for config in configs)
    if slow and environment.lacks_bfloat16():
        print(
            "This processor has no bfloat16 instructions: bfloat16 is slower than full, in PyTorch many times.", file=sys.stderr
        )
