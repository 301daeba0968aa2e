"""Fresh processes that take turns, a b, b a, a b …: a machine that is slow for longer than a turn slows all of them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import calls, floor, processes, threads
from benchmarks.harness.presets import STANDARD
from common.config import Config, Device, Precision
from common.errors import UserError

# The threads of both sides of a verdict wait for one another asleep: threads that wait by spinning make a chunk twenty times as
# slow where the machine does other work. PyTorch's steps are longer so than in a run: they compare revisions, not runs.
NO_SPINNING = threads.SLEEPING


@dataclass(frozen=True)
class What:
    """One benchmark of the suite; of kind "products", the matrix products of a training step by themselves."""

    kind: str
    family: Any
    batch: int
    backend: str
    device: Device = "cpu"
    precision: Precision = "full"

    def __str__(self) -> str:
        label = "" if self.precision == "full" else f" {self.precision}"
        return f"{self.kind} {self.family} {self.batch} {self.backend}{label}"

    @property
    def config(self) -> Config:
        return STANDARD.replace(variational=self.family, device=self.device, precision=self.precision, batch_size=self.batch)


class Side(contextlib.AbstractContextManager["Side"]):
    """A fresh process of `calls.py` that times `what` with the code of the checkout `root`, one turn at a time.

    `floor_too`: each turn times the matrix products of the same steps too. `waiting`: environment variables that say how
    threads wait for one another; a variable that the caller's environment sets keeps its value.
    """

    def __init__(self, root: Path, what: What, *, floor_too: bool = False, waiting: Mapping[str, str] = NO_SPINNING):
        self.root = root
        path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
        self.process = processes.started(
            [sys.executable, "-P", calls.__file__],  # -P: modules come from `root`, not from beside calls.py
            cwd=root,
            env={**waiting, **os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        question = {
            "backend": what.backend,
            "kinds": [what.kind, "products"] if floor_too else [what.kind],
            "batch": what.batch,
            "config": what.config.as_dict(),
            "products": floor.products(what.config),
        }
        self._say(json.dumps(question))

    def _say(self, line: str) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # `answer` reports a process that has ended
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()

    def answer(self) -> str:
        """The next line of the process. Raises `UserError` where it has ended."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.close()
            raise UserError(f"The process in {self.root} ended with code {self.process.returncode}; its message stands above.")
        return line

    def turn(self) -> dict[str, float]:
        """Kind → seconds of one call. Raises `UserError` where the process has ended."""
        self._say("go")
        return dict(json.loads(self.answer()))

    def close(self) -> None:
        """End the process; a second call does nothing."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End the process; kill it where the command was stopped or failed."""
        if kind is not None:
            self.process.kill()
        self.close()


Contender = tuple[Path, What]  # a checkout, and what is timed there


def seconds_by_turns(
    contenders: Sequence[Contender], *, turns: int, floor_too: bool = False, waiting: Mapping[str, str] = NO_SPINNING
) -> list[dict[Contender, dict[str, float]]]:
    """Contender → kind → seconds of one call, turn by turn: a b c, b c a, c a b … of fresh processes, one a contender."""
    with ExitStack() as stack:
        sides = {}
        for contender in contenders:
            sides[contender] = stack.enter_context(Side(*contender, floor_too=floor_too, waiting=waiting))
            sides[contender].answer()  # one sets up at a time
        seconds = []
        for turn in range(turns):
            first = turn % len(contenders)
            order = (*contenders[first:], *contenders[:first])
            seconds.append({contender: sides[contender].turn() for contender in order})
    return seconds
