"""What this suite costs beside a bare training loop in the same framework, and from the command to the first steps.

Beside a bare loop: fresh processes, in each of which chunks of `Session.train` take turns with as many steps of a loop written
by hand in the same framework, `docs/examples/loop_*.py`. Both draw their minibatches inside the clock. The figure is the median
over all turns of ours / bare, with an interval between two order statistics that covers the true median 95 times in 100 if
turns are independent. Turns of one process share its memory's layout, so that a few processes may differ by more.

Outside of `train`: a run of the mean-field model as `common.training.train` does it, less the time in the session's calls; its
checkpoint isn't written.

Start: the whole command `run --preset quick` for one chunk of training, in fresh processes, less its test. Cold is the first,
with an empty cache of compiled programs.
"""

from __future__ import annotations

import functools
import itertools
import os
import runpy
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

import numpy as np
import tyro

from benchmarks.harness import cores, records, reports, runs
from benchmarks.harness.cli import Backends, at_least
from benchmarks.harness.environment import ROOT
from benchmarks.harness.jobs import Job
from benchmarks.harness.presets import STANDARD, preset
from benchmarks.harness.progress import Progress
from benchmarks.harness.reports import Report
from benchmarks.outputs.table import Part, Table, ranged
from benchmarks.studies import skeleton
from benchmarks.studies.skeleton import Measured, Point, Result
from common import protocol, training
from common.clock import timed
from common.config import FAMILIES, Config
from common.data import Dataset
from common.errors import UserError
from common.protocol import Session

EXAMPLES = ROOT / "docs/examples"
IMAGES = {"train": 10_000, "valid": 1_000, "test": 1}
START = "quick"


@dataclass(kw_only=True)
class Arguments(skeleton.Arguments):
    backend: Backends = ()
    processes: Annotated[int, tyro.conf.arg(help="Fresh processes a backend.")] = 3
    turns: Annotated[int, tyro.conf.arg(help="Turns a process: a chunk of ours and one of the bare loop.")] = 8
    steps: Annotated[int, tyro.conf.arg(help="Steps of the run whose time outside of `train` is measured.")] = 1_000
    starts: Annotated[int, tyro.conf.arg(help="Starts after the cold one, a backend and family.")] = 3


def check(asked: Arguments) -> None:
    at_least(asked, processes=1, turns=6, steps=STANDARD.training.chunk, starts=1)


def plan(asked: Arguments) -> dict[str, Point]:
    """A process of each backend before the next of any; then a start of each backend and family, the cold ones first."""
    points: dict[str, Point] = {}
    for number, name in itertools.product(range(asked.processes), asked.backend):
        points[f"loop_{name}_{number}"] = {"backend": name, "turns": asked.turns, "steps": asked.steps}
    caches = str(asked.results / "caches")
    for turn, name, family in itertools.product(range(1 + asked.starts), asked.backend, FAMILIES):
        points[f"start_{name}_{family}_{turn}"] = {"backend": name, "family": family, "turn": turn, "caches": caches}
    return points


def measure(point: Point) -> Result:
    """A process beside the bare loop, or a start."""
    if "turns" in point:
        return beside(point["backend"], turns=point["turns"], steps=point["steps"])
    cache = Path(point["caches"]) / f"{point['backend']}-{point['family']}"
    if point["turn"] == 0:
        shutil.rmtree(cache, ignore_errors=True)
    return start(point["backend"], point["family"], cache=cache)


# --- beside a bare loop, and outside of `train` ---


def beside(name: str, *, turns: int, steps: int) -> Result:
    """Seconds of our and of the bare chunks, turn by turn, and the share of a run of so many steps outside of its session."""
    config = STANDARD.replace(steps=steps, validation_interval=steps, warm_up=0, compile_from=0)  # as a run of `standard` is
    draws = np.random.default_rng(0)
    images = {split: (draws.random((n, config.model.pixels)) < 0.13).astype(np.uint8) for split, n in IMAGES.items()}
    dataset = Dataset(name="random images", sha256="", **images, image_shape=(28, 28), binarize=None)
    job = Job(name, "standard", data="", data_dir=None, config=config, results="", resume=False)
    checkpoint, session = runs.begin(job, backend=protocol.load(name), dataset=dataset)
    found = by_turns(session, name, config=config, images=dataset.train, turns=turns)
    checkpoint, session = runs.begin(job, backend=protocol.load(name), dataset=dataset)
    return found | {"outside": outside(session, checkpoint, dataset=dataset)}


