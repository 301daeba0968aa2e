"""Copies of this checkout's code, for code that is wrong on purpose."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.environment import ROOT

CODE = ("backends", "common", "benchmarks")


@dataclass(frozen=True, kw_only=True)
class Replacement:
    """One text of one file, replaced by another."""

    file: str
    before: str
    after: str


def copied(folder: Path) -> None:
    """Copy the code into `folder`, which must be empty; a process that is started in `folder` runs the copy."""
    for name in CODE:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "records"))


def replaced(folder: Path, replacement: Replacement) -> None:
    """As `copied`, with one text replaced. Raises `ValueError` where the text isn't in the file exactly once."""
    text = (ROOT / replacement.file).read_text(encoding="utf-8")
    if (times := text.count(replacement.before)) != 1:
        raise ValueError(f"{replacement.file} has the text {times} times, not once: {replacement.before}")
    copied(folder)
    (folder / replacement.file).write_text(text.replace(replacement.before, replacement.after), encoding="utf-8")
