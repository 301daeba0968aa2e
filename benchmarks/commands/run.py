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
from benchmarks.outputs import cells, terminal
from common import checkpoints, protocol
from common.config import FAMILIES, SECTIONS, TOP, Config, Variational
from common.errors import UserError

SEVERAL = ("variational", "seed")  # settings of which a command can have several values, a run each
# Settings that --help shows; --help-all shows the others too.
MAIN = ("latent_size", "hidden_size", "flow_depth", "learning_rate", "batch_size", "steps", "samples", "images", "device")

Field = tuple[str, Any, Any]  # of a dataclass: name, type with its help, default


def option(kind: Any, help: str, **more: Any) -> Any:
    return Annotated[kind, tyro.conf.arg(help=help, **more)]


def setting_fields(config: Config, *, everything: bool) -> list[Field]:
    """A field for each section of the settings and one for those of no section; their own fields are flags.

    Unless `everything` is wanted, the flags are those of MAIN, under one heading.
    """
    owners = [(section, getattr(config, section), names) for section, names in SECTIONS.items()]
    result = []
    for title, owner, names in [*owners, ("arithmetic", config, TOP)]:
        kinds = typing.get_type_hints(type(owner))
        fields = {field.name: field for field in dataclasses.fields(owner)}
        flags = [
            (name, option(kinds[name], fields[name].metadata["help"]), getattr(owner, name))
            for name in names
            if "help" in fields[name].metadata and name not in SEVERAL and (everything or name in MAIN)
        ]
        section = dataclasses.make_dataclass(title.capitalize(), flags)
        heading = tyro.conf.OmitArgPrefixes if everything else tyro.conf.arg(name="")
        result.append((title, Annotated[section, heading], dataclasses.field(default_factory=section)))
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


def asked_of(arguments: list[str]) -> tuple[Any, Config, checkpoints.Checkpoint | None]:
    """(the arguments parsed, the config that they change, the checkpoint of --from)."""
    origin = named(arguments, "--from", "")
    start = checkpoints.load(Path(origin)) if origin else None
    name = named(arguments, "--preset", start.preset if start else "quick")
    default = start.config if start and name == start.preset else preset(name)
    families = (default.model.variational,) if start else FAMILIES
    everything = "--help-all" in arguments or not {"-h", "--help"} & {*arguments}
    kind = dataclasses.make_dataclass(
        "Run",
        [
            ("preset", option(str, f"Named settings: {', '.join(PRESETS)}."), name),
            ("backend", option(tuple[str, ...], f"Some of {', '.join(protocol.BACKENDS)}; all by default."), ()),
            ("variational", option(tuple[Variational, ...], "One or both families."), families),
            ("seed", option(tuple[int, ...], "One or more seeds, a run each."), (default.training.seed,)),
            (
                "data",
                option(str, "binarized-mnist, binarized-digits or an .h5 file."),
                start.dataset if start else "binarized-digits",
            ),
            ("data_dir", option(Path | None, "Folder of the binarized MNIST files."), None),
            ("results", option(Path, "Folder for records and checkpoints."), Path("results")),
            ("resume", option(bool, "Go on from the checkpoints in the results folder."), False),
            (
                "from_",
                option(Path | None, "Go on from this checkpoint: its settings and backend are the defaults.", name="from"),
                None,
            ),
            *setting_fields(default, everything=everything),
        ],
    )
    description = "Train, test and time models; each ends in a record and a checkpoint."
    if not everything:
        description += " --help-all has all settings."
    given = ["--help" if argument == "--help-all" else argument for argument in arguments]
    return parse(kind, given, command="run", description=description), default, start


def main(arguments: list[str]) -> int:
    asked, default, start = asked_of(arguments)
    for flag in ("backend", *SEVERAL):
        values = getattr(asked, flag)
        if f"--{flag}" in arguments and not values:
            raise UserError(f"--{flag} has no value; give at least one, or leave it out.")
        if len(set(values)) < len(values):
            raise UserError(f"--{flag} names one twice; once is one run.")
    settings = {name: value for section in (*SECTIONS, "arithmetic") for name, value in vars(getattr(asked, section)).items()}
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
    jobs = [runs.checked(job) for job in jobs]
    for job in jobs if start else []:
        runs.check_start(job)
    warn_of(*(job.config for job in jobs))
    done: list[records.Record] = []
    worst = 0
    for job in jobs:
        code = runs.in_process(job)
        if code == 2 or (code == runs.UNAVAILABLE and asked.backend):
            terminal.page(cells.page(done), Console())  # what went before is not lost
            return 2
        if code:
            record = without_result(job, code)
            worst = max(worst, 0 if code == runs.UNAVAILABLE else 1)
            if code == runs.UNAVAILABLE and job.record.exists():
                done.append(record)  # a run that did not begin replaces no result
                continue
            records.write(record, Path(job.results))
        done.append(records.read(job.record))
    terminal.page(cells.page(done), Console())
    return max([worst, *(1 for record in done if record["status"] == "failed")])


def without_result(job: runs.Job, code: int) -> records.Record:
    """The record of a run whose process ended with this code."""
    if code == runs.UNAVAILABLE:
        status, reason = "not-run", "its framework can't be imported; `python -m benchmarks list` says why"
    else:
        status, reason = "failed", f"its process ended with code {code}"
    return job.blank(dataset=job.dataset()) | {"status": status, "reason": f"{job.backend}: {reason}."}
