"""Examples/s, compile time and peak memory as batch, hidden size, flow depth or K grows.

One setting grows at a time, from `standard`'s, or for the residual network from `resnet`'s. Each point is a fresh process, and
the backends take turns at each value: A B C at the first value, A B C at the second …, the whole `--repeats` times. A point
times a chunk of training; a point of K times what `evaluate` does, log weights streamed by the estimator in blocks of samples.

Memory is the process's resident set, whose peak the system keeps and can reset. The model's memory is the peak while the model
compiles and works, less the resident set after importing the framework; the floor's own matrices are made later. On a GPU the
framework tells the peak of the device's memory.
"""

from __future__ import annotations

import functools
import itertools
import math
import mmap
import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import psutil
import tyro

from benchmarks.harness import cores, processes, reports, spread
from benchmarks.harness.cases import Bench, Case, host_copy
from benchmarks.harness.cli import Backends, OnDevice
from benchmarks.harness.floor import WORD, flop, forward
from benchmarks.harness.memory import forget_peak, peak, resident
from benchmarks.harness.presets import RESNET, STANDARD
from benchmarks.outputs import figures
from benchmarks.outputs.table import Part, Table, ranged
from benchmarks.studies import skeleton
from benchmarks.studies.skeleton import Measured, Point, Result
from common import cache, estimators, protocol
from common.clock import timed
from common.config import Config, Variational
from common.errors import UserError
from common.parameters import shapes

AxisName = Literal["batch", "hidden", "depth", "samples", "channels", "blocks"]


@dataclass(frozen=True)
class Axis:
    """A setting that grows, its family and the other settings: with one family each, the study takes hours on two cores."""

    setting: str  # of common/config.py
    label: str
    values: tuple[int, ...]
    family: Variational
    base: Config = STANDARD


AXES: dict[AxisName, Axis] = {
    "batch": Axis("batch_size", "batch", (8, 32, 128, 512, 2048, 8192), "mean-field"),
    "hidden": Axis("hidden_size", "hidden size", (128, 256, 512, 1024, 2048, 4096), "mean-field"),
    "depth": Axis("flow_depth", "flow depth", (1, 2, 4, 8, 16), "flow"),
    "samples": Axis("samples", "K", (1, 10, 100, 1000, 5000), "flow"),
    "channels": Axis("channels", "channels", (8, 16, 32, 64), "mean-field", RESNET),
    "blocks": Axis("blocks", "blocks", (1, 2, 4), "mean-field", RESNET),
}

CALL_FLOP = 2e10  # of the products of a timed call of training: many small steps share one synchronisation
LEAST_STEPS, MOST_STEPS = 4, 256
IMAGES = 10  # that K samples each are drawn for
LEAST_BLOCKS = 40  # of samples a timed call: one block takes 4 ms, and any interruption would show
LEAST_ROUNDS = 4
OTHERS_BOUND, TRIES = 0.2, 3  # a point is measured again if other processes kept more cores than this busy
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
MIB = 2**20

Row = dict[str, Any]


@dataclass(kw_only=True)
class Arguments(skeleton.Arguments):
    axis: Annotated[tuple[AxisName, ...], tyro.conf.arg(help="What grows; all by default.")] = tuple(AXES)
    backend: Backends = ()
    device: OnDevice = "cpu"
    repeats: Annotated[int, tyro.conf.arg(help="Fresh processes a point, each after all the others' turn.")] = 2
    seconds: Annotated[float, tyro.conf.arg(help="Time for the rounds of one point; there are at least four.")] = 1.0


def check(asked: Arguments) -> None:
    if asked.repeats < 1 or not asked.axis:
        raise UserError("There is nothing to measure; give --repeats 1 or more, and at least one --axis.")


