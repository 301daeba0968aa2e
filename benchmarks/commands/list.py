"""python -m benchmarks list: the backends, their versions and devices; or the runs of a results folder."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from benchmarks.harness import cli, record_names, records
from benchmarks.outputs import terminal
from benchmarks.outputs.table import ABSENT, Part, Table, number
from common import checkpoints, protocol
from common.errors import UserError

RUNS_HELP = "The runs of these folders instead, stopped ones too; of results/ where none is named."
COLUMNS = ("status", "when", "ELBO", "log p(x)", "checkpoint", "run")
LEFT = ("status", "when", "checkpoint", "run")


@dataclasses.dataclass
class List:
    runs: Annotated[tuple[Path, ...] | None, tyro.conf.arg(metavar="[FOLDER…]", help=RUNS_HELP)] = None


def main(arguments: list[str]) -> int:
    description = "The backends, their versions and devices; or the runs of a results folder."
    asked = cli.parse(List, arguments, command="list", description=description)
    if asked.runs is None:
        backends()
    else:
        terminal.page([part for folder in asked.runs or (Path("results"),) for part in runs(folder)], Console())
    return 0


def backends() -> None:
    for name in protocol.BACKENDS:
        found, reason = cli.described(name)
        if found is None:
            print(f"{name}: {reason}")
        else:
            versions = ", ".join(f"{package} {version}" for package, version in found["versions"].items())
            devices = ", ".join(f"{device} ({hardware})" for device, hardware in found["devices"].items())
            print(f"{name}: {versions}; {devices}")


def runs(folder: Path) -> list[Part]:
    """A row for each record, and for each checkpoint of a run without one; a line for each file that is neither."""
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}; give a results folder.")
    rows, lines = [], []
    of_records = set()
    for path in sorted(folder.glob("[!.]*.json")):
        if records.is_report(path):
            lines.append(f"{path} is passed over: a report, not a record.")
            continue
        try:
            record = records.read(path)
        except UserError as error:
            lines.append(str(error))
            continue
        checkpoint = record_names.beside(folder, record, record_names.checkpoint_name_of)
        of_records.add(checkpoint)
        there = ABSENT if not checkpoint.exists() else "yes" if record["status"] == "ok" else _step(checkpoint) or ABSENT
        rows.append(
            [
                record["status"],
                _when(path),
                number(record["test"]["elbo"], ".2f"),
                number(record["test"]["log_px"], ".2f"),
                there,
                path.stem,
            ]
        )
    for path in sorted(set(folder.glob("[!.]*.h5")) - of_records):
        if step := _step(path):
            rows.append(["unfinished", _when(path), ABSENT, ABSENT, step, path.stem])
        else:
            lines.append(f"{path} is passed over: {checkpoints.other_kind(path) or 'a damaged file'}, not a checkpoint.")
    table = Table(columns=COLUMNS, rows=rows, left=LEFT, title=str(folder))
    return [table if rows else f"{folder} has no run.", *(["\n".join(lines)] if lines else [])]


def _step(path: Path) -> str | None:
    """ "step 500 of 2,000"; None where the file is no checkpoint."""
    try:
        checkpoint = checkpoints.load(path)
    except UserError:
        return None
    return f"step {int(checkpoint.state['step']):,} of {checkpoint.config.training.steps:,}"


def _when(path: Path) -> str:
    """When the file was written, by its own time."""
    return datetime.fromtimestamp(path.stat().st_mtime).strftime("%Y-%m-%d %H:%M")
