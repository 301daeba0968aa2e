"""NumPyro's SVI on the same model (docs/examples/numpyro_svi.py), in turns with ours.

All contenders are one point: a ratio is of two turns of one round, and NumPyro's turn is in every row's.
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from benchmarks.harness import peers
from benchmarks.harness.environment import ROOT
from benchmarks.harness.peers import NotRunError, Row
from benchmarks.harness.presets import STANDARD
from benchmarks.harness.runs import Job
from benchmarks.studies import ancestor, skeleton
from benchmarks.studies.skeleton import Measured, Point, Result
from common import config, data
from common.config import Config
from common.protocol import BACKENDS

PEER = "NumPyro SVI"
SCRIPT = ROOT / "docs/examples/numpyro_svi.py"
OnCpu = Literal["full", "bfloat16"]  # TF32 is a GPU's
AIMS: dict[OnCpu, float] = {"full": 1.05, "bfloat16": 1.3}  # the fastest backend's examples/s over NumPyro's in float32

parts, failed = ancestor.parts, ancestor.failed


@dataclass(kw_only=True)
class Arguments(skeleton.Arguments):
    python: Annotated[str, tyro.conf.arg(help="The Python of an environment made from environments/numpyro.txt.")]
    backend: Annotated[tuple[str, ...], tyro.conf.arg(help=f"Some of {', '.join(BACKENDS)}; all by default.")] = ()
    precision: Annotated[tuple[OnCpu, ...], tyro.conf.arg(help="One or both of ours; NumPyro's is float32.")] = ("full",)
    rounds: Annotated[int, tyro.conf.arg(help="Turns of each contender.")] = 5
    steps: Annotated[int, tyro.conf.arg(help="Steps on the clock, a turn.")] = 1_000
    data: Annotated[str, tyro.conf.arg(help="binarized-mnist, binarized-digits or an .h5 file.")] = "binarized-mnist"
    data_dir: Annotated[Path | None, tyro.conf.arg(help="Folder of the binarized MNIST files.")] = None


def check(asked: Arguments) -> None:
    peers.check(STANDARD, rounds=asked.rounds, steps=asked.steps)
    dataset = data.load(asked.data, data_dir=asked.data_dir)
    settings = STANDARD.replace(image_shape=dataset.image_shape)
    config.check(settings, train_images=len(dataset.train), test_images=len(dataset.test))


def plan(asked: Arguments) -> dict[str, Point]:
    names = ("python", "backend", "precision", "rounds", "steps", "data")
    data_dir = str(asked.data_dir.resolve()) if asked.data_dir else None
    return {"turns": {name: getattr(asked, name) for name in names} | {"data_dir": data_dir}}


def run(point: Point) -> Result:
    """Rows, one a backend and precision; or the reason why they have no speeds."""
    dataset = data.load(point["data"], data_dir=Path(point["data_dir"]) if point["data_dir"] else None)
    settings = STANDARD.replace(image_shape=dataset.image_shape)
    jobs = {}
    for backend, precision in itertools.product(point["backend"], point["precision"]):
        ours = f"standard, {backend}" if precision == "full" else f"standard, {backend}, {precision}"
        own = settings.replace(precision=precision)
        jobs[ours] = Job(backend, "standard", point["data"], point["data_dir"], own, results="", resume=False)
    named = {"peer": PEER, "family": "mean-field", "device": "cpu", "steps": point["steps"], "target": None}
    rows: list[Row] = [peers.row(ours=ours, **named) for ours in jobs]
    reason = None
    try:
        with tempfile.TemporaryDirectory() as folder:
            images = Path(folder) / "train.npy"
            np.save(images, dataset.train)
            measure(rows, jobs, point, settings=settings, images=images)
    except NotRunError as error:
        reason = str(error)
        print(error, file=sys.stderr)
        for row in rows:
            row["reason"] = reason
    return {"rows": rows, "reason": reason}


def measure(rows: list[Row], jobs: dict[str, Job], point: Point, *, settings: Config, images: Path) -> None:
    """Fill the rows in, by turns. Raises `NotRunError` where a contender fails."""
    versions = peers.versions(point["python"])
    turns = {PEER: lambda: examples_per_s(point, settings=settings, images=images)}
    for ours, job in jobs.items():
        turns[ours] = lambda job=job: peers.examples_per_s(job, steps=point["steps"])
    speeds, trips = peers.take(turns, rounds=point["rounds"], title="standard")
    for row in rows:
        row |= {"peer_versions": versions, "peer_examples_per_s": speeds[PEER], "round_trips_ns": trips}
        row["ours_examples_per_s"] = speeds[row["ours"]]


def examples_per_s(point: Point, *, settings: Config, images: Path) -> float:
    """NumPyro's turn. Raises `NotRunError` where it fails."""
    options = {
        "images": images,
        "latent-size": settings.model.latent_size,
        "hidden-size": settings.model.hidden_size,
        "batch-size": settings.training.batch_size,
        "learning-rate": settings.optimizer.learning_rate,
        "steps": point["steps"],
        "chunk": settings.training.chunk,
    }
    command = [point["python"], str(SCRIPT), *(f"--{name}={value}" for name, value in options.items())]
    printed = peers.output(command, name=PEER, variables=peers.inherited(JAX_PLATFORMS="cpu"))
    found = json.loads(printed.splitlines()[-1])
    before, after = found["loss"]
    if not after < before:  # true also where either is no number
        raise NotRunError(f"{PEER} doesn't train: its loss is {before:.2f} nats in the first chunk, {after:.2f} in the last.")
    return float(found["steps"] * settings.training.batch_size / found["seconds"])


def content(asked: Arguments, measured: Measured) -> dict[str, Any]:
    """The rows among those that the results folder's report has of earlier; the fastest of each precision has the aim."""
    ((_, result),) = measured
    rows = peers.among_earlier(result["rows"], "numpyro", asked.results)
    for precision, target in AIMS.items():
        same = [row for row in rows if row["reason"] is None and row["ours"].endswith("bfloat16") == (precision == "bfloat16")]
        for row in same:
            row["target"] = None
        if same:
            max(same, key=lambda row: statistics.median(peers.ratios(row)))["target"] = target
    return {"rows": rows, "failed": result["reason"] is not None}
