"""Compares each pair of backends on the ladder, rung by rung, in each precision.

Each backend climbs `benchmarks.parity.ladder` in a process of its own. A deviation is max|a − b| / max|b| of a tensor.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import math
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import reports
from benchmarks.harness.environment import ROOT
from benchmarks.harness.processes import ProcessError, ask
from benchmarks.harness.reports import Report
from benchmarks.outputs.table import Part, Table
from benchmarks.parity import ladder
from benchmarks.parity.ladder import Scenario
from common import protocol
from common.config import Config
from common.parameters import State

Results = dict[str, dict[str, State]]  # backend → rung → name → array


@dataclass(frozen=True)
class Rung:
    """The quantity that a rung compares, and the deviation that the rung allows in each precision."""

    quantity: str
    float64: float
    float32: float
    bfloat16: float = math.nan  # NaN: bfloat16 scenarios don't climb this rung

    def allowed(self, factors: str) -> float:
        return float(getattr(self, factors))


# float64: what the suite promises. float32: one rounding is 6e-8. A sum of 784 terms in another order differs by about √784
# roundings, 2e-6; a pass has six layers: 1e-5. The residual network's longest sum has 3,136 terms, 3e-6, one in either network;
# its skips carry an error on without making it larger: 1e-5 too. A gradient's terms cancel over a batch: 1e-4. Ten updates of
# `ladder.SMOOTH_RULE` are as smooth as their gradients; over a hundred, errors from ReLUs near zero add up: 1e-3. Log weights
# of hundreds of nats are exact to 1e-4 nats; the effective sample size is a ratio of their exponentials: 1e-3.
# bfloat16: all backends round at the same places, so that they differ as in float32, except where a sum in another order is
# rounded to the next number. That is one spacing, 2^-8: 4e-3. Densities sum over many numbers, few of which are hit: 1e-3. The
# objective is a mean over 300 of them: 1e-4. A gradient passes each layer twice, and PyTorch rounds a weight's gradient to
# bfloat16, by up to 2^-9, where XLA keeps float32: 1e-2. A second moment is its square, twice as far off.
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
    """A rung doesn't hold. The message is one sentence: which rung, which tensor, by how much."""


@dataclass(frozen=True)
class Worst:
    """The largest deviation of a rung between two backends: a row of the report."""

    rung: str
    scenario: str
    dtype: str
    pair: tuple[str, str]
    deviation: float
    tensor: str
    quantity: str
    allowed: float


def deviation(a: np.ndarray, b: np.ndarray) -> float:
    """max|a − b| / max|b|; 0 where a and b are equal, NaN where either has a NaN."""
    off = float(np.abs(np.asarray(a, np.float64) - b).max())
    return off / max(float(np.abs(b).max()), 1e-300) if off else off


def distance(rung: str, a: np.ndarray, b: np.ndarray) -> float:
    """How far apart two backends' tensors are.

    On most rungs, the deviation. On `parameters`, 1 where any byte differs. On `device-noise`, the larger count of faults.
    """
    if rung == "device-noise":
        return float(max(a.max(), b.max()))
    if rung == "parameters":
        return float(a.tobytes() != b.tobytes())
    return deviation(a, b)


def compare(scenario: Scenario, results: Results, rungs: Iterable[str]) -> list[Worst]:
    """Compare each pair of backends on these rungs, in order. Raises `BrokenRungError` for the first rung that doesn't hold."""
    return [
        worst(rung, scenario, pair, *(results[name][rung] for name in pair))
        for rung in rungs
        for pair in combinations(results, 2)
    ]


def worst(rung: str, scenario: Scenario, pair: tuple[str, str], ours: State, theirs: State) -> Worst:
    """The tensor that deviates most.

    Raises `BrokenRungError` where its deviation is more than the rung allows, and where tensors, shapes or dtypes differ.
    """
    where = f"{rung} ({scenario.name})"
    for name in sorted(ours.keys() ^ theirs.keys()):
        raise BrokenRungError(f"{where}: of {pair[0]} and {pair[1]}, only {pair[0] if name in ours else pair[1]} has {name}.")
    off = {}
    for name, a in ours.items():
        b = theirs[name]
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            raise BrokenRungError(f"{where}: {name} is {a.dtype}{[*a.shape]} in {pair[0]}, {b.dtype}{[*b.shape]} in {pair[1]}.")
        off[name] = distance(rung, a, b)
    if not off:
        raise BrokenRungError(f"{where}: {pair[0]} and {pair[1]} have nothing to compare.")
    tensor = max(off, key=lambda name: math.inf if math.isnan(off[name]) else off[name])
    dtype = scenario.config.factors
    allowed = RUNGS[rung].allowed(dtype)
    if not off[tensor] <= allowed:
        raise BrokenRungError(
            f"{where}: {tensor} of {pair[0]} is {off[tensor]:.1e} off that of {pair[1]}, more than {allowed:.0e}."
        )
    return Worst(rung, scenario.name, dtype, pair, off[tensor], tensor, RUNGS[rung].quantity, allowed)


