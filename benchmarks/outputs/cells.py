"""Records as the rows of a table, and the lines under the table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.harness import cores, records, reports, spread
from benchmarks.harness.records import Record
from benchmarks.outputs import older
from benchmarks.outputs.table import Table, number
from common.config import FAMILIES
from common.protocol import BACKENDS

WHERE_VARYING = ("device", "precision", "seed")  # columns that are left out where all rows agree
LEFT = ("family", "backend", *WHERE_VARYING, "status", older.COLUMN)

Cells = dict[str, str]  # column → its text


def of(record: Record) -> Cells:
    """A record's cells in all columns."""
    timing, test = record["timing"], record["test"]
    iqr, se = timing["examples_per_s_iqr"], test["log_px_se"]
    speed = number(timing["examples_per_s"], ",.0f")
    return {
        "family": record["variational"],
        "backend": trained_by(record),
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
        "step / floor": number(timing["floor_ratio"], ".2f"),
        "compile (s)": number(timing["compile_s"], ".1f") + (" (cached)" if timing["programs_compiled"] == 0 else ""),
        "train (min)": number(timing["steady_s"], ".2f" if (timing["steady_s"] or 0) < 60 else ".1f", scale=1 / 60),
        "peak (MiB)": number(record["peak_memory_bytes"], ",.0f", scale=2**-20),
        older.COLUMN: older.reported(record["backend"], record["variational"]),
    }


def trained_by(record: Record) -> str:
    """The backend; for a run that several backends trained, each with its last step."""
    if len(record["trained"]) < 2:
        return str(record["backend"])
    return " → ".join(f"{part['backend']} {part['last_step']:,}" for part in record["trained"])


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
    return " ".join([record["backend"], record["variational"], *(str(record[key]) for key in shown(WHERE_VARYING, found))])


def remarks(found: Sequence[Record]) -> list[str]:
    """The lines under a table: rows without a result, rows that spread widely, the latency between cores where it is known."""
    lines = []
    for record in found:
        if record["status"] != "ok":
            row = f"{record['backend']} {record['variational']}, seed {record['seed']}"
            lines.append(f"{row}: {record['status']}: {' '.join(record['reason'].split())}")
    ends = [record["environment"].get(key) for record in found for key in ("round_trip_ns", "round_trip_after_ns")]
    return [*lines, *spreads(found), *([f"Before and after training, {cores.said(ends)}."] if any(ends) else [])]


def spreads(found: Sequence[Record]) -> list[str]:
    """A line that names the rows whose chunks' times spread beyond `spread.BOUND`; none where no row does."""
    wide = []
    for record in found:
        median, iqr = record["timing"]["examples_per_s"], record["timing"]["examples_per_s_iqr"]
        if spread.warning(median=median, iqr=iqr):
            wide.append(f"{name(record, found)} {iqr / median:.0%}")
    return [f"Interquartile range above {spread.BOUND:.0%} of the median: {', '.join(wide)}."] if wide else []


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


OF_A_RUN = (
    *("family", "backend", *WHERE_VARYING, "status", "ELBO", "log p(x) ± s.e."),
    *("examples/s (IQR)", "step / floor", "train (min)", "compile (s)", "peak (MiB)"),
)


def page(found: Iterable[Record]) -> list[Table | str]:
    """A table for each preset, data set and set of changed settings, each followed by its `remarks`."""
    groups: dict[str, list[Record]] = {}
    for record in in_order(found):
        changes = f"; changed: {records.changes(record)}" if records.changed(record) else ""
        groups.setdefault(f"{record['preset']}, {record['dataset']['name']}{changes}", []).append(record)
    parts: list[Table | str] = []
    for title, rows in groups.items():
        columns = shown(OF_A_RUN, rows)
        gaps = [i for i in range(1, len(rows)) if rows[i]["variational"] != rows[i - 1]["variational"]]
        cells = [[of(row)[column] for column in columns] for row in rows]
        parts.append(Table(columns=columns, rows=cells, left=LEFT, title=title, gaps=gaps))
        if lines := remarks(rows):
            parts.append("\n".join(lines))
    return parts
