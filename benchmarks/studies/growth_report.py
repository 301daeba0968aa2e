"""What the report 'growth' says: a table an axis, and a picture of them all."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

from benchmarks.harness import cores, reports, spread
from benchmarks.studies.roofline import COLOURS, WORD
from common.files import write_whole

MIB = 2**20
SETTINGS = {"batch": "batch", "hidden": "hidden size", "depth": "flow depth", "samples": "K"}

Row = dict[str, Any]


def rows(report: dict[str, Any], axis: str) -> list[Row]:
    """A row a value, family and backend: each figure's median over the repeats, and as `ranges` its least and most."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for point in report["points"]:
        if point["axis"] == axis:
            memory = point["memory"]
            flat = point | {"peak": taken(memory, "compiling", "working"), "device_peak": memory.get("device")}
            groups.setdefault(tuple(point[key] for key in ("value", "family", "backend")), []).append(flat)
    result: list[Row] = []
    for points in groups.values():
        row = dict(points[0]) | {"ranges": {}}
        for name, value in points[0].items():
            if isinstance(value, int | float) and name != "value" and all(point[name] is not None for point in points):
                values = [point[name] for point in points]
                row[name] = statistics.median(values)
                row["ranges"][name] = (min(values), max(values))
        before = [other for other in result if (other["family"], other["backend"]) == (row["family"], row["backend"])]
        row["exponent"] = exponent(before[-1], row) if before else None
        result.append(row)
    return result


def taken(memory: dict[str, Any], *phases: str) -> int | None:
    """Bytes: the most of these phases, over what the process held after importing the framework."""
    highest = [memory[phase] for phase in phases]
    return None if None in highest else max(highest) - memory["imported"]


def exponent(before: Row, row: Row) -> float:
    """e of: the time of a step, or of K samples, grows as (what grows)^e, between two values."""
    seconds = [r["value"] / r["examples_per_s"] if r["axis"] == "samples" else r["step_s"] for r in (before, row)]
    return math.log(seconds[1] / seconds[0]) / math.log(row["value"] / before["value"])


def updated_ms(report: dict[str, Any], row: Row) -> float:
    """Of moving what Adam must: each parameter's value, gradient and two moments, three of them written again."""
    return float(1e3 * 7 * WORD * row["parameters"] / report["copy_bytes_per_s"])


def table(report: dict[str, Any], *, axis: str) -> str:
    """The axis's block in docs/growth.md."""
    found, training = rows(report, axis), axis != "samples"
    if not found:
        return "Not measured yet.\n"
    columns = [SETTINGS[axis], "family", "backend", "examples/s" if training else "samples/s", "exponent"]
    columns += ["step (ms)", "products (ms)"] if training else ["block (ms)", "products (ms)"]
    columns += ["GFLOP/s of products"] if training else []
    columns += ["Adam's bytes (ms)"] if training and report["copy_bytes_per_s"] else []
    columns += ["cores busy", "mapped anew (MiB)", "compile (s)", "state (MiB)", "peak memory (MiB)"]
    columns += ["of the GPU (MiB)"] if report["device"] != "cpu" else []
    lines = [f"| {' | '.join(columns)} |", f"| ---: | --- | --- |{' ---: |' * (len(columns) - 3)}"]
    for row in found:
        cells = [f"{row['value']:,}", row["family"], row["backend"], ranged(row, "examples_per_s", ",.0f")]
        cells += ["–" if row["exponent"] is None else f"{row['exponent']:.2f}"]
        cells += [f"{1e3 * row['step_s']:.3g}", f"{1e3 * row['floor_step_s']:.3g}"]
        if training:
            cells += [f"{row['flop'] / row['floor_step_s'] / 1e9:,.0f}"]
            cells += [f"{updated_ms(report, row):.3g}"] if report["copy_bytes_per_s"] else []
        cells += [f"{row['cores_busy']:.2f}", f"{row['faults_per_step'] * report['page_bytes'] / MIB:.1f}"]
        cells += [ranged(row, "compile_s", ".2f")]
        cells += [f"{3 * WORD * row['parameters'] / MIB:,.0f}"]
        cells += [ranged(row, "peak", ",.0f", unit=MIB)]
        cells += [ranged(row, "device_peak", ",.0f", unit=MIB)] if report["device"] != "cpu" else []
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def ranged(row: Row, name: str, form: str, *, unit: float = 1) -> str:
    """The median, and the least and most of the repeats where there are several."""
    if row[name] is None:
        return "not measured"
    low, high = row["ranges"][name]
    if low == high:
        return f"{low / unit:{form}}"
    return f"{row[name] / unit:{form}} ({low / unit:{form}}–{high / unit:{form}})"


