"""The published tables of runs, made from committed records.

A published row is a run of a commit without local changes, with exactly its preset's settings. A row without such a record
stands in the table too, and says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from rich.console import Console

from benchmarks.harness import record_names, spread
from benchmarks.harness.presets import PRESETS
from benchmarks.harness.record_schema import Record
from benchmarks.outputs import cells, older, terminal
from benchmarks.outputs.table import ABSENT, Part, Table
from common.config import FAMILIES
from common.errors import unknown
from common.estimators import standard_error
from common.protocol import BACKENDS

NOT_MEASURED = "not measured"
UNCLEAN = "not measured from a clean commit"
LOG_PX = "log p(x) ± s.e."  # the column of NOT_MEASURED and UNCLEAN


Row = tuple[str, str, str]  # preset, family, backend


@dataclass(frozen=True, kw_only=True)
class Published:
    """The runs of a published table: models on one data set."""

    rows: tuple[Row, ...]
    dataset: str
    devices: tuple[str, ...] = ("cpu",)


def in_each(*models: tuple[str, str]) -> tuple[Row, ...]:
    """A row for each model, a (preset, family), in each backend."""
    return tuple((*model, backend) for model in models for backend in BACKENDS)


def both(preset: str) -> tuple[Row, ...]:
    """Both families of a preset in each backend."""
    return in_each(*((preset, family) for family in FAMILIES))


TABLES = {
    "standard": Published(rows=both("standard"), dataset="binarized-mnist", devices=("cpu", "cuda")),
    "resnet": Published(
        rows=(
            *in_each(("standard-flow-prior", "mean-field")),
            *both("resnet-standard-prior"),
            *in_each(("resnet", "mean-field")),
        ),
        dataset="binarized-mnist",
    ),
    "resnet-large": Published(rows=in_each(("resnet-large", "mean-field")), dataset="binarized-mnist", devices=("cuda",)),
    "ancestor": Published(
        rows=tuple(
            (preset, family, backend)
            for family, (preset, backend) in product(FAMILIES, older.ANCESTORS.items())
            if family == "mean-field" or (backend, family) in older.RESULTS
        ),
        dataset="binarized-mnist",
    ),
    "quick": Published(rows=both("quick"), dataset="binarized-digits"),
}


@dataclass(frozen=True, kw_only=True)
class Block:
    """A block of a document: a table's rows on one device."""

    table: str
    columns: tuple[str, ...]
    device: str = "cpu"


RESULTS = ("ELBO", LOG_PX, "K", "images", "steps", "examples/s (IQR)", cells.FLOOR, "compile (s)", "train (min)")
WHOLE = ("family", "backend", *cells.WHERE_VARYING, *RESULTS)
HEADLINE = "standard"  # the README's block: a row for each model, one line under the table
HEADLINE_TABLES = ("standard", "resnet")
BENCH = "bench"  # the terminal's output at the end of `make bench`
OF_NETWORKS = ("network", "prior", *WHOLE)
BLOCKS = {
    HEADLINE: Block(table="standard", columns=()),
    "standard-cpu": Block(table="standard", columns=WHOLE),
    "standard-cuda": Block(table="standard", columns=WHOLE, device="cuda"),
    "resnet-cpu": Block(table="resnet", columns=OF_NETWORKS),
    "resnet-cuda": Block(table="resnet-large", columns=OF_NETWORKS, device="cuda"),
    "ancestor": Block(table="ancestor", columns=(*WHOLE, older.COLUMN)),
    "quick": Block(table="quick", columns=WHOLE),
    BENCH: Block(table="quick", columns=cells.OF_A_RUN),
}


def rows(table: str, found: Iterable[Record]) -> list[Record]:
    """The records of a table's rows, of several seeds the least, in the table's order.

    Raises `UserError` for a table that isn't in TABLES.
    """
    if table not in TABLES:
        raise unknown("table", table, TABLES)
    return _first_seeds([record for record in _candidates(TABLES[table], found) if _clean(record)])


def _row(record: Record) -> Row:
    return record["preset"], record["variational"], record["backend"]


def _candidates(table: Published, found: Iterable[Record]) -> list[Record]:
    """The records of the table's rows with their presets' settings, of any commit, in the table's order."""
    candidates = [
        record
        for record in found
        if _row(record) in table.rows
        and record["dataset"]["name"] == table.dataset
        and record["device"] in table.devices
        and not record_names.changed(record)
    ]
    return sorted(
        candidates, key=lambda record: (table.rows.index(_row(record)), *(record[key] for key in cells.WHERE_VARYING))
    )


def _clean(record: Record) -> bool:
    """Whether the code was a known commit's without local changes, from start to end, and the record is as it was written."""
    environment = record["environment"]
    clean = bool(environment.get("commit")) and not environment.get("dirty") and "commit_after" not in environment
    return clean and not record.get("edited")


