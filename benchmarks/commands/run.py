"""python -m benchmarks run: train, test and time models; each ends in a record and a checkpoint."""

from __future__ import annotations

import argparse
import dataclasses
import typing
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from benchmarks.harness import cli, records, runs
from benchmarks.harness.presets import PRESETS, preset
from benchmarks.outputs import cells, terminal
from common import checkpoints, protocol
from common.config import FAMILIES, SECTIONS, TOP, Config
from common.errors import UserError

SEVERAL = ("variational", "seed")  # settings with several values in one command, a run for each
# Settings that --help shows; --help-all shows all settings.
MAIN = ("latent_size", "hidden_size", "flow_depth", "learning_rate", "batch_size", "steps", "samples", "images", "device")

Field = tuple[str, Any, Any]  # of a dataclass: name, type with its help, default


def option(kind: Any, help: str, **more: Any) -> Any:
    return Annotated[kind, tyro.conf.arg(help=help, **more)]


def setting_fields(config: Config, *, everything: bool) -> list[Field]:
    """A field for each section of the settings and one for TOP; the fields of a section are flags.

    Without `everything` only the settings of MAIN are flags, under one heading.
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


def asked_of(arguments: list[str]) -> tuple[Any, Config, checkpoints.Checkpoint | None]:
    """(the parsed arguments, the config that their settings change, the checkpoint of --from).

    --from and --preset are read first: they decide the other flags' defaults.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--from", nargs="?", dest="start")
    first.add_argument("--preset", nargs="?")
    named, _ = first.parse_known_args(arguments)
    start = checkpoints.load(Path(named.start)) if named.start else None
    name = named.preset or (start.preset if start else "quick")
    default = start.config if start and name == start.preset else preset(name)
    families = (default.model.variational,) if start else FAMILIES
    everything = "--help-all" in arguments or not {"-h", "--help"} & {*arguments}
    from_help = "Go on from this checkpoint: its settings and backend are the defaults."
    fields: list[Field] = [
        ("preset", option(str, f"Named settings: {', '.join(PRESETS)}."), name),
        ("backend", cli.Backends, ()),
        ("variational", cli.Families, families),
        ("seed", option(tuple[int, ...], "One or more seeds, a run each."), (default.training.seed,)),
        ("data", cli.Data, start.dataset if start else "binarized-digits"),
        ("binarize", cli.Binarize, start.binarize if start else None),
        ("data_dir", cli.DataDir, None),
        ("results", option(Path, "Folder for records and checkpoints."), Path("results")),
        ("resume", option(bool, "Go on from the checkpoints in the results folder."), False),
        ("from_", option(Path | None, from_help, name="from"), None),
        *setting_fields(default, everything=everything),
    ]
    description = "Train, test and time models; each ends in a record and a checkpoint."
    if not everything:
        description += " --help-all has all settings."
    given = ["--help" if argument == "--help-all" else argument for argument in arguments]
    return cli.parse(dataclasses.make_dataclass("Run", fields), given, command="run", description=description), default, start


def jobs_of(arguments: list[str]) -> tuple[list[runs.Job], bool]:
    """(the checked jobs of a command, whether --backend is given). Raises `UserError` where one of the runs can't succeed."""
    asked, default, start = asked_of(arguments)
    for flag in ("backend", *SEVERAL):
        values = getattr(asked, flag)
        if f"--{flag}" in arguments and not values:
            raise UserError(f"--{flag} has no value; give at least one, or leave out --{flag}.")
        if len(set(values)) < len(values):
            raise UserError(f"--{flag} names one twice; give each value once.")
    settings = {name: value for section in (*SECTIONS, "arithmetic") for name, value in vars(getattr(asked, section)).items()}
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
            binarize=asked.binarize,
        )
        for seed in asked.seed
        for family in asked.variational
        for backend in asked.backend or ((start.backend,) if start else protocol.BACKENDS)
    ]
    jobs = [runs.checked(job) for job in jobs]
    for job in jobs if start else []:
        runs.check_start(job)
    return jobs, bool(asked.backend)


def main(arguments: list[str]) -> int:
    jobs, backends_named = jobs_of(arguments)
    cli.warn_of(*(job.config for job in jobs))
    done: list[records.Record] = []
    worst = 0
    for job in jobs:
        code = runs.in_process(job)
        if code == 2 or (code == runs.UNAVAILABLE and backends_named):
            worst = 2
            break
        record = without_result(job, code) if code else records.read(job.record)
        if record["status"] == "failed":
            worst = 1
        # A run that did not begin replaces no result.
        if code and not (code == runs.UNAVAILABLE and job.record.exists()):
            records.write(record, Path(job.results))
        done.append(record)
    terminal.page(cells.page(done), Console())
    return worst


def without_result(job: runs.Job, code: int) -> records.Record:
    """The record of a run whose process ended with this code."""
    if code == runs.UNAVAILABLE:
        status, reason = "not-run", "its framework can't be imported; `python -m benchmarks list` says why"
    else:
        status, reason = "failed", f"its process ended with code {code}"
    return job.blank(dataset=job.dataset()) | {"status": status, "reason": f"{job.backend}: {reason}."}
