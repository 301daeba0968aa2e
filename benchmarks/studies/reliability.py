"""Kill processes, damage files, fill disks: is anything lost, wrong or left running? The scenarios of benchmarks/torture/.

The scenarios are the files of benchmarks/torture/; tried.py says how they look. Each scenario is one point. All
scenarios together take hours, so --resume keeps results of earlier commits, and the table names the commit of each.
"""

from __future__ import annotations

import dataclasses
import importlib
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from benchmarks import torture
from benchmarks.harness import cli, reports
from benchmarks.harness.progress import Lines
from benchmarks.harness.reports import Report
from benchmarks.outputs.table import Part, Table
from benchmarks.studies import skeleton
from benchmarks.studies.skeleton import Measured, Point, Result
from common.errors import printable, unknown

ACROSS = ("commit",)
SHOWN = 20  # faults of a scenario in the report's page; the report has all


@dataclass(kw_only=True)
class Arguments(skeleton.Arguments):
    scenario: Annotated[tuple[str, ...], tyro.conf.arg(help="Some of the scenarios; all by default.")] = ()
    rounds: Annotated[int | None, tyro.conf.arg(help="Of each scenario; by default as many as docs/reliability.md has.")] = None
    seed: Annotated[int, tyro.conf.arg(help="Of every random choice.")] = 0


def scenarios() -> dict[str, Any]:
    """Name → module of each scenario."""
    names = sorted(path.stem for path in Path(str(torture.__file__)).parent.glob("[!_]*.py"))
    modules = {name: importlib.import_module(f"{torture.__name__}.{name}") for name in names}
    return {name: module for name, module in modules.items() if hasattr(module, "rounds")}


def check(asked: Arguments) -> None:
    for name in asked.scenario:
        if name not in scenarios():
            raise unknown("scenario", name, scenarios())
    if asked.rounds is not None:
        cli.at_least(asked, rounds=1)


def plan(asked: Arguments) -> dict[str, Point]:
    chosen = {name: module for name, module in scenarios().items() if name in (asked.scenario or scenarios())}
    return {
        name: {"scenario": name, "rounds": asked.rounds or module.AT_LEAST, "seed": asked.seed}
        for name, module in chosen.items()
    }


def run(point: Point) -> Result:
    """The scenario's `Tried`, and the seconds that it took."""
    name, count = point["scenario"], point["rounds"]
    began, lines, done = time.monotonic(), Lines(name), 0

    def tell(rounds: int) -> None:
        nonlocal done
        done += rounds
        left = (time.monotonic() - began) * (count - done) / max(done, 1)
        lines.heard(
            {"phase": "torture:", "done": done, "total": count, "unit": "rounds", "elbo": None, "rate": None, "left": left}
        )

    with tempfile.TemporaryDirectory(prefix=f"vaebench-{name}-", ignore_cleanup_errors=True) as folder:
        tried = scenarios()[name].rounds(count, seed=point["seed"], folder=Path(folder), tell=tell)
    return dataclasses.asdict(tried) | {"seconds": time.monotonic() - began}


def content(asked: Arguments, measured: Measured) -> dict[str, Any]:
    found = scenarios()
    titles = [{key: getattr(found[point["scenario"]], key.upper()) for key in ("title", "at_least")} for point, _ in measured]
    return {
        "seed": asked.seed,
        "rows": [point | title | result for title, (point, result) in zip(titles, measured, strict=True)],
    }


def parts(report: Report) -> list[Part]:
    """A row a scenario, and the faults, if there are any."""
    rows = []
    for row in report["rows"]:
        outcomes = "; ".join(told(row["outcomes"]))
        counts = (f"{row['rounds']:,}", f"{row['at_least']:,}", f"{row['seconds'] / 60:.1f}")
        rows.append((row["title"], *counts, outcomes, str(len(row["faults"])), row["commit"]))
    columns = ("tried", "rounds", "of `make torture`", "minutes", "outcomes", "faults", "commit")
    faults = [f"{row['scenario']}, {printable(fault)}" for row in report["rows"] for fault in row["faults"][:SHOWN]]
    where = f"Seed {report['seed']}; {reports.machine(report['environment'], setting='cpu')}."
    return [
        Table(columns=columns, rows=rows, left=("tried", "outcomes", "commit")),
        *(["\n".join(faults)] if faults else []),
        where,
    ]


def told(outcomes: dict[str, int]) -> list[str]:
    """The outcomes, sorted, each with its count; without counts if every outcome came once."""
    once = set(outcomes.values()) == {1}
    return [printable(words) + ("" if once else f": {count:,}") for words, count in sorted(outcomes.items())]


def failed(report: Report) -> bool:
    return any(row["faults"] for row in report["rows"])
