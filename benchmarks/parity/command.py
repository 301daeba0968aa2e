"""Are the backends the same function? Each climbs `benchmarks.ladder` in a process of its own; here they are compared.

A deviation is max|a − b| / max|b| of a tensor.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from benchmarks.harness import environment, reports
from benchmarks.harness.cli import known, parse
from benchmarks.harness.presets import STANDARD
from benchmarks.harness.processes import UNAVAILABLE
from benchmarks.harness.reports import Report
from benchmarks.parity import ladder
from benchmarks.parity.ladder import Scenario
from common import cache, data, protocol
from common.config import Device
from common.errors import UserError
from common.parameters import State

ROOT = Path(__file__).parents[2]

Results = dict[str, dict[str, State]]  # backend → rung → name → array


@dataclass(frozen=True)
class Rung:
    """What a rung compares, and the deviation that it allows in each precision."""

    quantity: str
    float64: float
    float32: float
    bfloat16: float = math.nan  # where there is none, the rung isn't climbed

    def allowed(self, factors: str) -> float:
        return float(getattr(self, factors))


# float64: what the suite promises. float32, where one rounding is 6e-8: a sum of 784 terms in another order differs by about
# √784 roundings, 2e-6, and a pass has six layers: 1e-5. A gradient's terms cancel over a batch: 1e-4. Ten updates of
# `ladder.SMOOTH_RULE` are as smooth as their gradients; over a hundred, errors that ReLUs near zero let through add up: 1e-3.
# Log weights of hundreds of nats are exact to 1e-4 nats, and the effective sample size is a ratio of their exponentials: 1e-3.
# bfloat16: all round at the same places, so that they differ as float32 does, but where a sum in another order is rounded to
# the next number: that is one spacing, 2^-8, of one number, 4e-3. Densities sum over many numbers, of which few are hit: 1e-3;
# the objective is a mean over 300 of them: 1e-4. A gradient passes each layer twice, and PyTorch rounds a weight's to bfloat16,
# by up to 2^-9, where XLA keeps float32: 1e-2. Its square, a second moment, is twice as far off.
RUNGS = {
    "parameters": Rung("names, shapes and bytes of parameters, moments and EMA", 0, 0, 0),
    "encoder": Rung("the encoder's outputs", 1e-12, 1e-5, 4e-3),
    "base": Rung("z and log q(z\\|x) of the Gaussian base, given its noise", 1e-12, 1e-5, 4e-3),
    "posterior": Rung("each flow block and log-det; z and log q(z\\|x)", 1e-12, 1e-5, 4e-3),
    "decoder": Rung("the decoder's logits", 1e-12, 1e-5, 4e-3),
    "densities": Rung("log p(x\\|z) and log p(z)", 1e-12, 1e-5, 1e-3),
    "log-weights": Rung("log weights, with β < 1 and β = 1", 1e-12, 1e-5, 1e-3),
    "objective": Rung("the objective, k = 1 and k = 3, β < 1", 1e-12, 1e-5, 1e-4),
    "gradients": Rung("the gradient of every parameter", 1e-10, 1e-4, 1e-2),
    "steps-1": Rung("parameters, moments, EMA after 1 step", 1e-10, 1e-4, 2e-2),
    "steps-10": Rung("parameters, moments, EMA after 10 steps", 1e-9, 1e-4),
    "steps-100": Rung("parameters, moments, EMA after 100 steps", 1e-9, 1e-3),
    "evaluation": Rung("then ELBO and log p(x) of test images, given the noise", 1e-9, 1e-3),
    "device-noise": Rung("faults of the noise that a backend draws itself", 0, 0),
}


class BrokenRungError(Exception):
    """A rung doesn't hold. The message is one sentence: which one, of what, by how much."""


@dataclass(frozen=True)
class Worst:
    """The largest deviation of a rung between two backends."""

    rung: str
    scenario: str
    dtype: str
    pair: tuple[str, str]
    deviation: float
    tensor: str


def deviation(a: np.ndarray, b: np.ndarray) -> float:
    """max|a − b| / max|b|; 0 where they are equal, and NaN where one has a NaN."""
    off = float(np.abs(np.asarray(a, np.float64) - b).max())
    return off / max(float(np.abs(b).max()), 1e-300) if off else off


