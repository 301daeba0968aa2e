"""What the commands share: arguments, parsing, the results folder, and the backends that can be used here."""

from __future__ import annotations

import dataclasses
import math
import os
import secrets
import sys
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Annotated, Any

import tyro

from benchmarks.harness import environment, processes, values
from common import checkpoints, protocol
from common.config import Config, Device, Variational
from common.errors import DiskError, UserError, unknown
from common.files import write_bytes
from common.protocol import BACKENDS

# Arguments that several commands and studies have.
Checkpoint = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(help="An .h5 file that a run wrote.")]
Data = Annotated[str, tyro.conf.arg(help="binarized-mnist, binarized-digits, or an HDF5, .npz or .npy file.")]
Moved = Annotated[
    tuple[str, ...],
    tyro.conf.arg(
        metavar="PATH…", help="New path of the training data, where its file has moved; of several, the SHA-256 decides."
    ),
]
DataDir = Annotated[Path | None, tyro.conf.arg(help="Folder of the binarized MNIST files.")]
Backends = Annotated[tuple[str, ...], tyro.conf.arg(help=f"Some of {', '.join(BACKENDS)}; all by default.")]
Families = Annotated[tuple[Variational, ...], tyro.conf.arg(help="One or both families.")]
OnDevice = Annotated[Device, tyro.conf.arg(help="Where the models live.")]


def parse(kind: type, arguments: list[str], *, command: str, description: str) -> Any:
    """The arguments as an object of the dataclass `kind`; tyro ends the process with exit code 2 for a bad argument.

    Raises `UserError` for a text that is not the flag's number or choice, a NaN, and a folder `results` that can't be written.
    """
    try:
        asked: Any = tyro.cli(
            kind, args=arguments, prog=f"python -m benchmarks {command}", description=description, registry=values.RULES
        )
    except values.UnfitError as error:
        raise error.as_user_error(arguments) from error
    for name, value in vars(asked).items():
        if isinstance(value, float) and math.isnan(value):
            raise UserError(f"--{name.replace('_', '-')} is nan; give a number.")
        if name == "results" and isinstance(value, Path):
            writable(value)
    return asked


def writable(folder: Path, *, remedy: str = "give another as --results") -> None:
    """Raises `UserError` where the folder can't be made or written. Call this before the work that it is for.

    A small file is written as checkpoints are, and removed.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.exists(path))
    tried = there / f".vaebench-{secrets.token_hex(8)}"
    try:
        write_bytes(tried, bytes(4096))
        tried.unlink()
    except (DiskError, OSError) as error:
        reason = getattr(error.__cause__ or error, "strerror", error)
        raise UserError(f"The folder {folder} can't be written ({reason}); {remedy}.") from error


def at_least(asked: Any, **least: int) -> None:
    """Raises `UserError` for an argument below its least value."""
    for name, bound in least.items():
        if getattr(asked, name) < bound:
            raise UserError(f"--{name} is {getattr(asked, name)}; it must be at least {bound}.")


def known(backends: Iterable[str]) -> None:
    """Raises `UserError` for a name that isn't in BACKENDS."""
    for name in backends:
        if name not in BACKENDS:
            raise unknown("backend", name, BACKENDS)


def installed(names: Collection[str] = BACKENDS, *, quiet: bool = False, elsewhere: Collection[str] = ()) -> tuple[str, ...]:
    """Those of these backends whose packages are installed; stderr names the others, unless `quiet`.

    Backends `elsewhere`, in an environment of their own, count as installed.
    Unlike `usable` it starts no process: a package may be there and fail to be imported. Raises `UserError` where none is left.
    """
    lacking = {name: package for name in names if name not in elsewhere and (package := protocol.lacks(name))}
    found = tuple(name for name in names if name not in lacking)
    said = ", ".join(f"{name} (no {package})" for name, package in lacking.items())
    if not found:
        raise UserError(f"Not installed here: {said}; environments/ has a file of requirements for each.")
    if said and not quiet:
        print(f"Left out, since not installed here: {said}.", file=sys.stderr)
    return found


def backend_of(checkpoint: checkpoints.Checkpoint, *, path: Path, elsewhere: Collection[str] = ()) -> str:
    """The checkpoint's backend. Raises `UserError`, which offers the backends that are installed, where that one isn't.

    Backends `elsewhere`, in an environment of their own, count as installed.
    """
    if checkpoint.backend not in BACKENDS:
        raise UserError(
            f"{path} was trained by the backend '{checkpoint.backend}', which this checkout lacks; give another as --backend."
        )
    if checkpoint.backend not in elsewhere and (package := protocol.lacks(checkpoint.backend)):
        there = " or ".join(f"--backend {name}" for name in BACKENDS if not protocol.lacks(name))
        remedy = f"give {there}" if there else f"install environments/{checkpoint.backend}-cpu.txt"
        raise UserError(f"{path} was trained by {checkpoint.backend}, which isn't installed here (no {package}); {remedy}.")
    return checkpoint.backend


def usable(named: tuple[str, ...], *, device: Device = "cpu") -> tuple[str, ...]:
    """The named backends; where none is named, every backend that has the device here. stderr says why others are left out.

    Raises `UserError` for a name that isn't in BACKENDS, and where no backend can be used.
    """
    known(named)
    if named:
        return named
    found = []
    for name in installed():
        answer, reason = described(name)
        if answer and device in answer["devices"]:
            found.append(name)
        else:
            print(f"{name} is left out: {reason or f'it has no device {device} here.'}", file=sys.stderr)
    if not found:
        raise UserError(f"No backend can be used on {device} here; `python -m benchmarks list` shows backends and devices.")
    return tuple(found)


def described(name: str) -> tuple[dict[str, Any] | None, str]:
    """`description` in a fresh process, so that this one imports no framework."""
    try:
        found, reason = processes.ask(f"{__name__}:description", name, title=name)
    except processes.ProcessError as error:
        return None, str(error)
    return found, reason


def description(name: str) -> tuple[dict[str, Any] | None, str]:
    """(the backend's `Description` as a dictionary, or None; why the backend is unavailable, or "")."""
    try:
        return dataclasses.asdict(protocol.load(name).describe()), ""
    except UserError as error:
        return None, str(error)


@dataclasses.dataclass
class Nothing:
    """The arguments of a command that has none."""


def warn_of_training(*configs: Config) -> None:
    """Say on stderr that a warm-up is longer than its run."""
    for warm_up, steps in sorted({(config.training.warm_up, config.training.steps) for config in configs}):
        if warm_up > steps:
            print(
                f"The KL weight only reaches {steps / warm_up:.2f}, since --warm-up is {warm_up:,} and --steps {steps:,}: the "
                "objective never becomes the ELBO.",
                file=sys.stderr,
            )


def warn_of(*configs: Config) -> None:
    """Say on stderr that bfloat16 is slow, where a config asks a processor without bfloat16 instructions for it."""
    asked = any((config.device, config.factors) == ("cpu", "bfloat16") for config in configs)
    if asked and environment.lacks_bfloat16():
        print(
            "This processor has no bfloat16 instructions: bfloat16 is slower than full, in PyTorch many times.", file=sys.stderr
        )
