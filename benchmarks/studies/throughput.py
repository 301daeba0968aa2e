"""The time of every call of the contract by itself, and the training steps under the machine's own limits.

A point is a process of the pytest-benchmark suite (benchmarks/throughput) for one backend and precision. pytest-benchmark's
own file of the run stays under --storage, one folder a machine: `compare --saved` and --saved here read it.

The figure is a roofline (Williams, Waterman and Patterson 2009). A training step's arithmetic intensity is its FLOP over the
bytes that it must move (harness/floor.py). No step is above min(matrix rate, intensity · copy bandwidth), unless a cache or
fusion saves some of these bytes.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
import operator
import statistics
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from benchmarks.harness import cores, floor, reports, spread
from benchmarks.harness.calls import IMAGES
from benchmarks.harness.cases import KINDS
from benchmarks.harness.cli import Backends, OnDevice, at_least
from benchmarks.harness.environment import ROOT
from benchmarks.harness.presets import STANDARD
from benchmarks.harness.reports import Report
from benchmarks.outputs.figures import OF_BACKEND, save
from benchmarks.outputs.table import Part, Table
from benchmarks.studies import skeleton
from benchmarks.studies.skeleton import Measured, Point, Result
from common import config
from common.config import FAMILIES, Precision
from common.errors import UserError
from common.protocol import BACKENDS

SUITE = "benchmarks/throughput"
NONE_SELECTED = 5  # pytest's exit code
FIGURE = "roofline"
MARKERS = {"mean-field": "o", "flow": "^"}
FULL = "float32"  # the precision of the roofline
MACHINE = ("matrix", "launch", "copy")

Row = dict[str, Any]


@dataclass(kw_only=True)
class Arguments(skeleton.Arguments):
    select: Annotated[str, tyro.conf.arg(aliases=["-k"], help="pytest's -k: 'train and flow and 128', say.")] = ""
    backend: Backends = ()
    device: OnDevice = "cpu"
    precision: Annotated[tuple[Precision, ...], tyro.conf.arg(help="Of the matrix products: one or more.")] = ("full",)
    seconds: Annotated[float, tyro.conf.arg(help="Time for the rounds of one benchmark; there are at least five.")] = 2.0
    sweeps: Annotated[int, tyro.conf.arg(help="Fresh processes a backend, taking turns: A B C A B C …")] = 1
    storage: Annotated[Path, tyro.conf.arg(help="Folder of the suite's saved runs.")] = Path(".benchmarks")
    saved: Annotated[tuple[Path, ...], tyro.conf.arg(help="Show the tables of these saved runs, and time nothing.")] = ()


def check(asked: Arguments) -> None:
    if importlib.util.find_spec("pytest_benchmark") is None:
        raise UserError("The suite needs pytest-benchmark; `make setup` installs environments/dev.txt.")
    if not 0 < asked.seconds < math.inf:
        raise UserError(f"--seconds is {asked.seconds}; it must be a finite number above 0.")
    at_least(asked, sweeps=1)
    for precision in asked.precision:
        config.check(STANDARD.replace(device=asked.device, precision=precision), train_images=IMAGES, test_images=IMAGES)


def plan(asked: Arguments) -> dict[str, Point]:
    """A point a sweep, precision and backend."""
    common = {"device": asked.device, "seconds": asked.seconds, "select": asked.select, "storage": str(asked.storage.resolve())}
    return {
        f"{backend}_{precision}_{sweep}": {"backend": backend, "precision": precision, "sweep": sweep, **common}
        for sweep, precision, backend in itertools.product(range(asked.sweeps), asked.precision, asked.backend)
    }


def run(point: Point) -> Result:
    """The rows of the benchmarks that the suite timed. Raises `UserError` where one failed, and where none was selected."""
    storage, backend = Path(point["storage"]), point["backend"]
    before = set(storage.glob("*/*.json"))
    command = [sys.executable, "-m", "pytest", SUITE, "--backend", backend, "--device", point["device"], "-q"]
    command += ["--precision", point["precision"], "--seconds", str(point["seconds"])]
    command += ["--benchmark-columns", "median,iqr,rounds", "--benchmark-sort", "name"]
    command += ["--benchmark-save", f"throughput-{backend}", "--benchmark-storage", str(storage)]
    command += ["-W", "ignore:Not saving anything", *(["-k", point["select"]] if point["select"] else [])]
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    if code not in (0, NONE_SELECTED):
        raise UserError(f"The benchmarks of {backend} ended with code {code}; their message stands above.")
    saved = sorted(set(storage.glob("*/*.json")) - before)
    if not saved:
        raise UserError(f"No benchmark was timed; is there one that -k '{point['select']}' selects?")
    return {"rows": [row for path in saved for row in rows_of(read(path))]}


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


def rows_of(run: dict[str, Any]) -> list[Row]:
    """A row a benchmark of a saved run."""
    return [benchmark["extra_info"] | {"rounds": benchmark["stats"]["rounds"]} for benchmark in run["benchmarks"]]


def shown(asked: Arguments) -> list[Part]:
    """The tables of the runs of --saved: those of one device, machine and commit stand together."""
    found: dict[str, Report] = {}
    for run in map(read, asked.saved):
        place, rows = run["machine_info"]["environment"], rows_of(run)
        device = rows[0]["device"]
        report = found.setdefault(reports.where(place, setting=device), {"device": device, "environment": place, "rows": []})
        report["rows"] += rows
    return [part for report in found.values() for part in parts(report | {"rows": merged(report["rows"])})]


# --- the report ---


def content(asked: Arguments, measured: Measured) -> dict[str, Any]:
    return {"device": asked.device, "rows": merged([row for _, result in measured for row in result["rows"]])}


def merged(rows: list[Row]) -> list[Row]:
    """A row a benchmark, in the suite's order: the median of each figure over sweeps, and the number of sweeps."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        key = tuple(row.get(name) for name in ("kind", "family", "batch", "backend", "device", "precision"))
        groups.setdefault(key, []).append(row)
    return [one(sweeps) for sweeps in groups.values()]


