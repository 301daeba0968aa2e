"""This suite's turn: a preset's training steps in a fresh process."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.harness import runs
from benchmarks.harness.environment import ROOT
from benchmarks.harness.peers import output
from common import data, protocol, training
from common.clock import timed
from common.config import Config
from common.errors import UserError
from common.protocol import Session


def check(config: Config, *, rounds: int, steps: int) -> None:
    """Raises `UserError` for settings that can't be timed."""
    chunk = config.training.chunk
    if rounds < 1:
        raise UserError(f"--rounds is {rounds}; it must be at least 1.")
    if steps < chunk or steps % chunk:
        raise UserError(f"--steps is {steps}; it must be a multiple of {chunk}, the steps of a compiled call.")


def examples_per_s(backend: str, preset: str, config: Config, *, steps: int, dataset: str, data_dir: Path | None) -> float:
    """Training images a second over so many steps. Raises `NotRunError` where the process fails."""
    place = str(data_dir.resolve()) if data_dir else None
    job = runs.Job(backend, preset, dataset, place, config, results="", resume=False)
    command = [sys.executable, "-m", "benchmarks", "peers-worker", str(steps)]
    printed = output(command, name=f"the process of {backend}", folder=ROOT, given=job.as_json())
    return steps * config.training.batch_size / float(json.loads(printed.splitlines()[-1]))


def worker(arguments: list[str]) -> int:
    """In a process of its own: stdin is a job, stdout ends in the seconds that so many of its steps took."""
    (steps,) = map(int, arguments)
    job = runs.Job.from_json(sys.stdin.read())
    dataset = data.load(job.data, data_dir=Path(job.data_dir) if job.data_dir else None)
    _, session = runs.begin(job, backend=protocol.load(job.backend), dataset=dataset)
    handle = session.place(dataset.train)
    print(seconds(session, handle, config=job.config, images=len(dataset.train), steps=steps))
    return 0


def seconds(session: Session, handle: Any, *, config: Config, images: int, steps: int) -> float:
    """Of so many steps after the first chunk, from an idle device to an idle device.

    Drawing the minibatches is inside, though a run's clock leaves it out: a peer's time has it too.
    """
    chunk = config.training.chunk

    def train(first: int, last: int) -> None:
        for step in range(first, last, chunk):
            session.train(handle, **training.chunk(config, images=images, first_step=step, steps=chunk))

    train(0, chunk)  # compiles
    _, elapsed = timed(lambda: train(chunk, chunk + steps), synchronize=session.synchronize)
    return elapsed