def compare(scenario: Scenario, results: Results, rungs: Iterable[str]) -> list[Worst]:
    """Climb these rungs with what each backend measured. Raises `BrokenRungError` for the first that doesn't hold."""
    pairs = list(combinations(results, 2))
    return [worst(rung, scenario, (a, b), results[a][rung], results[b][rung]) for rung in rungs for a, b in pairs]


def distance(rung: str, a: np.ndarray, b: np.ndarray) -> float:
    """The deviation; of bytes, 1 where any differs; of device noise, which no two backends share, what is wrong with either."""
    if rung == "device-noise":
        return float(max(a.max(), b.max()))
    if rung == "parameters":
        return float(a.tobytes() != b.tobytes())
    return deviation(a, b)


def worst(rung: str, scenario: Scenario, pair: tuple[str, str], ours: State, theirs: State) -> Worst:
    """Raises `BrokenRungError` for the tensor that deviates most, if by more than the rung allows, or isn't there in both."""
    where = f"{rung} ({scenario.name})"
    for name in sorted(ours.keys() ^ theirs.keys()):
        raise BrokenRungError(
            f"{where}: {name} is there in {pair[0] if name in ours else pair[1]} alone of {pair[0]} and {pair[1]}."
        )
    if not ours:
        raise BrokenRungError(f"{where}: {pair[0]} and {pair[1]} have nothing to compare.")
    top, tensor = -1.0, ""
    for name, a in ours.items():
        b = theirs[name]
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            raise BrokenRungError(f"{where}: {name} is {a.dtype}{[*a.shape]} in {pair[0]}, {b.dtype}{[*b.shape]} in {pair[1]}.")
        off = distance(rung, a, b)
        if math.isnan(off) or off > top:
            top, tensor = off, name
        if math.isnan(off):
            break
    allowed = RUNGS[rung].allowed(scenario.config.factors)
    if not top <= allowed:
        raise BrokenRungError(f"{where}: {tensor} of {pair[0]} is {top:.1e} off that of {pair[1]}, more than {allowed:.0e}.")
    return Worst(rung, scenario.name, scenario.config.factors, pair, top, tensor)


# Processes


@dataclass(frozen=True)
class Job:
    """What a worker process is asked to measure: FOLDER/BACKEND-I.npz for scenario I, up to the rung `last` (None: all)."""

    backend: str
    scenarios: Sequence[Scenario]
    images: str
    folder: str
    threads: int | None  # of NumPy, PyTorch and TensorFlow's libraries; None for as many as they take
    last: str | None = None

    def as_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        values = json.loads(text)
        return cls(**values | {"scenarios": [Scenario.from_dict(scenario) for scenario in values["scenarios"]]})

    def file(self, number: int) -> Path:
        return Path(self.folder) / f"{self.backend}-{number}.npz"

    def read(self, number: int) -> dict[str, State]:
        """What its process wrote: rung → name → array. No pickle."""
        found: dict[str, State] = {}
        with np.load(self.file(number), allow_pickle=False) as file:
            for key in file.files:
                rung, _, name = key.partition("/")
                found.setdefault(rung, {})[name] = file[key]
        return found


def worker(arguments: list[str]) -> int:
    """The process of one job, which comes as JSON."""
    job = Job.from_json(sys.stdin.read())
    try:
        backend = protocol.load(job.backend)
    except UserError as error:
        print(error, file=sys.stderr)
        return UNAVAILABLE
    with np.load(job.images, allow_pickle=False) as images:
        train, test = images["train"], images["test"]
    for number, scenario in enumerate(job.scenarios):
        arrays: State = {}
        for rung, found in ladder.climb(backend, scenario, train=train, test=test):
            arrays |= {f"{rung}/{name}": value for name, value in found.items()}
            if rung == job.last:
                break
        np.savez(job.file(number), **arrays)  # type: ignore[arg-type]
    return 0


