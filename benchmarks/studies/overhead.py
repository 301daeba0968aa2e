"""`python -m benchmarks overhead`: what this suite itself costs, of the time that a framework would need without it.

Beside a bare loop: fresh processes, in each of which chunks of `Session.train` take turns with as many steps of a loop written
by hand in the same framework, `docs/examples/loop_*.py`. Both draw their minibatches inside the clock. The figure is the median
over all turns of ours / bare, with an interval between two order statistics that covers the true median 95 times in 100 if
turns are independent. Those of one process share its memory's layout, so that a few processes may differ by more.

Outside of `train`: a run of the mean-field model as `common.training.train` does it, what is spent in the session's calls taken
off; its checkpoint isn't written.

Start: the whole command `run --preset quick` for one chunk of training, in fresh processes, less its test. Cold is the first,
with an empty cache of compiled programs.
"""

from __future__ import annotations

import functools
import json
import os
import runpy
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

from benchmarks.harness import cores, environment, records, reports, runs
from benchmarks.harness.cases import FAMILIES
from benchmarks.harness.cli import parse, usable
from benchmarks.harness.environment import ROOT
from benchmarks.harness.presets import STANDARD, preset
from benchmarks.harness.progress import Progress
from benchmarks.harness.reports import Report
from benchmarks.harness.runs import Job
from common import protocol, training
from common.clock import timed
from common.config import Config
from common.data import Dataset
from common.errors import UserError
from common.protocol import BACKENDS, Session

REPORT = "overhead"
EXAMPLES = ROOT / "docs/examples"
IMAGES = {"train": 10_000, "valid": 1_000, "test": 1}
START = "quick"


@dataclass
class Overhead:
    backend: Annotated[tuple[str, ...], tyro.conf.arg(help=f"One or more of {', '.join(BACKENDS)}; all by default.")] = ()
    processes: Annotated[int, tyro.conf.arg(help="Fresh processes a backend.")] = 3
    turns: Annotated[int, tyro.conf.arg(help="Turns a process: a chunk of ours and one of the bare loop.")] = 8
    steps: Annotated[int, tyro.conf.arg(help="Steps of the run whose time outside of `train` is measured.")] = 1_000
    starts: Annotated[int, tyro.conf.arg(help="Starts after the cold one, a backend and family.")] = 3
    results: Annotated[Path, tyro.conf.arg(help="Folder for the report.")] = Path("results")


