"""python -m benchmarks study NAME: one of the studies, each a file of this folder."""

from __future__ import annotations

import importlib
from pathlib import Path

from common.errors import UserError

APART = ("__init__", "command", "growth_report", "roofline")


def names() -> list[str]:
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in APART)


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] not in names():
        raise UserError(f"Which study? Choose from {', '.join(names())}.")
    name, *rest = arguments
    code: int = importlib.import_module(f"benchmarks.studies.{name}").main(rest)
    return code
