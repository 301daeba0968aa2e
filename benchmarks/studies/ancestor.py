"""`python -m benchmarks ancestor DIR`: the older scripts as they are, in turns with their presets here.

A script is timed from outside, from the line that it prints at step 0, after its only validation, to its end, which waits for
the device. Two runs differ in nothing but their number of steps, and both test once, so that

    seconds a step = (seconds of the longer run − of the shorter one) / (steps of the longer run − of the shorter one),

in which compiling the step and testing cancel; importing, loading and validating come before that line.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import h5py
import tyro

from benchmarks.harness import environment, ours
from benchmarks.harness import peers as turns
from benchmarks.harness.cli import parse
from benchmarks.harness.peers import NotRunError, Row
from benchmarks.harness.presets import preset
from benchmarks.outputs.tables import ANCESTORS
from common import data
from common.config import Config, Device, Variational
from common.data import SPLITS, Dataset
from common.errors import UserError

REPORT = "ancestor"
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


@dataclass
class Ancestor:
    directory: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(help="A checkout of jaanli/variational-autoencoder.")]
    preset: Annotated[tuple[str, ...], tyro.conf.arg(help=f"Whose settings: some of {', '.join(SCRIPTS)}.")] = tuple(SCRIPTS)
    variational: Annotated[tuple[Variational, ...], tyro.conf.arg(help="One or both families.")] = ("mean-field", "flow")
    python: Annotated[str, tyro.conf.arg(help="The Python that runs the scripts; this one by default.")] = sys.executable
    stand_ins: Annotated[
        Path | None, tyro.conf.arg(help="Folder of what the JAX script imports and Python lacks; see docs/peers.md.")
    ] = None
    rounds: Annotated[int, tyro.conf.arg(help="Turns of each side.")] = 5
    steps: Annotated[int, tyro.conf.arg(help="Steps on the clock, a turn.")] = 1_000
    device: Annotated[Device, tyro.conf.arg(help="Where both train.")] = "cpu"
    data: Annotated[str, tyro.conf.arg(help="binarized-mnist or an .h5 file.")] = "binarized-mnist"
    data_dir: Annotated[Path | None, tyro.conf.arg(help="Folder of the binarized MNIST files.")] = None
    results: Annotated[Path, tyro.conf.arg(help="Folder of the report, whose other rows stay.")] = field(
        default_factory=lambda: Path("results")
    )


def main(arguments: list[str]) -> int:
    asked = parse(Ancestor, arguments, command="ancestor", description="The older scripts and ours, in turns.")
    here = environment.describe(asked.device)
    for name in asked.preset:
        if name not in SCRIPTS:
            raise UserError(f"There is no older script '{name}' to time; choose from {', '.join(SCRIPTS)}.")
        if not (asked.directory / SCRIPTS[name].file).is_file():
            raise UserError(
                f"{asked.directory} has no {SCRIPTS[name].file}; give a checkout of jaanli/variational-autoencoder: "
                "make bench-ancestor ANCESTOR=DIR."
            )
        ours.check(preset(name), rounds=asked.rounds, steps=asked.steps)
    dataset = data.load(asked.data, data_dir=asked.data_dir)
    rows, failed = [], False
    with tempfile.TemporaryDirectory() as folder:
        export(dataset, Path(folder))
        for name in asked.preset:
            for family in asked.variational:
                row = turns.row(
                    peer=SCRIPTS[name].file,
                    ours=f"{name}, {ANCESTORS[name]}",
                    family=family,
                    device=asked.device,
                    steps=asked.steps,
                    target=AIMS.get((name, family)) if asked.device == "cpu" else GPU_AIM,
                )
                rows.append(row)
                if SCRIPTS[name].needs and asked.stand_ins is None:
                    row["reason"] = f"it needs stand-ins for {SCRIPTS[name].needs}, as a folder to --stand-ins"
                    continue
                try:
                    measure(row, name, asked, config=settings(name, family, asked, dataset), folder=Path(folder))
                except NotRunError as error:
                    row["reason"], failed = str(error), True
                    print(error, file=sys.stderr)
                turns.publish(REPORT, rows, asked.results, environment=here)
    print(turns.markdown(turns.publish(REPORT, rows, asked.results, environment=here)))
    return 1 if failed else 0


def settings(name: str, family: Variational, asked: Ancestor, dataset: Dataset) -> Config:
    return preset(name).replace(variational=family, image_shape=dataset.image_shape, device=asked.device)


def export(dataset: Dataset, folder: Path) -> None:
    """The data set as the scripts read it: binary_mnist.h5, float32."""
    with h5py.File(folder / "binary_mnist.h5", "w") as file:
        for split in SPLITS:
            file[split] = getattr(dataset, split).astype("float32")


def measure(row: Row, name: str, asked: Ancestor, *, config: Config, folder: Path) -> None:
    """Fill the row in. Raises `NotRunError` where either side fails."""
    script = SCRIPTS[name]
    variables = surroundings(asked, folder=folder)
    row["peer_versions"] = turns.versions(asked.python, variables=variables)
    options = (
        *("--variational", config.model.variational, "--batch_size", str(config.training.batch_size)),
        *("--log_interval", str(NEVER), script.samples, "1"),
        *((script.data, str(folder)) if script.data else ()),
        *((script.results, str(folder)) if script.results else ()),
        *(script.gpu if asked.device == "cuda" else ()),
    )
    python = os.path.abspath(
        shutil.which(asked.python) or asked.python
    )  # it runs in another folder; a link is part of its name
    command = [python, str(asked.directory.resolve() / script.file), *options, script.steps]

    def run(steps: int) -> float:
        return seconds_since(FIRST_LINE, [*command, str(steps)], name=script.file, folder=folder, variables=variables)

    def theirs() -> float:
        return config.training.batch_size / step_seconds(run, steps=asked.steps)

    def own() -> float:
        return ours.examples_per_s(
            ANCESTORS[name], name, config, steps=asked.steps, dataset=asked.data, data_dir=asked.data_dir
        )

    title = f"{name} {config.model.variational}"
    found, trips = turns.take({"theirs": theirs, "ours": own}, rounds=asked.rounds, title=title)
    row |= {"peer_examples_per_s": found["theirs"], "ours_examples_per_s": found["ours"], "round_trips_ns": trips}


def surroundings(asked: Ancestor, *, folder: Path) -> dict[str, str]:
    """The variables of a script's process: the stand-ins can be imported and find the data; nothing is left in the checkout.

    A cache of compiled programs would make the first of two runs compile and the second not.
    """
    variables = {
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "TFDS_DATA_DIR": str(folder),
        "JAX_PLATFORMS": asked.device,
    }
    if asked.stand_ins is not None:
        variables["PYTHONPATH"] = str(asked.stand_ins.resolve())
    return turns.inherited(without=("JAX_COMPILATION_CACHE_DIR",), **variables)


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
        turns.check(process.returncode, name=name, printed=errors.read() or printed)
    if start is None:
        raise NotRunError(f"{name} printed no line that begins with '{line.strip()}'")
    return end - start


def step_seconds(run: Callable[[int], float], *, steps: int) -> float:
    """Seconds a step, by the difference between a run of FIRST_STEPS and one of so many more; `run(steps)` is one's seconds.

    Raises `NotRunError` where the longer run took no longer.
    """
    shorter, longer = run(FIRST_STEPS), run(FIRST_STEPS + steps)
    if longer <= shorter:
        raise NotRunError(f"{steps} more steps took no longer ({longer:.1f} s against {shorter:.1f} s): it needs more --steps")
    return (longer - shorter) / steps
