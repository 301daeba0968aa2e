"""`python -m benchmarks numpyro`: NumPyro's SVI on the same model (docs/examples/numpyro_svi.py), in turns with ours."""

from __future__ import annotations

import functools
import json
import statistics
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from benchmarks.harness import environment, ours
from benchmarks.harness import peers as turns
from benchmarks.harness.cli import parse, usable
from benchmarks.harness.environment import ROOT
from benchmarks.harness.peers import NotRunError, Row
from benchmarks.harness.presets import STANDARD
from common import data
from common.config import Config, check
from common.protocol import BACKENDS

REPORT = "numpyro"
PEER = "NumPyro SVI"
SCRIPT = ROOT / "docs/examples/numpyro_svi.py"
OnCpu = Literal["full", "bfloat16"]  # TF32 is a GPU's
AIMS: dict[OnCpu, float] = {"full": 1.05, "bfloat16": 1.3}  # the fastest backend's examples/s over NumPyro's in float32


@dataclass
class NumPyro:
    python: Annotated[str, tyro.conf.arg(help="The Python of an environment made from environments/numpyro.txt.")]
    backend: Annotated[tuple[str, ...], tyro.conf.arg(help=f"Some of {', '.join(BACKENDS)}; all by default.")] = ()
    precision: Annotated[tuple[OnCpu, ...], tyro.conf.arg(help="One or both of ours; NumPyro's is float32.")] = ("full",)
    rounds: Annotated[int, tyro.conf.arg(help="Turns of each contender.")] = 5
    steps: Annotated[int, tyro.conf.arg(help="Steps on the clock, a turn.")] = 1_000
    data: Annotated[str, tyro.conf.arg(help="binarized-mnist, binarized-digits or an .h5 file.")] = "binarized-mnist"
    data_dir: Annotated[Path | None, tyro.conf.arg(help="Folder of the binarized MNIST files.")] = None
    results: Annotated[Path, tyro.conf.arg(help="Folder of the report, whose other rows stay.")] = field(
        default_factory=lambda: Path("results")
    )


def main(arguments: list[str]) -> int:
    asked = parse(NumPyro, arguments, command="numpyro", description="NumPyro's SVI and ours, in turns.")
    here = environment.describe()
    ours.check(STANDARD, rounds=asked.rounds, steps=asked.steps)
    dataset = data.load(asked.data, data_dir=asked.data_dir)
    config = STANDARD.replace(image_shape=dataset.image_shape)
    check(config, train_images=len(dataset.train), test_images=len(dataset.test))
    rows: dict[tuple[str, OnCpu], Row] = {}
    for backend in usable(asked.backend):
        for precision in asked.precision:
            own = f"standard, {backend}" if precision == "full" else f"standard, {backend}, {precision}"
            rows[backend, precision] = turns.row(
                peer=PEER, ours=own, family="mean-field", device="cpu", steps=asked.steps, target=None
            )
    failed = False
    try:
        with tempfile.TemporaryDirectory() as folder:
            images = Path(folder) / "train.npy"
            np.save(images, dataset.train)
            measure(rows, asked, config=config, images=images)
    except NotRunError as error:
        failed = True
        for row in rows.values():
            row["reason"] = str(error)
    report = turns.publish(REPORT, rows.values(), asked.results, environment=here, among_all=aim)
    print(turns.markdown(report))
    return 1 if failed else 0


def measure(rows: dict[tuple[str, OnCpu], Row], asked: NumPyro, *, config: Config, images: Path) -> None:
    """Fill the rows in. Raises `NotRunError` where a contender fails."""

    def turn(backend: str, precision: OnCpu) -> float:
        settings = config.replace(precision=precision)
        return ours.examples_per_s(
            backend, "standard", settings, steps=asked.steps, dataset=asked.data, data_dir=asked.data_dir
        )

    own = {row["ours"]: functools.partial(turn, *key) for key, row in rows.items()}
    found_versions = turns.versions(asked.python)
    found, trips = turns.take(
        {PEER: lambda: examples_per_s(asked, config=config, images=images), **own}, rounds=asked.rounds, title="standard"
    )
    for row in rows.values():
        row |= {
            "peer_versions": found_versions,
            "peer_examples_per_s": found[PEER],
            "ours_examples_per_s": found[row["ours"]],
            "round_trips_ns": trips,
        }


def aim(rows: list[Row]) -> None:
    """A precision's aim is its fastest's, earlier runs' rows among them."""
    for precision, target in AIMS.items():
        same = [row for row in rows if row["reason"] is None and row["ours"].endswith("bfloat16") == (precision == "bfloat16")]
        for row in same:
            row["target"] = None
        if same:
            max(same, key=lambda row: statistics.median(turns.ratios(row)))["target"] = target


def examples_per_s(asked: NumPyro, *, config: Config, images: Path) -> float:
    """NumPyro's turn. Raises `NotRunError` where it fails."""
    options = {
        "images": images,
        "latent-size": config.model.latent_size,
        "hidden-size": config.model.hidden_size,
        "batch-size": config.training.batch_size,
        "learning-rate": config.optimizer.learning_rate,
        "steps": asked.steps,
        "chunk": config.training.chunk,
    }
    command = [asked.python, str(SCRIPT), *(f"--{name}={value}" for name, value in options.items())]
    variables = turns.inherited(JAX_PLATFORMS="cpu")
    found = json.loads(turns.output(command, name=PEER, variables=variables).splitlines()[-1])
    before, after = found["loss"]
    if not after < before:  # nor where either is no number
        raise NotRunError(f"{PEER} doesn't train: its loss is {before:.2f} nats in the first chunk, {after:.2f} in the last.")
    return float(found["steps"] * config.training.batch_size / found["seconds"])
