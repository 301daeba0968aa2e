"""Other people's code beside ours: contenders in turns, A B C A B C …, each turn a fresh process; our own turn; the rows.

A ratio is of two turns of one round, minutes apart at most: what slows the machine down for longer slows both. A row's figure
is the median over the rounds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.harness import cores, environment, processes, reports, runs
from benchmarks.harness.runs import Job
from common import protocol, training
from common.clock import timed
from common.config import Config
from common.errors import UserError
from common.protocol import Session

Row = dict[str, Any]
Turn = Callable[[], float]  # → examples/s of a fresh process

# What a peer's speed may depend on.
PACKAGES = ("torch", "jax", "jaxlib", "optax", "dm-haiku", "numpyro")
VERSIONS = """
import importlib.metadata, json, sys
found = {}
for package in sys.argv[1:]:
    try:
        found[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


class NotRunError(Exception):
    """Why a contender has no figure, in one sentence."""


# --- a peer's process ---


def output(command: list[str], *, name: str, variables: dict[str, str] | None = None) -> str:
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


def inherited(*, without: tuple[str, ...] = (), **variables: str) -> dict[str, str]:
    """This process's environment variables, some left out, some set."""
    return {name: value for name, value in os.environ.items() if name not in without} | variables


def versions(python: str, *, variables: dict[str, str] | None = None) -> dict[str, str]:
    """The versions of PACKAGES that this Python has. Raises `NotRunError` where it can't be run."""
    found: dict[str, str] = json.loads(output([python, "-c", VERSIONS, *PACKAGES], name=python, variables=variables))
    return found


# --- our turn ---


def check(config: Config, *, rounds: int, steps: int) -> None:
    """Raises `UserError` for settings that can't be timed."""
    chunk = config.training.chunk
    if rounds < 1:
        raise UserError(f"--rounds is {rounds}; it must be at least 1.")
    if steps < chunk or steps % chunk:
        raise UserError(f"--steps is {steps}; it must be a multiple of {chunk}, the steps of a compiled call.")


def examples_per_s(job: Job, *, steps: int) -> float:
    """Training images a second over this many steps of the job. Raises `NotRunError` where its process fails."""
    question = {"job": job.as_json(), "steps": steps}
    try:
        seconds = processes.ask("benchmarks.harness.peers:our_seconds", question, title=job.backend)
    except processes.ProcessError as error:
        raise NotRunError(f"the process of {job.backend} ended with code {error.code}") from error
    return steps * job.config.training.batch_size / float(seconds)


def our_seconds(question: dict[str, Any]) -> float:
    """`seconds` of a job's steps; called in a fresh process."""
    job, steps = Job.from_json(question["job"]), int(question["steps"])
    dataset = job.dataset()
    _, session = runs.begin(job, backend=protocol.load(job.backend), dataset=dataset)
    return seconds(session, session.place(dataset.train), config=job.config, images=len(dataset.train), steps=steps)


def seconds(session: Session, handle: Any, *, config: Config, images: int, steps: int) -> float:
    """Of this many steps after the first chunk, from an idle device to an idle device.

    Drawing the minibatches is inside, though a run's clock leaves it out: a peer's time has it too.
    """
    chunk = config.training.chunk

    def train(first: int, last: int) -> None:
        for step in range(first, last, chunk):
            session.train(handle, **training.chunk(config, images=images, first_step=step, steps=chunk))

    train(0, chunk)  # compiles
    _, elapsed = timed(lambda: train(chunk, chunk + steps), synchronize=session.synchronize)
    return elapsed


# --- turns and rows ---


def take(turns: dict[str, Turn], *, rounds: int, title: str) -> tuple[dict[str, list[float]], list[cores.RoundTrip]]:
    """examples/s of each contender, one figure a round; and the cores' round trip at both ends of each turn.

    Raises `NotRunError` where a contender has no figure.
    """
    speeds: dict[str, list[float]] = {name: [] for name in turns}
    trips: list[cores.RoundTrip] = []
    for i in range(rounds):
        for name, turn in turns.items():
            speed, ends = cores.together(turn)
            speeds[name].append(speed)
            trips += ends
            print(f"{title}, round {i + 1} of {rounds}: {name} {speed:,.0f} examples/s", file=sys.stderr)
    return speeds, trips


def row(*, peer: str, ours: str, family: str, device: str, steps: int, target: float | None) -> Row:
    """A row that has no result yet: `peer` beside `ours`, a preset in a backend, in turns of this many steps."""
    names = {"peer": peer, "ours": ours, "variational": family, "device": device, "steps": steps, "target": target}
    results: Row = {"peer_versions": {}, "peer_examples_per_s": [], "ours_examples_per_s": [], "round_trips_ns": []}
    return names | {"reason": None} | results | {"environment": environment.describe(device)}


def key(row: Row) -> tuple[str, ...]:
    return row["peer"], row["ours"], row["variational"], row["device"]


def ratios(row: Row) -> list[float]:
    """ours / theirs, one a round."""
    pairs = zip(row["ours_examples_per_s"], row["peer_examples_per_s"], strict=True)
    return [ours / theirs for ours, theirs in pairs]


def among_earlier(rows: Iterable[Row], report: str, folder: Path) -> list[Row]:
    """These rows among those of the folder's report. A row that wasn't run replaces no measurement."""
    earlier = reports.read(report, folder)
    merged = {key(row): row for row in (earlier["rows"] if earlier else [])}
    for row in rows:
        if row["reason"] is None or merged.get(key(row), row)["reason"] is not None:
            merged[key(row)] = row
    return list(merged.values())
