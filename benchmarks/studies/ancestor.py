"""The older scripts as they are, in turns with their presets here.

A script is timed from outside, from the line that it prints at step 0, after its only validation, to its end, which waits for
the device. Two runs differ only in their number of steps, and both test once, so that

    seconds a step = (seconds of the longer run − of the shorter one) / (steps of the longer run − of the shorter one),

in which compiling the step and testing cancel; importing, loading and validating come before that line.

A point is all rounds of a row: turns of one ratio belong to one stretch of time.
"""

from __future__ import annotations

import itertools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import h5py
import tyro

from benchmarks.harness import cores, peers, reports
from benchmarks.harness.cli import Data, DataDir, Families
from benchmarks.harness.peers import NotRunError
from benchmarks.harness.presets import preset
from benchmarks.harness.reports import Report
from benchmarks.harness.runs import Job
from benchmarks.outputs.older import ANCESTORS
from benchmarks.outputs.table import Part, Table
from benchmarks.studies import skeleton
from benchmarks.studies.skeleton import Measured, Point, Result
from common import data
from common.config import Device
from common.data import SPLITS, Dataset
from common.errors import UserError

FIRST_STEPS = 200  # of the shorter run
FIRST_LINE = "Step 0 "  # what they print after the validation at step 0 begins so
NEVER = 1_000_000_000  # steps between validations: one at step 0, none later


@dataclass(frozen=True)
class Script:
    """A script's file and what it calls its settings."""

    file: str
    steps: str
    samples: str
    data: str | None = None  # the folder that has binary_mnist.h5
    results: str | None = None
    gpu: tuple[str, ...] = ()
    needs: str | None = None  # packages that --stand-ins has to offer


SCRIPTS = {
    "ancestor-pytorch": Script(
        "train_variational_autoencoder_pytorch.py",
        steps="--max_iterations",
        samples="--n_samples",
        data="--data_dir",
        results="--train_dir",
        gpu=("--use_gpu",),
    ),
    "ancestor-jax": Script(
        "train_variational_autoencoder_jax.py",
        steps="--training_steps",
        samples="--num_importance_samples",
        needs="TensorFlow Probability and TensorFlow Datasets",
    ),
}
# Examples/s over theirs, on a CPU; on a GPU one for all.
AIMS = {
    ("ancestor-pytorch", "mean-field"): 1.6,
    ("ancestor-pytorch", "flow"): 1.6,
    ("ancestor-jax", "mean-field"): 1.4,
    ("ancestor-jax", "flow"): 1.25,
}
GPU_AIM = 10.0


@dataclass(kw_only=True)
class Turns(skeleton.Arguments):
    """The arguments of each study of a peer."""

    rounds: Annotated[int, tyro.conf.arg(help="Turns of each contender.")] = 5
    steps: Annotated[int, tyro.conf.arg(help="Steps on the clock, a turn.")] = 1_000
    data: Data = "binarized-mnist"
    data_dir: DataDir = None


@dataclass(kw_only=True)
class Arguments(Turns):
    directory: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(help="A checkout of jaanli/variational-autoencoder.")]
    preset: Annotated[tuple[str, ...], tyro.conf.arg(help=f"Whose settings: some of {', '.join(SCRIPTS)}.")] = tuple(SCRIPTS)
    variational: Families = ("mean-field", "flow")
    python: Annotated[str, tyro.conf.arg(help="The Python that runs the scripts; this one by default.")] = sys.executable
    stand_ins: Annotated[
        Path | None, tyro.conf.arg(help="Folder of what the JAX script imports and Python lacks; see docs/peers.md.")
    ] = None
    device: Annotated[Device, tyro.conf.arg(help="Where both train.")] = "cpu"


def check(asked: Arguments) -> None:
    for name in asked.preset:
        if name not in SCRIPTS:
            raise UserError(f"There is no older script '{name}' to time; choose from {', '.join(SCRIPTS)}.")
        if not (asked.directory / SCRIPTS[name].file).is_file():
            raise UserError(
                f"{asked.directory} has no {SCRIPTS[name].file}; give a checkout of jaanli/variational-autoencoder: "
                "make study-ancestor ANCESTOR=DIR."
            )
        peers.check(preset(name), rounds=asked.rounds, steps=asked.steps)


def plan(asked: Arguments) -> dict[str, Point]:
    """A point a script and family. Paths are absolute, since a script runs in another folder."""
    dataset = data.load(asked.data, data_dir=asked.data_dir)
    common: Point = {"rounds": asked.rounds, "steps": asked.steps, "directory": str(asked.directory.resolve())}
    common["python"] = os.path.abspath(shutil.which(asked.python) or asked.python)  # not resolved: a link is part of its name
    common["stand_ins"] = str(asked.stand_ins.resolve()) if asked.stand_ins else None
    data_dir = str(asked.data_dir.resolve()) if asked.data_dir else None
    points = {}
    for name, family in itertools.product(asked.preset, asked.variational):
        config = preset(name).replace(variational=family, image_shape=dataset.image_shape, device=asked.device)
        job = Job(ANCESTORS[name], name, asked.data, data_dir, config, results="", resume=False)
        points[f"{name}_{family}"] = {"preset": name, "job": job.as_json(), **common}
    return points


