"""The runs of a sweep as a table's rows: what differs between them, and means over seeds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import presets, record_names
from benchmarks.harness.record_schema import Record
from common.config import FAMILIES, Config
from common.estimators import standard_error
from common.protocol import BACKENDS

ORDINARY = ("cpu", "float32")  # what a title doesn't say


@dataclass(frozen=True)
class Run:
    """A record, or several seeds' mean, and `what` it is: column → value, in the order of a table's columns.

    `path`: the record's file, or the first seed's; the name that it would have, where it wasn't read from a file.
    """

    record: Record
    what: dict[str, Any]
    path: Path


def runs(found: Sequence[Record], *, folders: Sequence[str] | None, paths: Sequence[Path] | None = None) -> list[Run]:
    """The records by data set, family and backend, then by other columns. A setting that one record has changed is a column."""
    names = sorted({name for record in found for name in record_names.changed(record)})
    named, made = record_names.data_names(found), []
    paths = paths or [Path(record_names.name_of(record)) for record in found]
    for record, folder, path in zip(found, folders or [""] * len(found), paths, strict=True):
        settings = presets.flat(Config.from_dict(record["config"])) | record_names.changed(record) if names else {}
        what = {
            "folder": folder,
            "family": record["variational"],
            "backend": record_names.trained_by(record),
            "preset": record["preset"],
            "data set": named(record),
            **{name.replace("_", "-"): settings[name] for name in names},
            **{name: record[name] for name in ("device", "precision", "seed")},
        }
        made.append(Run(record, what, path))
    return sorted(made, key=_place)


def _place(run: Run) -> tuple[Any, ...]:
    first = (run.what["data set"], FAMILIES.index(run.record["variational"]), BACKENDS.index(run.record["backend"]))
    return (*first, *(value for column, value in run.what.items() if column != "folder"), run.what["folder"])


def over_seeds(runs: Sequence[Run]) -> list[Run]:
    """The runs, those that differ in their seed alone as one. A run without a result stays by itself, and so does a copy."""
    groups: dict[str, list[Run]] = {}
    for i, run in enumerate(runs):
        rest = {column: value for column, value in run.what.items() if column != "seed"}
        apart = i if run.record["status"] != "ok" else None
        groups.setdefault(json.dumps([rest, run.record["dataset"]["sha256"], apart]), []).append(run)
    rows: list[Run] = []
    for group in groups.values():
        seeds = {run.what["seed"] for run in group}
        rows += [_mean(group)] if len(seeds) == len(group) > 1 else group
    return rows


def _mean(group: Sequence[Run]) -> Run:
    """The mean of each number over the seeds; the standard errors are those of this mean."""
    first, records = group[0], [run.record for run in group]
    sections = {
        section: {name: _mean_of([record[section].get(name) for record in records]) for name in first.record[section]}
        for section in ("timing", "test")
    }
    others = [others for record in records if (others := record["environment"].get("runnable")) is not None]
    sections["environment"] = first.record["environment"] | ({"runnable": max(others)} if others else {})
    for name in ("elbo", "log_px"):
        values = [record["test"][name] for record in records]
        sections["test"][f"{name}_se"] = None if None in values else standard_error(np.array(values))
    peak = _mean_of([record["peak_memory_bytes"] for record in records])
    several = {"seed": f"{len(group)} seeds"}
    return Run(first.record | sections | several | {"peak_memory_bytes": peak}, first.what | several, first.path)


def _mean_of(values: list[Any]) -> float | str | None:
    """The mean of numbers; the first of texts, where there is one; None if a value is missing or is neither."""
    if texts := [value for value in values if isinstance(value, str)]:
        return texts[0]
    return sum(values) / len(values) if all(isinstance(value, int | float) for value in values) else None


def differing(rows: Sequence[Run]) -> list[str]:
    """The columns in which the rows differ."""
    return [column for column in rows[0].what if len({str(row.what[column]) for row in rows}) > 1]


def agreeing(rows: Sequence[Run], *, apart_from: Sequence[str]) -> str:
    """A table's title: the columns in which all rows agree, "quick, binarized-digits; changed: steps 3000; 3 seeds"."""
    what = {column: value for column, value in rows[0].what.items() if column not in (*apart_from, "folder")}
    seeds = what.pop("seed", 0)
    labels = ("preset", "data set", "family", "backend", "device", "precision")
    plain = [str(what[column]) for column in labels if column in what and what[column] not in ORDINARY]
    changed = [f"{column} {value}" for column, value in what.items() if column not in labels]
    parts = (", ".join(plain), f"changed: {', '.join(changed)}" if changed else "", _of(seeds))
    return "; ".join(filter(None, parts))


def _of(seeds: int | str) -> str:
    return seeds if isinstance(seeds, str) else f"seed {seeds}" if seeds else ""


def errors(rows: Sequence[Run]) -> list[str]:
    """The line that says what "±" is, where a row is several seeds' mean."""
    several = [isinstance(row.what["seed"], str) for row in rows]
    if not any(several):
        return []
    elsewhere = "" if all(several) else "; in a row of one seed, over test images"
    return [f"Several seeds: each number is their mean, ± its standard error over seeds{elsewhere}."]
