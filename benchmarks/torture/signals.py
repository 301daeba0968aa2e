"""Ctrl-C, SIGTERM and SIGHUP at random moments, imports included: one line, the signal's exit code, nothing left running."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.harness import processes, records, stopping
from benchmarks.torture.running import Ended, Started, run
from benchmarks.torture.tried import Tell, Tried, choices
from common.config import FAMILIES
from common.protocol import BACKENDS

TITLE = (
    "SIGINT, SIGTERM or SIGHUP at random moments of a command or a run's process, imports included: one line, no process left"
)
AT_LEAST = 200
SETTLED = processes.GRACE + 10  # seconds in which a process notices that its parent has ended, and ends


@dataclass(frozen=True)
class Case:
    name: str
    arguments: Callable[[Path], tuple[str, ...]]  # of an empty folder
    worker: bool = False  # the signal is for the process that the command starts


def cases(done: Path) -> list[Case]:
    """The commands; `done` is the results folder of a finished run. Every third round is one of a run."""
    (checkpoint,) = (str(path) for path in done.glob("*.h5"))

    def shorter(*arguments: str) -> Case:
        named = " ".join(argument for argument in arguments if "/" not in argument)
        return Case(named, lambda _: arguments)

    def training(backend: str, family: str, *, worker: bool) -> Case:
        name = f"{'the process of ' if worker else ''}run {backend}"
        return Case(name, lambda folder: run(backend, family, folder), worker=worker)

    others = [
        *(shorter("evaluate", checkpoint, "--backend", backend) for backend in BACKENDS),
        shorter("show", str(done)),
        shorter("list"),
        shorter("results", str(done)),
        shorter("report", str(done)),
        shorter("run", "--help"),
        shorter("--help"),
        shorter("--version"),
    ]
    trainings = [
        training(backend, family, worker=worker) for worker in (False, True) for backend in BACKENDS for family in FAMILIES
    ]
    each = max(len(others), len(trainings))
    return [case for i in range(each) for case in (others[i % len(others)], trainings[i % len(trainings)])]


def rounds(count: int, *, seed: int, folder: Path, tell: Tell) -> Tried:
    """A round is a signal to one command, at a moment of the time that the command takes by itself."""
    tried = Tried()
    done = folder / "done"
    if (ended := Started(*run(BACKENDS[0], FAMILIES[0], done)).end()).code:
        raise RuntimeError(f"the undisturbed run ended with code {ended.code}: {ended.error[-500:]}")
    listed = cases(done)
    undisturbed: dict[str, tuple[float, str]] = {}
    for number in range(count):
        case = listed[number % len(listed)]
        if case.name not in undisturbed:
            began = time.monotonic()
            ended = Started(*case.arguments(folder / f"whole-{number}")).end()
            undisturbed[case.name] = time.monotonic() - began, ended.out
        seconds, out = undisturbed[case.name]
        outcome, faults = interrupt(case, folder / str(number), seconds=seconds, out=out, seed=seed, number=number)
        tried.add(outcome, faults=[f"{case.name}: {fault}" for fault in faults])
        tell(1)
    return tried


def interrupt(case: Case, folder: Path, *, seconds: float, out: str, seed: int, number: int) -> tuple[str, list[str]]:
    """(the outcome; the faults) of a signal; `seconds`, `out`: the command's time and stdout without one."""
    random = choices(seed, number)
    sent = stopping.SIGNALS[random.integers(len(stopping.SIGNALS))]
    started = Started(*case.arguments(folder))
    if case.worker:
        started.wait_for(lambda: bool(started.workers()))
    started.wait_for(started.heeds, pause=0.001)  # before, this is Python's own start
    started.wait_for(lambda: False, seconds=random.random() * seconds)
    for receiver in started.workers() if case.worker else [started.process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            receiver.send_signal(sent)
    ended = started.end()
    faults = [*ended.faults(), *(f"{name} was left over" for name in started.left_over(seconds=SETTLED))]
    if case.worker:
        return of_worker(ended, folder, sent, faults)
    if ended.code == 128 + sent:
        return sent.name, [*faults, *of_words(ended.error, training=folder.exists())]
    if ended.code == 0 or (ended.code == -sent and ended.out == out):
        return "ended before the signal", faults
    return sent.name, [*faults, f"{sent.name} ended it with code {ended.code}: {ended.error[-300:]}"]


def of_words(error: str, *, training: bool) -> list[str]:
    """One line says that the command was stopped; a run may have a second with its step."""
    lines = error.splitlines()
    said = [line for line in lines if line.startswith("Stopped")]
    others = [line for line in lines if line not in said and not (training and "stopped at step" in line)]
    return [] if len(said) == 1 and lines[-1:] == said and not others else [f"stderr has {lines}"]


def of_worker(ended: Ended, folder: Path, sent: signal.Signals, faults: list[str]) -> tuple[str, list[str]]:
    """A run's process that gets a signal by itself is a failed row; SIGINT, which is the terminal's, it doesn't get."""
    if ended.code == 0:
        return "ended before the signal" if sent != signal.SIGINT else "not for a run's process", faults
    failed = [record["reason"] for record in records.read_all(folder) if record["status"] == "failed"]
    expected = any(f"ended with code {code}" in reason for reason in failed for code in (128 + sent, -sent))
    if ended.code != 1 or len(failed) != 1 or not expected:
        faults.append(f"{sent.name} to the run's process: the command ended with code {ended.code}, failed rows {failed}")
    return f"{sent.name} to a run's process", faults
