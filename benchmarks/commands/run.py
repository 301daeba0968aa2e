"""python -m benchmarks run: train, test and time models; each ends in a record and a checkpoint."""

from __future__ import annotations

import dataclasses
import itertools
import typing
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from benchmarks.harness import records, runs
from benchmarks.harness.cli import parse, warn_of
from benchmarks.harness.presets import PRESETS, preset
from benchmarks.harness.processes import UNAVAILABLE
from benchmarks.outputs import cells, terminal
from common import checkpoints, data, protocol
from common.config import SECTIONS, TOP, Config, Variational
from common.errors import UserError

FAMILIES = ("mean-field", "flow")


def setting_fields(config: Config, *, leave_out: tuple[str, ...]) -> list[tuple[str, Any, Any]]:
    """Every setting as (name, type with its help, default), for a flat command line."""
    owners = [(getattr(config, section), name) for section, names in SECTIONS.items() for name in names]
    owners += [(config, name) for name in TOP]
    result = []
    for owner, name in owners:
        field = {f.name: f for f in dataclasses.fields(owner)}[name]
        if "help" in field.metadata and name not in leave_out:
            kind = typing.get_type_hints(type(owner))[name]
            result.append((name, Annotated[kind, tyro.conf.arg(help=field.metadata["help"])], getattr(owner, name)))
    return result


def named(arguments: list[str], flag: str, default: str) -> str:
    """The value of a flag that decides the other flags' defaults; its last, as for every flag."""
    value = default
    for argument, following in itertools.zip_longest(arguments, arguments[1:], fillvalue="-"):
        if argument.startswith(f"{flag}="):
            value = argument.partition("=")[2]
        elif argument == flag and not following.startswith("-"):
            value = following
    return value


def main(arguments: list[str]) -> int:
    origin = named(arguments, "--from", "")
    start = checkpoints.load(Path(origin)) if origin else None
    name = named(arguments, "--preset", start.preset if start else "quick")
    default = start.config if start and name == start.preset else preset(name)
    kind = dataclasses.make_dataclass(
        "Run",
        [
            ("preset", Annotated[str, tyro.conf.arg(help=f"Named settings: {', '.join(PRESETS)}.")], name),
            (
                "backend",
                Annotated[
                    tuple[str, ...], tyro.conf.arg(help=f"One or more of {', '.join(protocol.BACKENDS)}; all by default.")
                ],
                (),
            ),
            (
                "variational",
                Annotated[tuple[Variational, ...], tyro.conf.arg(help="One or both families.")],
                (default.model.variational,) if start else FAMILIES,
            ),
            (
                "seed",
                Annotated[tuple[int, ...], tyro.conf.arg(help="One or more seeds, a run each.")],
                (default.training.seed,),
            ),
            (
                "data",
                Annotated[str, tyro.conf.arg(help="binarized-mnist, binarized-digits or an .h5 file.")],
                start.dataset if start else "binarized-digits",
            ),
            ("data_dir", Annotated[Path | None, tyro.conf.arg(help="Folder of the binarized MNIST files.")], None),
            ("results", Annotated[Path, tyro.conf.arg(help="Folder for records and checkpoints.")], Path("results")),
            (
                "resume",
                Annotated[bool, tyro.conf.arg(help="Go on from the checkpoints in the results folder.")],
                False,
            ),
            (
                "from_",
                Annotated[
                    Path | None,
                    tyro.conf.arg(
                        name="from",
                        help="Go on from this checkpoint, of any backend; its settings and its backend are the defaults.",
                    ),
                ],
                None,
            ),
            *setting_fields(default, leave_out=("variational", "seed")),
        ],
    )
    asked = parse(kind, arguments, command="run", description="Train and test models; each ends in a record.")
    for flag in ("backend", "variational", "seed"):
        values = getattr(asked, flag)
        if f"--{flag}" in arguments and not values:
            raise UserError(f"--{flag} has no value; give at least one, or leave it out.")
        if len(set(values)) < len(values):
            raise UserError(f"--{flag} names one twice; once is one run.")
    settings = {field: getattr(asked, field) for field, *_ in setting_fields(default, leave_out=("variational", "seed"))}
    backends = asked.backend or ((start.backend,) if start else protocol.BACKENDS)
    jobs = [
        runs.Job(
            backend=backend,
            preset=asked.preset,
            data=asked.data,
            data_dir=str(asked.data_dir) if asked.data_dir else None,
            config=default.replace(variational=family, seed=seed, **settings),
            results=str(asked.results),
            resume=asked.resume,
            start=str(asked.from_) if asked.from_ else None,
        )
        for seed in asked.seed
        for family in asked.variational
        for backend in backends
    ]
    jobs = [runs.with_pixels(job) for job in jobs]
    for job in jobs if start else []:
        runs.check_start(job)
    warn_of(*(job.config for job in jobs))
    done: list[records.Record] = []
    worst = 0
    for job in jobs:
        code = runs.in_process(job)
        if code == 2 or (code == UNAVAILABLE and asked.backend):
            terminal.page(cells.page(done), Console())  # what went before is not lost
            return 2
        if code:
            record = job.blank(dataset=data.load(job.data, data_dir=Path(job.data_dir) if job.data_dir else None))
            missing = "its framework can't be imported; `python -m benchmarks list` says why"
            reason = missing if code == UNAVAILABLE else f"its process ended with code {code}"
            status = "not-run" if code == UNAVAILABLE else "failed"
            record |= {"status": status, "reason": f"{job.backend}: {reason}."}
            worst = max(worst, 0 if code == UNAVAILABLE else 1)
            if code == UNAVAILABLE and job.record.exists():
                done.append(record)  # what isn't run replaces no result
                continue
            records.write(record, Path(job.results))
        done.append(records.read(job.record))
    terminal.page(cells.page(done), Console())
    return max([worst, *(1 for record in done if record["status"] == "failed")])
