"""Tables of records: the README's, from committed records alone, and the one that a sweep ends in. Both show the same cells."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.harness import cores, reports, spread
from benchmarks.harness.records import RECORDS, Record, changed, changes, read_all
from benchmarks.outputs import terminal as _terminal
from benchmarks.outputs.table import Table
from common.errors import UserError
from common.files import write_text
from common.protocol import BACKENDS

README = Path(__file__).parents[2] / "README.md"
BLOCK = re.compile(r"<!-- table: (?P<name>[\w-]+) -->\n.*?<!-- end table -->", re.DOTALL)
FAMILIES = ("mean-field", "flow")
ABSENT = "-"

# Columns that are shown only where a table's rows differ in them.
WHERE_VARYING = ("device", "precision", "seed")
LABELS = ("what", "kind", "family", "backend", *WHERE_VARYING, "status", "preset", "verdict", "old README: ELBO / log p(x)")
RESULTS = ("ELBO", "log p(x) ± s.e.", "K", "images", "steps", "examples/s (IQR)", "step / floor", "compile (s)", "train (min)")


@dataclass(frozen=True)
class Published:
    """A README table: the records of some presets on one data set."""

    presets: tuple[str, ...]
    dataset: str
    columns: tuple[str, ...] = ("family", "backend", *WHERE_VARYING, *RESULTS)
    footnote: str | None = None


ANCESTORS = {f"ancestor-{backend}": backend for backend in BACKENDS}
TABLES = {
    "standard": Published(presets=("standard",), dataset="binarized-mnist"),
    "ancestor": Published(
        presets=tuple(ANCESTORS),
        dataset="binarized-mnist",
        columns=("family", "backend", *WHERE_VARYING, *RESULTS, "old README: ELBO / log p(x)"),
        footnote="Each script's widths, batch, budget, optimizer, initial weights and selection; the flow is this suite's.",
    ),
    "quick": Published(presets=("quick",), dataset="binarized-digits"),
}
TERMINAL_COLUMNS = (
    *("family", "backend", *WHERE_VARYING, "status", "ELBO", "log p(x) ± s.e."),
    *("examples/s (IQR)", "step / floor", "train (min)", "compile (s)", "peak (MiB)"),
)


@dataclass(frozen=True)
class OldResult:
    """What the README of the three scripts reports: test ELBO and log p(x), nats, by K importance samples."""

    steps: int
    elbo: float
    log_px: float
    samples: int


# Source: README.md of github.com/jaanli/variational-autoencoder. It has no test result of its TensorFlow script.
OLD_RESULTS = {
    ("pytorch", "mean-field"): (OldResult(30_000, -106.642, -100.309, 1000), OldResult(65_000, -103.31, -97.10, 128)),
    ("pytorch", "flow"): (OldResult(150_000, -101.64, -95.33, 128),),
    ("jax", "mean-field"): (OldResult(30_000, -104.867, -96.716, 1000),),
    ("jax", "flow"): (OldResult(30_000, -106.803, -97.620, 1000),),
}


# --- a row ---


def cells(record: Record) -> dict[str, str]:
    """A record's cell in every column there is."""
    timing, test = record["timing"], record["test"]
    iqr, se = timing["examples_per_s_iqr"], test["log_px_se"]
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
        "examples/s (IQR)": number(timing["examples_per_s"], ",.0f") + ("" if iqr is None else f" ({iqr:,.0f})"),
        "step / floor": number(timing["floor_ratio"], ".2f"),
        "compile (s)": number(timing["compile_s"], ".1f") + (" (cached)" if timing["programs_compiled"] == 0 else ""),
        "train (min)": number(timing["steady_s"], ".2f" if (timing["steady_s"] or 0) < 60 else ".1f", scale=1 / 60),
        "peak (MiB)": number(record["peak_memory_bytes"], ",.0f", scale=2**-20),
        "old README: ELBO / log p(x)": _old_results(record),
    }