def in_process(job: Job, *, root: Path = ROOT) -> str | None:
    """Run the job on the code in `root`; returns None, or why its backend is unavailable.

    Raises `BrokenRungError` where the process crashes.
    """
    command = [sys.executable, "-m", "benchmarks", "parity-worker"]
    environment = os.environ | ({"OMP_NUM_THREADS": str(job.threads)} if job.threads else {})
    done = subprocess.run(command, cwd=root, env=environment, input=job.as_json(), capture_output=True, text=True, check=False)
    message = (done.stderr.strip().splitlines() or [""])[-1]
    if done.returncode == UNAVAILABLE:
        return message
    if done.returncode == 2:
        raise UserError(message)
    if done.returncode:
        raise BrokenRungError(f"The process of {job.backend} ended with code {done.returncode}: {message}")
    return None


def measure(
    backends: Iterable[str], scenarios: Sequence[Scenario], *, images: State, folder: Path, threads: int | None
) -> dict[str, Job | str]:
    """Each backend in a process of its own, at the same time: backend → its job, done, or why it is unavailable."""
    file = folder / "images.npz"
    np.savez(file, **images)  # type: ignore[arg-type]
    jobs = [Job(backend, scenarios, str(file), str(folder), threads) for backend in backends]
    with concurrent.futures.ThreadPoolExecutor(len(jobs)) as pool:
        reasons = list(pool.map(in_process, jobs))
    return {job.backend: reason or job for job, reason in zip(jobs, reasons, strict=True)}


# The command


def random_images(pixels: int) -> State:
    """Seeded images of 0 and 1, in place of a data set: a training set of fifteen small minibatches, and a test set."""
    draws = np.random.default_rng(0)
    return {split: (draws.random((n, pixels)) < 0.3).astype(np.uint8) for split, n in (("train", 310), ("test", 51))}


def standard_images(data_dir: Path | None) -> tuple[str, State]:
    """(their name, images): the first of binarized MNIST, where it is without a download, else seeded random ones."""
    if data_dir or os.environ.get("VAEBENCH_DATA_DIR") or (cache.folder() / "binarized-mnist.h5").is_file():
        dataset = data.load("binarized-mnist", data_dir=data_dir)
        return dataset.name, {"train": dataset.train[:5010], "test": dataset.test[:501]}
    return "seeded random images, since binarized-mnist is neither in the cache nor in --data-dir", random_images(784)


def main(arguments: list[str]) -> int:
    @dataclass
    class Parity:
        sizes: Annotated[
            Literal["small", "standard"], tyro.conf.arg(help="A toy's sizes and some rules, or the preset's and all rules.")
        ] = "standard"
        backend: Annotated[tuple[str, ...], tyro.conf.arg(help="Two or more; by default all that are installed.")] = ()
        device: Annotated[Device, tyro.conf.arg(help="Where the models live.")] = "cpu"
        data_dir: Annotated[Path | None, tyro.conf.arg(help="Folder of the binarized MNIST files.")] = None
        results: Annotated[Path, tyro.conf.arg(help="Folder of parity.json or parity-cuda.json.")] = Path("results")

    asked = parse(Parity, arguments, command="parity", description="Compare the backends, rung by rung.")
    here = environment.describe(asked.device)
    known(asked.backend)
    if len(asked.backend) == 1:
        raise UserError(f"There is nothing to compare {asked.backend[0]} with; give two backends or more.")
    if asked.sizes == "small":
        name, images, parcels = "seeded random images", random_images(ladder.SMALL.model.pixels), [ladder.small()]
    else:
        name, images = standard_images(asked.data_dir)
        parcels = [[scenario] for scenario in ladder.standard(STANDARD)]  # a scenario's states fill a gigabyte
    parcels = [[scenario.on(asked.device) for scenario in scenarios] for scenarios in parcels]
    print(f"Images: {name}.")
    try:
        # A toy's products are too small to share: threads that wait for one another would take most of its time.
        threads = 1 if asked.sizes == "small" else None
        found, unavailable = run(
            asked.backend or protocol.BACKENDS, parcels, images, threads=threads, required=bool(asked.backend)
        )
    except BrokenRungError as error:
        print(error, file=sys.stderr)
        return 1
    for backend, reason in unavailable.items():
        print(f"{backend}: not run: {reason}")
    found_here = content(found, unavailable, sizes=asked.sizes, images=name) | {"device": asked.device}
    path = reports.write(reports.of_device("parity", asked.device), found_here, asked.results, environment=here)
    print(f"Every rung holds: {path}")
    return 0


