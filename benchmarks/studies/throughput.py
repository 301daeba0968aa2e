"""`python -m benchmarks throughput`: the pytest-benchmark suite, each backend in a process of its own, saved per machine."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import json
import math
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from benchmarks.harness import cores, environment, reports, spread
from benchmarks.harness.calls import IMAGES
from benchmarks.harness.cli import parse, usable
from benchmarks.harness.environment import ROOT
from benchmarks.harness.presets import STANDARD
from benchmarks.outputs import tables
from common.config import Device, Precision, check
from common.errors import UserError
from common.protocol import BACKENDS

SUITE = "benchmarks/throughput"
COLUMNS = (
    *("kind", "family", "batch", "precision", "backend", "ms/step (IQR)", "examples/s"),
    *("step / floor", "step / fastest floor", "rounds"),
)

Row = dict[str, Any]


def main(arguments: list[str]) -> int:
    @dataclasses.dataclass
    class Throughput:
        select: Annotated[str, tyro.conf.arg(aliases=["-k"], help="pytest's -k: 'train and flow and 128', say.")] = ""
        backend: Annotated[tuple[str, ...], tyro.conf.arg(help=f"One or more of {', '.join(BACKENDS)}; all by default.")] = ()
        device: Annotated[Device, tyro.conf.arg(help="Where the models live.")] = "cpu"
        precision: Annotated[tuple[Precision, ...], tyro.conf.arg(help="Of the matrix products: one or more.")] = ("full",)
        seconds: Annotated[float, tyro.conf.arg(help="Time for the rounds of one benchmark; there are at least five.")] = 2.0
        sweeps: Annotated[int, tyro.conf.arg(help="Fresh processes a backend, taking turns: A B C A B C …")] = 1
        storage: Annotated[Path, tyro.conf.arg(help="Folder of the saved runs, under which each machine has its own.")] = Path(
            ".benchmarks"
        )
        saved: Annotated[tuple[Path, ...], tyro.conf.arg(help="Show these saved runs, and time nothing.")] = ()
        report: Annotated[
            bool, tyro.conf.arg(help="Write the report too, results/throughput.json or results/throughput-cuda.json.")
        ] = False

    asked = parse(Throughput, arguments, command="throughput", description="Time every call of the contract, one at a time.")
    here = environment.describe(asked.device)
    if importlib.util.find_spec("pytest_benchmark") is None:
        raise UserError("The suite needs pytest-benchmark; `make setup` installs environments/dev.txt.")
    if asked.saved and asked.report:
        raise UserError(
            "A report says where and on what it was measured, which is here and now; leave out --saved or --report."
        )
    if not 0 < asked.seconds < math.inf:
        raise UserError(f"--seconds is {asked.seconds}; it must be a finite number above 0.")
    if asked.sweeps < 1:
        raise UserError(f"--sweeps is {asked.sweeps}; it must be at least 1.")
    cores.within()  # refused here, not in each benchmark
    for precision in asked.precision:
        check(STANDARD.replace(device=asked.device, precision=precision), train_images=IMAGES, test_images=IMAGES)
    saved: list[Path] = list(asked.saved)
    backends = () if saved else usable(asked.backend, device=asked.device)
    for _ in range(asked.sweeps):
        for precision, backend in itertools.product(asked.precision, backends):
            saved += timed(backend, precision, asked)
    if not saved:
        raise UserError(f"No benchmark was timed; is there one that -k '{asked.select}' selects?")
    found = merged(saved)
    show(found)
    print(f"Saved: {', '.join(map(str, saved))}")
    if asked.report:
        name = reports.of_device("throughput", asked.device)
        content = {"device": asked.device, "rows": found}
        print(f"Report: {reports.write(name, content, Path('results'), environment=here)}")
    return 0


def timed(backend: str, precision: Precision, asked: Any) -> list[Path]:
    """Run the suite for one backend and precision, and return the file that it saved; none where nothing was selected.

    Raises `UserError` where a benchmark failed.
    """
    before = set(asked.storage.glob("*/*.json"))
    command = [sys.executable, "-m", "pytest", SUITE, "--backend", backend, "--device", asked.device, "-q"]
    command += ["--precision", precision, "--seconds", str(asked.seconds)]
    command += ["--benchmark-columns", "median,iqr,rounds", "--benchmark-sort", "name"]
    command += ["--benchmark-save", f"throughput-{backend}", "--benchmark-storage", str(asked.storage.resolve())]
    command += ["-W", "ignore:Not saving anything", *(["-k", asked.select] if asked.select else [])]
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    if code not in (0, 5):  # 5: none selected
        raise UserError(f"The benchmarks of {backend} ended with code {code}; their message stands above.")
    return sorted(set(asked.storage.glob("*/*.json")) - before)


def read(path: Path) -> dict[str, Any]:
    """A run that pytest-benchmark saved. Raises `UserError` where it can't be read."""
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
        _ = [(b["extra_info"]["backend"], b["stats"]["rounds"]) for b in run["benchmarks"]], run["commit_info"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is no saved run of the throughput suite ({error}); `make bench-throughput` saves one."
        ) from error
    return dict(run)


