"""NumPyro's SVI on the same model (docs/examples/numpyro_svi.py), in turns with ours.

All contenders are one point: a ratio is of two turns of one round, and NumPyro's turn is in every row's.
"""

from __future__ import annotations

import functools
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
from benchmarks.harness.cli import Backends
from benchmarks.harness.environment import ROOT
from benchmarks.harness.peers import NotRunError
from benchmarks.harness.presets import STANDARD
from benchmarks.harness.runs import Job
from benchmarks.studies import ancestor
from benchmarks.studies.skeleton import Measured, Point, Result
from common import config, data
from common.config import Config

PEER = "NumPyro SVI"
SCRIPT = ROOT / "docs/examples/numpyro_svi.py"
OnCpu = Literal["full", "bfloat16"]  # TF32 is a GPU's
AIMS: dict[OnCpu, float] = {"full": 1.05, "bfloat16": 1.3}  # the fastest backend's examples/s over NumPyro's in float32

parts, failed = ancestor.parts, ancestor.failed


@dataclass(kw_only=True)
class Arguments(ancestor.Turns):
    python: Annotated[str, tyro.conf.arg(help="The Python of an environment made from environments/numpyro.txt.")]
    backend: Backends = ()
    precision: Annotated[tuple[OnCpu, ...], tyro.conf.arg(help="One or both of ours; NumPyro's is float32.")] = ("full",)


def check(asked: Arguments) -> None:
    peers.check(STANDARD, rounds=asked.rounds, steps=asked.steps)


def plan(asked: Arguments) -> dict[str, Point]:
    """One point: every backend and precision of ours, by the name of its row."""
    dataset = data.load(asked.data, data_dir=asked.data_dir)
    data_dir = str(asked.data_dir.resolve()) if asked.data_dir else None
    jobs = {}
    for backend, precision in itertools.product(asked.backend, asked.precision):
        settings = STANDARD.replace(image_shape=dataset.image_shape, precision=precision)
        config.check(settings, train_images=len(dataset.train), test_images=len(dataset.test))
        name = f"standard, {backend}" if precision == "full" else f"standard, {backend}, {precision}"
        jobs[name] = Job(backend, "standard", asked.data, data_dir, settings, results="", resume=False).as_json()
    return {"turns": {"python": asked.python, "rounds": asked.rounds, "steps": asked.steps, "jobs": jobs}}


def run(point: Point) -> Result:
    """Rows, one a backend and precision; or the reason why they have no speeds."""
    jobs = {ours: Job.from_json(text) for ours, text in point["jobs"].items()}
    named = {"peer": PEER, "family": "mean-field", "device": "cpu", "steps": point["steps"], "target": None}
    rows = {ours: peers.row(ours=ours, **named) for ours in jobs}
    reason = None
    try:
        for ours, speeds in measured_speeds(jobs, point).items():
            rows[ours] |= speeds
    except NotRunError as error:
        reason = str(error)
        print(error, file=sys.stderr)
        for row in rows.values():
            row["reason"] = reason
    return {"rows": list(rows.values()), "reason": reason}


def measured_speeds(jobs: dict[str, Job], point: Point) -> dict[str, Result]:
    """The versions and speeds of each row, by turns. Raises `NotRunError` where a contender fails."""
    any_job = next(iter(jobs.values()))
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "train.npy"
        np.save(images, any_job.dataset().train)
        turns = {ours: functools.partial(peers.examples_per_s, job, steps=point["steps"]) for ours, job in jobs.items()}
        theirs = functools.partial(examples_per_s, point, settings=any_job.config, images=images)
        versions = peers.versions(point["python"])
        speeds, trips = peers.take({PEER: theirs, **turns}, rounds=point["rounds"], title="standard")
    both = {"peer_versions": versions, "peer_examples_per_s": speeds[PEER], "round_trips_ns": trips}
    return {ours: both | {"ours_examples_per_s": speeds[ours]} for ours in jobs}


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
