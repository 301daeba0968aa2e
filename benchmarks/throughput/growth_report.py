"""What the report 'growth' says: a table an axis, and a picture of them all."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

from benchmarks import clock, reports
from benchmarks.throughput.roofline import COLOURS, MARKERS, WORD
from common.files import write_whole

PICTURE = "growth.png"
MIB = 2**20
PAGE = 4096  # bytes that a fault maps; the kernel may map several at once
SETTINGS = {"batch": "batch", "hidden": "hidden size", "depth": "flow depth", "samples": "K"}

Row = dict[str, Any]


def rows(report: dict[str, Any], axis: str) -> list[Row]:
    """A row a value, family and backend: each figure's median over the repeats, and as `ranges` its least and most."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for point in report["points"]:
        if point["axis"] == axis:
            flat = point | {"peak": taken(point["memory"], "compiling", "working")}
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
    """e of: the call's time grows as (what grows)^e, between two values."""
    seconds = [r["step_s"] * r["steps"] if r["axis"] == "samples" else r["step_s"] for r in (before, row)]
    return math.log(seconds[1] / seconds[0]) / math.log(row["value"] / before["value"])


def updated_ms(report: dict[str, Any], row: Row) -> float:
    """Of moving what Adam must: each parameter's value, gradient and two moments, three of them written again."""
    return float(1e3 * 7 * WORD * row["parameters"] / report["copy_bytes_per_s"])


