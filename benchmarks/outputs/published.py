"""The published tables of runs, made from committed records.

A published row is a run of a commit without local changes, with exactly its preset's settings. A row without such a record
stands in the table too, and says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product

from rich.console import Console

from benchmarks.harness import records, spread
from benchmarks.harness.records import Record
from benchmarks.outputs import cells, older, terminal
from benchmarks.outputs.table import ABSENT, Part, Table
from common.config import FAMILIES
from common.errors import unknown
from common.protocol import BACKENDS

NOT_MEASURED = "not measured"
UNCLEAN = "not measured from a clean commit"
LOG_PX = "log p(x) ± s.e."  # the column of NOT_MEASURED and UNCLEAN


@dataclass(frozen=True, kw_only=True)
class Published:
    """The runs of a published table: models on one data set."""

    presets: Mapping[str, str]  # backend → preset
    dataset: str
    models: tuple[tuple[str, str], ...]  # (family, backend)
    devices: tuple[str, ...] = ("cpu",)


ALL = tuple(product(FAMILIES, BACKENDS))
TABLES = {
    "standard": Published(
        presets=dict.fromkeys(BACKENDS, "standard"), dataset="binarized-mnist", models=ALL, devices=("cpu", "cuda")
    ),
    "ancestor": Published(
        presets={backend: preset for preset, backend in older.ANCESTORS.items()},
        dataset="binarized-mnist",
        models=tuple(model for model in ALL if model[0] == "mean-field" or model[::-1] in older.RESULTS),
    ),
    "quick": Published(presets=dict.fromkeys(BACKENDS, "quick"), dataset="binarized-digits", models=ALL),
}


@dataclass(frozen=True, kw_only=True)
class Block:
    """A block of a document: a table's rows on one device."""

    table: str
    columns: tuple[str, ...]
    device: str = "cpu"


RESULTS = ("ELBO", LOG_PX, "K", "images", "steps", "examples/s (IQR)", "step / floor", "compile (s)", "train (min)")
WHOLE = ("family", "backend", *cells.WHERE_VARYING, *RESULTS)
HEADLINE = "standard"  # the README's block: few columns, one line under the table
BENCH = "bench"  # the terminal's output at the end of `make bench`
BLOCKS = {
    HEADLINE: Block(table="standard", columns=("family", "backend", LOG_PX, "ELBO", "examples/s", "step / floor")),
    "standard-cpu": Block(table="standard", columns=WHOLE),
    "standard-cuda": Block(table="standard", columns=WHOLE, device="cuda"),
    "ancestor": Block(table="ancestor", columns=(*WHOLE, older.COLUMN)),
    "quick": Block(table="quick", columns=WHOLE),
    BENCH: Block(table="quick", columns=cells.OF_A_RUN),
}


def rows(table: str, found: Iterable[Record]) -> list[Record]:
    """The records of a table's rows, in the table's order. Raises `UserError` for a table that isn't in TABLES."""
    if table not in TABLES:
        raise unknown("table", table, TABLES)
    return [record for record in _candidates(TABLES[table], found) if _clean(record)]


def _candidates(table: Published, found: Iterable[Record]) -> list[Record]:
    """The records of the table's models with their presets' settings, of any commit, in the table's order."""
    return cells.in_order(
        record
        for record in found
        if (record["variational"], record["backend"]) in table.models
        and record["preset"] == table.presets[record["backend"]]
        and record["dataset"]["name"] == table.dataset
        and record["device"] in table.devices
        and not records.changed(record)
    )


def _clean(record: Record) -> bool:
    """Whether the code was a known commit's without local changes, from the start of measuring to the end."""
    environment = record["environment"]
    return bool(environment.get("commit")) and not environment.get("dirty") and "commit_after" not in environment


def parts(name: str, found: Iterable[Record]) -> list[Part]:
    """A block of BLOCKS: its table, and the lines under the table."""
    block = BLOCKS[name]
    table = TABLES[block.table]
    candidates = [record for record in _candidates(table, found) if record["device"] == block.device]
    published = [record for record in candidates if _clean(record)]
    if name == BENCH:
        return [_screen(cells.page(published)[:1])]
    columns = cells.shown(block.columns, published)
    lines = []
    for family, backend in table.models:
        mine = [record for record in candidates if (record["variational"], record["backend"]) == (family, backend)]
        filled = [cells.of(record) for record in mine if record in published]
        empty = {"family": family, "backend": backend, LOG_PX: UNCLEAN if mine else NOT_MEASURED}
        if older.COLUMN in columns:
            empty[older.COLUMN] = older.reported(backend, family)
        lines += [[row.get(column, ABSENT) for column in columns] for row in filled or [empty]]
    under = _summary(published) if name == HEADLINE else _remarks(block, published)
    return [Table(columns=columns, rows=lines, left=cells.LEFT), under]


def _remarks(block: Block, found: list[Record]) -> str:
    """A list: the data set, `cells.remarks`, `cells.provenance`, and the timing contract."""
    remarks = [f"Data: {TABLES[block.table].dataset}."]
    if found:
        remarks += [*cells.remarks(found), *cells.provenance(found), spread.statement("timing.md")]
    return "\n".join(f"- {remark}" for remark in remarks)


def _screen(parts: list[Part]) -> str:
    """The parts as a terminal of 100 columns shows them, in a Markdown code block."""
    console = Console(width=100, force_terminal=True, color_system=None)
    with console.capture() as capture:
        terminal.page(parts, console)
    return "\n".join(["```", *(line.rstrip() for line in capture.get().splitlines()), "```"])


def _summary(found: list[Record]) -> str:
    """The data set, the test and the machine, the rows that spread widely, and a link to the other columns."""
    tests = {(record["test"]["images"], record["test"]["importance_samples"]) for record in found}
    said = [f"{images:,} test images, K = {samples:,}" for images, samples in tests if images and samples]
    steps = {f"{record['config']['training']['steps']:,} steps" for record in found}
    machines = {record["environment"]["machine"]["cpu"] for record in found if record["environment"]["machine"]}
    about = "; ".join([TABLES[HEADLINE].dataset, *sorted(steps), *said, *sorted(machines)])
    rest = "All columns, versions and commits: [docs/results.md](docs/results.md#standard-one-recipe-for-all-six-models)."
    return " ".join([f"{about}.", *cells.spreads(found), rest])
