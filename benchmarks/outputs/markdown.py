"""Tables as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable

from benchmarks.outputs.table import Part, Table


def page(parts: Iterable[Part]) -> str:
    """The parts, an empty line between two, ending in a newline."""
    return "\n\n".join(lines(part) if isinstance(part, Table) else part.strip("\n") for part in parts) + "\n"


def lines(table: Table) -> str:
    """The table's lines, without its title."""
    rules = ["---" if column in table.left else "---:" for column in table.columns]
    return "\n".join(f"| {' | '.join(map(cell, cells))} |" for cells in (table.columns, rules, *table.rows))


def cell(text: str) -> str:
    """The text in a cell: its bars don't end the cell, and it begins no HTML."""
    return re.sub(r"<(?=[A-Za-z/!])", "&lt;", re.sub(r"(?<!\\)\|", r"\\|", text))