def one(sweeps: list[Row]) -> Row:
    """The row of a benchmark's sweeps."""
    figures = [name for name, value in sweeps[0].items() if isinstance(value, float)]
    result = sweeps[0] | {name: statistics.median(row[name] for row in sweeps) for name in figures}
    trips = [trip for row in sweeps for trip in row.get("round_trips_ns", [])]
    result |= {"rounds": sum(row["rounds"] for row in sweeps), "sweeps": len(sweeps), "round_trips_ns": trips}
    if result.get("floor_ms_per_step"):
        result["floor_ratio"] = result["ms_per_step"] / result["floor_ms_per_step"]
    return result


def rows_in(report: Report) -> list[Row]:
    """The report's rows. Earlier reports have float32 alone, and don't say it."""
    return [{"precision": FULL} | row for row in report["rows"]]


def calls_in(report: Report) -> list[Row]:
    """The rows of the contract's calls; the backends of one kind, family, batch and precision stand together."""
    rows = [row for row in rows_in(report) if "floor_ratio" in row]
    precisions = list(dict.fromkeys(row["precision"] for row in rows))

    def place(row: Row) -> tuple[int, ...]:
        step = KINDS.index(row["kind"]), FAMILIES.index(row["family"]), row["batch"], precisions.index(row["precision"])
        return *step, BACKENDS.index(row["backend"])

    return sorted(rows, key=place)


# --- its tables ---


def parts(report: Report) -> list[Part]:
    """The calls of the contract, then the machine; each where it was measured."""
    calls = call_parts(report) if calls_in(report) else []
    return calls + (machine_parts(report) if any(row["kind"] in MACHINE for row in report["rows"]) else [])


