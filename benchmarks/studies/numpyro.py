"""NumPyro's SVI on the same model (docs/examples/numpyro_svi.py), in turns with ours.

All contenders are one point: a ratio is of two turns of one round, and NumPyro's turn is in every row's.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from benchmarks.harness import peers
from benchmarks.harness.cli import Backends
from benchmarks.harness.environment import ROOT
from benchmarks.harness.jobs import Job
from benchmarks.harness.peers import NotRunError, Turn
from benchmarks.harness.presets import STANDARD
from benchmarks.studies import ancestor
from benchmarks.studies.skeleton import Measured, Point, Result
from common.config import Config

PEER = "NumPyro SVI"
SCRIPT = ROOT / "docs/examples/numpyro_svi.py"
VARIABLES = {"JAX_PLATFORMS": "cpu"}
OnCpu = Literal["full", "bfloat16"]  # TF32 is a GPU's
AIMS: dict[OnCpu, float] = {"full": 1.05, "bfloat16": 1.3}  # the fastest backend's examples/s over NumPyro's in float32

parts, failed = ancestor.parts, ancestor.failed


@dataclass(kw_only=True)
class Arguments(ancestor.Turns):
    python: Annotated[str, tyro.conf.arg(help="The Python of an environment made from environments/numpyro.txt.")]
    backend: Backends = ()
    precision: Annotated[tuple[OnCpu, ...], tyro.conf.arg(help="One or both of ours; NumPyro's is float32.")] = ("full",)


def check(asked: Arguments) -> None:
    peers.check(asked, STANDARD)


def plan(asked: Arguments) -> dict[str, Point]:
    """One point: every backend and precision of ours, by the name of its row."""
    dataset, jobs = asked.dataset(), {}
    for backend, precision in itertools.product(asked.backend, asked.precision):
        name = f"standard, {backend}" if precision == "full" else f"standard, {backend}, {precision}"
        jobs[name] = asked.job(backend, "standard", dataset=dataset, precision=precision)
    return {"turns": {"python": asked.python, "rounds": asked.rounds, "steps": asked.steps, "jobs": jobs}}


def run(point: Point) -> Result:
    """The rows, one a backend and precision; see `peers.measure`."""
    jobs = {ours: Job.from_json(text) for ours, text in point["jobs"].items()}
    theirs = functools.partial(contender, point, next(iter(jobs.values())))
    return peers.measure(PEER, theirs, jobs, rounds=point["rounds"], steps=point["steps"], target=None)


def contender(point: Point, job: Job, folder: Path) -> tuple[dict[str, str], Turn]:
    """(the versions of NumPyro's packages, its turn). Raises `NotRunError` where its Python can't be run."""
    images = folder / "train.npy"
    np.save(images, job.dataset().train)
    turn = functools.partial(examples_per_s, point, settings=job.config, images=images)
    return peers.versions(point["python"], variables=os.environ | VARIABLES), turn


def examples_per_s(point: Point, *, settings: Config, images: Path) -> float:
    """NumPyro's turn. Raises `NotRunError` where it fails or doesn't train."""
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
    found = json.loads(peers.output(command, name=PEER, variables=os.environ | VARIABLES).splitlines()[-1])
    before, after = found["loss"]
    if not after < before:  # also where either is no number
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
