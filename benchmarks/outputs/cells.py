"""Records as the rows of a table, and the lines under the table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.harness import cores, environment, record_names, reports, spread
from benchmarks.harness.record_schema import Record
from benchmarks.outputs import older, sweeps
from benchmarks.outputs.table import Table, number
from common.config import DEFAULTS, FAMILIES
from common.protocol import BACKENDS

FLOOR = "step / floor"
WHERE_VARYING = ("device", "precision", "seed")  # columns that are left out where all rows agree
NAMES = ("model", "family", "network", "prior", "backend", "preset", "data set", "folder")
LEFT = (*NAMES, *WHERE_VARYING, "status", older.COLUMN)

Cells = dict[str, str]  # column → its text


def fastest_floors(found: Iterable[Record]) -> dict[str, float]:
    """`_work` of the records → the least floor of a step among them, seconds, where several backends did the same work."""
    floors: dict[str, dict[str, float]] = {}
    for record in found:
        if floor := record["timing"]["floor_s"]:
            of_work = floors.setdefault(_work(record), {})
            of_work[record["backend"]] = min(floor, of_work.get(record["backend"], floor))
    return {work: min(own.values()) for work, own in floors.items() if len(own) > 1}


def _work(record: Record) -> str:
    """The sizes of a step's computation and its machine, as a text: equal for two records whose floors can be compared."""
    config, machine = record["config"], record["environment"]["machine"] or {}
    sizes = [config["model"], *(config["training"].get(name) for name in ("batch_size", "devices", "objective_samples"))]
    return json.dumps([sizes, record["precision"], record["device"], machine.get("cpu"), machine.get("model")], sort_keys=True)


def _floor_ratio(record: Record, floors: Mapping[str, float]) -> str:
    """A step's time over its own floor, and in brackets over the fastest of `floors`."""
    timing, fastest = record["timing"], floors.get(_work(record))
    own = number(timing["floor_ratio"], ".2f")
    if not (timing["floor_ratio"] and fastest):
        return own
    return f"{own} ({timing['floor_ratio'] * timing['floor_s'] / fastest:.2f})"


def of(record: Record, *, floors: Mapping[str, float]) -> Cells:
    """A record's cells in all columns. `floors`: the `fastest_floors` of the table's records."""
    timing, test = record["timing"], record["test"]
    iqr, se = timing["examples_per_s_iqr"], test["log_px_se"]
    speed = number(timing["examples_per_s"], ",.0f")
    cached = " (cached)" if timing["compile_s"] is not None and timing["programs_compiled"] == 0 else ""
    return {
        "family": record["variational"],
        "network": record["config"]["model"].get("network", DEFAULTS["model"].network),
        "prior": record["config"]["model"].get("prior", DEFAULTS["model"].prior),
        "backend": record_names.trained_by(record),
        "device": record["device"],
        "precision": record["precision"],
        "seed": str(record["seed"]),
        "status": record["status"],
        "ELBO": number(test["elbo"], ".2f"),
        "log p(x) ± s.e.": number(test["log_px"], ".2f") + ("" if se is None else f" ± {se:.2f}"),
        "K": number(test["importance_samples"], ",.0f"),
        "images": number(test["images"], ",.0f"),
        "steps": number(record["config"]["training"].get("steps"), ",.0f"),
        "examples/s": speed,
        "examples/s (IQR)": speed + ("" if iqr is None else f" ({iqr:,.0f})"),
        FLOOR: _floor_ratio(record, floors),
        "compile (s)": number(timing["compile_s"], ".1f") + cached,
        "train (min)": number(timing["steady_s"], ".2f" if (timing["steady_s"] or 0) < 60 else ".1f", scale=1 / 60),
        "peak (MiB)": number(record["peak_memory_bytes"], ",.0f", scale=2**-20),
        older.COLUMN: older.reported(record["backend"], record["variational"]),
    }


def in_order(found: Iterable[Record]) -> list[Record]:
    """The records by family, then in the order of BACKENDS, then by preset and WHERE_VARYING."""

    def place(record: Record) -> tuple[Any, ...]:
        order = (FAMILIES.index(record["variational"]), BACKENDS.index(record["backend"]))
        return (*order, *(record[key] for key in ("preset", *WHERE_VARYING)))

    return sorted(found, key=place)


def shown(columns: Sequence[str], found: Sequence[Record]) -> list[str]:
    """The columns, without each column of WHERE_VARYING in which all records agree."""
    return [column for column in columns if column not in WHERE_VARYING or len({record[column] for record in found}) > 1]


def name(record: Record, found: Sequence[Record]) -> str:
    """A row's name in the lines under its table."""
    varying = [f"seed {record[key]}" if key == "seed" else record[key] for key in shown(WHERE_VARYING, found)]
    model = (record["backend"], record["variational"])
    if len({other["preset"] for other in found if (other["backend"], other["variational"]) == model}) > 1:
        varying = [record["preset"], *varying]
    return " ".join([*model, *varying])


def draws(found: Sequence[Record], *, over_images: bool) -> list[str]:
    """The line with the Monte Carlo errors of log p(x), where the records have them; and what "±" is, if `over_images`."""
    errors = [error for record in found if (error := record["test"]["log_px_mc_se"]) is not None]
    if not errors:
        return []
    low, high = f"{min(errors):.3f}", f"{max(errors):.3f}"
    over = low if low == high else f"{low} to {high}"
    first = "±: over test images. Over" if over_images else "log p(x) over"
    return [f"{first} other importance samples of the same model and images: ± {over}."]


