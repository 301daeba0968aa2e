"""`python -m benchmarks roofline`: the training steps of the report 'throughput' under the machine's own limits, as a picture.

A step's work is its matrix products, in FLOP (two a multiplication and addition). What it must move, in bytes, is each
product's two factors and its result, once, and for Adam each parameter's value, gradient and two moments, of which it writes
three again.
Arithmetic intensity is the one over the other. No step can be above min(matrix rate, intensity · copy bandwidth)
(Williams, Waterman and Patterson 2009) while neither cache nor fusion saves any of these bytes; one that is above saves some.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Annotated, Any

import tyro

from benchmarks.harness import floor, reports, spread
from benchmarks.harness.cli import parse
from benchmarks.harness.environment import ROOT
from benchmarks.harness.presets import STANDARD
from benchmarks.harness.reports import REPORTS
from common.config import Config, Device
from common.errors import UserError
from common.files import write_whole
from common.parameters import shapes

FIGURES = ROOT / "docs" / "figures"
WORD = 4  # bytes of a float32
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # by order of backends
MARKERS = {"mean-field": "o", "flow": "^"}


def flop(config: Config) -> float:
    """Of one training step's matrix products."""
    return sum(2.0 * m * k * n for m, k, n in floor.products(config))


def moved(config: Config) -> float:
    """Bytes that one training step must read and write: see the module."""
    products = sum(m * k + k * n + m * n for m, k, n in floor.products(config))
    parameters = sum(math.prod(shape) for shape in shapes(config.model).values())
    return float(WORD * (products + 7 * parameters))


def limits(report: dict[str, Any]) -> dict[str, float]:
    """matrix, FLOP/s: the fastest backend's large product; copy, bytes/s: the fastest measurement. Absent if not measured."""
    best: dict[str, float] = {}
    for row in in_float32(report):
        if row["kind"] in ("matrix", "copy"):
            best[row["kind"]] = max(best.get(row["kind"], 0.0), row["rate"])
    return best


