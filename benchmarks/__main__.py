"""python -m benchmarks: the commands that HELP lists."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import signal
import sys
import time
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import psutil
import tyro

from benchmarks import (
    ablation,
    agreement,
    bfloat16,
    cli,
    cross_evaluate,
    documents,
    environment,
    export,
    overhead,
    parity,
    records,
    reproduce,
    runs,
    shape_checks,
    tables,
)
from benchmarks.cli import parse
from benchmarks.peers import ancestor, numpyro, ours
from benchmarks.presets import PRESETS, preset
from benchmarks.progress import Progress
from benchmarks.regress import command as regress
from benchmarks.regress import prove as prove_regress
from benchmarks.regress import quality as regress_quality
from benchmarks.regress import speed as regress_speed
from benchmarks.throughput import compare, growth, prove, roofline, suite
from common import cache, checkpoints, data, protocol, shapes
from common.config import SECTIONS, TOP, Config, Device, Precision, Variational, check
from common.errors import UserError

FAMILIES = ("mean-field", "flow")

# Spellings of the scripts that this suite replaces, where another name means the same here.
OLD_SPELLINGS = {
    "--max-iterations": ["--steps"],
    "--n-samples": ["--samples"],
    "--train-dir": ["--results"],
    "--use-gpu": ["--device", "cuda"],
}


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


def translate(arguments: list[str]) -> list[str]:
    """The old scripts' spellings as this suite's."""
    result = []
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        names = OLD_SPELLINGS.get(flag.replace("_", "-"), [flag])
        result += [*names[:-1], names[-1] + equals + value]
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


def run(arguments: list[str]) -> int:
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
        if code == 2 or (code == runs.UNAVAILABLE and asked.backend):
            tables.terminal(done)  # what went before is not lost
            return 2
        if code:
            record = job.blank(dataset=data.load(job.data, data_dir=Path(job.data_dir) if job.data_dir else None))
            missing = "its framework can't be imported; `python -m benchmarks list` says why"
            reason = missing if code == runs.UNAVAILABLE else f"its process ended with code {code}"
            status = "not-run" if code == runs.UNAVAILABLE else "failed"
            record |= {"status": status, "reason": f"{job.backend}: {reason}."}
            worst = max(worst, 0 if code == runs.UNAVAILABLE else 1)
            if code == runs.UNAVAILABLE and job.record.exists():
                done.append(record)  # what isn't run replaces no result
                continue
            records.write(record, Path(job.results))
        done.append(records.read(job.record))
    tables.terminal(done)
    return max([worst, *(1 for record in done if record["status"] == "failed")])


def warn_of(*configs: Config) -> None:
    """Say it before, not after, where bfloat16 makes a run slower."""
    slow = any((config.device, config.factors) == ("cpu", "bfloat16") for config in configs)
    if slow and environment.lacks_bfloat16():
        print(
            "This processor has no bfloat16 instructions: bfloat16 is slower than full, in PyTorch many times.", file=sys.stderr
        )


def evaluate(arguments: list[str]) -> int:
    @dataclasses.dataclass
    class Evaluate:
        checkpoint: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(help="An .h5 file that a run wrote.")]
        samples: Annotated[int | None, tyro.conf.arg(help="K; as in the run by default.")] = None
        images: Annotated[int | None, tyro.conf.arg(help="Test images, a seeded random subset; 0 for all.")] = None
        backend: Annotated[str | None, tyro.conf.arg(help="Any backend; the one that trained by default.")] = None
        device: Annotated[Device, tyro.conf.arg(help="Where the model lives.")] = "cpu"
        precision: Annotated[Precision | None, tyro.conf.arg(help="full, tf32 or bfloat16; as in the run by default.")] = None
        data: Annotated[str | None, tyro.conf.arg(help="Another place of the data set that it was trained on.")] = None
        data_dir: Annotated[Path | None, tyro.conf.arg(help="Folder of the binarized MNIST files.")] = None

    asked = parse(Evaluate, arguments, command="evaluate", description="ELBO and log p(x) of a checkpoint.")
    checkpoint = checkpoints.load(asked.checkpoint)
    given = {"samples": asked.samples, "images": asked.images, "device": asked.device, "precision": asked.precision}
    config = checkpoint.config.replace(**{name: value for name, value in given.items() if value is not None})
    dataset = data.load(asked.data or checkpoint.dataset, data_dir=asked.data_dir)
    if dataset.sha256 != checkpoint.sha256:
        raise UserError(f"{asked.checkpoint} was trained on other data ({checkpoint.dataset}); give that as --data.")
    check(config, train_images=len(dataset.train), test_images=len(dataset.test))
    warn_of(config)
    name = asked.backend or checkpoint.backend
    backend = protocol.load(name)
    progress = Progress(f"{name} {config.model.variational}")
    test = runs.evaluate(backend, checkpoint.selected(), config=config, dataset=dataset, progress=progress)
    print(
        f"ELBO {test.elbo:.3f} ± {test.elbo_se:.3f}, log p(x) {test.log_px:.3f} ± {test.log_px_se:.3f} nats per image "
        f"(K = {test.importance_samples}, {test.images} images, effective sample size {test.ess:.1f})"
    )
    return 0


@dataclasses.dataclass
class Nothing:
    """What a command without arguments takes."""


def listing(arguments: list[str]) -> int:
    parse(Nothing, arguments, command="list", description="The backends, their versions and devices.")
    for name in protocol.BACKENDS:
        found, reason = cli.described(name)
        if found is None:
            print(f"{name}: {reason}")
        else:
            versions = ", ".join(f"{package} {version}" for package, version in found["versions"].items())
            devices = ", ".join(f"{device} ({hardware})" for device, hardware in found["devices"].items())
            print(f"{name}: {versions}; {devices}")
    return 0


def describe(arguments: list[str]) -> int:
    print(json.dumps(dataclasses.asdict(protocol.load(arguments[0]).describe())))
    return 0


def worker(arguments: list[str]) -> int:
    job = runs.Job.from_json(sys.stdin.read())
    if job.resume and runs.finished(job):
        return 0
    began = time.perf_counter()
    try:
        protocol.load(job.backend)
    except UserError as error:
        print(error, file=sys.stderr)
        return runs.UNAVAILABLE
    runs.run(job, import_s=time.perf_counter() - began)
    return 0


def write_tables(arguments: list[str]) -> int:
    parse(Nothing, arguments, command="tables", description="Write the tables of README.md and docs/ from benchmarks/records/.")
    tables.write()
    documents.write()
    return 0


def run_again(arguments: list[str]) -> int:
    @dataclasses.dataclass
    class Reproduce:
        table: Annotated[str, tyro.conf.Positional, tyro.conf.arg(help=f"One of {', '.join(tables.TABLES)}.")]
        device: Annotated[Device, tyro.conf.arg(help="Which rows: those that were measured there.")] = "cpu"
        data_dir: Annotated[Path | None, tyro.conf.arg(help="Folder of the binarized MNIST files.")] = None
        results: Annotated[Path, tyro.conf.arg(help="Folder for the new records.")] = Path("results/reproduce")
        resume: Annotated[bool, tyro.conf.arg(help="Keep the rows that the folder has, and go on from its checkpoints.")] = (
            False
        )

    asked = parse(Reproduce, arguments, command="reproduce", description="Run a README table's rows again and compare.")

    def again(old: records.Record) -> records.Record:
        job = runs.Job(
            backend=old["backend"],
            preset=old["preset"],
            data=old["dataset"]["name"],
            data_dir=str(asked.data_dir) if asked.data_dir else None,
            config=Config.from_dict(old["config"]),
            results=str(asked.results),
            resume=asked.resume,
        )
        runs.checked(job)
        if code := runs.in_process(job):
            raise UserError(f"The run of {job.record.name} ended with code {code}; its message stands above.")
        return records.read(job.record)

    return reproduce.reproduce(asked.table, device=asked.device, results=asked.results, run=again)


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "run": run,
    "evaluate": evaluate,
    "cross-evaluate": cross_evaluate.main,
    "export": export.main,
    "list": listing,
    "tables": write_tables,
    "reproduce": run_again,
    "shape-checks": shape_checks.main,
    "parity": parity.main,
    "parity-worker": parity.worker,
    "worker": worker,
    "cross-evaluate-worker": cross_evaluate.worker,
    "agreement": agreement.main,
    "agreement-worker": agreement.worker,
    "ablation": ablation.main,
    "ablation-speed": ablation.speed_worker,
    "bfloat16": bfloat16.main,
    "describe": describe,
    "throughput": suite.main,
    "compare": compare.main,
    "compare-worker": compare.worker,
    "prove-compare": prove.main,
    "roofline": roofline.main,
    "ancestor": ancestor.main,
    "numpyro": numpyro.main,
    "peers-worker": ours.worker,
    "regress": regress.main,
    "regress-quality-worker": regress_quality.worker,
    "regress-speed-worker": regress_speed.worker,
    "prove-regress": prove_regress.main,
    "growth": growth.main,
    "growth-worker": growth.worker,
    "overhead": overhead.main,
    "overhead-worker": overhead.worker,
}
RESUMED = ("run", "reproduce", "growth", "agreement", "ablation", "bfloat16")  # they have --resume
HELP = """python -m benchmarks COMMAND …

  run                    train and test models: --backend, --variational, --data, --preset, --seed; --help lists every setting
  evaluate CHECKPOINT    ELBO and log p(x) of a checkpoint, in any backend
  cross-evaluate FILE …  checkpoints in every backend: the table of who trained and who evaluated
  export CHECKPOINT      the weights, for plain PyTorch, Flax NNX or Keras: --to pytorch, jax or keras
  list                   the backends, their versions and devices
  tables                 write the README's tables from benchmarks/records
  reproduce TABLE        run a README table's rows again and compare
  shape-checks           measure what checking shapes costs
  parity                 compare the backends, from weights and noise to the test score
  throughput             time every call of the contract: --select, --backend, --seconds, --sweeps, --report
  compare                is this checkout slower than --base or than a --saved run? by interleaved pairs
  prove-compare          put that comparison to the test, with unchanged and with slowed code
  regress                after an upgrade: parity, quality and speed against benchmarks/baselines; --update writes those
  prove-regress          put that check to the test, as it is and with faults
  roofline               draw docs/figures/roofline.png from the report 'throughput'
  growth                 speed, compile time and memory as batch, hidden size, flow depth or K grows: tables and a picture
  overhead               what the suite itself costs: beside a bare loop, outside of its steps, from the command to the first
  agreement              train the backends side by side on the same noise and show where they part
  ablation               from the older scripts' settings, one difference at a time made equal: nats and examples/s
  ancestor DIR           the older scripts, from a checkout of theirs, in turns with their presets here: ratios of examples/s
  numpyro                NumPyro's SVI on the same model, from an environment of its own, in turns with the three backends
  bfloat16               what --precision bfloat16 gains in speed and costs in log p(x)"""


def offered() -> list[str]:
    """The commands that HELP lists."""
    return [command for command in COMMANDS if f"\n  {command} " in HELP]


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP)
        return 0
    command, *rest = arguments
    try:
        if command not in COMMANDS:
            raise UserError(f"There is no command '{command}'; choose from {', '.join(offered())}.")
        for switch in (cache.switched_on, shapes.switched_on):  # a backend would raise for them when it's imported
            switch()
        return COMMANDS[command](translate(rest))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except MemoryError as error:
        print(f"There isn't enough memory ({error}); choose a smaller model, batch or number of samples.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if command in offered():  # a worker's parent says it
            print("Stopped; --resume goes on from here." if command in RESUMED else "Stopped.", file=sys.stderr)
        return 130


def terminate(*_: object) -> None:
    """As a terminal's Ctrl-C, which all processes get: what this one started ends with it, however far down.

    So a run doesn't go on unseen, beside the one that resumes it, and temporary folders are removed.
    """
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, terminate)
    sys.exit(main(sys.argv[1:]))