def bare_loop(name: str) -> Callable[..., Callable[[np.ndarray], np.ndarray]]:
    """`create` of the script with a loop in that framework. The script imports the framework: call it in a fresh process."""
    create: Callable[..., Callable[[np.ndarray], np.ndarray]] = runpy.run_path(str(EXAMPLES / f"loop_{name}.py"))["create"]
    return create


def by_turns(session: Session, name: str, *, config: Config, images: np.ndarray, turns: int) -> dict[str, list[Any]]:
    """`ours`, `bare`: seconds of the chunks of each side; `round_trips_ns`: the cores' latency at both ends of each turn.

    Both sides compile in a chunk before the first turn; they alternate in who begins a turn.
    """
    steps, batch = config.training.chunk, config.training.batch_size
    sizes = {"hidden": config.model.hidden_size, "latent": config.model.latent_size}
    bare = bare_loop(name)(images, **sizes, learning_rate=config.optimizer.learning_rate)
    handle, draws, done = session.place(images), np.random.default_rng(1), itertools.count(0, steps)

    def our_chunk() -> None:
        session.train(handle, **training.chunk(config, images=len(images), first_step=next(done), steps=steps))

    def bare_chunk() -> None:
        elbos = bare(draws.integers(len(images), size=(steps, batch)))
        assert np.isfinite(elbos).all()

    sides = {"ours": our_chunk, "bare": bare_chunk}
    for work in sides.values():
        work()

    def turn(order: tuple[str, ...]) -> dict[str, float]:
        return {side: timed(sides[side], synchronize=session.synchronize)[1] for side in order}

    found: dict[str, list[Any]] = {"ours": [], "bare": [], "round_trips_ns": []}
    for i in range(turns):
        order = ("bare", "ours") if i % 2 == 0 else ("ours", "bare")
        seconds, trips = cores.together(functools.partial(turn, order))
        for side in sides:
            found[side].append(seconds[side])
        found["round_trips_ns"] += trips
    return found


class Watched:
    """A session, and the seconds spent in its methods."""

    def __init__(self, session: Session):
        self.session, self.seconds = session, 0.0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.session, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - began

        return call


def outside(session: Session, checkpoint: Any, *, dataset: Dataset) -> float:
    """The share of a run's time that is spent outside of its session: (wall − in the session) / wall."""
    config: Config = checkpoint.config
    watched: Any = Watched(session)
    began = time.perf_counter()
    rows = config.training.batch_size
    with Progress("overhead").phase("train", total=config.training.steps, unit="steps", rows=rows) as advance:
        training.train(watched, checkpoint, dataset=dataset, report=advance)
    wall = time.perf_counter() - began
    return (wall - watched.seconds) / wall


def interval(values: list[float]) -> tuple[float, float]:
    """Two order statistics between which the median lies with a probability of at least 95 %; needs six values."""
    from scipy import stats  # half a second, which no other command should wait for

    found = stats.quantile_test(values, p=0.5).confidence_interval(0.95)
    return float(found.low), float(found.high)


# --- from the command to the first steps ---