def trained_by(record: Record) -> str:
    """The backend; where a run changed its framework, each in order, with its last step."""
    if len(record["trained"]) < 2:
        return str(record["backend"])
    return " → ".join(f"{part['backend']} {part['last_step']:,}" for part in record["trained"])


def number(value: float | None, form: str, *, scale: float = 1.0) -> str:
    """A number in a cell; ABSENT for null."""
    return ABSENT if value is None else format(value * scale, form)


def _old_results(record: Record) -> str:
    reported = [
        f"{old.elbo:.2f} / {old.log_px:.2f} ({old.steps:,} steps, K {old.samples:,})"
        for old in OLD_RESULTS.get((record["backend"], record["variational"]), ())
    ]
    return "; ".join(reported) or ABSENT


def in_order(records: Iterable[Record]) -> list[Record]:
    """Families together, then in the suite's order of backends."""

    def place(record: Record) -> tuple[Any, ...]:
        known = [
            names.index(record[key]) if record[key] in names else len(names)
            for key, names in (("variational", FAMILIES), ("backend", BACKENDS))
        ]
        return (*known, *(record[key] for key in ("variational", "backend", "preset", *WHERE_VARYING)))

    return sorted(records, key=place)


def shown(columns: Sequence[str], records: Sequence[Record]) -> list[str]:
    """The columns, without those of WHERE_VARYING that are equal in all records."""
    return [column for column in columns if column not in WHERE_VARYING or len({record[column] for record in records}) > 1]


def notes(records: Sequence[Record]) -> list[str]:
    """A line for each row that has no result, with its reason."""
    lines = []
    for record in records:
        if record["status"] != "ok":
            reason = " ".join(record["reason"].split())
            lines.append(f"{record['backend']} {record['variational']}, seed {record['seed']}: {record['status']}: {reason}")
    return lines


def spreads(records: Sequence[Record]) -> list[str]:
    """A line that names the rows whose chunks spread too widely to be taken at their median."""
    wide = []
    for record in records:
        median, iqr = record["timing"]["examples_per_s"], record["timing"]["examples_per_s_iqr"]
        if spread.warning(median=median, iqr=iqr):
            wide.append(f"{_row(record, records)} {iqr / median:.0%}")
    bound = f"{spread.BOUND:.0%}"
    return [f"The middle half of the chunks spreads over more than {bound} of their median: {', '.join(wide)}."] if wide else []


def distances(records: Sequence[Record]) -> list[str]:
    """A line on how far apart the cores were, where that is on a record."""
    ends = [record["environment"].get(name) for record in records for name in ("round_trip_ns", "round_trip_after_ns")]
    return [f"At both ends of training, {cores.said(ends)}."] if any(ends) else []


# --- the README ---


def rows(table: str, records: Iterable[Record]) -> list[Record]:
    """The records of a README table, in its order: of its presets' own settings, an ancestor's on its own framework alone.

    Raises `UserError` for a table that isn't in TABLES.
    """
    if table not in TABLES:
        raise UserError(f"There is no table '{table}'; choose from {', '.join(TABLES)}.")
    wanted = TABLES[table]
    return in_order(
        record
        for record in records
        if record["preset"] in wanted.presets
        and record["dataset"]["name"] == wanted.dataset
        and not changed(record)
        and record["backend"] == ANCESTORS.get(record["preset"], record["backend"])
    )


def markdown(table: str, records: Iterable[Record]) -> str:
    """A README table, with its footnote and where it was measured; a sentence where no record is there."""
    found = rows(table, records)
    if not found:
        return "No record yet.\n"
    columns = shown(TABLES[table].columns, found)
    lines = [_line(columns), _line("---" if column in LABELS else "---:" for column in columns)]
    lines += [_line(cells(record)[column] for column in columns) for record in found]
    remarks = [
        TABLES[table].footnote,
        *notes(found),
        *spreads(found),
        *distances(found),
        *_provenance(found),
        spread.statement("docs/timing.md"),
    ]
    if all(record["device"] == "cpu" for record in found):
        remarks.append("On a GPU: not measured.")
    lines += ["", f"Data: {TABLES[table].dataset}.", ""]
    lines += [f"- {remark}" for remark in remarks if remark]
    return "\n".join(lines) + "\n"


