"""Work in a process of its own, so that no framework's threads, memory or imports touch another's."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from benchmarks.harness import events, stopping
from benchmarks.harness.environment import ROOT
from benchmarks.harness.events import Heard
from common.errors import UserError

PARENT = "VAEBENCH_PARENT"  # environment variable: the process that asks
# Environment variables whose relative folders `ask` makes absolute: the process has another current folder.
PLACES = ("VAEBENCH_DATA_DIR", "VAEBENCH_CACHE_DIR")


class ProcessError(UserError):
    """A process ended without an answer, with exit code `code`, and usually a message on stderr."""

    def __init__(self, title: str, code: int):
        super().__init__(f"The process of {title} ended with code {code}; its message stands above.")
        self.code = code


class SilentError(ProcessError):
    """A process told nothing for too long, and was ended."""


def ask(
    target: str,
    question: Any,
    *,
    title: str,
    folder: Path = ROOT,
    python: str | None = None,
    variables: Mapping[str, str | None] | None = None,
    heard: Heard | None = None,
    patience: float | None = None,
) -> Any:
    """The result of the function `target`, "benchmarks.studies.growth:measure" say, called with `question` in a fresh process.

    Question and result are plain JSON. `title` names the process in messages; `folder` is the checkout whose code runs,
    `python` the interpreter of another environment, where it isn't this process's. `variables` are set in the process's
    environment; None removes one. `heard` is called with each event of the process and with each line of its stderr; without
    it, the process shares this process's stderr. `patience`: the seconds without either after which a process that is heard is
    killed; None for ever. The process ends soon after this one has died.

    Raises `ProcessError` where the process fails, `SilentError` where it was killed for its silence. A KeyboardInterrupt asks
    the process to end, and is raised again when it has ended; a second one kills it.
    """
    command = [python or sys.executable, "-m", "benchmarks", "answer", target]
    with contextlib.ExitStack() as stack:
        asked, answers = (stack.enter_context(temporary()) for _ in range(2))
        json.dump(question, asked)
        asked.seek(0)
        options: dict[str, Any] = {"stdin": asked, "stdout": answers, "cwd": folder}
        places = {name: os.path.abspath(os.environ[name]) for name in PLACES if os.environ.get(name)}
        told = {events.VARIABLE: None, PARENT: str(os.getpid()), **places, **(variables or {})}
        if heard:
            reading, writing = os.pipe()
            told[events.VARIABLE] = str(writing)
            options |= {"pass_fds": [writing], "stderr": subprocess.PIPE, "encoding": "utf-8", "errors": "replace"}
        options["env"] = {name: value for name, value in {**os.environ, **told}.items() if value is not None}
        process = started(command, **options)
        stopping.workers.add(process.pid)
        stack.callback(stopping.workers.discard, process.pid)
        pipes = None
        if heard:
            os.close(writing)
            assert process.stderr is not None
            pipes = _Pipes(said=process.stderr, event=os.fdopen(reading, encoding="utf-8"))
        if _finish(process, pipes, heard, patience):
            raise SilentError(title, process.returncode)
        answers.seek(0)
        lines = answers.read().splitlines()
        if process.returncode or not lines:
            raise ProcessError(title, process.returncode)
        return json.loads(lines[-1])


def started(
    command: list[str], *, blocked: Iterable[signal.Signals] = (signal.SIGINT,), **options: Any
) -> subprocess.Popen[str]:
    """The process, which inherits that the `blocked` signals and SIGUSR1 are blocked.

    A terminal's Ctrl-C reaches it as SIGTERM or SIGKILL of this one; SIGUSR1 would end it before it has a handler. SIGUSR2
    is SLURM's word to this process alone, though SLURM sends it to the other one too.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*blocked, stopping.SAVE, signal.SIGUSR2})
    try:
        return subprocess.Popen(command, **options)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def temporary() -> IO[str]:
    """Raises `UserError` where no folder takes a temporary file."""
    try:
        return tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError("No folder takes a temporary file; free the disk, or set TMPDIR.") from error


class _Pipes:
    """The lines of several pipes, each with its pipe's name. Threads read: an interrupted caller loses no line."""

    def __init__(self, **pipes: IO[str]):
        self.lines: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        self.readers = [threading.Thread(target=self._read, args=item, daemon=True) for item in pipes.items()]
        for reader in self.readers:
            reader.start()

    def _read(self, name: str, pipe: IO[str]) -> None:
        with pipe:
            for line in pipe:
                self.lines.put((name, line.rstrip("\n")))

    def until_silent(self, patience: float | None) -> Iterator[tuple[str, str]]:
        """(pipe, line) of each line, to the end of the pipes, or until none came for `patience` seconds."""
        last = time.monotonic()
        while any(reader.is_alive() for reader in self.readers) or not self.lines.empty():
            with contextlib.suppress(queue.Empty):
                yield self.lines.get(timeout=0.1)
                last = time.monotonic()
            if patience is not None and time.monotonic() - last > patience:
                return


def _finish(process: subprocess.Popen[str], pipes: _Pipes | None, heard: Heard | None, patience: float | None) -> bool:
    """Wait until the process has ended; whether it was killed for its silence.

    Raises KeyboardInterrupt when the process has ended, where one came meanwhile.
    """
    stops, silent = 0, False
    while True:
        try:
            if pipes and heard:
                for name, line in pipes.until_silent(patience):
                    heard({"kind": "said", "text": line} if name == "said" else json.loads(line))
                silent = any(reader.is_alive() for reader in pipes.readers) and process.poll() is None
                if silent:
                    stopping.kill(process.pid)
            process.wait()
            break
        except KeyboardInterrupt:
            process.kill() if stops else process.terminate()
            stops += 1
        except Exception:
            process.terminate()
            process.wait()
            raise
    if stops:
        raise KeyboardInterrupt
    return silent


GRACE = 10.0  # seconds that a process whose parent has died has to save its state


def end_with(parent: int) -> None:
    """Ask this process to end, as SIGTERM does, when its parent has died; end it where it then goes on for GRACE seconds."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(128 + signal.SIGTERM)


def function(target: str) -> Callable[..., Any]:
    """The function of a name such as "benchmarks.studies.growth:measure"."""
    module, _, name = target.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


def main(arguments: list[str]) -> int:
    """The process of `ask`: reads the question from stdin and prints the result as the last line of stdout."""
    (target,) = arguments
    if PARENT in os.environ:
        threading.Thread(target=end_with, args=(int(os.environ[PARENT]),), daemon=True).start()
    answers, sys.stdout = sys.stdout, sys.stderr  # what a framework prints goes to stderr
    found = function(target)(json.loads(sys.stdin.read()))
    print(json.dumps(found), file=answers)
    return 0