def remarks(found: Sequence[Record], *, labels: Sequence[str] = (), over_images: bool = True) -> list[str]:
    """The lines under a table: rows without a result or a credible one, rows that spread widely, the latency between cores.

    `labels`: what a record's name needs beside `name`, "learning-rate 0.001" say; "" for nothing. `over_images`: of `draws`.
    """
    lines = []
    for record, label in zip(found, labels or [""] * len(found), strict=True):
        if record["status"] != "ok":
            row = ", ".join(filter(None, [f"{record['backend']} {record['variational']}", label, f"seed {record['seed']}"]))
            lines.append(f"{row}: {record['status']}: {' '.join(record['reason'].split())}")
        if record["timing"]["uncompiled"]:
            row = name(record, found) + (f" ({label})" if label else "")
            lines.append(f"{row}: its steps ran uncompiled: {record['timing']['uncompiled']}.")
        if record.get("edited"):
            lines.append(f"{name(record, found)}{f' ({label})' if label else ''}: its record was changed by hand.")
        elif warning := record["test"]["warning"]:
            lines.append(f"{name(record, found)}{f' ({label})' if label else ''}: {warning}")
    ends = [record["environment"].get(key) for record in found for key in ("round_trip_ns", "round_trip_after_ns")]
    return [
        *lines,
        *draws(found, over_images=over_images),
        *spreads(found, labels=labels),
        *crowded(found, labels=labels),
        *([f"Before and after training, {cores.said(ends)}."] if any(ends) else []),
    ]


def spreads(found: Sequence[Record], *, labels: Sequence[str] = ()) -> list[str]:
    """A line that names the rows whose chunks' times spread beyond `spread.BOUND`, or all of them; none where no row does."""
    wide: list[tuple[str, float]] = []
    for record, label in zip(found, labels or [""] * len(found), strict=True):
        median, iqr = record["timing"]["examples_per_s"], record["timing"]["examples_per_s_iqr"]
        if spread.warning(median=median, iqr=iqr):
            wide.append((name(record, found) + (f" ({label})" if label else ""), iqr / median))
    if not wide:
        return []
    named = ", ".join(f"{row} {ratio:.0%}" for row, ratio in wide)
    if len(wide) == len(found) > 1:
        ratios = [ratio for _, ratio in wide]
        named = f"every row, {min(ratios):.0%} to {max(ratios):.0%}"
    return [f"Interquartile range above {spread.BOUND:.0%} of the median: {named}."]


def crowded(found: Sequence[Record], *, labels: Sequence[str] = ()) -> list[str]:
    """A line that names the rows beside which other programs used the cores; none where no row did."""
    rows = []
    for record, label in zip(found, labels or [""] * len(found), strict=True):
        if environment.crowded(record["environment"].get("runnable"), record["environment"]["machine"]):
            rows.append(name(record, found) + (f" ({label})" if label else ""))
    named = "every run" if len(rows) == len(found) else ", ".join(rows)
    return [f"Other programs kept more threads running than there are cores at the start of {named}."] if rows else []


def provenance(found: Sequence[Record]) -> list[str]:
    """A line for each machine, device, precision and set of versions, with its rows and their commits."""
    machines: dict[str, dict[str, list[str]]] = {}
    for record in found:
        machine = reports.machine(record["environment"], setting=f"{record['device']}, {record['precision']}")
        commits = machines.setdefault(machine, {})
        commits.setdefault(reports.commit(record["environment"]), []).append(name(record, found))
    lines = []
    for machine, commits in machines.items():
        rows = ", ".join(row for rows in commits.values() for row in rows)
        each = "; ".join(f"{commit} ({', '.join(rows)})" if len(commits) > 1 else commit for commit, rows in commits.items())
        lines.append(f"{'Every row' if len(machines) == 1 else rows}: {machine}. Commit {each}.")
    return lines


RESULTS = (
    *("status", "ELBO", "log p(x) ± s.e."),
    *("examples/s (IQR)", FLOOR, "train (min)", "compile (s)", "peak (MiB)"),
)
OF_A_RUN = ("family", "backend", *WHERE_VARYING, *RESULTS)


def page(found: Iterable[Record], *, folders: Sequence[str] | None = None) -> list[Table | str]:
    """One table of runs, and its `remarks`; runs that differ in their seed alone are one row. [] for no run.

    The columns say in what the rows differ, the title in what they agree; a status stands where not all are ok. `folders`: each
    record's, where several are shown.
    """
    runs = sweeps.runs(list(found), folders=folders)
    if not runs:
        return []
    rows = sweeps.over_seeds(runs)
    columns = sweeps.differing(rows) if len(rows) > 1 else ["family", "backend"]
    uneven = any(run.record["status"] != "ok" for run in runs)
    shown = (*columns, *(column for column in RESULTS if column != "status" or uneven))
    floors = fastest_floors(run.record for run in runs)
    cells = [of(row.record, floors=floors) | {column: str(value) for column, value in row.what.items()} for row in rows]
    sections = [(row.what["data set"], row.what["family"]) for row in rows]
    table = Table(
        columns=shown,
        rows=[[row[column] for column in shown] for row in cells],
        left=LEFT,
        title=sweeps.agreeing(rows, apart_from=columns),
        keys=len(columns),
        gaps=[i for i in range(1, len(rows)) if sections[i] != sections[i - 1]],
    )
    named = [column for column in sweeps.differing(runs) if column not in OF_A_RUN]
    labels = [", ".join(f"{column} {run.what[column]}" for column in named) for run in runs]
    errors = sweeps.errors(rows)
    lines = [*errors, *remarks([run.record for run in runs], labels=labels, over_images=not errors)]
    return [table, *(["\n".join(lines)] if lines else [])]
