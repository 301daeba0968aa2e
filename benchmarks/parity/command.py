"""python -m benchmarks parity: are the backends the same function? On the ladder, rung by rung, or on given checkpoints."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from benchmarks.harness import cli, environment, reports
from benchmarks.harness.cli import DataDir, Moved, OnDevice
from benchmarks.harness.presets import STANDARD
from benchmarks.parity import checkpoints, comparison, ladder
from benchmarks.parity.comparison import BrokenRungError, Worst
from common import data, protocol
from common.config import Device
from common.errors import UserError
from common.parameters import State
from common.protocol import BACKENDS


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
    data: Moved = ()
    data_dir: DataDir = None
    results: Annotated[Path, tyro.conf.arg(help="Folder for the report.")] = Path("results")


def main(arguments: list[str]) -> int:
    asked: Parity = cli.parse(Parity, arguments, command="parity", description="Are the backends the same function?")
    backends, unavailable = present(asked.backend, device=asked.device)
    before = environment.describe(asked.device)
    uneven: list[str] = []
    try:
        if asked.checkpoints is None:
            name, content = "parity", climb(backends, asked)
        else:
            where: dict[str, Any] = {"device": asked.device, "data": asked.data, "data_dir": asked.data_dir}
            name, (content, uneven) = checkpoints.REPORT, checkpoints.compare(asked.checkpoints, backends=backends, **where)
    except BrokenRungError as error:
        print(error, file=sys.stderr)
        return 1
    for backend, reason in unavailable.items():
        print(f"{backend}: not run: {reason}")
    content |= {"device": asked.device, "unavailable": unavailable}
    path = reports.write(reports.of_device(name, asked.device), content, asked.results, environment=before)
    print(f"Wrote {path}.")
    for sentence in uneven:
        print(sentence, file=sys.stderr)
    return 1 if uneven else 0


def present(named: tuple[str, ...], *, device: Device) -> tuple[list[str], dict[str, str]]:
    """(the backends to compare, backend → why it is left out). A named backend that is unavailable fails in its own process.

    Raises `UserError` for a name that isn't in BACKENDS, and where fewer than two backends are left.
    """
    cli.known(named)
    if len(there := [name for name in dict.fromkeys(named or BACKENDS) if not protocol.lacks(name)]) < 2:
        raise UserError(
            f"Parity needs two backends or more that are installed here, and has {' '.join(there) or 'none'}; "
            "`python -m benchmarks list` shows them."
        )
    unavailable = {}
    for name in () if named else BACKENDS:
        description, reason = cli.described(name)
        if not description or device not in description["devices"]:
            unavailable[name] = reason or f"it has no device {device} here."
    backends = [name for name in dict.fromkeys(named or BACKENDS) if name not in unavailable]
    if len(backends) < 2:
        raise UserError("Parity needs two backends or more; `python -m benchmarks list` says which can be used here.")
    return backends, unavailable


def climb(backends: list[str], asked: Parity) -> dict[str, Any]:
    """Climb and compare; the report's content. Raises `BrokenRungError` for the first rung that doesn't hold."""
    if asked.sizes == "small":
        name, images = ladder.RANDOM, ladder.small_images()
        parcels = [ladder.small(ladder.SMALL.replace(device=asked.device))]
        threads = 1  # the products of small sizes gain nothing from threads, which would wait for one another most of the time
    else:
        name, images = standard_images(asked.data_dir)
        # One scenario after another: the states of one fill a gigabyte of disk.
        parcels = [[scenario] for scenario in ladder.standard(STANDARD.replace(device=asked.device))]
        threads = None
    print(f"Images: {name}.")
    found: list[Worst] = []
    for scenarios in parcels:
        for scenario, results in comparison.climbed(backends, scenarios, images=images, threads=threads):
            rows = comparison.compare(scenario, results, scenario.rungs)
            top = max(rows, key=lambda row: row.deviation / (row.allowed or 1))
            print(f"{scenario.name}: holds; nearest to its limit: {top.rung}, {top.tensor}, {top.deviation:.1e}", flush=True)
            found += rows
    print("Every rung holds.")
    names = [scenario.name for scenarios in parcels for scenario in scenarios]
    return {"sizes": asked.sizes, "images": name, "scenarios": names, "rows": comparison.worst_rows(found)}


def standard_images(data_dir: Path | None) -> tuple[str, State]:
    """(their name, images): the first of binarized MNIST, or seeded random images where MNIST would have to be downloaded."""
    if data_dir or os.environ.get("VAEBENCH_DATA_DIR") or data.mnist_cache():
        dataset = data.load("binarized-mnist", data_dir=data_dir, binarize=None)
        return dataset.name, {"train": dataset.train[:5010], "test": dataset.test[:501]}
    return f"{ladder.RANDOM}, since binarized-mnist is neither in the cache nor in --data-dir", ladder.random_images(784)