def call_parts(report: Report) -> list[Part]:
    """A row a kind, family, batch and backend; the precision is shown where rows differ in it."""
    rows = calls_in(report)
    varying = len({row["precision"] for row in rows}) > 1
    floors: dict[Any, float] = {}  # ms: the least that any backend had for the same step
    step_of = operator.itemgetter("kind", "family", "batch", "precision")
    for row in rows:
        floors[step_of(row)] = min(floors.get(step_of(row), math.inf), row["floor_ms_per_step"])
    cells = [
        {"kind": row["kind"], "family": row["family"], "batch": f"{row['batch']:,}"}
        | ({"precision": row["precision"]} if varying else {})
        | {
            "backend": row["backend"],
            "ms/step (IQR)": f"{row['ms_per_step']:.3g} ({row['iqr_ms_per_step']:.2g})",
            "examples/s": f"{row['examples_per_s']:,.0f}",
            "step / floor": f"{row['floor_ratio']:.2f}",
            "step / fastest floor": f"{row['ms_per_step'] / floors[step_of(row)]:.2f}",
            "rounds": str(row["rounds"]),
        }
        for row in rows
    ]
    notes = []
    if loud := [row for row in rows if row["iqr_ms_per_step"] > spread.BOUND * row["ms_per_step"]]:
        which = ", ".join(f"{row['kind']} {row['family']} {row['batch']} {row['backend']}" for row in loud)
        notes.append(f"- Their rounds spread over more than {spread.BOUND:.0%} of their median: {which}.")
    notes.append(f"- Between rounds {cores.said([trip for row in rows for trip in row.get('round_trips_ns', [])])}.")
    notes.append(f"- {reports.where(report['environment'], setting=setting(report, rows))}.")
    table = table_of(cells, left=("kind", "family", "precision", "backend"))
    return [table, spread.statement("timing.md#the-timing-contract"), "\n".join(notes)]


def setting(report: Report, rows: Iterable[Row]) -> str:
    """The device and the rows' precision, as a note under their table says it."""
    precisions = {row["precision"] for row in rows}
    (alone,) = precisions if len(precisions) == 1 else (f"{FULL} unless a row says otherwise",)
    return f"{report['device']}, {alone}"


def machine_parts(report: Report) -> list[Part]:
    """The machine's limits, and each training step's two floors."""
    result: list[Part] = []
    best, steps = limits(report), training_steps(report)
    if steps:
        figure = f"figures/{reports.of_device(FIGURE, report['device'])}.png"
        title = "GFLOP/s of each training step against its arithmetic intensity, under the machine's matrix rate and bandwidth"
        result.append(f"![{title}]({figure})")
    rows = []
    for row in rows_in(report):
        if row["kind"] == "matrix":
            name = "product of 2048 × 2048 matrices" + ("" if row["precision"] == FULL else f", {row['precision']}")
            rows.append((name, row["backend"], f"{row['rate'] / 1e9:,.0f} GFLOP/s"))
        if row["kind"] == "launch" and row["precision"] == FULL:
            rows.append(("an empty launch", row["backend"], f"{1e3 * row['ms_per_step']:.3g} µs"))
    if "copy" in best:
        by = "NumPy, all cores" if report["device"] == "cpu" else "the fastest"
        rows.append(("copy in memory, read and written", by, f"{best['copy'] / 1e9:,.1f} GB/s"))
    result.append(Table(columns=("of the machine", "backend", "measured"), rows=rows, left=("of the machine", "backend")))
    if steps:
        cells = [
            {
                "training step": step["family"],
                "batch": f"{step['batch']:,}",
                "backend": step["backend"],
                "FLOP / byte": f"{step['intensity']:.1f}",
                "GFLOP/s": f"{step['rate'] / 1e9:,.0f}",
                "of the limit there": f"{step['rate'] / min(best['matrix'], step['intensity'] * best['copy']):.0%}",
                "products (ms)": f"{step['floor_ms_per_step']:.3g}",
                "bytes (ms)": f"{1e3 * step['bytes'] / best['copy']:.3g}",
            }
            for step in steps
        ]
        result.append(table_of(cells, left=("training step", "backend")))
    used = [row for row in rows_in(report) if row["kind"] in MACHINE or (steps and row["precision"] == FULL)]
    where = reports.where(report["environment"], setting=setting(report, used))
    return [*result, spread.statement("timing.md#the-timing-contract"), f"- {where}."]