# --- measuring ---


def lacking(point: Point) -> str | None:
    """Why a script isn't tried, where it needs stand-ins that aren't given."""
    needs = SCRIPTS[point["preset"]].needs
    return f"it needs stand-ins for {needs}, as a folder to --stand-ins" if needs and point["stand_ins"] is None else None


def run(point: Point) -> Result:
    """A row: examples/s of both sides, or the reason why there are none."""
    name, job = point["preset"], Job.from_json(point["job"])
    family, device = job.config.model.variational, job.config.device
    aim = AIMS[name, family] if device == "cpu" else GPU_AIM
    ours = f"{name}, {job.backend}"
    row = peers.row(peer=SCRIPTS[name].file, ours=ours, family=family, device=device, steps=point["steps"], target=aim)
    row["reason"] = lacking(point)
    if row["reason"] is None:
        try:
            with tempfile.TemporaryDirectory() as folder:
                row |= speeds(point, job, folder=Path(folder))
        except NotRunError as error:
            row["reason"] = str(error)
            print(error, file=sys.stderr)
    return row


def speeds(point: Point, job: Job, *, folder: Path) -> Result:
    """The versions and speeds of a row. Raises `NotRunError` where either side fails."""
    script, config, steps = SCRIPTS[point["preset"]], job.config, point["steps"]
    export(job.dataset(), folder)
    variables = surroundings(point, device=config.device, folder=folder)
    options = (
        *("--variational", config.model.variational, "--batch_size", str(config.training.batch_size)),
        *("--log_interval", str(NEVER), script.samples, "1"),
        *((script.data, str(folder)) if script.data else ()),
        *((script.results, str(folder)) if script.results else ()),
        *(script.gpu if config.device == "cuda" else ()),
    )
    command = [point["python"], str(Path(point["directory"]) / script.file), *options, script.steps]

    def run(steps: int) -> float:
        return seconds_since(FIRST_LINE, [*command, str(steps)], name=script.file, folder=folder, variables=variables)

    turns = {
        "theirs": lambda: config.training.batch_size / step_seconds(run, steps=steps),
        "ours": lambda: peers.examples_per_s(job, steps=steps),
    }
    versions = peers.versions(point["python"], variables=variables)
    title = f"{point['preset']} {config.model.variational}"
    found, trips = peers.take(turns, rounds=point["rounds"], title=title)
    speeds = {"peer_examples_per_s": found["theirs"], "ours_examples_per_s": found["ours"]}
    return {"peer_versions": versions, **speeds, "round_trips_ns": trips}


def export(dataset: Dataset, folder: Path) -> None:
    """The data set as the scripts read it: binary_mnist.h5, float32."""
    with h5py.File(folder / "binary_mnist.h5", "w") as file:
        for split in SPLITS:
            file[split] = getattr(dataset, split).astype("float32")


def surroundings(point: Point, *, device: Device, folder: Path) -> dict[str, str]:
    """The variables of a script's process: the stand-ins can be imported and find the data; nothing is left in the checkout.

    A cache of compiled programs would make the first of two runs compile and the second not.
    """
    variables = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1", "TFDS_DATA_DIR": str(folder), "JAX_PLATFORMS": device}
    if point["stand_ins"]:
        variables["PYTHONPATH"] = point["stand_ins"]
    return peers.inherited(without=("JAX_COMPILATION_CACHE_DIR",), **variables)


def seconds_since(line: str, command: list[str], *, name: str, folder: Path, variables: dict[str, str]) -> float:
    """From when a process prints a line that begins so to its end. Raises `NotRunError` where it fails or prints none."""
    start, printed = None, ""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
        with subprocess.Popen(
            command, cwd=folder, env=variables, stdout=subprocess.PIPE, stderr=errors, text=True, encoding="utf-8"
        ) as process:
            assert process.stdout is not None
            try:
                for printed in process.stdout:
                    if start is None and printed.startswith(line):
                        start = time.perf_counter()
            except BaseException:  # the command was stopped
                process.kill()
                raise
        end = time.perf_counter()
        errors.seek(0)
        peers.check_code(process.returncode, name=name, printed=errors.read() or printed)
    if start is None:
        raise NotRunError(f"{name} printed no line that begins with '{line.strip()}'")
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
    failed = any(row["reason"] and not lacking(point) for point, row in measured)
    name = reports.of_device("ancestor", asked.device)
    return {"rows": peers.among_earlier([row for _, row in measured], name, asked.results), "failed": failed}


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
            ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} … {max(ratios):.2f})"
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
