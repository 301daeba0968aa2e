"""The older scripts, unchanged, in turns with this suite's presets of their settings.

A script is timed from outside, from the line that it prints at step 0, after its only validation, to its end, which waits for
the device. Two runs differ only in their number of steps, and both test once, so that

    seconds a step = (seconds of the longer run − of the shorter one) / (steps of the longer run − of the shorter one),

in which compiling the step and testing cancel; importing, loading and validating come before that line.

A point is all rounds of a row: turns of one ratio belong to one stretch of time.
"""

from __future__ import annotations

import functools
import itertools
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import h5py
import tyro

from benchmarks.harness import cores, peers, reports
from benchmarks.harness.cli import Families
from benchmarks.harness.jobs import Job
from benchmarks.harness.peers import NotRunError, Turn
from benchmarks.harness.presets import preset
from benchmarks.harness.reports import Report
from benchmarks.outputs.older import ANCESTORS
from benchmarks.outputs.table import Part, Table, ranged
from benchmarks.studies import skeleton
from benchmarks.studies.skeleton import Measured, Point, Result
from common import config
from common.config import Device, Variational
from common.data import SPLITS, Dataset
from common.errors import UserError, unknown

FIRST_STEPS = 200  # of the shorter run
FIRST_LINE = "Step 0 "  # beginning of the line that a script prints after its validation at step 0
NEVER = 1_000_000_000  # steps between validations: one at step 0, none later


@dataclass(frozen=True, kw_only=True)
class Script:
    """A script's file, its options, and the aims: our examples/s over the script's on a CPU.

    The scripts run in the folder that has the data.
    """

    file: str
    steps: str  # the option that takes the number of steps
    options: tuple[str, ...]
    gpu: tuple[str, ...] = ()
    needs: str | None = None  # packages that --stand-ins has to offer
    aims: dict[Variational, float]


SCRIPTS = {
    "ancestor-pytorch": Script(
        file="train_variational_autoencoder_pytorch.py",
        steps="--max_iterations",
        options=("--n_samples=1", "--data_dir=.", "--train_dir=."),
        gpu=("--use_gpu",),
        aims={"mean-field": 1.6, "flow": 1.6},
    ),
    "ancestor-jax": Script(
        file="train_variational_autoencoder_jax.py",
        steps="--training_steps",
        options=("--num_importance_samples=1",),
        needs="TensorFlow Probability and TensorFlow Datasets",
        aims={"mean-field": 1.4, "flow": 1.25},
    ),
}
GPU_AIM = 10.0


@dataclass(kw_only=True)
class Turns(skeleton.DataArguments):
    """The arguments that both studies of peers have."""

    rounds: Annotated[int, tyro.conf.arg(help="Turns of each contender.")] = 5
    steps: Annotated[int, tyro.conf.arg(help="Steps on the clock, a turn.")] = 1_000

    def job(self, backend: str, name: str, *, dataset: Dataset, **settings: Any) -> str:
        """A run of the preset `name` with these settings, as JSON. Raises `UserError` where they don't fit the data set."""
        data_dir = str(self.data_dir.resolve()) if self.data_dir else None
        run = preset(name).replace(image_shape=dataset.image_shape, **settings)
        config.check(run, train_images=len(dataset.train), test_images=len(dataset.test))
        return Job(backend, name, self.data, data_dir, run, results="", resume=False).as_json()


@dataclass(kw_only=True)
class Arguments(Turns):
    directory: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(help="A checkout of jaanli/variational-autoencoder.")]
    preset: Annotated[tuple[str, ...], tyro.conf.arg(help=f"Whose settings: some of {', '.join(SCRIPTS)}.")] = tuple(SCRIPTS)
    variational: Families = ("mean-field", "flow")
    python: Annotated[str, tyro.conf.arg(help="The Python that runs the scripts; this one by default.")] = sys.executable
    stand_ins: Annotated[
        Path | None, tyro.conf.arg(help="Folder of stand-ins for packages that the JAX script imports; see docs/peers.md.")
    ] = None
    device: Annotated[Device, tyro.conf.arg(help="Where the script and our preset train.")] = "cpu"


def check(asked: Arguments) -> None:
    for name in asked.preset:
        if name not in SCRIPTS:
            raise unknown("older script", name, SCRIPTS)
        if not (asked.directory / SCRIPTS[name].file).is_file():
            raise UserError(
                f"{asked.directory} has no {SCRIPTS[name].file}; give a checkout of jaanli/variational-autoencoder: "
                "make study-ancestor ANCESTOR=DIR."
            )
        peers.check(asked, preset(name))


def plan(asked: Arguments) -> dict[str, Point]:
    """A point a script and family. Paths are absolute, since a script runs in another folder."""
    dataset = asked.dataset()
    common: Point = {"rounds": asked.rounds, "steps": asked.steps, "directory": str(asked.directory.resolve())}
    common["python"] = os.path.abspath(shutil.which(asked.python) or asked.python)  # a link stays a link: .venv/bin/python
    common["stand_ins"] = str(asked.stand_ins.resolve()) if asked.stand_ins else None
    points = {}
    for name, family in itertools.product(asked.preset, asked.variational):
        job = asked.job(ANCESTORS[name], name, dataset=dataset, variational=family, device=asked.device)
        points[f"{name}_{family}"] = {"preset": name, "job": job, **common}
    return points


# --- measuring ---


def lacking(point: Point) -> str | None:
    """Why a script isn't tried: it needs stand-ins that aren't given."""
    needs = SCRIPTS[point["preset"]].needs
    return f"it needs stand-ins for {needs}, as a folder to --stand-ins" if needs and point["stand_ins"] is None else None