def start(backend: str, family: str, *, cache: Path) -> dict[str, float | None]:
    """Seconds of one command, with this cache of compiled programs. Raises `UserError` where the command fails."""
    command = [sys.executable, "-m", "benchmarks", "run", "--preset", START, "--backend", backend, "--variational", family]
    command += ["--steps", str(preset(START).training.chunk), "--images", "10", "--results"]
    variables = {name: value for name, value in os.environ.items() if name != cores.WITHIN}  # a start includes no wait
    variables["VAEBENCH_CACHE_DIR"] = str(cache)
    with tempfile.TemporaryDirectory() as results:
        began = time.perf_counter()
        done = subprocess.run([*command, results], cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - began
        if done.returncode:
            raise UserError(f"`run` of {backend} ended with code {done.returncode}:\n{done.stderr.strip()[-2000:]}")
        (path,) = Path(results).glob("*.json")
        timing = records.read(path)["timing"]
    own = {name: timing[name] for name in ("first_chunk_s", "import_s", "programs_compiled")}
    return {"command_s": seconds - timing["evaluation_s"], **own}


# --- the report and its tables ---


def content(asked: Arguments, measured: Measured) -> dict[str, Any]:
    """A row a backend beside its bare loop, and a row of starts a backend and family."""
    loops: dict[str, list[Result]] = {}
    starts: dict[tuple[str, str], list[Result]] = {}
    for point, result in measured:
        if "turns" in point:
            loops.setdefault(point["backend"], []).append(result)
        else:
            starts.setdefault((point["backend"], point["family"]), []).append(result)
    return {
        "loops": [loop_row(name, processes) for name, processes in loops.items()],
        "starts": [start_row(*key, results) for key, results in starts.items()],
        "round_trips_ns": [trip for processes in loops.values() for one in processes for trip in one["round_trips_ns"]],
        "chunk": STANDARD.training.chunk,
        "start_chunk": preset(START).training.chunk,
    }


def loop_row(backend: str, processes: list[Result]) -> dict[str, Any]:
    """The row of a backend beside its bare loop: medians over the turns of all its processes."""
    ours, bare = (np.concatenate([one[side] for one in processes]) for side in ("ours", "bare"))
    ratios = (ours / bare).tolist()
    chunk = STANDARD.training.chunk
    return {
        "backend": backend,
        "ours_ms": 1e3 * float(np.median(ours)) / chunk,
        "bare_ms": 1e3 * float(np.median(bare)) / chunk,
        "ratio": statistics.median(ratios),
        "interval": interval(ratios),
        "turns": len(ratios),
        "processes": len(processes),
        "outside": statistics.median(one["outside"] for one in processes),
    }


def start_row(backend: str, family: str, starts: list[Result]) -> dict[str, Any]:
    """The row of a backend's and family's starts: the cold one, and medians over the later ones."""
    cold, *later = starts
    row: dict[str, Any] = {"backend": backend, "family": family, "starts": len(later)}
    for name in ("command_s", "first_chunk_s", "programs_compiled"):
        row[f"cold_{name}"] = cold[name]
        values = [one[name] for one in later]
        row[f"later_{name}"] = None if None in values else statistics.median(values)
    row["import_s"] = statistics.median(one["import_s"] or 0.0 for one in later)
    return row


def parts(report: Report) -> list[Part]:
    """Each backend beside its bare loop, and the starts of each backend and family."""
    loops = [
        (
            row["backend"],
            f"{row['ours_ms']:.2f}",
            f"{row['bare_ms']:.2f}",
            ranged(row["ratio"], row["interval"], ".3f"),
            str(row["turns"]),
            str(row["processes"]),
            f"{row['outside']:.2%}",
        )
        for row in report["loops"]
    ]
    starts = []
    for row in report["starts"]:
        commands = (f"{row['cold_command_s']:.1f}", f"{row['later_command_s']:.1f}", f"{row['import_s']:.1f}")
        chunks = (f"{row['cold_first_chunk_s']:.2f}", f"{row['later_first_chunk_s']:.2f}")
        programs = row["later_programs_compiled"]
        starts.append((row["backend"], row["family"], *commands, *chunks, "–" if programs is None else f"{programs:.0f}"))
    times = ("ours (ms/step)", "bare loop (ms/step)", "ours / bare (95 % over turns)")
    seconds = ("command, cold (s)", "later", "import (s)", "first chunk, cold (s)", "later", "compiled later")
    setting = (
        f"cpu, float32, chunks of {report['chunk']} steps beside the bare loop, one of {report['start_chunk']} after a start, "
        f"{cores.said(report.get('round_trips_ns', []))} beside the bare loop"
    )
    return [
        Table(columns=("backend", *times, "turns", "processes", "outside of the session"), rows=loops, left=("backend",)),
        Table(columns=("backend", "family", *seconds), rows=starts, left=("backend", "family")),
        f"- {reports.where(report['environment'], setting=setting)}.",
    ]
