"""What checking shapes costs: each backend trains with the switch on and off, by turns, each time in a process of its own."""

from __future__ import annotations

import dataclasses
import os
import statistics
import tempfile
from pathlib import Path
from typing import Annotated

import tyro

from benchmarks import records, reports, runs
from benchmarks.cli import parse
from benchmarks.presets import preset
from benchmarks.reports import Report, measured
from benchmarks.runs import Job
from common import cache
from common.errors import UserError
from common.protocol import BACKENDS
from common.shapes import SWITCH

NAME = "shape-checks"
DATA = "binarized-digits"
STEPS = 600


def measure(backend: str, family: str, *, switch: str, results: str) -> tuple[float, float]:
    """(milliseconds a step, the median over chunks; seconds of compiling) of one run."""
    config = preset("quick").replace(variational=family, steps=STEPS, samples=25, images=25)
    job = Job(backend=backend, preset="quick", data=DATA, data_dir=None, config=config, results=results, resume=False)
    job = dataclasses.replace(job, config=config.replace(pixels=runs.checked(job).pixels))
    os.environ |= {SWITCH: switch, cache.SWITCH: "0"}  # the process inherits them, and compiles anew
    if code := runs.in_process(job):
        raise UserError(f"The run of {job.record.name} ended with code {code}; its message stands above.")
    timing = records.read(job.record)["timing"]
    return 1e3 * config.training.batch_size / timing["examples_per_s"], timing["compile_s"]


def main(arguments: list[str]) -> int:
    @dataclasses.dataclass
    class ShapeChecks:
        rounds: Annotated[int, tyro.conf.arg(help="Runs of each kind, by turns.")] = 3
        results: Annotated[Path, tyro.conf.arg(help="Folder for the report.")] = Path("results")

    asked = parse(ShapeChecks, arguments, command=NAME, description="Measure what checking shapes costs.")
    if asked.rounds < 1:
        raise UserError(f"--rounds is {asked.rounds}; give at least 1.")
    found: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    before = {name: os.environ.get(name) or value for name, value in ((SWITCH, "0"), (cache.SWITCH, "1"))}
    try:
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(asked.rounds):
                for family in ("mean-field", "flow"):
                    for backend in BACKENDS:
                        for switch in ("0", "1"):
                            result = measure(backend, family, switch=switch, results=folder)
                            found.setdefault((family, backend, switch), []).append(result)
    finally:
        os.environ |= before
    rows = []
    for family, backend in dict.fromkeys(key[:2] for key in found):
        row: dict[str, object] = {"family": family, "backend": backend}
        for switch, word in (("0", "off"), ("1", "on")):
            steps, compiling = zip(*found[family, backend, switch], strict=True)
            row |= {f"step_ms_{word}": statistics.median(steps), f"step_ms_{word}_range": [min(steps), max(steps)]}
            row |= {f"compile_s_{word}": statistics.median(compiling)}
        rows.append(row)
    path = reports.write(
        NAME, {"data": DATA, "preset": "quick", "steps": STEPS, "rounds": asked.rounds, "rows": rows}, asked.results
    )
    print(table(reports.read(NAME, path.parent) or {}))
    return 0


def table(report: Report) -> str:
    """The report as Markdown: medians over the rounds, of steps with their range."""
    lines = [
        "| family | backend | ms/step, off | ms/step, on | compile (s), off | compile (s), on |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in report["rows"]:
        cells = [row["family"], row["backend"]]
        for word in ("off", "on"):
            low, high = row[f"step_ms_{word}_range"]
            cells.append(f"{row[f'step_ms_{word}']:.2f} ({low:.2f}-{high:.2f})")
        cells += [f"{row[f'compile_s_{word}']:.1f}" for word in ("off", "on")]
        lines.append(f"| {' | '.join(cells)} |")
    setting = f"`{report['preset']}` for {report['steps']} steps, cpu, float32, {report['rounds']} runs each by turns"
    return "\n".join([*lines, "", measured(report["environment"], setting=setting) + "."]) + "\n"
