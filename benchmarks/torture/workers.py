"""A run's process that crashes, ends without a word, hangs or has NaN: one failed row with its reason; the sweep goes on."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import grid, processes, record_schema, records, runs
from benchmarks.harness.jobs import Job
from benchmarks.torture.running import Ended, Started, run
from benchmarks.torture.tried import Tell, Tried, choices
from common import protocol, training
from common.config import FAMILIES
from common.protocol import BACKENDS

TITLE = "A run's process crashes, is killed, ends with 0, 2 or 3, raises, lacks memory, hangs at import or in a step, has NaN"
AT_LEAST = 60
PATIENCE = 20.0  # seconds that a run's process may be silent, in place of minutes
SAID = "the last words of the process"


def _raise(error: Exception) -> None:
    raise error


def _crash() -> None:
    ctypes.string_at(0)


# Fault → (when a run's process calls the function: in a chunk of training or at the import; the function; words of the reason).
FAULTS: dict[str, tuple[str, Callable[[], object], str]] = {
    "segfault": ("chunk", _crash, "ended with code -11"),
    "kill": ("chunk", lambda: os.kill(os.getpid(), signal.SIGKILL), "ended with code -9"),
    "exit 0": ("chunk", lambda: os._exit(0), "ended with code 0 and wrote no record"),
    "exit 2": ("chunk", lambda: os._exit(2), "ended with code 2"),
    "exit 3": ("chunk", lambda: sys.exit(3), "ended with code 3"),
    "raise": ("chunk", lambda: _raise(RuntimeError("a fault")), "ended with code 1: RuntimeError: a fault"),
    "MemoryError": ("chunk", lambda: _raise(MemoryError("a fault")), "ended with code 2: There isn't enough memory (a fault)"),
    "hang at import": ("import", lambda: time.sleep(3600), "told nothing for 20 s and was ended"),
    "hang in a step": ("chunk", lambda: time.sleep(3600), "told nothing for 20 s and was ended"),
    "raise at import": ("import", lambda: _raise(RuntimeError("a fault")), "ended with code 1: RuntimeError: a fault"),
    "NaN": ("rates", lambda: None, "The run diverged: "),
}
STEPS, LAST_CHUNK = 400, 15  # of a run; the fault comes in one of its first chunks

# A sweep whose run's processes of FAMILIES[0] have the fault.
SWEEP = """
import sys
from benchmarks.__main__ import piped
from benchmarks.torture import workers
workers.put_in(fault=sys.argv[1], chunk=int(sys.argv[2]))
sys.exit(piped(sys.argv[3:]))
"""


def put_in(*, fault: str, chunk: int) -> None:
    """From now on `processes.ask` asks `faulty` in place of `runs.worker`, and a run has PATIENCE."""
    ask = processes.ask

    def asked(target: str, question: Any, **options: Any) -> Any:
        if target == f"{runs.__name__}:worker":
            question, target = {"job": question, "fault": fault, "chunk": chunk}, f"{__name__}:faulty"
        return ask(target, question, **options)

    processes.ask = asked
    setattr(grid, "PATIENCE", PATIENCE / 60)  # noqa: B010


def faulty(question: dict[str, Any]) -> int:
    """`runs.worker` of a job; one of FAMILIES[0] has the fault."""
    job = Job.from_json(question["job"])
    if job.config.model.variational == FAMILIES[0]:
        place, act, _ = FAULTS[question["fault"]]
        print(SAID, file=sys.stderr)
        if place == "import":
            setattr(protocol, "load", lambda _: act())  # noqa: B010
        else:
            chunk, left = training.chunk, question["chunk"]

            def once(*arguments: Any, **named: Any) -> dict[str, Any]:
                nonlocal left
                left -= 1
                made = chunk(*arguments, **named)
                if left == 0 and place == "rates":
                    made["learning_rates"] = np.full_like(made["learning_rates"], np.nan)
                elif left == 0:
                    act()
                return made

            training.chunk = once
    return runs.worker(question["job"])


def rounds(count: int, *, seed: int, folder: Path, tell: Tell) -> Tried:
    """A round is a sweep of two runs, the first with a fault in a random chunk."""
    tried = Tried()
    for number in range(count):
        fault = list(FAULTS)[number % len(FAULTS)]
        random = choices(seed, number)
        backend = BACKENDS[number // len(FAULTS) % len(BACKENDS)]
        results = folder / str(number)
        arguments = run(backend, FAMILIES[0], results, "--steps", str(STEPS), "--variational", *FAMILIES)
        started = Started(fault, str(random.integers(1, LAST_CHUNK + 1)), *arguments, program=("-c", SWEEP))
        ended = started.end()
        left = [f"{name} was left over" for name in started.left_over(seconds=2)]
        tried.add(fault, faults=[f"{fault}, {backend}: {each}" for each in [*of_sweep(ended, results, fault), *left]])
        tell(1)
    return tried


def of_sweep(ended: Ended, results: Path, fault: str) -> list[str]:
    """The sweep's faults: it ends with code 1, the first run a failed row with reason and tail, the second run done."""
    faults = ["the sweep hung"] if ended.hung else []
    if ended.code != 1:
        faults.append(f"the sweep ended with code {ended.code}: {ended.error[-300:]}")
    found = {record["variational"]: record for record in records.read_all(results)}
    states = {family: record["status"] for family, record in found.items()}
    if states != {FAMILIES[0]: "failed", FAMILIES[1]: "ok"}:
        return [*faults, f"the records are {states}: {ended.error[-300:]}"]
    record, words = found[FAMILIES[0]], FAULTS[fault][2]
    if words not in record["reason"]:
        faults.append(f"the reason is '{record['reason']}', without '{words}'")
    if fault != "NaN" and (
        SAID not in record["tail"] if len(record["tail"]) < record_schema.TAIL_LINES else not record["tail"][-1]
    ):
        faults.append(f"the record's tail is {record['tail']}")
    return faults