def merged(paths: list[Path]) -> list[Row]:
    """A row a benchmark, in the suite's order: over sweeps the median of each figure, and how many there were."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for path in paths:
        for benchmark in read(path)["benchmarks"]:
            row = benchmark["extra_info"] | {"rounds": benchmark["stats"]["rounds"]}
            key = tuple(row.get(name) for name in ("kind", "family", "batch", "backend", "device", "precision"))
            groups.setdefault(key, []).append(row)
    return [one(rows) for rows in groups.values()]


def one(rows: list[Row]) -> Row:
    result = {key: rows[0][key] for key in rows[0]}
    for key, value in rows[0].items():
        if isinstance(value, float):
            result[key] = statistics.median(row[key] for row in rows)
    trips = [trip for row in rows for trip in row.get("round_trips_ns", [])]
    result |= {"rounds": sum(row["rounds"] for row in rows), "sweeps": len(rows), "round_trips_ns": trips}
    if result.get("floor_ms_per_step"):
        result["floor_ratio"] = result["ms_per_step"] / result["floor_ms_per_step"]
    return result


def in_order(rows: list[Row]) -> list[Row]:
    """What is compared stands together: the backends of one kind, family, batch and precision."""
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    families = list(dict.fromkeys(row.get("family") for row in rows))
    precisions = list(dict.fromkeys(row.get("precision") for row in rows))
    return sorted(
        rows,
        key=lambda row: (
            kinds.index(row["kind"]),
            families.index(row.get("family")),
            row.get("batch") or 0,
            precisions.index(row.get("precision")),
            BACKENDS.index(row["backend"]),
        ),
    )


def cells(row: Row, rows: list[Row]) -> list[str]:
    """In the order of COLUMNS; `rows` are all of the report that have a floor."""
    return [
        row["kind"],
        row["family"],
        f"{row['batch']:,}",
        row.get("precision", "float32"),
        row["backend"],
        f"{row['ms_per_step']:.3g} ({row['iqr_ms_per_step']:.2g})",
        f"{row['examples_per_s']:,.0f}",
        f"{row['floor_ratio']:.2f}",
        f"{row['ms_per_step'] / fastest_floor(row, rows):.2f}",
        str(row["rounds"]),
    ]


def table(rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    """(columns, cells) of what has a floor, in order; the precision only where rows differ in it."""
    found = [row for row in in_order(rows) if "floor_ratio" in row]
    columns = [c for c in COLUMNS if c != "precision" or len({row.get("precision") for row in found}) > 1]
    lines = [dict(zip(COLUMNS, cells(row, found), strict=True)) for row in found]
    return columns, [[line[column] for column in columns] for line in lines]


def fastest_floor(row: Row, rows: list[Row]) -> float:
    """ms: of the backends, the least that was measured for the same step."""
    same = ("kind", "family", "batch", "precision")
    return min(float(r["floor_ms_per_step"]) for r in rows if [r.get(key) for key in same] == [row.get(key) for key in same])


def show(rows: list[Row]) -> None:
    columns, lines = table(rows)
    if lines:
        tables.show(Console(), title="throughput", columns=columns, rows=lines)


def markdown(report: dict[str, Any]) -> str:
    """The report's block in docs/timing.md, or docs/gpu.md."""
    rows = [row for row in in_order(report["rows"]) if "floor_ratio" in row]
    columns, found = table(report["rows"])
    lines = [f"| {' | '.join(columns)} |", f"| {' | '.join('---' if c in tables.LABELS else '---:' for c in columns)} |"]
    lines += [f"| {' | '.join(line)} |" for line in found]
    loud = [row for row in rows if row["iqr_ms_per_step"] > spread.BOUND * row["ms_per_step"]]
    lines += ["", spread.statement("timing.md#the-timing-contract"), ""]
    if loud:
        names = ", ".join(f"{row['kind']} {row['family']} {row['batch']} {row['backend']}" for row in loud)
        lines.append(f"- Their rounds spread over more than {spread.BOUND:.0%} of their median: {names}.")
    trips = [trip for row in rows for trip in row.get("round_trips_ns", [])]
    lines.append(f"- Between rounds {cores.said(trips)}.")
    setting = f"{report['device']}, float32" + (" unless a row says otherwise" if "precision" in columns else "")
    lines.append(f"- {reports.where(report['environment'], setting=setting)}.")
    return "\n".join(lines) + "\n"