def run(point: Point) -> Result:
    """The row of a script and family; see `peers.measure`."""
    script, job = SCRIPTS[point["preset"]], Job.from_json(point["job"])
    aim = script.aims[job.config.model.variational] if job.config.device == "cpu" else GPU_AIM
    return peers.measure(
        script.file,
        functools.partial(contender, point, script, job),
        {f"{job.preset}, {job.backend}": job},
        rounds=point["rounds"],
        steps=point["steps"],
        target=aim,
    )


def contender(point: Point, script: Script, job: Job, folder: Path) -> tuple[dict[str, str], Turn]:
    """(the versions of the script's packages, its turn). Raises `NotRunError` where it isn't tried, or has no Python."""
    if reason := lacking(point):
        raise NotRunError(reason)
    settings = job.config
    export(job.dataset(), folder)
    variables = surroundings(point, device=settings.device, folder=folder)
    command = [point["python"], str(Path(point["directory"]) / script.file), *script.options]
    command += [f"--variational={settings.model.variational}", f"--batch_size={settings.training.batch_size}"]
    command += [f"--log_interval={NEVER}", *(script.gpu if settings.device == "cuda" else ())]

    def seconds(steps: int) -> float:
        longer = [*command, f"{script.steps}={steps}"]
        return seconds_since(FIRST_LINE, longer, name=script.file, folder=folder, variables=variables)

    def turn() -> float:
        return settings.training.batch_size / step_seconds(seconds, steps=point["steps"])

    return peers.versions(point["python"], variables=variables), turn


def export(dataset: Dataset, folder: Path) -> None:
    """The data set as the scripts read it: binary_mnist.h5, float32."""
    with h5py.File(folder / "binary_mnist.h5", "w") as file:
        for split in SPLITS:
            file[split] = getattr(dataset, split).astype("float32")


def surroundings(point: Point, *, device: Device, folder: Path) -> dict[str, str]:
    """The variables of a script's process: it can import the stand-ins, finds the data, and leaves nothing in the checkout.

    It has no cache of compiled programs: the first of two runs would compile and the second not.
    """
    variables = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1", "JAX_PLATFORMS": device}
    variables |= {"TFDS_DATA_DIR": str(folder)} | ({"PYTHONPATH": point["stand_ins"]} if point["stand_ins"] else {})
    variables.pop("JAX_COMPILATION_CACHE_DIR", None)
    return variables


def seconds_since(beginning: str, command: list[str], *, name: str, folder: Path, variables: dict[str, str]) -> float:
    """From the first line that a process prints with this beginning, to its end.

    Raises `NotRunError` where the process fails or prints no such line.
    """
    start, line = None, ""
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "encoding": "utf-8"}
    with subprocess.Popen(command, cwd=folder, env=variables, **streams) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if start is None and line.startswith(beginning):
                    start = time.perf_counter()
        except BaseException:  # the command was stopped
            process.kill()
            raise
    end = time.perf_counter()
    peers.check_code(process.returncode, name=name, printed=line)
    if start is None:
        raise NotRunError(f"{name} printed no line that begins with '{beginning.strip()}'")
    return end - start


def step_seconds(run: Callable[[int], float], *, steps: int) -> float:
    """Seconds a step: the difference between a run of FIRST_STEPS and one of `steps` more, over `steps`.

    `run(steps)` is the seconds of one run. Raises `NotRunError` where the longer run took no longer.
    """
    shorter, longer = run(FIRST_STEPS), run(FIRST_STEPS + steps)
    if longer <= shorter:
        raise NotRunError(f"{steps} more steps took no longer ({longer:.1f} s against {shorter:.1f} s): it needs more --steps")
    return (longer - shorter) / steps


# --- the report and its table ---


def content(asked: Arguments, measured: Measured) -> dict[str, Any]:
    """The rows among those that the results folder's report has of earlier."""
    rows = [row for _, result in measured for row in result["rows"]]
    failed = any(result["reason"] and not lacking(point) for point, result in measured)
    return {"rows": peers.among_earlier(rows, reports.of_device("ancestor", asked.device), asked.results), "failed": failed}


def failed(report: Report) -> bool:
    """Whether a script was tried without a result."""
    return bool(report["failed"])


def parts(report: Report) -> list[Part]:
    """A row a pair of contenders: medians over the rounds, of the ratio with (least … most)."""
    labels = ("peer", "family", "ours")
    columns = (*labels, "their examples/s", "our examples/s", "ours / theirs (least … most)", "rounds × steps", "aim")
    rows = []
    places: dict[str, list[str]] = {}
    for row in report["rows"]:
        if row["reason"] is None:
            ratios = peers.ratios(row)
            theirs, ours = (statistics.median(row[f"{side}_examples_per_s"]) for side in ("peer", "ours"))
            ratio = ranged(statistics.median(ratios), ratios, ".2f")
            figures = [f"{theirs:,.0f}", f"{ours:,.0f}", ratio, f"{len(ratios)} × {row['steps']:,}"]
            versions = ", ".join(f"{package} {version}" for package, version in row["peer_versions"].items())
            load = f"load {row['environment']['load']:.1f} before the first turn, {cores.said(row.get('round_trips_ns', []))}"
            where = reports.where(row["environment"], setting=f"{row['device']}, float32 unless a row says otherwise, {load}")
            places.setdefault(f"{where}. Theirs: {versions}.", []).append(f"{row['peer']} {row['variational']}")
        else:
            figures = ["", "", f"not run: {row['reason']}", ""]
        aim = "" if row["target"] is None else f"≥ {row['target']:.2f}"
        rows.append((row["peer"], row["variational"], row["ours"], *figures, aim))
    notes = [f"- {', '.join(dict.fromkeys(names))}: {where}" for where, names in places.items()]
    return [Table(columns=columns, rows=rows, left=labels), "\n".join(notes)]
