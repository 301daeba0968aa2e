"""What the page shows, as plain data: texts for the template, numbers for the charts."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.harness import command_line, environment, reports, spread
from benchmarks.harness.looks import Look
from benchmarks.harness.pairs import Scores
from benchmarks.harness.record_schema import Record
from benchmarks.outputs import cells, figures, findings, pictures, sweeps, tidy
from benchmarks.outputs.findings import Scored
from benchmarks.outputs.sweeps import Run
from benchmarks.outputs.table import Part, Table
from common.protocol import BACKENDS

POINTS = 400  # of a curve at most: no screen shows more
ACROSS = 10  # images in a row of a grid
MOST_PICTURED = 2_500_000  # characters of pictures: with Plotly's 2 MB and the runs' numbers a page stays below 6 MB
MOST_FINDINGS = 6  # before those that a click shows
DASHES = {"mean-field": "dash", "flow": "solid"}
SECTIONS = {
    "runs": "Runs",
    "curves": "Learning curves",
    "throughput": "Throughput",
    "samples": "log p(x) against K",
    "posterior": "Posterior",
    "pictures": "Pictures",
    "parity": "Parity",
    "machine": "Machine",
}
# Field of `Look` → its words.
IMAGES = {"originals": "Test images", "reconstructions": "Their reconstructions", "samples": "Samples of the prior"}
# Column of `cells.of` → the place of its number in a record.
NUMBERS = {
    "log p(x) ± s.e.": ("test", "log_px"),
    "ELBO": ("test", "elbo"),
    "examples/s (IQR)": ("timing", "examples_per_s"),
    cells.FLOOR: ("timing", "floor_ratio"),
    "train (min)": ("timing", "steady_s"),
    "compile (s)": ("timing", "compile_s"),
}


@dataclass(frozen=True, kw_only=True)
class Parity:
    """A parity report: its sentence ("" where it lacks a rung of the sentence), tables and lists, and where it was read."""

    sentence: str
    parts: Sequence[Part]
    source: str

    @property
    def tables(self) -> list[Table]:
        return [part for part in self.parts if isinstance(part, Table)]

    @property
    def notes(self) -> list[str]:
        """The items of the Markdown lists, as text."""
        lines = [line for part in self.parts if isinstance(part, str) for line in part.splitlines()]
        return [plain(line.removeprefix("- ")) for line in lines if line.strip()]


def plain(text: str) -> str:
    """Markdown's text without its marks: links, escapes, code."""
    return re.sub(r"\\([|\\`*_<>])", r"\1", re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", text)).replace("`", "")


def page(
    runs: Sequence[Run],
    *,
    scores: Mapping[int, Scores],
    looks: Mapping[int, Look],
    parity: Parity | None,
    missing: Sequence[str],
) -> dict[str, Any]:
    """The template's variables.

    `scores`, results by image, and `looks` are by the run's place in `runs`; `missing`: why runs have no look, a sentence each.
    """
    found = [run.record for run in runs]
    differing = sweeps.differing(runs)
    datasets = list(dict.fromkeys(run.what["data set"] for run in runs))
    rows = _rows(runs)
    meant = {i for _, members in rows if len(members) > 1 for i in members}
    columns = [name for name in runs[0].what if name in (*differing, "family", "backend")]
    status = ["status"] if any(record["status"] != "ok" for record in found) else []
    charted = [_charted(run, differing) | {"kl": _kl(looks.get(i))} for i, run in enumerate(runs)]
    machines, floors = environments(found), cells.fastest_floors(found)
    scored = [Scored(run.record, scores.get(i), run.what["data set"], run.what["folder"]) for i, run in enumerate(runs)]
    hardware = dict.fromkeys(lines.get("GPU") or lines["processor"] for lines, _ in machines)
    where = datasets[0] if len(datasets) == 1 else f"{len(datasets)} data sets"
    seen = [_picture(i, look, charted[i]) for i, look in looks.items()]
    if left_out := _limit(seen):
        missing = [*missing, f"Pictures of {left_out} more runs are left out, to keep the page below 6 MB."]
    table = tidy.rows([(run.path, run.record) for run in runs])
    return {
        "title": f"{len(runs)} run{'s' if len(runs) > 1 else ''} on {where}",
        "subtitle": " · ".join(hardware),
        "sections": SECTIONS,
        "findings": findings.of(scored),
        "most_findings": MOST_FINDINGS,
        "filters": [{"name": name, "choices": _choices(runs, name)} for name in differing if name != "seed"],
        "columns": [*columns, *status, *NUMBERS],
        "left": [*columns, *status],
        "rows": [
            _row(
                *(row, members),
                columns=columns,
                views="means" if len(members) > 1 else "runs" if members[0] in meant else "means runs",
                seeds=[found[i]["seed"] for i in members],
                floors=floors,
            )
            for row, members in rows
        ],
        "several_seeds": bool(meant),
        "remarks": [*_remarks(rows), *_doubts(runs, charted), *cells.draws(found, over_images=not meant)],
        "counts": ", ".join(f"{count:,}" for count in sorted({one["config"]["evaluation"]["samples"] for one in found})),
        "datasets": datasets,
        "places": list(dict.fromkeys((run.what["data set"], run.what["device"]) for run in runs)),
        "has_samples": any(record["test"]["by_samples"] for record in found),
        "colours": figures.OF_BACKEND,
        "backends": [name for name in BACKENDS if any(record["backend"] == name for record in found)],
        "families": {name: dash for name, dash in DASHES.items() if any(record["variational"] == name for record in found)},
        "pictures": seen,
        "missing": missing,
        "parity": parity,
        "machines": [count for _, count in machines],
        "facts": _facts([lines for lines, _ in machines]),
        "data": {
            "runs": charted,
            "colours": figures.OF_BACKEND,
            "dashes": DASHES,
            "csv": [
                [*table[0], "command"],
                *([*row.values(), command_line.of(run.record)] for row, run in zip(table, runs, strict=True)),
            ],
        },
    }


def _choices(runs: Sequence[Run], name: str) -> list[str]:
    """The values of a filter, numbers rising, else in the runs' order."""
    values = {str(run.what[name]): run.what[name] for run in runs}
    numbers = all(isinstance(value, int | float) for value in values.values())
    return sorted(values, key=lambda text: values[text]) if numbers else list(values)


def _rows(runs: Sequence[Run]) -> list[tuple[Run, list[int]]]:
    """The table's rows, each with the places of its runs: the means over seeds, and every run."""
    means = []
    for row in sweeps.over_seeds(runs):
        if isinstance(row.what["seed"], str):
            same = [i for i, run in enumerate(runs) if run.what | {"seed": 0} == row.what | {"seed": 0}]
            means.append((row, [i for i in same if runs[i].record["status"] == "ok"]))
    return [*means, *((run, [i]) for i, run in enumerate(runs))]


def _row(
    row: Run, members: Sequence[int], *, columns: Sequence[str], views: str, seeds: Sequence[int], floors: Mapping[str, float]
) -> dict[str, Any]:
    """`views`: in which of "means" and "runs" the row stands. `floors`: of `cells.fastest_floors`."""
    record, texts = row.record, cells.of(row.record, floors=floors)
    return {
        "members": " ".join(map(str, members)),
        "views": views,
        "backend": record["backend"],
        "names": {column: str(row.what[column]) for column in columns},
        "status": record["status"],
        "reason": " ".join((record["reason"] or "").split()),
        "tail": "\n".join(record["tail"]),
        "warning": _warning(record),
        "several_backends": len(record["trained"]) > 1,
        "numbers": {column: (texts[column], record[section][key]) for column, (section, key) in NUMBERS.items()},
        "command": command_line.of(record, seeds=seeds),
    }


def _warning(record: Record) -> str:
    """Reasons to doubt the run's times, a clause each; "" for none."""
    timing, place = record["timing"], record["environment"]
    wide = spread.warning(median=timing["examples_per_s"], iqr=timing["examples_per_s_iqr"])
    crowded = environment.crowded(others := place.get("runnable"), place["machine"])
    beside = f"other programs kept {others:.0f} threads running at the start" if crowded else None
    uncompiled = f"its steps ran uncompiled: {timing['uncompiled']}" if timing["uncompiled"] else None
    return "; ".join(filter(None, [wide, beside, uncompiled]))


def _remarks(rows: Sequence[tuple[Run, list[int]]]) -> list[str]:
    """The lines under the table."""
    uneven = "Dotted: a warning about the times stands below the row's command."
    return [*sweeps.errors([row for row, _ in rows]), *([uneven] if any(_warning(row.record) for row, _ in rows) else [])]


def _doubts(runs: Sequence[Run], charted: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each run whose estimates contradict what they are: see `estimators.warning`."""
    return [
        f"{chart['title']}: {said}" for run, chart in zip(runs, charted, strict=True) if (said := run.record["test"]["warning"])
    ]


def _settings(run: Run, differing: Sequence[str]) -> str:
    """What a run's name needs beside family, backend and seed: "learning-rate 0.001, cuda"."""
    plain = ("folder", "preset", "device", "precision")
    apart = ("data set", "family", "backend", "seed")
    parts = [str(run.what[name]) if name in plain else f"{name} {run.what[name]}" for name in differing if name not in apart]
    return ", ".join(parts)


def _charted(run: Run, differing: Sequence[str]) -> dict[str, Any]:
    """A run's numbers for the charts; `model` names it without its seed."""
    record, timing, curve = run.record, run.record["timing"], run.record["curve"]
    rate, floor = timing["examples_per_s"], timing["floor_s"]
    batch = record["config"]["training"]["batch_size"]
    model = ", ".join(filter(None, [f"{run.what['backend']} {run.what['family']}", _settings(run, differing)]))
    return {
        "what": {name: str(value) for name, value in run.what.items() if name in (*differing, "data set", "device")},
        "backend": record["backend"],
        "family": record["variational"],
        "model": model,
        "title": f"{model}, seed {record['seed']}" if "seed" in differing else model,
        "training": _thinned(curve["step"], curve["elbo"]),
        "validation": _thinned(curve["valid_step"], curve["valid_elbo"]),
        "secondsAStep": batch / rate if rate else None,
        "speed": {"median": rate, "iqr": timing["examples_per_s_iqr"] or 0, "floor": batch / floor if floor else None},
        "bySamples": record["test"]["by_samples"],
    }


def _kl(look: Look | None) -> list[float | None] | None:
    return None if look is None else [_short(float(value)) for value in sorted(look.kl, reverse=True)]


def _thinned(steps: Sequence[float], values: Sequence[float | None]) -> list[list[float | None]]:
    """[steps, values] of at most POINTS points, evenly taken, the first and the last among them."""
    chosen = np.unique(np.linspace(0, max(len(steps) - 1, 0), min(POINTS, len(steps))).round().astype(int))
    return [[steps[i] for i in chosen], [_short(values[i]) for i in chosen]]


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


def _picture(place: int, look: Look, charted: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "run": place,
        "backend": charted["backend"],
        "title": charted["title"],
        "dataset": charted["what"]["data set"],
        "kl": f"{look.kl.sum():.1f}",
        "active": f"{look.active} of {len(look.kl)}",
        "images": {alt: _png(getattr(look, name)) for name, alt in IMAGES.items()},
    }


def _limit(pictures: Sequence[dict[str, Any]]) -> int:
    """Empty the `images` of the pictures beyond MOST_PICTURED, and return how many these are."""
    total = left_out = 0
    for picture in pictures:
        total += sum(map(len, picture["images"].values()))
        if total > MOST_PICTURED:
            picture["images"], left_out = {}, left_out + 1
    return left_out


def _png(images: np.ndarray) -> str:
    """A grid of the images as PNG in 16 greys, in base64."""
    from PIL.Image import Dither

    grid = pictures.grid(images, columns=ACROSS).quantize(16, dither=Dither.NONE)
    return base64.b64encode(pictures.png(grid)).decode()


def environments(found: Sequence[Record]) -> list[tuple[dict[str, str], int]]:
    """Each distinct machine, set of versions and commit, as lines, and the number of its runs."""
    counts: dict[tuple[tuple[str, str], ...], int] = {}
    for record in found:
        key = tuple(_environment(record["environment"]).items())
        counts[key] = counts.get(key, 0) + 1
    return [(dict(lines), count) for lines, count in counts.items()]


def _facts(machines: Sequence[Mapping[str, str]]) -> dict[str, list[str]]:
    """Line → its text for each machine, or one text where all agree."""
    facts = {
        name: [lines.get(name, "") for lines in machines]
        for name in dict.fromkeys(name for lines in machines for name in lines)
    }
    return {name: values[:1] if len(set(values)) == 1 else values for name, values in facts.items()}


def _environment(place: dict[str, Any]) -> dict[str, str]:
    hardware, threads = place["machine"] or {}, place["threads"] or {}
    kind = ", ".join(hardware[key] for key in ("model", "vectors") if hardware.get(key))
    memory = hardware.get("memory_bytes")
    lines = {
        "processor": (hardware.get("cpu") or "unknown processor") + (f" ({kind})" if kind else ""),
        "GPU": hardware.get("gpu"),
        "cores": threads.get("cores"),
        "memory": f"{memory / 2**30:.1f} GiB" if memory else None,
        "system": hardware.get("os"),
        "variables": ", ".join(f"{name}={value}" for name, value in (threads.get("variables") or {}).items()),
        "commit": reports.commit(place) if place.get("commit") else "unknown",
        **(place["versions"] or {}),
    }
    return {name: str(value) for name, value in lines.items() if value}
