"""python -m benchmarks: imports the module of the command that is asked for, and calls it."""

from __future__ import annotations

import errno
import importlib
import io
import os
import signal
import sys
from typing import TextIO

from benchmarks.harness import stopping
from common.errors import UserError, printable, unknown
from common.version import VERSION

# Command → its module, whose `main` takes the arguments and returns the exit code.
COMMANDS = {
    "run": "commands.run",
    "evaluate": "commands.evaluate",
    "export": "commands.export",
    "list": "commands.list",
    "show": "commands.show",
    "report": "commands.report",
    "results": "commands.results",
    "diff": "commands.diff",
    "parity": "parity.command",
    "compare": "gates.compare",
    "regress": "gates.regress",
    "reproduce": "gates.reproduce",
    "study": "studies.command",
    "tables": "commands.tables",
}
ANSWER = "answer"  # the command of a process that another command starts
STUDIES = ("ablation", "agreement", "ancestor", "bfloat16", "growth", "numpyro", "overhead", "throughput")
# A command's older name → its present one.
OLD_NAMES = {"cross-evaluate": "parity --checkpoints", "roofline": "study throughput --draw"}
OLD_NAMES |= {name: f"study {name}" for name in STUDIES}
OLD_NAMES |= {"prove-compare": "make test-slow", "prove-regress": "make test-slow", "shape-checks": "docs/shapes.md"}
# A flag of the scripts that this suite replaces → the flag here.
OLD_SPELLINGS = {"--max-iterations": "--steps", "--n-samples": "--samples", "--train-dir": "--results"}
GPU = {"true": "cuda", "True": "cuda", "false": "cpu", "False": "cpu"}  # a value of --use-gpu → that of --device
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what a disk without room says
RESUMED = ("run", "reproduce", "study")  # the commands that have --resume
HELP = """python -m benchmarks COMMAND …        COMMAND --help says more; --version

Models
  run                  train, test and time models; each ends in a record and a checkpoint
  evaluate CHECKPOINT  ELBO and log p(x) of a checkpoint, in any backend
  export CHECKPOINT    the weights for plain PyTorch, Flax NNX or Keras
  list                 the backends, their versions and devices

Results
  show RUN…            test images, reconstructions, samples as PNG; training as GIF
  report FOLDER…       one HTML page of a folder's runs
  results FOLDER…      one row a run, as a table, CSV, JSON or Parquet
  diff A B             two runs or folders compared image by image

Proofs
  parity               are the backends the same function? rung by rung, or on --checkpoints
  compare              is this checkout slower than another revision?
  regress              after an upgrade: are parity, quality and speed as they were?
  reproduce TABLE      run a published table's rows again and compare

Publications
  study NAME           measure what a page of docs/ shows: its table and its figure
  tables               write the tables of README.md and docs/ from benchmarks/records/"""


def translate(arguments: list[str]) -> list[str]:
    """The arguments with the old scripts' flags replaced. Raises `UserError` for a --use-gpu that is neither true nor false."""
    result = []
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        if flag.replace("_", "-") != "--use-gpu":
            result.append(OLD_SPELLINGS.get(flag.replace("_", "-"), flag) + equals + value)
        elif (wanted := value if equals else "true") in GPU:
            result += ["--device", GPU[wanted]]
        else:
            raise UserError(f"--use-gpu is '{value}'; it must be true or false, or give --device cuda or cpu.")
    return result


def version() -> str:
    """The suite's version and commit, and the versions of the installed packages; none of them is imported."""
    from benchmarks.harness import environment, reports

    commit, dirty = environment.head()
    installed = environment.versions()
    python = installed.pop("python")
    return "\n".join(
        [
            f"vaebench {VERSION}, commit {reports.commit({'commit': commit, 'dirty': dirty})}",
            f"Python {python}",
            *(f"{name} {its}" for name, its in installed.items()),
        ]
    )


def main(arguments: list[str]) -> int:
    command, *rest = arguments or ["--help"]
    try:
        return called(command, rest)
    except UserError as error:
        print(printable(str(error)), file=sys.stderr)
        return 2
    except MemoryError as error:
        print(f"There isn't enough memory ({error}); choose a smaller model, batch or number of samples.", file=sys.stderr)
        return 2
    except UnicodeEncodeError:
        print("A file or folder has a name that isn't UTF-8 and can't be written into the output; rename it.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if command != ANSWER:  # the parent process prints this, too
            print("Stopped; --resume goes on from here." if command in RESUMED else "Stopped.", file=sys.stderr)
        return stopping.exit_code()


def called(command: str, arguments: list[str]) -> int:
    """The exit code of the command."""
    from common import cache, shapes  # not at the top: Python would begin to handle signals later

    if command in ("-V", "--version"):
        print(version())
        return 0
    if command in ("-h", "--help", "help"):
        print(HELP)
        return 0
    if command in OLD_NAMES:
        raise UserError(f"'{command}' is now '{OLD_NAMES[command]}'.")
    if command not in (*COMMANDS, ANSWER):
        raise unknown("command", command, (*COMMANDS, "--help", "--version"))
    for switch in (cache.switched_on, shapes.switched_on):  # a bad value is refused here, not in a backend's import
        switch()
    module = importlib.import_module(f"benchmarks.{COMMANDS.get(command, 'harness.processes')}")
    return int(module.main(translate(arguments)))


def reopen() -> None:
    """Put the null device in place of the standard streams that the shell closed (>&-): a file would take a stream's number.

    A character that an output's encoding lacks is a question mark there.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            os.set_inheritable(opened, True)
            setattr(sys, name, os.fdopen(opened, "w" if number else "r", encoding="utf-8"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def silence(*streams: TextIO) -> None:
    """Drop the rest of the streams' output, which Python flushes once more when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        os.dup2(nowhere, stream.fileno())


def piped(arguments: list[str]) -> int:
    """The exit code of `main`; 141, as other programs have, where the reader of stdout or stderr has closed (`… | head`)."""
    try:
        try:
            return main(arguments)
        finally:
            for stream in filter(None, (sys.stdout, sys.stderr)):  # None where the shell closed it (>&-)
                stream.flush()
    except BrokenPipeError:
        silence(sys.stdout, sys.stderr)
        return 128 + signal.SIGPIPE
    except OSError as error:  # of stdout or a temporary file: files that commands write have a `DiskError`
        if error.errno not in FULL:
            raise
        silence(sys.stdout)
        print(
            f"Cannot write ({error.strerror}): free the disk of the output and of the temporary folder, or set TMPDIR.",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:  # a second one
        return stopping.exit_code()
    except SystemExit as end:  # tyro's: --help, or an argument that it refuses
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return 1 if isinstance(end.code, str) else int(end.code or 0)


if __name__ == "__main__":
    reopen()
    asked = sys.argv[1:2] == [ANSWER]
    stopping.watch(again=not asked, words="" if asked else "Stopped.\n")
    stopping.leave(piped(sys.argv[1:]))
