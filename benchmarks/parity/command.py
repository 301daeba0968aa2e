"""python -m benchmarks parity: are the backends the same function? On the ladder, rung by rung, or on given checkpoints."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from benchmarks.harness import environment, reports
from benchmarks.harness.cli import DataDir, OnDevice, known, parse
from benchmarks.harness.presets import STANDARD
from benchmarks.parity import checkpoints, comparison, ladder
from benchmarks.parity.comparison import RUNGS, BrokenRungError, Job, Worst
from benchmarks.parity.ladder import Scenario
from common import cache, data, protocol
from common.errors import UserError
from common.parameters import State


@dataclass
class Parity:
    checkpoints: Annotated[
        tuple[Path, ...] | None, tyro.conf.arg(help="Compare on these runs' .h5 files, not on the ladder.")
    ] = None
    sizes: Annotated[
        Literal["small", "standard"],
        tyro.conf.arg(help="Of the ladder: a toy's and some rules, or the preset's and all rules."),
    ] = "standard"
    backend: Annotated[tuple[str, ...], tyro.conf.arg(help="Two or more; by default all that are installed.")] = ()
    device: OnDevice = "cpu"
    data_dir: DataDir = None
    results: Annotated[Path, tyro.conf.arg(help="Folder for the report.")] = Path("results")


def main(arguments: list[str]) -> int:
    asked: Parity = parse(Parity, arguments, command="parity", description="Are the backends the same function?")
    known(asked.backend)
    before = environment.describe(asked.device)
    if len(set(asked.backend)) == 1:
        raise UserError(f"There is nothing to compare {asked.backend[0]} with; give two backends or more.")
    backends, required = tuple(dict.fromkeys(asked.backend)) or protocol.BACKENDS, bool(asked.backend)
    if asked.checkpoints is not None:
        return checkpoints.compare(
            asked.checkpoints,
            backends=backends,
            required=required,
            device=asked.device,
            data_dir=asked.data_dir,
            results=asked.results,
        )
    if asked.sizes == "small":
        name, images, parcels = ladder.RANDOM, ladder.random_images(ladder.SMALL.model.pixels), [ladder.small()]
    else:
        name, images = standard_images(asked.data_dir)
        parcels = [[scenario] for scenario in ladder.standard(STANDARD)]  # a scenario's states fill a gigabyte
    parcels = [[scenario.on(asked.device) for scenario in scenarios] for scenarios in parcels]
    print(f"Images: {name}.")
    # The products of small sizes gain nothing from threads, which would wait for one another most of the time.
    threads = 1 if asked.sizes == "small" else None
    try:
        found, unavailable = run(backends, parcels, images, threads=threads, required=required)
    except BrokenRungError as error:
        print(error, file=sys.stderr)
        return 1
    for backend, reason in unavailable.items():
        print(f"{backend}: not run: {reason}")
    content = comparison.content(found, unavailable, sizes=asked.sizes, images=name) | {"device": asked.device}
    path = reports.write(reports.of_device("parity", asked.device), content, asked.results, environment=before)
    print(f"Every rung holds: {path}")
    return 0


def standard_images(data_dir: Path | None) -> tuple[str, State]:
    """(their name, images): the first of binarized MNIST, or seeded random images where MNIST would have to be downloaded."""
    if data_dir or os.environ.get("VAEBENCH_DATA_DIR") or (cache.folder() / "binarized-mnist.h5").is_file():
        dataset = data.load("binarized-mnist", data_dir=data_dir)
        return dataset.name, {"train": dataset.train[:5010], "test": dataset.test[:501]}
    return f"{ladder.RANDOM}, since binarized-mnist is neither in the cache nor in --data-dir", ladder.random_images(784)


def run(
    backends: Sequence[str], parcels: list[list[Scenario]], images: State, *, threads: int | None, required: bool
) -> tuple[list[Worst], dict[str, str]]:
    """Climb and compare. Returns the worst deviations, and backend → why it is unavailable.

    Raises `BrokenRungError` for the first rung that doesn't hold, `UserError` as `comparison.check_present` does.
    """
    found: list[Worst] = []
    unavailable: dict[str, str] = {}
    for scenarios in parcels:
        with tempfile.TemporaryDirectory() as folder:
            there = [backend for backend in backends if backend not in unavailable]
            done = comparison.measure(there, scenarios, images=images, folder=Path(folder), threads=threads)
            unavailable |= {backend: job for backend, job in done.items() if isinstance(job, str)}
            comparison.check_present(unavailable, backends=backends, required=required)
            jobs = {backend: job for backend, job in done.items() if isinstance(job, Job)}
            for number, scenario in enumerate(scenarios):
                results = {backend: job.read(number) for backend, job in jobs.items()}
                rows = comparison.compare(scenario, results, scenario.rungs)
                top = max(rows, key=lambda row: row.deviation / (RUNGS[row.rung].allowed(row.dtype) or 1))
                print(
                    f"{scenario.name}: holds; nearest to its limit: {top.rung}, {top.tensor}, {top.deviation:.1e}", flush=True
                )
                found += rows
    return found, unavailable