def in_float32(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Its rows of that precision: the only one, before there were others."""
    return [row for row in report["rows"] if row.get("precision", "float32") == "float32"]


def points(report: dict[str, Any]) -> list[dict[str, Any]]:
    """A point a training step in float32: intensity, FLOP per byte; rate, FLOP/s."""
    found = []
    for row in in_float32(report):
        if row["kind"] == "train":
            config = STANDARD.replace(variational=row["family"], batch_size=row["batch"])
            rate = flop(config) / (1e-3 * row["ms_per_step"])
            found.append(row | {"intensity": flop(config) / moved(config), "rate": rate, "bytes": moved(config)})
    return found


def markdown(report: dict[str, Any]) -> str:
    """The report's block on the machine, and on each training step's two floors, in docs/timing.md or docs/gpu.md."""
    best = limits(report)
    lines = []
    if len(best) == 2:
        alternative = (
            "GFLOP/s of each training step against its arithmetic intensity, under the machine's matrix rate and bandwidth"
        )
        lines += [f"![{alternative}](figures/{picture(report['device']).name})", ""]
    lines += ["| of the machine | backend | measured |", "| --- | --- | ---: |"]
    for row in report["rows"]:
        if row["kind"] == "matrix":
            precision = "" if row.get("precision", "float32") == "float32" else f", {row['precision']}"
            lines.append(
                f"| product of 2048 × 2048 matrices{precision} | {row['backend']} | {row['rate'] / 1e9:,.0f} GFLOP/s |"
            )
        if row["kind"] == "launch" and row.get("precision", "float32") == "float32":
            lines.append(f"| an empty launch | {row['backend']} | {1e3 * row['ms_per_step']:.3g} µs |")
    if "copy" in best:
        by = "NumPy, all cores" if report["device"] == "cpu" else "the fastest"
        lines.append(f"| copy in memory, read and written | {by} | {best['copy'] / 1e9:,.1f} GB/s |")
    if len(best) == 2:
        lines += [
            "",
            "| training step | batch | backend | FLOP / byte | GFLOP/s | of the limit there | products (ms) | bytes (ms) |",
        ]
        lines += ["| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |"]
        for point in points(report):
            limit = min(best["matrix"], point["intensity"] * best["copy"])
            lines.append(
                f"| {point['family']} | {point['batch']:,} | {point['backend']} | {point['intensity']:.1f} "
                f"| {point['rate'] / 1e9:,.0f} | {point['rate'] / limit:.0%} | {point['floor_ms_per_step']:.3g} "
                f"| {1e3 * point['bytes'] / best['copy']:.3g} |"
            )
    lines += ["", spread.statement("timing.md#the-timing-contract"), ""]
    lines.append(f"- {reports.where(report['environment'], setting=report['device'] + ', float32')}.")
    return "\n".join(lines) + "\n"


def picture(device: str) -> Path:
    return FIGURES / f"{reports.of_device('roofline', device)}.png"


def draw(report: dict[str, Any], path: Path) -> None:
    """The picture. Raises `UserError` where the report lacks the machine's limits or any training step."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import ScalarFormatter

    best, steps = limits(report), points(report)
    if len(best) < 2 or not steps:
        raise UserError("The report 'throughput' lacks training steps or the machine's limits; measure it whole, without -k.")
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    ridge = best["matrix"] / best["copy"]
    low = 0.7 * min(point["intensity"] for point in steps)
    high = 1.6 * max(*(point["intensity"] for point in steps), 2 * ridge)
    axes.loglog(
        [low, ridge, high],
        [low * best["copy"] / 1e9, best["matrix"] / 1e9, best["matrix"] / 1e9],
        color="black",
        label=f"{best['matrix'] / 1e9:.0f} GFLOP/s of products, {best['copy'] / 1e9:.1f} GB/s of copying",
    )
    backends = list(dict.fromkeys(point["backend"] for point in steps))
    for index, backend in enumerate(backends):
        for family, marker in MARKERS.items():
            line = sorted((p for p in steps if (p["backend"], p["family"]) == (backend, family)), key=lambda p: p["batch"])
            if line:
                axes.plot(
                    [p["intensity"] for p in line],
                    [p["rate"] / 1e9 for p in line],
                    marker=marker,
                    linestyle=":",
                    color=COLOURS[index % len(COLOURS)],
                    markerfacecolor=COLOURS[index % len(COLOURS)] if family == "flow" else "white",
                    label=f"{backend}, {family}",
                )
    first = {(p["family"], p["batch"]): p["intensity"] for p in steps}
    for (family, batch), intensity in first.items():
        if family == next(iter(MARKERS)):
            axes.axvline(intensity, color="0.9", zorder=0)
            axes.text(
                intensity, 1.0, f"batch {batch}", transform=axes.get_xaxis_transform(), ha="center", va="bottom", fontsize=8
            )
    axes.set_xlabel("arithmetic intensity of a training step (FLOP per byte that it must move)")
    axes.set_ylabel("GFLOP/s")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(ScalarFormatter())
        axis.set_minor_formatter(ScalarFormatter())
        axis.set_tick_params(which="minor", labelsize=7)
    axes.legend(fontsize=8, loc="lower right")
    write_whole(path, lambda temporary: figure.savefig(temporary, dpi=120))


def main(arguments: list[str]) -> int:
    @dataclasses.dataclass
    class Roofline:
        device: Annotated[Device, tyro.conf.arg(help="Whose report: 'throughput' or 'throughput-cuda'.")] = "cpu"
        results: Annotated[Path, tyro.conf.arg(help="Folder of that report.")] = REPORTS
        picture: Annotated[Path | None, tyro.conf.arg(help="Where the picture goes; into docs/figures/ by default.")] = None

    asked = parse(Roofline, arguments, command="roofline", description="Draw the training steps under the machine's limits.")
    name = reports.of_device("throughput", asked.device)
    report = reports.read(name, asked.results)
    if report is None:
        raise UserError(
            f"There is no report '{name}' in {asked.results}; `make bench-throughput ARGS=--report` writes one into results/."
        )
    path = asked.picture or picture(asked.device)
    draw(report, path)
    print(path)
    return 0