def parts(name: str, found: Sequence[Record]) -> list[Part]:
    """A block of BLOCKS: its table, and the lines under the table."""
    if name == HEADLINE:
        return _headline(found)
    block = BLOCKS[name]
    table = TABLES[block.table]
    candidates = [record for record in _candidates(table, found) if record["device"] == block.device]
    clean = [record for record in candidates if _clean(record)]
    published = _first_seeds(clean)
    if name == BENCH:
        return [_screen(cells.page(published)[:1])]
    columns, floors = cells.shown(block.columns, published), cells.fastest_floors(published)
    lines = []
    for row in table.rows:
        mine = [record for record in candidates if _row(record) == row]
        filled = [cells.of(record, floors=floors) for record in mine if record in published]
        empty = _named(row) | {LOG_PX: UNCLEAN if mine else NOT_MEASURED}
        if older.COLUMN in columns:
            empty[older.COLUMN] = older.reported(row[2], row[1])
        lines += [[cell.get(column, ABSENT) for column in columns] for cell in filled or [empty]]
    return [Table(columns=columns, rows=lines, left=cells.LEFT), _remarks(block, published, seeds=over_seeds(clean))]


def _first_seeds(found: Sequence[Record]) -> list[Record]:
    """The records without those that a lesser seed of the same row stands for."""
    least = {(_row(record), record["device"], record["precision"]): record for record in reversed(found)}
    return [record for record in found if any(record is kept for kept in least.values())]


def over_seeds(found: Sequence[Record]) -> list[str]:
    """The line with each row's log p(x) over its seeds: the mean and its standard error, and the range."""
    rows: dict[str, dict[int, float]] = {}
    alike = [record | {"seed": 0} for record in found]
    for record, plain in zip(found, alike, strict=True):
        rows.setdefault(cells.name(plain, alike), {})[record["seed"]] = record["test"]["log_px"]
    said = []
    for name, of in rows.items():
        if len(of) > 1:
            values = np.array(list(of.values()))
            mean, error = values.mean(), standard_error(values)
            said.append(f"{name} {mean:.2f} ± {error:.2f} ({len(of)} seeds, {values.min():.2f} to {values.max():.2f})")
    return [f"log p(x) over seeds, the mean ± its standard error over them: {'; '.join(said)}."] if said else []


def _named(row: Row) -> dict[str, str]:
    """The cells that name a row."""
    preset, family, backend = row
    model = PRESETS[preset].model
    return {"family": family, "network": model.network, "prior": model.prior, "backend": backend}


def _headline(found: Sequence[Record]) -> list[Part]:
    """A row for each measured model on a CPU: log p(x) and speed in each backend; and a line with the machines."""
    candidates = [record for table in HEADLINE_TABLES for record in _candidates(TABLES[table], found)]
    published = _first_seeds([record for record in candidates if record["device"] == "cpu" and _clean(record)])
    first = {_row(record): cells.of(record, floors={}) for record in reversed(published)}  # of several precisions, the first
    models = dict.fromkeys(row[:2] for table in HEADLINE_TABLES for row in TABLES[table].rows if row in first)
    shown = {"log p(x)": LOG_PX, "examples/s": "examples/s"}
    lines = []
    for model in models:
        cell = {column: [first.get((*model, backend), {}) for backend in BACKENDS] for column in shown}
        filled = [
            made.get(shown[column], NOT_MEASURED if column == "log p(x)" else ABSENT)
            for column in shown
            for made in cell[column]
        ]
        lines.append([_title(model), *filled])
    columns = ["model", *(f"{column}, {backend}" for column in shown for backend in BACKENDS)]
    return [Table(columns=columns, rows=lines, left=cells.LEFT), _summary(published)]


def _title(model: tuple[str, str]) -> str:
    """A model's name in words: "resnet, mean-field, flow prior"."""
    preset, family = model
    settings = PRESETS[preset].model
    named = (settings.network if settings.network != "mlp" else "", family, "flow prior" if settings.prior == "flow" else "")
    return ", ".join(filter(None, named))


def _remarks(block: Block, found: list[Record], *, seeds: list[str]) -> str:
    """A list: the data set, `cells.remarks`, the line of `over_seeds`, `cells.provenance`, and the timing contract."""
    remarks = [f"Data: {TABLES[block.table].dataset}."]
    if found:
        remarks += [*cells.remarks(found), *seeds, *cells.provenance(found), spread.statement("timing.md")]
    return "\n".join(f"- {remark}" for remark in remarks)


def _screen(parts: list[Part]) -> str:
    """The parts as a terminal of 100 columns shows them, in a Markdown code block."""
    console = Console(width=100, force_terminal=True, color_system=None)
    with console.capture() as capture:
        terminal.page(parts, console)
    return "\n".join(["```", *(line.rstrip() for line in capture.get().splitlines()), "```"])


def _summary(found: list[Record]) -> str:
    """The data set, the test, each machine's models, the rows that spread widely, and a link to the other columns."""
    tests = {(record["test"]["images"], record["test"]["importance_samples"]) for record in found}
    said = [f"{images:,} test images, K = {samples:,}" for images, samples in tests if images and samples]
    steps = {f"{record['config']['training']['steps']:,} steps" for record in found}
    machines: dict[str, dict[str, None]] = {}
    for record in found:
        if record["environment"]["machine"]:
            models = machines.setdefault(record["environment"]["machine"]["cpu"], {})
            models[_title((record["preset"], record["variational"]))] = None
    where = [f"{machine} ({'; '.join(models)})" if len(machines) > 1 else machine for machine, models in machines.items()]
    about = "; ".join([TABLES[HEADLINE].dataset, *sorted(steps), *said, *where])
    pages = "[docs/results.md](docs/results.md#standard-one-recipe-for-all) and [docs/resnet.md](docs/resnet.md)"
    rest = f"All columns, versions and commits: {pages}."
    return " ".join([f"{about}.", *cells.spreads(found), rest])