def plan(asked: Arguments) -> dict[str, Point]:
    """Every point, in the order in which they are measured."""
    points: dict[str, Point] = {}
    for repeat, axis in itertools.product(range(asked.repeats), asked.axis):
        family = AXES[axis].family
        for value, backend in itertools.product(AXES[axis].values, asked.backend):
            point: Point = {"axis": axis, "value": value, "family": family, "backend": backend, "repeat": repeat}
            title = f"{axis}-{value}_{family}_{backend}_{repeat}"
            points[title] = point | {"device": asked.device, "seconds": asked.seconds}
    return points


# --- one point ---


def run(point: Point) -> Result:
    """The first of TRIES measurements that other processes left alone, or else the least disturbed one."""
    title = f"{point['axis']} {point['value']}, {point['backend']}"
    tries: list[Result] = []
    while len(tries) < TRIES and all(result["others_busy"] > OTHERS_BOUND for result in tries):
        # No cache of compiled programs: compile_s is measured.
        tries.append(processes.ask(f"{__name__}:measure", point, title=title, variables={cache.SWITCH: "0"}))
    return min(tries, key=lambda result: float(result["others_busy"]))


def usage() -> np.ndarray:
    """Seconds: of the clock; of work on all cores, stolen by the host's other machines included; of this process's work.

    The process's work includes that of its ended children, such as a compiler.
    """
    times = psutil.cpu_times()._asdict()
    idle = ("idle", "iowait", "guest", "guest_nice")  # a guest's time is in the user's too
    work = sum(seconds for name, seconds in times.items() if name not in idle)
    return np.array([time.perf_counter(), work, sum(os.times()[:4])])


def others_since(before: np.ndarray) -> float:
    """Cores that other processes kept busy since this `usage`."""
    clock, work, own = usage() - before
    return max(float((work - own) / clock), 0.0)


