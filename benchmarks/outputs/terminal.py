"""Tables on a terminal: ruled where the terminal is wide enough, else in pieces; in a pipe one plain line for each row."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from benchmarks.outputs.table import Part, Table


def page(parts: Iterable[Part], console: Console) -> None:
    """Print the parts, an empty line between two."""
    for i, part in enumerate(parts):
        if i:
            console.print()
        if isinstance(part, Table):
            show(part, console)
        else:
            console.print(part, markup=False, highlight=False, soft_wrap=True)


def show(table: Table, console: Console) -> None:
    """Print one table, on a terminal in as few lines as it can be."""
    if table.title:
        console.print(table.title, markup=False, highlight=False, soft_wrap=True)
    layouts = _layouts(table, console) if console.is_terminal else []
    if not layouts:
        _plain(table, console)
        return
    pieces = min(layouts, key=lambda pieces: sum(len(console.render_lines(piece)) for piece in pieces))
    for i, piece in enumerate(pieces):
        if i:
            console.print()
        console.print(piece)


def _layouts(table: Table, console: Console) -> list[list[RichTable]]:
    """The ruled tables that show the table within the terminal's width, in the ways that fit; the best first."""
    if whole := _ruled(table, console, break_cells=False):
        return [[whole]]
    broken = _ruled(table, console, break_cells=True)
    pieces = _pieces(table, console) or _pieces(_numbered(table), console)
    return [layout for layout in ([broken] if broken else [], pieces) if layout]


def _ruled(table: Table, console: Console, *, break_cells: bool) -> RichTable | None:
    """The table, ruled, with headers, and cells, broken between words where need be; None where it is too wide even so."""
    rows = [list(table.columns), *(list(row) for row in table.rows)]
    broken = [[_broken(cell) for cell in row] for row in rows]
    for layout in (rows, [broken[0], *rows[1:]], *([broken] if break_cells else [])):
        ruled = RichTable(box=box.SIMPLE_HEAD, show_edge=False, padding=0)
        for column, header in zip(table.columns, layout[0], strict=True):
            ruled.add_column(Text(header), justify="left" if column in table.left else "right", no_wrap=True)
        for i, row in enumerate(layout[1:]):
            if i in table.gaps:
                ruled.add_section()
            ruled.add_row(*(Text(cell) for cell in row))
        widest = Measurement.get(console, console.options.update_width(10_000), ruled).maximum
        if widest <= console.width:
            return ruled
    return None


def _pieces(table: Table, console: Console) -> list[RichTable]:
    """The table as several, each with the columns that name the row and as many others as fit; [] where none fits."""
    if not table.keys:
        return []
    pieces: list[RichTable] = []
    first = table.keys
    while first < len(table.columns):
        for last in range(len(table.columns), first, -1):
            if piece := _ruled(_columns(table, [*range(table.keys), *range(first, last)]), console, break_cells=False):
                break
        else:
            return []
        pieces.append(piece)
        first = last
    return pieces


def _numbered(table: Table) -> Table:
    """The table with a number for each row; where it has columns that name a row, the number does so in their place."""
    rows = [(str(i), *row) for i, row in enumerate(table.rows, start=1)]
    return dataclasses.replace(table, columns=("row", *table.columns), rows=rows, keys=min(table.keys, 1))


def _columns(table: Table, places: Sequence[int]) -> Table:
    columns, *rows = ([row[i] for i in places] for row in (table.columns, *table.rows))
    return dataclasses.replace(table, columns=columns, rows=rows)


def _plain(table: Table, console: Console) -> None:
    """One line a row, whatever its length."""
    rows = [list(table.columns), *(list(row) for row in table.rows)]
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    for row in rows:
        aligned = [
            cell.ljust(width) if column in table.left else cell.rjust(width)
            for column, cell, width in zip(table.columns, row, widths, strict=True)
        ]
        console.print("  ".join(aligned).rstrip(), markup=False, highlight=False, soft_wrap=True)


def _broken(cell: str) -> str:
    """A cell with one word on each line; "±" stays beside its number."""
    return cell.replace(" ", "\n").replace("±\n", "± ")
