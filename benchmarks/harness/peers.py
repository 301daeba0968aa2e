"""Other people's code beside ours: contenders in turns, A B C A B C …, each turn a fresh process.

A ratio is of two turns of one round, minutes apart at most: what slows the machine down for longer slows both turns. A row's
figure is the median over the rounds.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.harness import cores, environment, processes, reports, runs
from benchmarks.harness.cli import at_least
from benchmarks.harness.jobs import Job
from common import protocol, training
from common.clock import timed
from common.config import Config
from common.errors import UserError

Row = dict[str, Any]
Turn = Callable[[], float]  # → examples/s of a fresh process
Peer = Callable[[Path], tuple[dict[str, str], Turn]]  # a folder for its data → (the versions of its packages, its turn)

PACKAGES = ("torch", "jax", "jaxlib", "optax", "dm-haiku", "numpyro")  # a peer's speed may depend on them
VERSIONS = """
import importlib.metadata, json
print(json.dumps([(found.metadata["Name"], found.version) for found in importlib.metadata.distributions()]))
"""


class NotRunError(Exception):
    """Why a contender has no figure, in one sentence."""


# --- a peer's process ---


def output(command: list[str], *, name: str, variables: dict[str, str]) -> str:
    """The stdout of a process. Raises `NotRunError` where it can't be started or fails."""
    try:
        done = subprocess.run(command, env=variables, capture_output=True, text=True, encoding="utf-8", check=False)
    except OSError as error:
        raise NotRunError(f"{command[0]} can't be run ({error.strerror})") from error
    check_code(done.returncode, name=name, printed=done.stderr or done.stdout)
    return done.stdout


def check_code(code: int, *, name: str, printed: str) -> None:
    """Raises `NotRunError` with the last line that was printed for an exit code other than 0."""
    if code:
        lines = printed.strip().splitlines()
        raise NotRunError(f"{name} ended with code {code}: {lines[-1].strip() if lines else 'no message'}")


def versions(python: str, *, variables: dict[str, str]) -> dict[str, str]:
    """The versions of PACKAGES that this Python imports. Raises `NotRunError` where it can't be run."""
    installed = json.loads(output([python, "-c", VERSIONS], name=python, variables=variables))
    found = dict(reversed(installed))  # of two versions, Python imports the first
    return {package: found[package] for package in PACKAGES if package in found}


# --- our turn ---


def check(asked: Any, config: Config) -> None:
    """Raises `UserError` for numbers of rounds and steps that can't be timed."""
    at_least(asked, rounds=1)
    chunk = config.training.chunk
    if asked.steps < chunk or asked.steps % chunk:
        raise UserError(f"--steps is {asked.steps}; it must be a multiple of {chunk}, the steps of a compiled call.")


def examples_per_s(job: Job, *, steps: int) -> float:
    """Training images a second over this many steps of the job. Raises `NotRunError` where its process fails."""
    question = {"job": job.as_json(), "steps": steps}
    try:
        seconds = processes.ask(f"{__name__}:our_seconds", question, title=job.backend)
    except processes.ProcessError as error:
        raise NotRunError(f"the process of {job.backend} ended with code {error.code}") from error
    return steps * job.config.training.batch_size / float(seconds)


def our_seconds(question: dict[str, Any]) -> float:
    """Seconds of a job's steps after its first chunk, from an idle device to an idle device; called in a fresh process.

    Drawing the minibatches is inside, though a run's clock leaves it out: a peer's time includes it too.
    """
    job, steps = Job.from_json(question["job"]), int(question["steps"])
    dataset, chunk = job.dataset(), job.config.training.chunk
    _, session = runs.begin(job, backend=protocol.load(job.backend), dataset=dataset)
    handle, images = session.place(dataset.train), len(dataset.train)

    def train(first: int, last: int) -> None:
        for step in range(first, last, chunk):
            session.train(handle, **training.chunk(job.config, images=images, first_step=step, steps=chunk))

    train(0, chunk)  # compiles
    return timed(lambda: train(chunk, chunk + steps), synchronize=session.synchronize)[1]


# --- turns and rows ---


def measure(name: str, peer: Peer, jobs: dict[str, Job], *, rounds: int, steps: int, target: float | None) -> dict[str, Any]:
    """`rows`: one a job of ours, beside the peer of that name; `reason`: why they have no speeds, or None.

    `jobs` has each job by the name of its row, `target` is the least ratio that is aimed at. The jobs are of one family and
    device.
    """
    settings = next(iter(jobs.values())).config
    names = {"variational": settings.model.variational, "device": settings.device, "steps": steps, "target": target}
    rows = [blank(name, ours, **names) for ours in jobs]
    turns = {ours: functools.partial(examples_per_s, job, steps=steps) for ours, job in jobs.items()}
    reason = None
    try:
        with tempfile.TemporaryDirectory() as folder:
            found, turn = peer(Path(folder))
            speeds, trips = take({name: turn, **turns}, rounds=rounds)
        for row in rows:
            row |= {"peer_versions": found, "round_trips_ns": trips}
            row |= {"peer_examples_per_s": speeds[name], "ours_examples_per_s": speeds[row["ours"]]}
    except NotRunError as error:
        reason = str(error)
        print(reason, file=sys.stderr)
    return {"rows": [row | {"reason": reason} for row in rows], "reason": reason}


def blank(peer: str, ours: str, **names: Any) -> Row:
    """A row without a result; `ours` names a preset and its backend."""
    results: Row = {"peer_versions": {}, "peer_examples_per_s": [], "ours_examples_per_s": [], "round_trips_ns": []}
    return {"peer": peer, "ours": ours, **names, "reason": None, **results} | {
        "environment": environment.describe(names["device"])
    }


def take(turns: dict[str, Turn], *, rounds: int) -> tuple[dict[str, list[float]], list[cores.RoundTrip]]:
    """examples/s of each contender, one figure a round; and the cores' latency at both ends of each turn.

    Raises `NotRunError` where a contender has no figure.
    """
    speeds: dict[str, list[float]] = {name: [] for name in turns}
    trips: list[cores.RoundTrip] = []
    for i in range(rounds):
        for name, turn in turns.items():
            speed, ends = cores.together(turn)
            speeds[name].append(speed)
            trips += ends
            print(f"Round {i + 1} of {rounds}: {name} {speed:,.0f} examples/s", file=sys.stderr)
    return speeds, trips


def ratios(row: Row) -> list[float]:
    """ours / theirs, one a round."""
    pairs = zip(row["ours_examples_per_s"], row["peer_examples_per_s"], strict=True)
    return [ours / theirs for ours, theirs in pairs]


def among_earlier(rows: Iterable[Row], report: str, folder: Path) -> list[Row]:
    """These rows among those of the folder's report. A row without speeds replaces none that has them."""
    earlier = reports.read(report, folder)
    merged: dict[tuple[str, ...], Row] = {}
    for row in [*(earlier["rows"] if earlier else []), *rows]:
        key = row["peer"], row["ours"], row["variational"], row["device"]
        if row["reason"] is None or merged.get(key, row)["reason"] is not None:
            merged[key] = row
    return list(merged.values())
