"""Tables on a terminal: ruled where the terminal is wide enough, else one plain line for each row."""

from __future__ import annotations

from collections.abc import Iterable

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
    """Print one table. Rich cuts numbers that don't fit: break cells between words instead, or print plain lines."""
    if table.title:
        console.print(table.title, markup=False, highlight=False, soft_wrap=True)
    rows = [list(table.columns), *(list(row) for row in table.rows)]
    broken = [[_broken(cell) for cell in row] for row in rows]
    for layout in (rows, [broken[0], *rows[1:]], broken):
        ruled = RichTable(box=box.SIMPLE_HEAD, show_edge=False, padding=0)
        for column, header in zip(table.columns, layout[0], strict=True):
            ruled.add_column(Text(header), justify="left" if column in table.left else "right", no_wrap=True)
        for i, row in enumerate(layout[1:]):
            if i in table.gaps:
                ruled.add_section()
            ruled.add_row(*(Text(cell) for cell in row))
        widest = Measurement.get(console, console.options.update_width(10_000), ruled).maximum
        if console.is_terminal and widest <= console.width:
            console.print(ruled)
            return
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