def table_of(cells: list[dict[str, str]], *, left: tuple[str, ...]) -> Table:
    """A table of rows that name their columns; at least one row."""
    return Table(columns=list(cells[0]), rows=[list(row.values()) for row in cells], left=left)


BLOCKS = {
    "throughput": ("throughput", call_parts),
    "machine": ("throughput", machine_parts),
    "throughput-cuda": ("throughput-cuda", call_parts),
    "machine-cuda": ("throughput-cuda", machine_parts),
}


# --- the roofline ---


def limits(report: Report) -> dict[str, float]:
    """matrix, FLOP/s: the fastest backend's large product; copy, bytes/s: the fastest measurement. Absent if not measured."""
    best: dict[str, float] = {}
    for row in rows_in(report):
        if row["kind"] in ("matrix", "copy") and row["precision"] == FULL:
            best[row["kind"]] = max(best.get(row["kind"], 0.0), row["rate"])
    return best


def training_steps(report: Report) -> list[Row]:
    """The training steps in float32: intensity, FLOP per byte; rate, FLOP/s; bytes that a step must move.

    None where the machine's limits weren't both measured.
    """
    steps = []
    for row in rows_in(report) if len(limits(report)) == 2 else ():
        if row["kind"] == "train" and row["precision"] == FULL:
            settings = STANDARD.replace(variational=row["family"], batch_size=row["batch"])
            flop, moved = floor.flop(settings), floor.moved(settings)
            steps.append(row | {"intensity": flop / moved, "rate": flop / (1e-3 * row["ms_per_step"]), "bytes": moved})
    return steps


def draw(report: Report, path: Path) -> None:
    """The roofline. Raises `UserError` where the report lacks the machine's limits or any training step."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    best, steps = limits(report), training_steps(report)
    if not steps:
        raise UserError("The report 'throughput' lacks training steps or the machine's limits; measure it whole, without -k.")
    matrix, copy = best["matrix"] / 1e9, best["copy"] / 1e9
    ridge = matrix / copy
    low = 0.7 * min(step["intensity"] for step in steps)
    high = 1.6 * max(*(step["intensity"] for step in steps), 2 * ridge)
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    label = f"{matrix:.0f} GFLOP/s of products, {copy:.1f} GB/s of copying"
    axes.loglog([low, ridge, high], [low * copy, matrix, matrix], color="black", label=label)
    for backend, (family, marker) in itertools.product(BACKENDS, MARKERS.items()):
        line = sorted((s for s in steps if (s["backend"], s["family"]) == (backend, family)), key=lambda s: s["batch"])
        if line:
            rates, colour = [step["rate"] / 1e9 for step in line], OF_BACKEND[backend]
            face = colour if family == "flow" else "white"
            style: dict[str, Any] = {"marker": marker, "linestyle": ":", "color": colour, "markerfacecolor": face}
            axes.plot([step["intensity"] for step in line], rates, label=f"{backend}, {family}", **style)
    for batch, intensity in {s["batch"]: s["intensity"] for s in steps if s["family"] == "mean-field"}.items():
        axes.axvline(intensity, color="0.9", zorder=0)
        above: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "fontsize": 8, "ha": "center", "va": "bottom"}
        axes.annotate(f"batch {batch}", (intensity, 1.0), **above)
    axes.set_xlabel("arithmetic intensity of a training step (FLOP per byte that it must move)")
    axes.set_ylabel("GFLOP/s")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(ScalarFormatter())
        axis.set_minor_formatter(NullFormatter())
    figure.legend(fontsize=8, loc="outside lower center", ncols=4)
    save(figure, path, dpi=120)
