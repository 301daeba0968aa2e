"""Tiny runs by the command line, each with the processes that it starts in a session of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.harness import events, processes, stopping
from benchmarks.harness.environment import ROOT

# Seconds of training beside the seconds of imports, and a save every few chunks.
TINY = (
    *("--preset", "quick", "--latent-size", "2", "--hidden-size", "8", "--steps", "2000", "--chunk", "20"),
    *("--log-interval", "100", "--validation-interval", "100", "--warm-up", "10", "--samples", "30", "--images", "50"),
    *("--ema-decay", "0.9", "--selection", "best-validation"),
)
PATIENCE = 180.0  # seconds after which a process has hung
BENCHMARKS = ("-m", "benchmarks")


def run(backend: str, family: str, folder: Path, *more: str) -> tuple[str, ...]:
    """The arguments of a tiny run, which goes on where it was stopped."""
    return ("run", "--quiet", "--resume", "--backend", backend, "--variational", family, *TINY, "--results", str(folder), *more)


@dataclass
class Ended:
    code: int
    out: str
    error: str
    hung: bool

    def faults(self) -> list[str]:
        """A hang, and words on stderr that no command should print."""
        bad = [words for words in ("Traceback", "Exception ignored", "Fatal Python error") if words in self.error]
        return [*(f"stderr has '{words}': {self.error[-300:]}" for words in bad), *(["the process hung"] if self.hung else [])]


class Started:
    """A command in a session of its own, whose processes are found by that session, whoever their parents are."""

    def __init__(self, *arguments: str, program: Sequence[str] = BENCHMARKS, variables: Mapping[str, str] | None = None):
        inherited = {name: value for name, value in os.environ.items() if name not in (events.VARIABLE, processes.PARENT)}
        with _as_in_a_terminal():
            self.process = subprocess.Popen(
                [sys.executable, *program, *arguments],
                cwd=ROOT,
                env={**inherited, **(variables or {})},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,
            )

    def heeds(self) -> bool:
        """Whether the suite's own code handles signals already: Python by itself leaves SIGTERM alone."""
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        except OSError:
            return True
        caught = next((int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigCgt")), 0)
        return bool(caught >> (signal.SIGTERM - 1) & 1)

    def wait_for(self, condition: Callable[[], bool], *, seconds: float = PATIENCE, pause: float = 0.005) -> None:
        """Wait until the condition holds or the process has ended."""
        until = time.monotonic() + seconds
        while not condition() and self.process.poll() is None and time.monotonic() < until:
            time.sleep(pause)

    def others(self) -> list[psutil.Process]:
        """The session's other processes that run."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                other = process.pid != self.process.pid and os.getsid(process.pid) == self.process.pid
                if other and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def workers(self) -> list[psutil.Process]:
        """The processes of `processes.ask` that run for the command."""
        found = []
        for process in self.others():
            with contextlib.suppress(psutil.NoSuchProcess):
                if "answer" in process.cmdline():
                    found.append(process)
        return found

    def left_over(self, *, seconds: float) -> list[str]:
        """The session's processes that run on so long after the command's end; they are killed."""
        until = time.monotonic() + seconds
        while (left := self.others()) and time.monotonic() < until:
            time.sleep(0.05)
        names = []
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                names.append(" ".join(process.cmdline()[1:5]))
                process.kill()
        return names

    def kill(self, whom: str) -> None:
        """`kill -9` of the command ("parent"), of the process that it started ("worker"), or of all ("group")."""
        for process in {"parent": [], "worker": self.workers(), "group": self.others()}[whom]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if whom != "worker":
            self.process.kill()

    def end(self, *, seconds: float = PATIENCE) -> Ended:
        """The command's end; where it doesn't come in so many seconds, all its processes are killed."""
        try:
            out, error = self.process.communicate(timeout=seconds)
            return Ended(self.process.returncode, out, error, hung=False)
        except subprocess.TimeoutExpired:
            self.kill("group")
            out, error = self.process.communicate()
            return Ended(self.process.returncode, out, error, hung=True)


@contextlib.contextmanager
def _as_in_a_terminal() -> Iterator[None]:
    """A process that is started within has signals as in a terminal.

    The processes of a background job ignore SIGINT, and those of `processes.ask` block it: their children would, too. A signal
    with a handler has none in a started process.
    """
    mask = signal.pthread_sigmask(signal.SIG_SETMASK, [])
    ignored = [number for number in stopping.SIGNALS if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, lambda *_: None)
    try:
        yield
    finally:
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
