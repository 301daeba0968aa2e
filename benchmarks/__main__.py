"""python -m benchmarks: imports the module of the command that is asked for, and calls it."""

from __future__ import annotations

import importlib
import sys

from benchmarks.harness import stopping
from common import cache, shapes
from common.errors import UserError

# Command → its module, whose `main` takes the arguments and returns the exit code.
COMMANDS = {
    "run": "commands.run",
    "evaluate": "commands.evaluate",
    "export": "commands.export",
    "show": "commands.show",
    "results": "commands.results",
    "report": "commands.report",
    "diff": "commands.diff",
    "list": "commands.list",
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
RESUMED = ("run", "reproduce", "study")  # the commands that have --resume
HELP = """python -m benchmarks COMMAND …        COMMAND --help says more

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


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP)
        return 0
    command, *rest = arguments
    try:
        if command in OLD_NAMES:
            raise UserError(f"'{command}' is now '{OLD_NAMES[command]}'.")
        if command not in (*COMMANDS, ANSWER):
            raise UserError(f"There is no command '{command}'; choose from {', '.join(COMMANDS)}.")
        for switch in (cache.switched_on, shapes.switched_on):  # a bad value is refused here, not in a backend's import
            switch()
        module = importlib.import_module(f"benchmarks.{COMMANDS.get(command, 'harness.processes')}")
        return int(module.main(translate(rest)))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except MemoryError as error:
        print(f"There isn't enough memory ({error}); choose a smaller model, batch or number of samples.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if command != ANSWER:  # the parent process prints this, too
            print("Stopped; --resume goes on from here." if command in RESUMED else "Stopped.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    stopping.watch(again=True)
    sys.exit(main(sys.argv[1:]))
