"""python -m benchmarks results: the runs of folders as a table, on the terminal or as CSV, JSON or Parquet."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from benchmarks.harness import cli, records
from benchmarks.outputs import cells, terminal, tidy
from common.errors import UserError
from common.files import write_bytes

FORMAT = tyro.conf.create_mutex_group(required=False, title="format")
Chosen = Annotated[bool, FORMAT, tyro.conf.FlagCreatePairsOff]


@dataclasses.dataclass
class Results:
    folders: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER…", help="Folders of records, or records.")
    ] = (Path("results"),)
    csv: Annotated[Chosen, tyro.conf.arg(help="Every setting and number a column.")] = False
    json: Annotated[Chosen, tyro.conf.arg(help="The same as a list of objects.")] = False
    parquet: Annotated[Chosen, tyro.conf.arg(help="The same as a Parquet file.")] = False
    output: Annotated[Path | None, tyro.conf.arg(help="The file to write; its ending may say the format.")] = None


def main(arguments: list[str]) -> int:
    asked = cli.parse(Results, arguments, command="results", description="The runs of folders as a table, one row a run.")
    chosen = format_of(asked)
    found = records.given(asked.folders)
    if chosen is None:
        folders = [str(path.parent) for path in found]
        terminal.page(cells.page(found.values(), folders=folders), Console())
        return 0
    content = tidy.FORMATS[chosen](tidy.rows(found.items()))
    if asked.output:
        write_bytes(asked.output, content)
        print(f"Wrote {asked.output}: {len(found):,} run{'' if len(found) == 1 else 's'}.")
    elif chosen == "parquet" and sys.stdout.isatty():
        raise UserError("A Parquet file isn't text; give --output FILE, or send it to a program.")
    else:
        sys.stdout.buffer.write(content)
    return 0


def format_of(asked: Results) -> str | None:
    """The format that a flag names, or the ending of --output; None for the terminal's table."""
    named = [name for name in tidy.FORMATS if getattr(asked, name)]
    if named or asked.output is None:
        return named[0] if named else None
    if (ending := asked.output.suffix.removeprefix(".")) not in tidy.FORMATS:
        raise UserError(f"--output is {asked.output}: give --csv, --json or --parquet too, or end the name in one of these.")
    return ending
