"""Small faults of the checkout's code that the ladder must catch: `mutations.txt`, which says how a fault is written."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.copies import Replacement
from common.protocol import BACKENDS

CHANGE = re.compile(r"⟦(?P<before>.*?) → (?P<after>.*?)⟧", re.DOTALL)
FAULT = re.compile(r"(?P<name>[\w-]+) \((?P<rung>[\w-]+)\): (?P<wrong>.+)")


@dataclass(frozen=True, kw_only=True)
class Mutation(Replacement):
    """A fault in one file, which `copies.replaced` writes. `backend` runs the faulty code, also where the file is shared.

    `rung` is the first that must break, in this scenario of `ladder.small`.
    """

    name: str
    wrong: str
    backend: str
    scenario: str
    rung: str


def read(text: str) -> list[Mutation]:
    """The faults of a file like `mutations.txt`. Raises `ValueError` for a line that is none of its kinds."""
    found: list[tuple[dict[str, str], dict[str, list[str]]]] = []  # settings; backend → its text's lines
    for line in text.splitlines():
        if line.startswith("== "):
            file, _, scenario = line.removeprefix("== ").partition(", ")
        elif fault := FAULT.fullmatch(line):
            own = file.split("/")[1] if file.startswith("backends/") else "pytorch"
            texts: dict[str, list[str]] = {}
            found.append((fault.groupdict() | {"file": file, "scenario": scenario}, texts))
        elif line.startswith("    "):
            texts.setdefault(own, []).append(line.removeprefix("    "))
        elif line.strip() in BACKENDS:
            own = line.strip()
        elif line and not line.startswith("#"):
            raise ValueError(f"mutations.txt: {line}")
    return [mutation(settings, backend, "\n".join(lines)) for settings, texts in found for backend, lines in texts.items()]


def mutation(settings: dict[str, str], backend: str, text: str) -> Mutation:
    """A fault in one backend."""
    changed = {
        "before": CHANGE.sub(lambda change: change["before"], text),
        "after": CHANGE.sub(lambda change: change["after"], text),
        "file": settings["file"].format(backend=backend),
    }
    if changed["file"] != settings["file"]:
        changed["name"] = f"{settings['name']}-{backend}"
    return Mutation(backend=backend, **settings | changed)


MUTATIONS = read(Path(__file__).with_suffix(".txt").read_text(encoding="utf-8"))