def _line(parts: Iterable[str]) -> str:
    return f"| {' | '.join(parts)} |"


def _row(record: Record, records: Sequence[Record]) -> str:
    """What a row is called under its table."""
    return " ".join([record["backend"], record["variational"], *(str(record[key]) for key in shown(WHERE_VARYING, records))])


def _provenance(records: Sequence[Record]) -> list[str]:
    """Where the rows were measured, a line for each machine, precision and set of versions; their commits after it."""
    machines: dict[str, dict[str, list[str]]] = {}
    for record in records:
        measured = reports.machine(record["environment"], setting=f"{record['device']}, {record['precision']}")
        commits = machines.setdefault(measured, {})
        commits.setdefault(reports.commit(record["environment"]), []).append(_row(record, records))
    lines = []
    for measured, commits in machines.items():
        names = ", ".join(name for rows in commits.values() for name in rows)
        lines.append(f"{'Every row' if len(machines) == 1 else names}: {measured}.")
        each = "; ".join(f"{commit} ({', '.join(rows)})" for commit, rows in commits.items())
        lines[-1] += f" Commit {each if len(commits) > 1 else next(iter(commits))}."
    return lines


def filled(text: str, records: Sequence[Record]) -> str:
    """A README's text with each block between `<!-- table: NAME -->` and `<!-- end table -->` made anew.

    Raises `UserError` where a table has no block, or a block no table.
    """
    found = [match["name"] for match in BLOCK.finditer(text)]
    if sorted(found) != sorted(TABLES):
        raise UserError(
            f"The README has blocks for the tables {', '.join(found) or 'none'}, not one for each of {', '.join(TABLES)}; "
            "put `<!-- table: NAME -->` and `<!-- end table -->` on lines of their own."
        )

    def block(match: re.Match[str]) -> str:
        name = match["name"]
        return f"<!-- table: {name} -->\n{markdown(name, records)}<!-- end table -->"

    return BLOCK.sub(block, text)


def write(*, records_dir: Path = RECORDS, readme: Path = README) -> None:
    """Make the README's tables from the records. Raises `UserError` as `filled` does."""
    write_text(readme, filled(readme.read_text(encoding="utf-8"), read_all(records_dir)))


def check(*, records_dir: Path = RECORDS, readme: Path = README) -> None:
    """Raises `UserError` where the README's tables aren't what the records say."""
    text = readme.read_text(encoding="utf-8")
    if filled(text, read_all(records_dir)) != text:
        raise UserError(f"The tables of {readme} differ from the records in {records_dir}; run `make tables`.")


# --- the terminal ---


def terminal(records: Iterable[Record], *, console: Console | None = None) -> None:
    """Print a table for each preset, what is changed of it and data set, and the reason of each row without a result."""
    console = console or Console()
    groups: dict[str, list[Record]] = {}
    for record in in_order(records):
        title = f"{record['preset']}, {record['dataset']['name']}"
        if changed(record):
            title += f"; changed: {changes(record)}"
        groups.setdefault(title, []).append(record)
    for title, found in groups.items():
        columns = shown(TERMINAL_COLUMNS, found)
        ends = [i for i in range(1, len(found)) if found[i]["variational"] != found[i - 1]["variational"]]
        show(console, title=title, columns=columns, rows=[[cells(r)[c] for c in columns] for r in found], section_ends=ends)
        for note in [*notes(found), *spreads(found), *distances(found)]:
            console.print(note, markup=False, highlight=False, soft_wrap=True)


def show(
    console: Console, *, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], section_ends: Sequence[int] = ()
) -> None:
    """`terminal.show` of cells whose label columns are among LABELS."""
    _terminal.show(Table(columns=columns, rows=rows, left=LABELS, title=title, gaps=section_ends), console)
