"""The least study: squares of numbers, each in a process of its own."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.outputs.table import Part, Table
from benchmarks.studies import skeleton
from benchmarks.studies.skeleton import Measured, Point, Result
from common.config import Device
from common.errors import UserError


@dataclass(kw_only=True)
class Arguments(skeleton.Arguments):
    number: tuple[int, ...] = (1, 2, 3)
    backend: tuple[str, ...] = ()
    device: Device = "cpu"


def check(asked: Arguments) -> None:
    if not asked.number:
        raise UserError("--number is empty.")


def plan(asked: Arguments) -> dict[str, Point]:
    return {f"{number}_{backend}": {"number": (number,)} for number in asked.number for backend in asked.backend}


def measure(point: Point) -> Result:
    (number,) = point["number"]
    if number < 0:
        raise UserError(f"{number} is negative.")
    print("a framework's own words")
    return {"square": number**2, "process": os.getpid(), "resume": point["resume"]}


def content(asked: Arguments, measured: Measured) -> dict[str, Any]:
    return {"device": asked.device, "rows": [{"number": point["number"][0]} | result for point, result in measured]}


def parts(report: dict[str, Any]) -> list[Part]:
    rows = [(str(row["number"]), str(row["square"])) for row in report["rows"]]
    return [Table(columns=("number", "square"), rows=rows), "That is all."]


def draw(report: dict[str, Any], path: Path) -> None:
    path.write_text(f"{len(report['rows'])} numbers")