def run(
    backends: Sequence[str], parcels: list[list[Scenario]], images: State, *, threads: int | None, required: bool
) -> tuple[list[Worst], dict[str, str]]:
    """Climb: (the worst deviations, backend → why it is unavailable).

    Raises `BrokenRungError` for the first rung to break, `UserError` for a `required` backend that is unavailable, or where
    fewer than two are there.
    """
    found: list[Worst] = []
    unavailable: dict[str, str] = {}
    for scenarios in parcels:
        with tempfile.TemporaryDirectory() as folder:
            there = [backend for backend in backends if backend not in unavailable]
            done = measure(there, scenarios, images=images, folder=Path(folder), threads=threads)
            unavailable |= {backend: job for backend, job in done.items() if isinstance(job, str)}
            if required and unavailable:
                raise UserError(next(iter(unavailable.values())))
            jobs = {backend: job for backend, job in done.items() if isinstance(job, Job)}
            if len(jobs) < 2:
                raise UserError(
                    "Fewer than two backends are there to compare; `python -m benchmarks list` says what is missing."
                )
            for number, scenario in enumerate(scenarios):
                results = {backend: job.read(number) for backend, job in jobs.items()}
                rows = compare(scenario, results, scenario.rungs)
                top = max(rows, key=lambda row: row.deviation / (RUNGS[row.rung].allowed(row.dtype) or 1))
                print(
                    f"{scenario.name}: holds; nearest to its limit: {top.rung}, {top.tensor}, {top.deviation:.1e}", flush=True
                )
                found += rows
    return found, unavailable


def content(found: list[Worst], unavailable: dict[str, str], *, sizes: str, images: str) -> dict[str, Any]:
    """The report's: the worst row of each precision, rung and pair."""
    rows = []
    for dtype in ("float64", "float32", "bfloat16"):
        for rung, what in RUNGS.items():
            here = [row for row in found if (row.rung, row.dtype) == (rung, dtype)]
            for pair in dict.fromkeys(row.pair for row in here):
                row = max((row for row in here if row.pair == pair), key=lambda row: row.deviation)
                rows.append(dataclasses.asdict(row) | {"quantity": what.quantity, "allowed": what.allowed(dtype)})
    scenarios = list(dict.fromkeys(row.scenario for row in found))
    return {"sizes": sizes, "images": images, "scenarios": scenarios, "rows": rows, "unavailable": unavailable}


def markdown(report: Report) -> str:
    """Quantity × pair of backends → worst deviation; a line on what was not run, and one on where it was measured."""
    backends = [*dict.fromkeys(name for row in report["rows"] for name in row["pair"]), *report["unavailable"]]
    pairs = list(combinations(sorted(backends, key=protocol.BACKENDS.index), 2))
    lines = [
        "| precision | quantity | allowed | " + " | ".join(" – ".join(pair) for pair in pairs) + " |",
        "| --- | --- | ---: |" + " ---: |" * len(pairs),
    ]
    for dtype, rung in dict.fromkeys((row["dtype"], row["rung"]) for row in report["rows"]):
        rows = [row for row in report["rows"] if (row["dtype"], row["rung"]) == (dtype, rung)]
        worst = {tuple(row["pair"]): row["deviation"] for row in rows}
        cells = [figure(worst[pair]) if pair in worst else "not run" for pair in pairs]
        lines.append(f"| {dtype} | {rows[0]['quantity']} | {figure(rows[0]['allowed'])} | {' | '.join(cells)} |")
    lines.append("")
    lines += [f"- {backend}: not run: {reason}" for backend, reason in report["unavailable"].items()]
    lines.append(f"- Sizes: {report['sizes']}; images: {report['images']}.")
    lines.append(f"- {reports.where(report['environment'], setting=report.get('device', 'cpu'))}.")
    return "\n".join(lines) + "\n"


def figure(value: float) -> str:
    return f"{value:.1e}" if value else "0"
