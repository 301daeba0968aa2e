"""What the page shows, as plain data: the table's rows for the template, the charts' numbers for the script."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.harness import command_line, records, reports
from benchmarks.harness.records import Record
from benchmarks.outputs import cells, figures, findings
from benchmarks.outputs.table import Part, Table

POINTS = 400  # of a curve at most: a page is as wide as a screen
DASHES = {"mean-field": "dash", "flow": "solid"}

# Columns that are shown where the rows differ in them, in the table's order; each is also a filter.
APART = ("data set", "preset", "family", "backend", "device", "precision")
ALWAYS = ("family", "backend")
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
class Picture:
    """A run's pictures, PNG, and its posterior: KL of each latent dimension in nats, and the number of active ones."""

    reconstructions: bytes
    samples: bytes
    originals: bytes
    kl: Sequence[float]
    active: int
    step: int


@dataclass(frozen=True, kw_only=True)
class Parity:
    """The parity report as parts of a page, its sentence, and where it lies."""

    sentence: str
    parts: Sequence[Part]
    source: str


@dataclass(kw_only=True)
class Filter:
    name: str
    values: list[str] = field(default_factory=list)


def named(run: Run) -> dict[str, str]:
    """The run's settings by the names of columns and filters: APART, each changed setting, the seed, the folder."""
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


def varying(names: Sequence[Mapping[str, str]]) -> list[str]:
    """The names in which the runs differ; a run without a changed setting has its preset's value, shown as ""."""
    order = list(dict.fromkeys([*APART, *(key for each in names for key in each if key not in ("seed", "folder")), "seed", "folder"]))
    return [key for key in order if len({each.get(key, "") for each in names}) > 1]


def page(runs: Sequence[Run], *, pictures: Mapping[int, Picture], parity: Parity | None, missing: str) -> dict[str, Any]:
    """The template's variables. `pictures` are by the run's place in `runs`; `missing` says why a run has none."""
    names = [named(run) for run in runs]
    differing = varying(names)
    shown = [key for key in names[0] | dict.fromkeys(differing, "") if key in differing or key in ALWAYS]
    shown = [key for key in _ordered(names) if key in differing or key in ALWAYS]
    datasets = list(dict.fromkeys(each["data set"] for each in names))
    found = [run.record for run in runs]
    return {
        "title": _title(runs, datasets),
        "findings": findings.of(found),
        "filters": [Filter(name=key, values=_values(names, key)) for key in differing if key not in ("seed", "folder")],
        "columns": [*shown, *(["status"] if any(one["status"] != "ok" for one in found) else []), *NUMBERS],
        "left": [*shown, "status"],
        "rows": [_row(run, each, shown) for run, each in zip(runs, names, strict=True)],
        "remarks": [line for line in cells.spreads(found)],
        "datasets": datasets,
        "backends": {name: figures.OF_BACKEND[name] for name in dict.fromkeys(one["backend"] for one in found)},
        "families": {name: DASHES[name] for name in dict.fromkeys(one["variational"] for one in found)},
        "environments": environments(found),
        "parity": parity,
        "missing": missing,
        "data": {
            "datasets": datasets,
            "runs": [
                _charted(i, run, each, differing, pictures.get(i)) for i, (run, each) in enumerate(zip(runs, names, strict=True))
            ],
            "colours": figures.OF_BACKEND,
            "dashes": DASHES,
            "csv": ["record", *_ordered(names), "status", "reason", *CSV_NUMBERS, "command"],
        },
    }


def _ordered(names: Sequence[Mapping[str, str]]) -> list[str]:
    keys = dict.fromkeys(key for each in names for key in each)
    last = ("seed", "folder")
    return [*APART, *(key for key in keys if key not in (*APART, *last)), *last]


def _title(runs: Sequence[Run], datasets: Sequence[str]) -> str:
    where = f"on {datasets[0]}" if len(datasets) == 1 else f"on {len(datasets)} data sets"
    return f"{len(runs)} run{'s' if len(runs) > 1 else ''} {where}"


def _values(names: Sequence[Mapping[str, str]], key: str) -> list[str]:
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


def _charted(
    place: int, run: Run, names: Mapping[str, str], differing: Sequence[str], picture: Picture | None
) -> dict[str, Any]:
    record, timing = run.record, run.record["timing"]
    rate, floor = timing["examples_per_s"], timing["floor_s"]
    batch = record["config"]["training"]["batch_size"]
    curve = record["curve"]
    label = " ".join([names["backend"], names["family"]])
    others = [f"{key} {names[key]}" for key in differing if key not in ("data set", "family", "backend", "seed") and key in names]
    csv: dict[str, Any] = {"record": records.name_of(record).removesuffix(".json"), **names}
    csv |= {"status": record["status"], "reason": record["reason"] or "", "command": command_line.of(record)}
    csv |= {key: _number(record, where) for key, where in CSV_NUMBERS.items()}
    return {
        "dataset": names["data set"],
        "backend": record["backend"],
        "family": record["variational"],
        "group": ", ".join([label, *others]),
        "seed": record["seed"],
        "names": dict(names),
        "curve": _thinned(curve["step"], curve["elbo"]),
        "valid": _thinned(curve["valid_step"], curve["valid_elbo"]),
        "secondsAStep": batch / rate if rate else None,
        "speed": {"median": rate, "iqr": timing["examples_per_s_iqr"], "floor": batch / floor if floor else None},
        "bySamples": record["test"].get("by_samples"),
        "kl": [_short(value) for value in sorted(picture.kl, reverse=True)] if picture else None,
        "active": picture.active if picture else None,
        "csv": csv,
    }


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


def lists(part: Part) -> list[str]:
    """The items of a Markdown list, or the paragraph as one item; [] for a table."""
    return [] if isinstance(part, Table) else [plain(line.removeprefix("- ")) for line in part.splitlines() if line.strip()]


def tables(parts: Iterable[Part]) -> list[Table]:
    return [part for part in parts if isinstance(part, Table)]