def main(arguments: list[str]) -> int:
    asked = parse(Overhead, arguments, command=REPORT, description="What this suite itself costs.")
    here = environment.describe()
    for name, least in (("processes", 1), ("turns", 6), ("steps", STANDARD.training.chunk), ("starts", 1)):
        if getattr(asked, name) < least:
            raise UserError(f"--{name} is {getattr(asked, name)}; it must be at least {least}.")
    backends = usable(asked.backend)
    loops: dict[str, list[dict[str, Any]]] = {name: [] for name in backends}
    for _ in range(asked.processes):
        for name in backends:
            loops[name].append(in_process(name, turns=asked.turns, steps=asked.steps))
    starts: dict[tuple[str, str], list[dict[str, float | None]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(1 + asked.starts):
            for name in backends:
                for family in FAMILIES:
                    found = start(name, family, folder=Path(folder), turn=turn)
                    starts.setdefault((name, family), []).append(found)
    content = {
        "loops": [loop_row(name, found) for name, found in loops.items()],
        "starts": [start_row(*key, found) for key, found in starts.items()],
        "round_trips_ns": [trip for found in loops.values() for process in found for trip in process["round_trips_ns"]],
        "chunk": STANDARD.training.chunk,
        "start_chunk": preset(START).training.chunk,
    }
    path = reports.write(REPORT, content, asked.results, environment=here)
    print(table(reports.read(REPORT, path.parent) or {}))
    return 0


# --- beside a bare loop, and outside of `train` ---


def in_process(backend: str, *, turns: int, steps: int) -> dict[str, Any]:
    """What `worker` says. Raises `UserError` where it fails."""
    command = [sys.executable, "-m", "benchmarks", "overhead-worker", backend, str(turns), str(steps)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise UserError(f"The process of {backend} ended with code {done.returncode}; its message stands above.")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def worker(arguments: list[str]) -> int:
    """Prints JSON: seconds of our and of the bare chunks, turn by turn, and the share of a run outside of its session."""
    name, turns, steps = arguments[0], int(arguments[1]), int(arguments[2])
    config = STANDARD.replace(steps=steps, validation_interval=steps, warm_up=0, compile_from=0)  # as a run of `standard` is
    draws = np.random.default_rng(0)
    images = {split: (draws.random((n, config.model.pixels)) < 0.13).astype(np.uint8) for split, n in IMAGES.items()}
    dataset = Dataset(name="random images", sha256="", **images, image_shape=(28, 28))
    job = Job(name, "standard", data="", data_dir=None, config=config, results="", resume=False)
    checkpoint, session = runs.begin(job, backend=protocol.load(name), dataset=dataset)
    ours, bare, trips = by_turns(session, name, config=config, images=dataset.train, turns=turns)
    checkpoint, session = runs.begin(job, backend=protocol.load(name), dataset=dataset)
    answer = {"ours": ours, "bare": bare, "round_trips_ns": trips}
    print(json.dumps(answer | {"outside": outside(session, checkpoint, dataset=dataset)}))
    return 0


def bare_loop(name: str) -> Callable[..., Callable[[np.ndarray], np.ndarray]]:
    """`create` of the script with a loop in that framework: it stands alone, and only a process of its own may import it."""
    create: Callable[..., Callable[[np.ndarray], np.ndarray]] = runpy.run_path(str(EXAMPLES / f"loop_{name}.py"))["create"]
    return create


def by_turns(
    session: Session, name: str, *, config: Config, images: np.ndarray, turns: int
) -> tuple[list[float], list[float], list[cores.RoundTrip]]:
    """Seconds of our chunks and of the bare loop's, after one of either that compiles; who begins a turn alternates.

    The third: how far apart the cores were at both ends of each turn.
    """
    steps, batch = config.training.chunk, config.training.batch_size
    bare = bare_loop(name)(
        images,
        hidden=config.model.hidden_size,
        latent=config.model.latent_size,
        learning_rate=config.optimizer.learning_rate,
    )
    handle, draws, done = session.place(images), np.random.default_rng(1), 0

    def our_chunk() -> None:
        nonlocal done
        session.train(handle, **training.chunk(config, images=len(images), first_step=done, steps=steps))
        done += steps

    def bare_chunk() -> None:
        elbos = bare(draws.integers(len(images), size=(steps, batch)))
        assert np.isfinite(elbos).all()

    sides = [our_chunk, bare_chunk]
    for work in sides:
        work()

    def turn(first: int) -> list[float]:
        seconds = [0.0, 0.0]
        for side in (first, 1 - first):
            seconds[side] = timed(sides[side], synchronize=session.synchronize)[1]
        return seconds

    found, trips = [], []
    for i in range(turns):
        seconds, ends = cores.together(functools.partial(turn, (i + 1) % 2))
        found.append(seconds)
        trips += ends
    return [ours for ours, _ in found], [bare for _, bare in found], trips


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
    done = 0
    began = time.perf_counter()
    rows = config.training.batch_size
    with Progress("overhead").phase("train", total=config.training.steps, unit="steps", rows=rows) as advance:

        def report(step: int, elbo: float) -> None:
            nonlocal done
            advance(step - done, elbo)
            done = step

        training.train(watched, checkpoint, dataset=dataset, save=lambda checkpoint: None, report=report, between=lambda: None)
    wall = time.perf_counter() - began
    return (wall - watched.seconds) / wall


def interval(values: list[float]) -> tuple[float, float]:
    """Two order statistics between which the median lies with a probability of at least 95 %; needs six values."""
    from scipy import stats  # half a second, which no other command should wait for

    ordered, rank = sorted(values), int(stats.binom.ppf(0.025, len(values), 0.5))
    # P(median below the rank-th smallest) = P(Binomial(n, 1/2) < rank), at most 2.5 % for the quantile.
    return ordered[rank - 1], ordered[-rank]


def loop_row(backend: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    ratios = [ours / bare for process in found for ours, bare in zip(process["ours"], process["bare"], strict=True)]
    chunk = STANDARD.training.chunk
    return {
        "backend": backend,
        "ours_ms": 1e3 * statistics.median(s for process in found for s in process["ours"]) / chunk,
        "bare_ms": 1e3 * statistics.median(s for process in found for s in process["bare"]) / chunk,
        "ratio": statistics.median(ratios),
        "interval": list(interval(ratios)),
        "turns": len(ratios),
        "processes": len(found),
        "outside": statistics.median(process["outside"] for process in found),
    }


# --- from the command to the first steps ---


def start(backend: str, family: str, *, folder: Path, turn: int) -> dict[str, float | None]:
    """Seconds of one command. Raises `UserError` where it fails."""
    chunk = preset(START).training.chunk
    results = folder / f"{backend}-{family}-{turn}"
    command = [sys.executable, "-m", "benchmarks", "run", "--preset", START, "--backend", backend, "--variational", family]
    command += ["--steps", str(chunk), "--images", "10", "--results", str(results)]
    own_cache = {"VAEBENCH_CACHE_DIR": str(folder / f"cache-{backend}-{family}")}  # empty at the first turn
    variables = {name: value for name, value in os.environ.items() if name != cores.WITHIN}  # a wait is no start
    began = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=variables | own_cache, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise UserError(f"`run` of {backend} ended with code {done.returncode}:\n{done.stderr.strip()[-2000:]}")
    (path,) = (path for path in results.glob("*.json"))
    timing = records.read(path)["timing"]
    return {
        "command_s": seconds - timing["evaluation_s"],
        "first_chunk_s": timing["first_chunk_s"],
        "import_s": timing["import_s"],
        "programs_compiled": timing["programs_compiled"],
    }


def start_row(backend: str, family: str, found: list[dict[str, float | None]]) -> dict[str, Any]:
    cold, *later = found
    row: dict[str, Any] = {"backend": backend, "family": family, "starts": len(later)}
    for name in ("command_s", "first_chunk_s", "programs_compiled"):
        row[f"cold_{name}"] = cold[name]
        values = [one[name] for one in later]
        row[f"later_{name}"] = None if None in values else statistics.median(v for v in values if v is not None)
    row["import_s"] = statistics.median(one["import_s"] or 0.0 for one in later)
    return row


def table(report: Report) -> str:
    """The report as Markdown."""
    columns = ["backend", "ours (ms/step)", "bare loop (ms/step)", "ours / bare (95 % over turns)"]
    columns += ["turns", "processes", "outside of the session"]
    lines = [f"| {' | '.join(columns)} |", f"| --- |{' ---: |' * (len(columns) - 1)}"]
    for row in report["loops"]:
        low, high = row["interval"]
        ratio = f"{row['ratio']:.3f} ({low:.3f} … {high:.3f})"
        cells = [
            row["backend"],
            f"{row['ours_ms']:.2f}",
            f"{row['bare_ms']:.2f}",
            ratio,
            str(row["turns"]),
            str(row["processes"]),
            f"{row['outside']:.2%}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "| backend | family | command, cold (s) | later | import (s) | first chunk, cold (s) | later | compiled later |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in report["starts"]:
        programs = row["later_programs_compiled"]
        cells = [row["backend"], row["family"], f"{row['cold_command_s']:.1f}", f"{row['later_command_s']:.1f}"]
        cells += [f"{row['import_s']:.1f}", f"{row['cold_first_chunk_s']:.2f}", f"{row['later_first_chunk_s']:.2f}"]
        lines.append(f"| {' | '.join([*cells, '–' if programs is None else f'{programs:.0f}'])} |")
    setting = (
        f"cpu, float32, chunks of {report['chunk']} steps beside the bare loop, one of {report['start_chunk']} after a start, "
        f"{cores.said(report.get('round_trips_ns', []))} beside the bare loop"
    )
    return "\n".join([*lines, "", f"- {reports.where(report['environment'], setting=setting)}."]) + "\n"