def measured(report: dict[str, Any]) -> str:
    """The block under the tables: on what, and how."""
    known = [f"{size / 2**10:,.0f} KiB of {level}" for level, size in report["caches"].items()]
    facts = [", ".join(known) or "caches not known"]
    machine = reports.machine(report["environment"], setting=f"{report['device']}, float32")
    if report["copy_bytes_per_s"]:
        facts.append(f"a copy in memory by all cores, read and written, {report['copy_bytes_per_s'] / 1e9:.1f} GB/s")
    lines = [spread.statement("timing.md#the-timing-contract", spread="least and most over processes"), ""]
    lines.append(f"- {report['repeats']} processes a point: medians, and in brackets the least and the most.")
    lines.append(f"- Of the machine: {'; '.join(facts)}.")
    trips = [trip for point in report["points"] for trip in point["round_trips_ns"]]
    lines.append(f"- At both ends of each round {cores.said(trips)}.")
    lines.append(f"- {machine}; commit {', '.join(report['commits'])}.")
    if report["device"] == "cpu":
        lines.append("- On a GPU, and of its own memory: not measured.")
    return "\n".join(lines) + "\n"


# --- the picture ---

FIGURES = {"examples_per_s": "examples/s", "compile_s": "compile (s)", "peak": "peak memory over import (MiB)"}


def draw(report: dict[str, Any], path: Path) -> None:
    """A column a setting that grows, a row a figure; the picture of `docs/growth.md`."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

    grown = [axis for axis in SETTINGS if rows(report, axis)]
    every = [row for axis in grown for row in rows(report, axis)]
    most = {name: max((row[name] for row in every if row[name] is not None), default=1.0) for name in FIGURES}
    figure = Figure(figsize=(3.2 * len(grown), 8), layout="constrained")
    panels = figure.subplots(len(FIGURES), len(grown), sharex="col", squeeze=False)
    for axis, column in zip(grown, panels.T, strict=True):
        found = rows(report, axis)
        for name, panel in zip(FIGURES, column, strict=True):
            lines(panel, found, name, unit=MIB if name == "peak" else 1)
            panel.set_xscale("log")
            panel.set_yscale("log")
            panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panel.yaxis.set_major_formatter(FuncFormatter(plain))
            panel.yaxis.set_minor_locator(NullLocator())
            panel.grid(alpha=0.3)
        floor(column[0], found)
        column[1].set_yscale("symlog", linthresh=0.5, linscale=0.4)  # PyTorch's is zero, or noise
        column[1].set_ylim(-0.1, 1.5 * most["compile_s"])
        column[1].yaxis.set_major_locator(FixedLocator([0, 0.5, 1, 2, 5, 10, 20]))
        column[1].yaxis.set_major_formatter(FuncFormatter(plain))
        column[2].set_ylim(50, 1.5 * most["peak"] / MIB)
        values = sorted({row["value"] for row in found})
        column[2].xaxis.set_major_locator(FixedLocator(values))
        column[2].xaxis.set_minor_locator(NullLocator())
        column[2].xaxis.set_major_formatter(FuncFormatter(plain))
        column[2].tick_params(axis="x", labelsize=8)
        column[2].set_xlabel(SETTINGS[axis])
        column[0].set_title(f"{found[0]['family']}: {SETTINGS[axis]}", fontsize=10)
        if axis == "samples":
            column[0].set_ylabel("samples/s")
    for panel, label in zip(panels[:, 0], FIGURES.values(), strict=True):
        panel.set_ylabel(label)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9)

    def to(temporary: Path) -> None:
        figure.savefig(temporary, dpi=110)

    write_whole(path, to)


def plain(value: float, _: int) -> str:
    """1,000 rather than 10^3."""
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"


def lines(panel: Any, found: list[Row], name: str, *, unit: float) -> None:
    """A line a backend, with its repeats' range."""
    for colour, backend in zip(COLOURS, dict.fromkeys(row["backend"] for row in found), strict=False):
        line = [row for row in found if row["backend"] == backend and row[name] is not None]
        panel.errorbar(
            [row["value"] for row in line],
            [row[name] / unit for row in line],
            yerr=[[abs(row["ranges"][name][side] - row[name]) / unit for row in line] for side in (0, 1)],
            color=colour,
            marker="o",
            markersize=4,
            linewidth=1.2,
            label=backend,
        )


def floor(panel: Any, found: list[Row]) -> None:
    """The products alone, in the backend that is fastest at them."""
    best: dict[int, float] = {}
    for row in found:
        best[row["value"]] = max(best.get(row["value"], 0.0), row["floor_examples_per_s"])
    panel.plot(
        list(best), list(best.values()), color="black", linestyle=":", linewidth=1.2, label="products alone, the fastest"
    )
