"""Work in one process after another, each question within a bound of time; its memory is measured."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.harness import memory
from common.errors import UserError, printable

Work = Callable[[Any], Any]  # a function of a module, which the process imports
ADDRESSES = 4 * 2**30  # bytes that a process may ask for beyond its start: work that runs wild doesn't take the machine with it


@dataclass(frozen=True)
class Answer:
    """`value` of work that came to an end; `refusal` of a `UserError`; else `fault`: a crash, a hang or another exception."""

    value: Any = None
    refusal: str | None = None
    fault: str | None = None
    seconds: float = 0.0  # of the processor
    grown: int = 0  # most resident bytes beyond those before the question


class Asked:
    """A process that answers one question after another; another is started where it dies or takes `patience` seconds."""

    def __init__(self, work: Work, *, patience: float, folder: Path, limited: bool = True):
        """`folder` gets the file said.txt with all that the process says. `limited`: whether ADDRESSES holds."""
        self.work, self.patience, self.said, self.limited = work, patience, folder / "said.txt", limited
        self._begin()

    def ask(self, question: Any) -> Answer:
        """The answer of the work to the question."""
        try:
            self.ours.send(question)
            if self.ours.poll(self.patience):
                return Answer(**self.ours.recv())
        except (EOFError, OSError):  # the process has died
            self.process.join()
            fault = f"the process crashed with code {self.process.exitcode}"
        else:
            fault = f"no answer within {self.patience:g} s"
        self.end()
        self._begin()
        return Answer(fault=fault)

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.ours.close()

    def _begin(self) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would inherit threads' locks
        self.ours, theirs = context.Pipe()
        arguments = (theirs, self.work, str(self.said), self.limited)
        self.process = context.Process(target=_answer, args=arguments, daemon=True)
        self.process.start()
        theirs.close()


@contextlib.contextmanager
def asked(work: Work, *, patience: float, folder: Path, limited: bool = True) -> Iterator[Asked]:
    process = Asked(work, patience=patience, folder=folder, limited=limited)
    try:
        yield process
    finally:
        process.end()


def _answer(questions: Connection, work: Work, said: str, limited: bool) -> None:
    """Answer until the other side is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(output, stream)
    if limited:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ADDRESSES,) * 2)
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            questions.send(_measured(work, questions.recv()))


def _measured(work: Work, question: Any) -> dict[str, Any]:
    memory.forget_peak()
    before, began = memory.peak() or 0, time.process_time()
    answer: dict[str, Any]
    try:
        answer = {"value": work(question)}
    except UserError as error:
        answer = {"refusal": printable(str(error))}
    except BaseException as error:  # any other is a fault of the product, and its place is said
        last = traceback.extract_tb(error.__traceback__)[-1]
        answer = {"fault": printable(f"{type(error).__name__}: {error} ({Path(last.filename).name}, line {last.lineno})")[:300]}
    return answer | {"seconds": time.process_time() - began, "grown": (memory.peak() or 0) - before}
