"""Fresh processes that take turns, a b, b a, a b …: what slows the machine down for longer than a turn slows both."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness.cases import Bench
from common.config import Device, Precision
from common.errors import UserError

TURN_SECONDS = 0.15  # a turn repeats its case's call for about so long

# On a machine that does anything else, threads that wait for one another by spinning slow a chunk down twentyfold: both sides
# of a verdict wait asleep. PyTorch's steps are longer so than in a run: what two revisions are compared by, no run's speed.
NO_SPINNING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}


@dataclass(frozen=True)
class What:
    """One benchmark of the suite."""

    kind: str
    family: Any
    batch: int
    backend: str
    device: Device = "cpu"
    precision: Precision = "full"

    def __str__(self) -> str:
        label = "" if self.precision == "full" else f" {self.precision}"
        return f"{self.kind} {self.family} {self.batch} {self.backend}{label}"


def worker(arguments: list[str]) -> int:
    """Stdin: a line of JSON, what to time; then a line a turn. Stdout: "ready", then the seconds a call of each turn."""
    answers = sys.stdout
    sys.stdout = sys.stderr  # whatever a framework prints is no answer
    what = What(**json.loads(sys.stdin.readline()))
    case = Bench(what.backend, what.family, device=what.device, precision=what.precision).case(what.kind, what.batch)
    case.seconds()  # compiles
    calls = max(1, round(TURN_SECONDS / max(case.seconds(), 1e-6)))
    print("ready", file=answers, flush=True)
    for _ in sys.stdin:
        print(sum(case.seconds() for _ in range(calls)) / calls, file=answers, flush=True)
    return 0


class Side(contextlib.AbstractContextManager["Side"]):
    """A fresh process, by default `worker`'s, that times `what` in the checkout `root`, one turn at a time.

    `waiting`: how its threads wait for one another, as environment variables, which the caller's own go before.
    """

    def __init__(self, root: Path, what: What, *, command: str = "compare-worker", waiting: Mapping[str, str] = NO_SPINNING):
        self.name = root
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks", command],
            cwd=root,
            env={**waiting, **os.environ},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._say(json.dumps(dataclasses.asdict(what)))

    def _say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        """Its next line. Raises `UserError` where it has ended."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.close()
            raise UserError(f"The process in {self.name} ended with code {self.process.returncode}; its message stands above.")
        return line

    def ask(self) -> str:
        """What it answers to a turn. Raises `UserError` where it has ended."""
        with contextlib.suppress(BrokenPipeError):  # `answer` says what is wrong
            self._say("go")
        return self.answer()

    def turn(self) -> float:
        return float(self.ask())

    def close(self) -> None:
        """End it; more than once is no error."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End it, at once where the command was stopped or failed."""
        if kind is not None:
            self.process.kill()
        self.close()


Contender = tuple[Path, What]  # what is timed in which checkout


def seconds_by_turns(
    base: Contender, head: Contender, *, turns: int, head_first: bool, waiting: Mapping[str, str] = NO_SPINNING
) -> list[dict[Contender, float]]:
    """Seconds a call of each, turn by turn, of one pair of fresh processes."""
    with ExitStack() as stack:
        sides = {}
        for contender in (head, base) if head_first else (base, head):
            sides[contender] = stack.enter_context(Side(*contender, waiting=waiting))
            sides[contender].answer()  # one sets up at a time
        seconds = []
        for turn in range(turns):
            order = (head, base) if (turn % 2 == 0) == head_first else (base, head)
            seconds.append({contender: sides[contender].turn() for contender in order})
    return seconds
