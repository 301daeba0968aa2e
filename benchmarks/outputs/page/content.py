"""What the page shows, as plain data: the table's rows for the template, the charts' numbers for the script."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.harness import command_line, records, reports
from benchmarks.harness.looks import Look
from benchmarks.harness.records import Record
from benchmarks.outputs import cells, figures, findings, pictures
from benchmarks.outputs.table import Part, Table
from common.protocol import BACKENDS

ACROSS = 10  # images in a row of a grid
POINTS = 400  # of a curve at most: a page is as wide as a screen
DASHES = {"mean-field": "dash", "flow": "solid"}

# Columns before and after those of the changed settings; a column is shown where the rows differ in it.
FIRST = ("data set", "preset", "family", "backend", "device", "precision")
LAST = ("seed", "folder")
ALWAYS = ("family", "backend")  # shown in any case
UNFILTERED = ("seed", "folder")
MOST_FINDINGS = 6
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
# Column of `cells.of` → the place of its number in a record.
NUMBERS = {
    "log p(x) ± s.e.": ("test", "log_px"),
    "ELBO": ("test", "elbo"),
    "examples/s (IQR)": ("timing", "examples_per_s"),
    "step / floor": ("timing", "floor_ratio"),
    "train (min)": ("timing", "steady_s"),
    "compile (s)": ("timing", "compile_s"),
    "peak (MiB)": ("", "peak_memory_bytes"),
}
# Column of the CSV → its place in a record.
CSV_NUMBERS = {
    **{key: ("test", key) for key in ("log_px", "log_px_se", "elbo", "elbo_se", "importance_samples", "images", "ess")},
    **{
        key: ("timing", key)
        for key in ("examples_per_s", "examples_per_s_iqr", "floor_ratio", "floor_s", "steady_s", "compile_s", "evaluation_s")
    },
    "peak_memory_bytes": ("", "peak_memory_bytes"),
    "parameters": ("", "parameters"),
}


@dataclass(frozen=True, kw_only=True)
class Run:
    """A record and the folder that it lies in."""

    record: Record
    folder: str


@dataclass(frozen=True, kw_only=True)
class Parity:
    """The parity report: a sentence ("" for a report without the rungs that it names), tables and lists, where it was read."""

    sentence: str
    parts: Sequence[Part]
    source: str

    @property
    def tables(self) -> list[Table]:
        return [part for part in self.parts if isinstance(part, Table)]

    @property
    def notes(self) -> list[str]:
        """The items of the Markdown lists, as text."""
        texts = [part for part in self.parts if isinstance(part, str)]
        return [plain(line.removeprefix("- ")) for text in texts for line in text.splitlines() if line.strip()]


def named(run: Run) -> dict[str, str]:
    """The run's settings by the names of columns and filters: FIRST, each changed setting, the seed, the folder."""
    record = run.record
    fixed = {
        "data set": record["dataset"]["name"],
        "preset": record["preset"],
        "family": record["variational"],
        "backend": cells.trained_by(record),
        "device": record["device"],
        "precision": record["precision"],
    }
    changed = {key.replace("_", "-"): str(value) for key, value in records.changed(record).items()}
    return fixed | changed | {"seed": str(record["seed"]), "folder": run.folder}


def page(runs: Sequence[Run], *, looks: Mapping[int, Look], parity: Parity | None, missing: str) -> dict[str, Any]:
    """The template's variables. `looks` are by the run's place in `runs`; `missing`: why some runs have none, or ""."""
    found = [run.record for run in runs]
    names = [named(run) for run in runs]
    order = ordered(names)
    differing = [key for key in order if len({each.get(key, "") for each in names}) > 1]
    shown = [key for key in order if key in differing or key in ALWAYS]
    status = ["status"] if any(record["status"] != "ok" for record in found) else []
    datasets = list(dict.fromkeys(each["data set"] for each in names))
    charted = [_charted(run, each, differing, looks.get(i)) for i, (run, each) in enumerate(zip(runs, names, strict=True))]
    machines = environments(found)
    hardware = dict.fromkeys(each["lines"].get("GPU") or each["lines"]["processor"] for each in machines)
    where = datasets[0] if len(datasets) == 1 else f"{len(datasets)} data sets"
    return {
        "title": f"{len(runs)} run{'s' if len(runs) > 1 else ''} on {where}",
        "subtitle": " · ".join(hardware),
        "findings": findings.of(found),
        "most_findings": MOST_FINDINGS,
        "sections": SECTIONS,
        "filters": [{"name": key, "choices": _choices(names, key)} for key in differing if key not in UNFILTERED],
        "columns": [*shown, *status, *NUMBERS],
        "left": [*shown, *status],
        "backend_column": shown.index("backend"),
        "rows": [_row(run, each, shown) for run, each in zip(runs, names, strict=True)],
        "remarks": cells.spreads(found),
        "samples": ", ".join(f"{count:,}" for count in sorted({one["config"]["evaluation"]["samples"] for one in found})),
        "datasets": datasets,
        "places": list(dict.fromkeys((each["data set"], each["device"]) for each in names)),
        "has_samples": any(record["test"].get("by_samples") for record in found),
        "colours": figures.OF_BACKEND,
        "backends": {name: figures.OF_BACKEND[name] for name in BACKENDS if any(one["backend"] == name for one in found)},
        "families": {name: dash for name, dash in DASHES.items() if any(one["variational"] == name for one in found)},
        "environments": machines,
        "lines": list(dict.fromkeys(line for each in machines for line in each["lines"])),
        "parity": parity,
        "pictures": [_picture(i, look, charted[i]) for i, look in looks.items()],
        "missing": missing,
        "data": {
            "runs": charted,
            "colours": figures.OF_BACKEND,
            "dashes": DASHES,
            "csv": ["record", *order, "status", "reason", *CSV_NUMBERS, "command"],
        },
    }


