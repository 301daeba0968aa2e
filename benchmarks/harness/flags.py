"""The flags of `run`, in the order in which its --help shows them. Every setting takes several values."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from benchmarks.harness import cli, settings_file
from benchmarks.harness.presets import PRESETS, flat, preset
from common import checkpoints
from common.binarize import Binarize
from common.checkpoints import Checkpoint
from common.config import FAMILIES, SECTIONS, Config
from common.errors import UserError
from common.protocol import BACKENDS

# Heading → its flags, in order, with underscores as in the settings' names. Other settings come last.
GROUPS = {
    "what": ("preset", "backend", "variational", "seed", "data", "binarize", "data_dir"),
    "length": (
        "steps",
        "batch_size",
        "device",
        "devices",
        "threads",
        "warm_up",
        "log_interval",
        "validation_interval",
        "selection",
    ),
    "model": (
        *("latent_size", "hidden_size", "flow_depth", "network", "channels", "blocks", "prior", "prior_depth", "dropout"),
        *("initial_weights", "data_bias"),
    ),
    "optimizer": (
        *("learning_rate", "learning_rate_warm_up", "optimizer", "schedule", "clip", "weight_decay", "decayed", "ema_decay"),
        "objective_samples",
    ),
    "evaluation": ("samples", "images"),
    "where": ("on", "python", "address", "parallel", "partition", "account", "time"),
    "output": (
        *("results", "resume", "from", "config", "save_config", "dry_run", "quiet", "json"),
        *("keep_checkpoints", "tensorboard", "patience"),
    ),
}
GROUPS["rare"] = tuple(
    name for name in flat(Config()) if name != "image_shape" and name not in itertools.chain(*GROUPS.values())
)
# The flags that --help shows; --help-all shows all.
MAIN = (
    *GROUPS["what"],
    *("steps", "batch_size", "device", "latent_size", "hidden_size", "flow_depth", "learning_rate"),
    *GROUPS["evaluation"],
    *("on", "python"),
    *(name for name in GROUPS["output"] if name != "patience"),
)
PATIENCE = 30  # minutes: a model that compiles, or one step of a large one, says nothing for minutes
LONGEST = 8  # characters of a placeholder in --help
On = Literal["here", "ray", "slurm"]  # the files of benchmarks/engines/

Values = dict[str, Any]  # a flag's name → its value


@dataclass(frozen=True, kw_only=True)
class Flag:
    """A flag of `run`. `default` is what --help says of the value where the flag isn't given."""

    name: str
    kind: Any  # int, float, str, bool, Path or a Literal
    help: str
    default: str = ""
    several: bool = False
    placeholder: str = "NAME"

    @property
    def spelling(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def absent(self) -> Any:
        """The value of the flag where it isn't given."""
        return () if self.several else False if self.kind is bool else None

    def field(self, *, short: bool) -> tuple[str, Any, Any]:
        """The flag as the field of a dataclass for tyro: name, type, default. `short`: for a help of one line a flag."""
        kind: Any = Literal["true", "false"] if self.several and self.kind is bool else self.kind
        placeholder = "|".join(typing.get_args(kind)) or {int: "INT", float: "FLOAT"}.get(kind, self.placeholder)
        if short and len(placeholder) > LONGEST:
            placeholder = self.placeholder
        marks: list[Any] = [tyro.conf.FlagCreatePairsOff] if short else []  # --no-resume is left out
        marks.append(
            tyro.conf.arg(
                name=self.spelling[2:],
                help=self.help,
                help_behavior_hint=f"(default: {self.default})" if self.default else "",
                metavar=f"{placeholder} …" if self.several else None if kind is bool else placeholder,
            )
        )
        annotated: Any = tuple[kind, ...] if self.several else kind if kind is bool else kind | None
        return f"{self.name}_", Annotated[annotated, *marks], self.absent


def flags(configs: Sequence[Config], *, start: Checkpoint | None) -> dict[str, Flag]:
    """Name → flag, in order. --help gives the values of the `configs` and of the checkpoint `start` as defaults."""
    variational = start.config.model.variational if start else " ".join(FAMILIES)
    from_start = "Go on from this checkpoint: its settings and backend are defaults."
    own = [
        Flag(name="preset", kind=str, help=f"Named settings: {', '.join(PRESETS)}.", several=True),
        Flag(name="backend", kind=str, help=f"Some of {', '.join(BACKENDS)}.", several=True),
        Flag(name="data", kind=str, help="binarized-mnist, binarized-digits, or an .h5, .npz or .npy file."),
        Flag(name="binarize", kind=Binarize, help="How grey images become binary: threshold, or bernoulli (drawn once)."),
        Flag(name="data_dir", kind=Path, help="Folder of the binarized MNIST files.", placeholder="FOLDER"),
        Flag(name="results", kind=Path, help="Folder for records and checkpoints.", placeholder="FOLDER"),
        Flag(name="resume", kind=bool, help="Skip finished runs, and go on from the results folder's checkpoints."),
        Flag(name="from", kind=Path, help=from_start, placeholder="FILE"),
        Flag(name="config", kind=Path, help="Read flags from this TOML file; those given here win.", placeholder="FILE"),
        Flag(name="save_config", kind=Path, help="Write the flags given here to this TOML file.", placeholder="FILE"),
        Flag(
            name="on", kind=On, help="Where the runs are carried out: here, one after another; ray; slurm.", placeholder="WHERE"
        ),
        Flag(name="python", kind=str, help="A backend's own interpreter.", several=True, placeholder="NAME=PATH"),
        Flag(
            name="address", kind=str, help="--on ray: address of a running Ray; else one starts here.", placeholder="HOST:PORT"
        ),
        Flag(name="parallel", kind=int, help="--on slurm: the most runs at once."),
        Flag(name="partition", kind=str, help="--on slurm: the partition."),
        Flag(name="account", kind=str, help="--on slurm: the account that is charged."),
        Flag(name="time", kind=int, help="--on slurm: minutes of a task; a longer run is requeued and goes on."),
        Flag(name="dry_run", kind=bool, help="Say which runs these are and how long they take; run none."),
        Flag(name="quiet", kind=bool, help="No progress and no table, only errors."),
        Flag(name="threads", kind=int, help="Threads of the framework; by default its own choice, on ray and slurm 1."),
        Flag(name="patience", kind=int, help="Minutes without a sign of life after which a run is ended."),
        Flag(name="keep_checkpoints", kind=bool, help="Keep the checkpoint of each validation."),
        Flag(name="tensorboard", kind=bool, help="Write a TensorBoard event file beside each record."),
        Flag(name="json", kind=bool, help="Print the records, in JSON, in place of the table."),
    ]
    defaults = {
        "preset": start.preset if start else "quick",
        "backend": start.backend if start else "all",
        "variational": variational,
        "data": start.dataset if start else "binarized-digits",
        "binarize": (start.binarize or "") if start else "",
        "results": "results",
        "patience": str(PATIENCE),
        "on": "here",
    }
    helps = {"variational": "Families of q(z|x).", "seed": "A run for each seed."}
    found = {flag.name: dataclasses.replace(flag, default=defaults.get(flag.name, "")) for flag in own}
    for owner in (*(getattr(Config(), section) for section in SECTIONS), Config()):
        kinds = typing.get_type_hints(type(owner))
        for setting in dataclasses.fields(owner):
            if "help" in setting.metadata:
                default = " ".join(dict.fromkeys(text(flat(config)[setting.name]) for config in configs))
                found[setting.name] = Flag(
                    name=setting.name,
                    kind=kinds[setting.name],
                    help=helps.get(setting.name, setting.metadata["help"]),
                    default=defaults.get(setting.name, default),
                    several=True,
                )
    return {name: found[name] for names in GROUPS.values() for name in names}


def text(value: Any) -> str:
    """A setting's value as a flag has it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a command asks for: its flags' values by name, `Flag.absent` for a flag that isn't given."""

    values: Values
    start: Checkpoint | None  # of --from
    presets: dict[str, Config]  # those asked for

    @property
    def given(self) -> Values:
        found = flags((), start=None)
        return {name: value for name, value in self.values.items() if value != found[name].absent}


def asked_of(arguments: list[str]) -> Asked:
    """What the arguments ask for; a flag that they don't give is that of the --config file.

    Raises `UserError` for a file or a preset that isn't there, and for a flag of several values with none or one value twice.
    """
    known = flags((), start=None)
    arguments = list(_spelled(arguments, [flag for flag in known.values() if flag.several and flag.kind is bool]))
    # --config, --from and --preset are read first: they decide the other flags' defaults.
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config", nargs="?")
    if file := first.parse_known_args(arguments)[0].config:
        arguments = [*settings_file.arguments_of(Path(file), known), *arguments]
    first.add_argument("--from", nargs="?", dest="start")
    first.add_argument("--preset", nargs="*")
    named, _ = first.parse_known_args(arguments)
    start = checkpoints.load(Path(named.start)) if named.start else None
    default = start.preset if start else "quick"
    configs = {name: start.config if start and name == start.preset else preset(name) for name in named.preset or [default]}

    known = flags(list(configs.values()), start=start)
    values = _parsed(arguments, known)
    there = {argument.partition("=")[0].replace("_", "-") for argument in arguments}
    for name, flag in known.items():
        if flag.several and flag.spelling in there and not values[name]:
            raise UserError(f"{flag.spelling} has no value; give at least one, or leave out {flag.spelling}.")
        if flag.several and len(set(values[name])) < len(values[name]):
            raise UserError(f"{flag.spelling} names one twice; give each value once.")
    return Asked(values=values, start=start, presets=configs)


def _spelled(arguments: list[str], switches: list[Flag]) -> Iterator[str]:
    """The arguments, with --data-bias alone as "--data-bias true" and --no-data-bias as "--data-bias false"."""
    for argument, following in itertools.pairwise([*arguments, "--"]):
        spelling = argument.replace("_", "-")
        for switch in switches:
            if spelling == switch.spelling and following.startswith("-"):
                yield from (switch.spelling, "true")
                break
            if spelling == f"--no{switch.spelling[1:]}":
                yield from (switch.spelling, "false")
                break
        else:
            yield argument


def _parsed(arguments: list[str], known: dict[str, Flag]) -> Values:
    """The flags' values by name; --help shows the flags of MAIN, --help-all all of them under the headings of GROUPS."""
    description = "Train, test and time models; each ends in a record and a checkpoint."
    short = "--help-all" not in arguments and {"-h", "--help"} & {*arguments}
    if short:
        description = "Train, test and time models. A flag with … takes several values: a run each. --help-all has all flags."
        fields = [known[name].field(short=True) for name in MAIN]
    else:
        fields = []
        for title, names in GROUPS.items():
            group = dataclasses.make_dataclass(title, [known[name].field(short=False) for name in names])
            fields.append((title, Annotated[group, tyro.conf.OmitArgPrefixes], dataclasses.field(default_factory=group)))
    arguments = ["--help" if argument == "--help-all" else argument for argument in arguments]
    asked = cli.parse(dataclasses.make_dataclass("Run", fields), arguments, command="run", description=description)
    values = {field.removesuffix("_"): value for title in GROUPS for field, value in vars(getattr(asked, title)).items()}
    for name, flag in known.items():
        if flag.several and flag.kind is bool:
            values[name] = tuple(value == "true" for value in values[name])
    return values