def work_of(bench: Bench, axis: str) -> Case:
    """What a point of this axis times."""
    config = bench.config
    if axis != "samples":
        steps = int(np.clip(CALL_FLOP / flop(config), LEAST_STEPS, MOST_STEPS))
        return bench.case("train", config.training.batch_size, steps=steps)
    evaluation = config.evaluation
    block = min(evaluation.samples, evaluation.sample_block)
    blocks = -(-evaluation.samples // block)
    times = -(-LEAST_BLOCKS // blocks)
    estimate = functools.partial(
        estimators.estimate,
        bench.session,
        bench.handle,
        images=np.arange(IMAGES, dtype=np.int32),
        samples=evaluation.samples,
        image_batch=evaluation.image_batch,
        sample_block=evaluation.sample_block,
        seed=0,
        report=lambda done: None,
    )
    products = list(forward(config.model, batch=IMAGES, samples=block).values())
    return Case(
        work=lambda: [estimate() for _ in range(times)],
        synchronize=bench.session.synchronize,
        steps=times * blocks,
        examples=IMAGES * block,
        prepare=lambda: bench.products(products),
    )


def settings(point: Point, base: Config | None = None) -> Config:
    """`base`, by default the axis's, but for what grows."""
    axis = AXES[point["axis"]]
    return (base or axis.base).replace(**{axis.setting: point["value"]})


def measure(point: Point, base: Config | None = None) -> Result:
    """The point's figures.

    examples_per_s (for K, samples · images a second) and floor_examples_per_s are of the median round. first_call_s is the time
    of a first call of `steps` steps, compile_s what it took beyond a median call. cores_busy is the process's time on all cores
    over the clock's, faults_per_step the pages that the system had to map; both in the second and third call, which are no
    rounds. others_busy is the cores that other processes kept busy, in the first three calls or in a mean round, the greater;
    round_trips_ns is how far apart the cores were at both ends of each round. `parameters` counts the arrays' elements, masked
    ones too. Memory in bytes: `imported` with the framework imported; `set_up` with the data, the state and the model placed;
    `compiling` and `working` the highest during the first call and during the next two, None where the system doesn't say;
    `device` the peak of a GPU's own memory until then, None on a CPU.
    """
    import resource  # not on Windows

    def effort() -> np.ndarray:
        """Seconds of this process's work on all cores, and the pages of memory mapped for the process, none from a disk."""
        return np.array([time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt])

    device = point["device"]
    protocol.load(point["backend"])
    imported = resident()
    bench, setup_s = timed(
        lambda: Bench(point["backend"], point["family"], device=device, settings=settings(point, base)),
        synchronize=lambda: None,
    )
    case = work_of(bench, point["axis"])
    set_up = resident()
    begun = usage()
    forget_peak()
    first_s = case.seconds()
    compiling = peak()
    forget_peak()
    before_warm = effort()
    warm_s = case.seconds() + case.seconds()
    (cpu_s, faults), working = (effort() - before_warm).tolist(), peak()
    others_first = others_since(begun)
    device_peak = protocol.probes(point["backend"]).device_peak(device)
    case.floor_seconds()  # compiles

    def once() -> tuple[float, float, float]:
        case.least(1)  # the first work after an idle moment takes some ms more
        before = usage()
        return case.floor_seconds(), case.seconds(), others_since(before)

    rounds: list[tuple[float, float, float]] = []  # seconds of the products and of the work; cores that others kept busy
    trips: list[cores.RoundTrip] = []
    while sum(floor_s + work_s for floor_s, work_s, _ in rounds) < point["seconds"] or len(rounds) < LEAST_ROUNDS:
        found, ends = cores.together(once)  # each round: the cores may move during a point
        rounds.append(found)
        trips += ends
    floors, seconds, others = np.array(rounds).T
    low, median, high = np.percentile(seconds, [25, 50, 75]).tolist()
    floor_median, examples = float(np.median(floors)), case.steps * case.examples
    return {
        "steps": case.steps,
        "rounds": len(rounds),
        "step_s": median / case.steps,
        "step_s_iqr": (high - low) / case.steps,
        "examples_per_s": examples / median,
        "floor_step_s": floor_median / case.steps,
        "floor_examples_per_s": examples / floor_median,
        "first_call_s": first_s,
        "compile_s": max(first_s - median, 0.0),
        "setup_s": setup_s,
        "cores_busy": cpu_s / warm_s,
        "others_busy": max(others_first, float(others.mean())),
        "round_trips_ns": trips,
        "faults_per_step": faults / (2 * case.steps),
        "parameters": sum(math.prod(shape) for shape in shapes(bench.config.model).values()),
        "flop": flop(bench.config) if point["axis"] != "samples" else None,
        "memory": {"imported": imported, "set_up": set_up, "compiling": compiling, "working": working, "device": device_peak},
    }


# --- the report ---


def content(asked: Arguments, measured: Measured) -> dict[str, Any]:
    return {
        "device": asked.device,
        "seconds": asked.seconds,
        "repeats": asked.repeats,
        "images": IMAGES,
        "copy_bytes_per_s": copy_bytes_per_s() if asked.device == "cpu" else None,
        "caches": caches(),
        "page_bytes": mmap.PAGESIZE,
        "points": [point | result for point, result in measured],
    }


def copy_bytes_per_s() -> float:
    """Read and written by all cores; the median of five copies."""
    copy, copied = host_copy(cores.count())
    return copied / statistics.median(timed(copy, synchronize=lambda: None)[1] for _ in range(5))


def caches() -> dict[str, int]:
    """Bytes of the first core's data cache of each level; a cache whose size the system doesn't tell is left out."""
    found = {}
    for folder in sorted(CACHES.glob("index*")):
        try:
            kind, level, size = ((folder / name).read_text(encoding="ascii").strip() for name in ("type", "level", "size"))
        except FileNotFoundError:  # a virtual machine's may lack it
            continue
        if kind != "Instruction":
            found[f"L{level}"] = int(size.removesuffix("K")) * 1024
    return found


def rows(report: dict[str, Any], axis: str) -> list[Row]:
    """A row a value, family and backend: each figure's median over the repeats; `ranges` has each figure's values."""
    points = [
        point | {"peak": taken(point["memory"], "compiling", "working"), "device_peak": point["memory"].get("device")}
        for point in report["points"]
        if point["axis"] == axis
    ]
    result: list[Row] = []
    before: dict[tuple[Any, ...], Row] = {}
    for (_, *line), group in skeleton.grouped(points, "value", "family", "backend").items():
        measured = [name for name, value in group[0].items() if isinstance(value, int | float) and name != "value"]
        columns = {name: [point[name] for point in group] for name in measured}
        known = {name: values for name, values in columns.items() if None not in values}
        row = group[0] | {name: statistics.median(values) for name, values in known.items()} | {"ranges": known}
        row["exponent"] = exponent(before[*line], row) if (*line,) in before else None
        before[*line] = row
        result.append(row)
    return result


def taken(memory: dict[str, Any], *phases: str) -> int | None:
    """Bytes: the most of these phases, over what the process held after importing the framework."""
    highest = [memory[phase] for phase in phases]
    return None if None in highest else max(highest) - memory["imported"]


def exponent(before: Row, row: Row) -> float:
    """e in: the time of a step, or of K samples, grows as (setting)^e from one row's value to the next."""
    seconds = [r["value"] / r["examples_per_s"] if r["axis"] == "samples" else r["step_s"] for r in (before, row)]
    return math.log(seconds[1] / seconds[0]) / math.log(row["value"] / before["value"])


def table(report: dict[str, Any], axis: AxisName) -> list[Part]:
    """The axis's block in docs/growth.md."""
    found, training, gpu = rows(report, axis), axis != "samples", report["device"] != "cpu"
    if not found:
        return ["Not measured yet."]

    def cells(row: Row) -> dict[str, str]:
        result = {
            AXES[axis].label: f"{row['value']:,}",
            "family": row["family"],
            "backend": row["backend"],
            "examples/s" if training else "samples/s": median_of(row, "examples_per_s", ",.0f"),
            "exponent": "–" if row["exponent"] is None else f"{row['exponent']:.2f}",
            "step (ms)" if training else "block (ms)": f"{1e3 * row['step_s']:.3g}",
            "products (ms)": f"{1e3 * row['floor_step_s']:.3g}",
        }
        if training:
            result["GFLOP/s of products"] = f"{row['flop'] / row['floor_step_s'] / 1e9:,.0f}"
        if training and report["copy_bytes_per_s"]:  # each parameter's value, gradient, two moments; three written again
            result["Adam's bytes (ms)"] = f"{1e3 * 7 * WORD * row['parameters'] / report['copy_bytes_per_s']:.3g}"
        result |= {
            "cores busy": f"{row['cores_busy']:.2f}",
            "mapped anew (MiB)": f"{row['faults_per_step'] * report['page_bytes'] / MIB:.1f}",
            "compile (s)": median_of(row, "compile_s", ".2f"),
            "state (MiB)": f"{3 * WORD * row['parameters'] / MIB:,.0f}",
            "peak memory (MiB)": median_of(row, "peak", ",.0f", unit=MIB),
        }
        return result | ({"of the GPU (MiB)": median_of(row, "device_peak", ",.0f", unit=MIB)} if gpu else {})

    lines = [cells(row) for row in found]
    return [Table(columns=list(lines[0]), rows=[list(line.values()) for line in lines], left=("family", "backend"), title=axis)]


def median_of(row: Row, name: str, form: str, *, unit: float = 1) -> str:
    """The median, and the least and most of the repeats where there are several."""
    if row[name] is None:
        return "not measured"
    values = [value / unit for value in row["ranges"][name]]
    if min(values) == max(values):
        return f"{values[0]:{form}}"
    return ranged(row[name] / unit, values, form, to="–")


def remarks(report: dict[str, Any]) -> list[Part]:
    """The block under the tables: on what, and how."""
    known = [f"{size / 2**10:,.0f} KiB of {level}" for level, size in report["caches"].items()]
    facts = [", ".join(known) or "caches not known"]
    if report["copy_bytes_per_s"]:
        facts.append(f"a copy in memory by all cores, read and written, {report['copy_bytes_per_s'] / 1e9:.1f} GB/s")
    trips = [trip for point in report["points"] for trip in point["round_trips_ns"]]
    machine = reports.machine(report["environment"], setting=f"{report['device']}, float32")
    commits = report.get("commits", [reports.commit(report["environment"])])  # one a point, in earlier reports
    lines = [
        f"- {report['repeats']} processes a point: medians, and in brackets the least and the most.",
        f"- Of the machine: {'; '.join(facts)}.",
        f"- At both ends of each round {cores.said(trips)}.",
        f"- {machine}; commit {', '.join(commits)}.",
    ]
    if report["device"] == "cpu":
        lines.append("- On a GPU, and of its own memory: not measured.")
    return [spread.statement("timing.md#the-timing-contract", spread="least and most over processes"), "\n".join(lines)]


def parts(report: dict[str, Any]) -> list[Part]:
    measured = [axis for axis in AXES if rows(report, axis)]
    return [part for axis in measured for part in table(report, axis)] + remarks(report)


BLOCKS = {f"growth-{axis}": ("growth", functools.partial(table, axis=axis)) for axis in AXES} | {"growth": ("growth", remarks)}


# --- the figure ---

FIGURES = {"examples_per_s": "examples/s", "compile_s": "compile (s)", "peak": "peak memory over import (MiB)"}


def draw(report: dict[str, Any], path: Path) -> None:
    """A column for each setting that grows, a row for each of FIGURES."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, LogLocator

    by_axis = {axis: found for axis in AXES if (found := rows(report, axis))}
    every = [row for found in by_axis.values() for row in found]
    most = {name: max((row[name] for row in every if row[name] is not None), default=1.0) for name in FIGURES}
    figure = Figure(figsize=(3.2 * len(by_axis), 8), layout="constrained")
    panels = figure.subplots(len(FIGURES), len(by_axis), sharex="col", squeeze=False)
    for (axis, found), (speed, compiling, memory) in zip(by_axis.items(), panels.T, strict=True):
        for name, panel in zip(FIGURES, (speed, compiling, memory), strict=True):
            lines(panel, found, name, unit=MIB if name == "peak" else 1)
            panel.set(xscale="log", yscale="log")
            figures.ticks(panel.yaxis, LogLocator(subs=(1, 2, 5)))
            panel.grid(alpha=0.3)
        best: dict[int, float] = {}
        for row in found:
            best[row["value"]] = max(best.get(row["value"], 0.0), row["floor_examples_per_s"])
        label = "products alone, the fastest"
        speed.plot(list(best), list(best.values()), color="black", linestyle=":", linewidth=1.2, label=label)
        speed.set_title(f"{found[0]['family']}: {AXES[axis].label}", fontsize=10)
        if axis == "samples":
            speed.set_ylabel("samples/s")
        compiling.set_yscale("symlog", linthresh=0.5, linscale=0.4)  # some are zero, or noise
        compiling.set_ylim(-0.1, 1.5 * most["compile_s"])
        figures.ticks(compiling.yaxis, FixedLocator([0, 0.5, 1, 2, 5, 10, 20]))
        memory.set_ylim(50, 1.5 * most["peak"] / MIB)
        figures.ticks(memory.xaxis, FixedLocator(sorted(best)))
        memory.tick_params(axis="x", labelsize=8)
        memory.set_xlabel(AXES[axis].label)
    for panel, label in zip(panels[:, 0], FIGURES.values(), strict=True):
        panel.set_ylabel(label)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9)
    figures.save(figure, path)


def lines(panel: Any, found: list[Row], name: str, *, unit: float) -> None:
    """A line a backend, with its repeats' range."""
    for colour, backend in zip(figures.COLOURS, dict.fromkeys(row["backend"] for row in found), strict=False):
        line = [row for row in found if row["backend"] == backend and row[name] is not None]
        panel.errorbar(
            [row["value"] for row in line],
            [row[name] / unit for row in line],
            yerr=[[abs(end(row["ranges"][name]) - row[name]) / unit for row in line] for end in (min, max)],
            color=colour,
            marker="o",
            markersize=4,
            linewidth=1.2,
            label=backend,
        )
