"""Work in a process of its own, so that no framework's threads, memory or imports touch another's."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.harness.environment import ROOT
from common.errors import UserError


class ProcessError(UserError):
    """A process ended without an answer, with exit code `code` and a message on stderr."""

    def __init__(self, title: str, code: int):
        super().__init__(f"The process of {title} ended with code {code}; its message stands above.")
        self.code = code


def ask(
    target: str, question: Any, *, title: str, folder: Path = ROOT, variables: Mapping[str, str | None] | None = None
) -> Any:
    """The result of the function `target`, "benchmarks.studies.growth:measure" say, called with `question` in a fresh process.

    Question and result are plain JSON. `title` names the process in messages; `folder` is the checkout whose code runs.
    `variables` are set in the process's environment; None removes one. Raises `ProcessError` where the process fails.
    """
    command = [sys.executable, "-m", "benchmarks", "answer", target]
    environment = {name: value for name, value in {**os.environ, **(variables or {})}.items() if value is not None}
    done = subprocess.run(
        command, cwd=folder, env=environment, input=json.dumps(question), stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise ProcessError(title, done.returncode)
    return json.loads(done.stdout.splitlines()[-1])


def main(arguments: list[str]) -> int:
    """The process of `ask`: reads the question from stdin and prints the result as the last line of stdout."""
    (target,) = arguments
    module, _, name = target.partition(":")
    answers, sys.stdout = sys.stdout, sys.stderr  # what a framework prints goes to stderr
    found = getattr(importlib.import_module(module), name)(json.loads(sys.stdin.read()))
    print(json.dumps(found), file=answers)
    return 0