def worst_rows(found: list[Worst]) -> list[dict[str, Any]]:
    """The report's rows: the worst of each precision, rung and pair."""
    worst_of: dict[tuple[str, str, tuple[str, str]], Worst] = {}
    for row in found:
        key = row.dtype, row.rung, row.pair
        worst_of[key] = max(worst_of.get(key, row), row, key=lambda row: row.deviation)
    order, precisions = list(RUNGS), ("float64", "float32", "bfloat16")
    rows = sorted(worst_of.values(), key=lambda row: (precisions.index(row.dtype), order.index(row.rung)))
    return [dataclasses.asdict(row) for row in rows]


# Measuring: each backend in a process of its own


@dataclass(frozen=True)
class Job:
    """One backend's process. It writes the arrays of scenario I, up to the rung `last` (None: all), to FOLDER/BACKEND-I.npz."""

    backend: str
    scenarios: Sequence[Scenario]
    images: str
    folder: str
    threads: int | None  # of NumPy, PyTorch and TensorFlow's libraries; None: as many as they choose
    last: str | None = None

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Job:
        """The inverse of `dataclasses.asdict`, through JSON."""
        scenarios = [Scenario(**each | {"config": Config.from_dict(each["config"])}) for each in values["scenarios"]]
        return cls(**values | {"scenarios": scenarios})

    def file(self, number: int) -> Path:
        return Path(self.folder) / f"{self.backend}-{number}.npz"

    def read(self, number: int) -> dict[str, State]:
        """A scenario's arrays: rung → name → array."""
        found: dict[str, State] = {}
        with np.load(self.file(number), allow_pickle=False) as file:
            for key in file.files:
                rung, _, name = key.partition("/")
                found.setdefault(rung, {})[name] = file[key]
        return found


def measured(question: dict[str, Any]) -> None:
    """The process of a `Job`, given as a dictionary: write its files."""
    job = Job.from_dict(question)
    backend = protocol.load(job.backend)
    with np.load(job.images, allow_pickle=False) as images:
        train, test = images["train"], images["test"]
    for number, scenario in enumerate(job.scenarios):
        arrays: State = {}
        for rung, found in ladder.climb(backend, scenario, train=train, test=test):
            arrays |= {f"{rung}/{name}": value for name, value in found.items()}
            if rung == job.last:
                break
        np.savez(job.file(number), **arrays)  # type: ignore[arg-type]


def in_process(job: Job, *, root: Path = ROOT) -> None:
    """Run the job on the code in `root`.

    Raises `ProcessError` where the process refuses the job, `BrokenRungError` where it crashes.
    """
    threads = {"OMP_NUM_THREADS": str(job.threads)} if job.threads else {}
    try:
        ask(f"{__name__}:measured", dataclasses.asdict(job), title=job.backend, folder=root, variables=threads)
    except ProcessError as error:
        if error.code == 2:
            raise
        raise BrokenRungError(str(error)) from error


def measure(
    backends: Iterable[str], scenarios: Sequence[Scenario], *, images: State, folder: Path, threads: int | None
) -> dict[str, Job]:
    """Run all backends' processes at the same time. Returns backend → its finished job. Raises as `in_process` does."""
    file = folder / "images.npz"
    np.savez(file, **images)  # type: ignore[arg-type]
    jobs = {backend: Job(backend, scenarios, str(file), str(folder), threads) for backend in backends}
    with concurrent.futures.ThreadPoolExecutor(len(jobs)) as pool:
        list(pool.map(in_process, jobs.values()))
    return jobs


def climbed(
    backends: Iterable[str], scenarios: Sequence[Scenario], *, images: State, threads: int | None
) -> Iterator[tuple[Scenario, Results]]:
    """`measure` in a temporary folder, then each scenario with its results."""
    with tempfile.TemporaryDirectory() as folder:
        jobs = measure(backends, scenarios, images=images, folder=Path(folder), threads=threads)
        for number, scenario in enumerate(scenarios):
            yield scenario, {backend: job.read(number) for backend, job in jobs.items()}


# The report's table


def parts(report: Report) -> list[Part]:
    """The document block: worst deviation by quantity and pair of backends; what was not run; where it was measured."""
    backends = [*dict.fromkeys(name for row in report["rows"] for name in row["pair"]), *report["unavailable"]]
    pairs = list(combinations(sorted(backends, key=protocol.BACKENDS.index), 2))
    rows = []
    for dtype, rung in dict.fromkeys((row["dtype"], row["rung"]) for row in report["rows"]):
        here = [row for row in report["rows"] if (row["dtype"], row["rung"]) == (dtype, rung)]
        worst = {tuple(row["pair"]): figure(row["deviation"]) for row in here}
        cells = [worst.get(pair, "not run") for pair in pairs]
        rows.append([dtype, here[0]["quantity"], figure(here[0]["allowed"]), *cells])
    columns = ["precision", "quantity", "allowed", *(" – ".join(pair) for pair in pairs)]
    notes = [f"- {backend}: not run: {reason}" for backend, reason in report["unavailable"].items()]
    notes.append(f"- Sizes: {report['sizes']}; images: {report['images']}.")
    notes.append(f"- {reports.where(report['environment'], setting=report.get('device', 'cpu'))}.")
    return [Table(columns=columns, rows=rows, left=("precision", "quantity")), "\n".join(notes)]


def figure(value: float) -> str:
    return f"{value:.1e}" if value else "0"