def table(report: dict[str, Any], *, axis: str) -> str:
    """The axis's block in docs/growth.md."""
    training = axis != "samples"
    columns = [SETTINGS[axis], "family", "backend", "examples/s" if training else "samples/s", "time grows as"]
    columns += ["step (ms)", "products (ms)"] if training else ["block (ms)", "products (ms)"]
    columns += ["GFLOP/s of products", "Adam's bytes (ms)"] if training else []
    columns += ["cores busy", "mapped anew (MiB)", "compile (s)", "state (MiB)", "peak memory (MiB)"]
    lines = [f"| {' | '.join(columns)} |", f"| ---: | --- | --- |{' ---: |' * (len(columns) - 3)}"]
    for row in rows(report, axis):
        cells = [f"{row['value']:,}", row["family"], row["backend"], ranged(row, "examples_per_s", ",.0f")]
        cells += ["–" if row["exponent"] is None else f"{SETTINGS[axis]}^{row['exponent']:.2f}"]
        cells += [f"{1e3 * row['step_s']:.3g}", f"{1e3 * row['floor_step_s']:.3g}"]
        if training:
            cells += [f"{row['flop'] / row['floor_step_s'] / 1e9:,.0f}", f"{updated_ms(report, row):.3g}"]
        cells += [f"{row['cores_busy']:.2f}", f"{row['faults_per_step'] * PAGE / MIB:.3g}"]
        cells += [ranged(row, "compile_s", ".2f")]
        cells += [f"{3 * WORD * row['parameters'] / MIB:,.0f}"]
        cells += [ranged(row, "peak", ",.0f", unit=MIB)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def ranged(row: Row, name: str, form: str, *, unit: float = 1) -> str:
    """The median, and the least and most of the repeats."""
    if row[name] is None:
        return "not measured"
    low, high = row["ranges"][name]
    return f"{row[name] / unit:{form}} ({low / unit:{form}}–{high / unit:{form}})"


def measured(report: dict[str, Any]) -> str:
    """The block under the tables: on what, and how."""
    names = ", ".join(f"{size / 2**10:,.0f} KiB of {level}" for level, size in report["caches"].items())
    machine = reports.machine(report["environment"], setting=f"{report['device']}, float32")
    copy = f"a copy in memory by all cores, read and written, {report['copy_bytes_per_s'] / 1e9:.1f} GB/s"
    lines = [clock.statement("timing.md#the-timing-contract"), ""]
    lines.append(f"- {report['repeats']} processes a point: medians, and in brackets the least and the most.")
    lines.append(f"- Of the machine: {names or 'caches not known'}; {copy}.")
    lines.append(f"- {machine}; commit {', '.join(report['commits'])}.")
    lines.append("- A device's own memory: not measured; the backends' contract has no call that tells it.")
    if report["device"] == "cpu":
        lines.append("- On a GPU: not measured.")
    return "\n".join(lines) + "\n"


# --- the picture ---


def draw(report: dict[str, Any], path: Path) -> None:
    """A column a setting that grows, a row a figure, all on logarithmic axes."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes_of = [axis for axis in SETTINGS if rows(report, axis)]
    figure = Figure(figsize=(3.4 * len(axes_of), 8.4), layout="constrained")
    panels = figure.subplots(3, len(axes_of), sharex="col", squeeze=False)
    for column, axis in enumerate(axes_of):
        found = rows(report, axis)
        for (name, unit), panel in zip(
            (("examples_per_s", 1), ("compile_s", 1), ("peak", MIB)), panels[:, column], strict=True
        ):
            lines(panel, found, name, unit=unit)
            panel.set_xscale("log")
            panel.set_yscale(
                *("symlog",) if name == "compile_s" else ("log",), **({"linthresh": 0.1} if name == "compile_s" else {})
            )
            panel.grid(alpha=0.3)
            panel.yaxis.set_major_formatter(FuncFormatter(plain))
        floors(panels[0, column], found)
        panels[0, column].set_title(f"{SETTINGS[axis]} grows", fontsize=10)
        values = sorted({row["value"] for row in found})
        panels[2, column].xaxis.set_major_locator(FixedLocator(values))
        panels[2, column].xaxis.set_minor_locator(NullLocator())
        panels[2, column].xaxis.set_major_formatter(FuncFormatter(plain))
        panels[2, column].set_xlabel(SETTINGS[axis])
    for panel, label in zip(panels[:, 0], ("examples/s", "compile (s)", "peak memory over import (MiB)"), strict=True):
        panel.set_ylabel(label)
    if axes_of[-1] == "samples":
        panels[0, -1].set_ylabel("samples/s")
    handles: dict[str, Any] = {}
    for panel in panels[0]:
        handles |= dict(zip(*reversed(panel.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=8)

    def to(temporary: Path) -> None:
        figure.savefig(temporary, dpi=110)

    write_whole(path, to)


def plain(value: float, _: int) -> str:
    """1,024 rather than 10^3."""
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"


def lines(panel: Any, found: list[Row], name: str, *, unit: float) -> None:
    """A line a family and backend, with its repeats' range."""
    backends = list(dict.fromkeys(row["backend"] for row in found))
    for family, marker in MARKERS.items():
        for colour, backend in zip(COLOURS, backends, strict=False):
            line = [row for row in found if (row["family"], row["backend"]) == (family, backend) and row[name]]
            if line:
                middle = [row[name] / unit for row in line]
                ends = [[abs(row["ranges"][name][side] - row[name]) / unit for row in line] for side in (0, 1)]
                panel.errorbar(
                    [row["value"] for row in line],
                    middle,
                    yerr=ends,
                    color=colour,
                    marker=marker,
                    markersize=4,
                    markerfacecolor=colour if family == "flow" else "white",
                    linewidth=1.2,
                    elinewidth=0.8,
                    label=f"{backend}, {family}",
                )


def floors(panel: Any, found: list[Row]) -> None:
    """The products alone, in the backend that is fastest at them."""
    for family in dict.fromkeys(row["family"] for row in found):
        values = sorted({row["value"] for row in found if row["family"] == family})
        best = [
            max(row["floor_examples_per_s"] for row in found if (row["family"], row["value"]) == (family, value))
            for value in values
        ]
        line = ":" if family == "flow" else (0, (4, 2))
        panel.plot(values, best, color="black", linestyle=line, linewidth=1, label=f"products alone, {family}")
