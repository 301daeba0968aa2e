"""python -m benchmarks export: a checkpoint's weights in a framework's own format, for programs outside this suite."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from benchmarks.harness import cli
from common import checkpoints, protocol
from common.errors import UserError
from common.files import write_whole
from common.parameters import masks_applied

# File format → the backend that writes it.
FORMATS = {"pytorch": "pytorch", "jax": "jax", "keras": "tensorflow"}


def main(arguments: list[str]) -> int:
    @dataclass
    class Export:
        checkpoint: cli.Checkpoint
        to: Annotated[
            Literal["pytorch", "jax", "keras"],
            tyro.conf.arg(help="A state_dict as safetensors; an NNX state as Flax's msgpack; Keras's .weights.h5."),
        ]
        output: Annotated[Path | None, tyro.conf.arg(help="The file to write; beside the checkpoint by default.")] = None

    asked = cli.parse(
        Export, arguments, command="export", description="A checkpoint's tested weights in a framework's own format."
    )
    path = export(asked.checkpoint, to=asked.to, output=asked.output)
    print(f"Wrote {path}; docs/examples/load_{asked.to}.py shows how to load it.")
    return 0


def export(source: Path, *, to: str, output: Path | None) -> Path:
    """Write the checkpoint's selected parameters (the moving average where there is one), masks applied, to a new file.

    `to` is one of FORMATS. Returns the path. Raises `UserError` for a checkpoint that can't be read, a framework that isn't
    installed, and an output that exists, has another suffix than the format's, or can't be written.
    """
    checkpoint = checkpoints.load(source)
    checkpoints.refuse_diverged(checkpoint, path=source)
    backend = protocol.load(FORMATS[to])
    path = output or source.with_suffix(backend.EXPORT_SUFFIX)
    if not path.name.endswith(backend.EXPORT_SUFFIX):
        raise UserError(f"{path} does not end in {backend.EXPORT_SUFFIX}, as a file for {to} must; give another --output.")
    if path.exists():
        raise UserError(f"{path} exists; remove it, or give another --output.")
    config = checkpoint.config.replace(device="cpu")
    session = backend.score(config, masks_applied(checkpoint.selected(), config.model))
    write_whole(path, session.export)
    return path