def ordered(names: Sequence[Mapping[str, str]]) -> list[str]:
    """Every name of `named`: FIRST, the changed settings, LAST."""
    settings = dict.fromkeys(key for each in names for key in each if key not in (*FIRST, *LAST))
    return [*FIRST, *settings, *LAST]


def _choices(names: Sequence[Mapping[str, str]], key: str) -> list[str]:
    values = {each.get(key, "") for each in names}
    try:
        return sorted(values, key=lambda value: (value != "", float(value or 0)))
    except ValueError:
        return list(dict.fromkeys(each.get(key, "") for each in names))


def _number(record: Record, place: tuple[str, str]) -> float | None:
    section, key = place
    return (record[section] if section else record)[key]


def _row(run: Run, names: Mapping[str, str], shown: Sequence[str]) -> dict[str, Any]:
    record = run.record
    texts = cells.of(record)
    return {
        "name": records.name_of(record).removesuffix(".json"),
        "backend": record["backend"],
        "names": [names.get(key, "") for key in shown],
        "status": record["status"],
        "reason": " ".join((record["reason"] or "").split()),
        "numbers": [(texts[column], _number(record, place)) for column, place in NUMBERS.items()],
        "command": command_line.of(record),
    }


def _charted(run: Run, names: Mapping[str, str], differing: Sequence[str], look: Look | None) -> dict[str, Any]:
    record, timing = run.record, run.record["timing"]
    rate, floor = timing["examples_per_s"], timing["floor_s"]
    batch = record["config"]["training"]["batch_size"]
    curve = record["curve"]
    others = [
        f"{key} {names[key]}" for key in differing if key not in ("data set", "family", "backend", "seed") and key in names
    ]
    group = ", ".join([f"{names['backend']} {names['family']}", *others])
    csv: dict[str, Any] = {"record": records.name_of(record).removesuffix(".json"), **names}
    csv |= {"status": record["status"], "reason": record["reason"] or "", "command": command_line.of(record)}
    csv |= {key: _number(record, where) for key, where in CSV_NUMBERS.items()}
    return {
        "dataset": names["data set"],
        "backend": record["backend"],
        "family": record["variational"],
        "group": group,
        "title": f"{group}, seed {record['seed']}" if "seed" in differing else group,
        "seed": record["seed"],
        "names": dict(names),
        "curve": _thinned(curve["step"], curve["elbo"]),
        "valid": _thinned(curve["valid_step"], curve["valid_elbo"]),
        "secondsAStep": batch / rate if rate else None,
        "speed": {"median": rate, "iqr": timing["examples_per_s_iqr"], "floor": batch / floor if floor else None},
        "bySamples": record["test"].get("by_samples"),
        "kl": [_short(float(value)) for value in sorted(look.kl, reverse=True)] if look else None,
        "csv": csv,
    }


def _picture(place: int, look: Look, charted: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "run": place,
        "backend": charted["backend"],
        "dataset": charted["dataset"],
        "title": charted["title"],
        "kl": f"{look.kl.sum():.1f}",
        "active": look.active,
        "latent": len(look.kl),
        "originals": _png(look.originals),
        "reconstructions": _png(look.reconstructions),
        "samples": _png(look.samples),
    }


def _png(images: np.ndarray) -> str:
    """A grid of ACROSS images in a row as PNG of 16 greys, in base64."""
    from PIL.Image import Dither

    grid = pictures.grid(images, columns=ACROSS).quantize(16, dither=Dither.NONE)
    return base64.b64encode(pictures.png(grid)).decode()


def _thinned(steps: Sequence[float], values: Sequence[float | None]) -> list[list[float | None]]:
    """[steps, values] of at most POINTS points, evenly taken, the last among them; six digits a value."""
    if not steps:
        return [[], []]
    chosen = np.unique(np.linspace(0, len(steps) - 1, min(POINTS, len(steps))).round().astype(int))
    return [[steps[i] for i in chosen], [_short(values[i]) for i in chosen]]


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


def environments(found: Sequence[Record]) -> list[dict[str, Any]]:
    """Each distinct machine, set of versions and commit with the number of its runs."""
    groups: dict[tuple[tuple[str, str], ...], int] = {}
    for record in found:
        key = tuple(_environment(record["environment"]).items())
        groups[key] = groups.get(key, 0) + 1
    return [{"runs": count, "lines": dict(key)} for key, count in groups.items()]


def _environment(environment: Mapping[str, Any]) -> dict[str, str]:
    machine, threads = environment["machine"] or {}, environment["threads"] or {}
    kind = ", ".join(machine[key] for key in ("model", "vectors") if machine.get(key))
    memory = machine.get("memory_bytes")
    lines = {
        "processor": (machine.get("cpu") or "unknown") + (f" ({kind})" if kind else ""),
        "GPU": machine.get("gpu") or "",
        "cores": str(threads.get("cores") or ""),
        "memory": f"{memory / 2**30:.1f} GiB" if memory else "",
        "system": machine.get("os") or "",
        "variables": ", ".join(f"{name}={value}" for name, value in (threads.get("variables") or {}).items()),
        "commit": reports.commit(dict(environment)) if environment.get("commit") else "unknown",
        **(environment["versions"] or {}),
    }
    return {name: value for name, value in lines.items() if value}


def plain(text: str) -> str:
    """Markdown's text without its marks: escapes, links and code."""
    text = re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", text)
    return re.sub(r"\\([|\\`*_<>])", r"\1", text).replace("`", "")
