"""A table's cells, made once; `markdown.py` and `terminal.py` render them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

ABSENT = "-"


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of text. `left`: the columns that are aligned left; `gaps`: the rows (from 0) that begin a new section.

    `keys`: how many leading columns name the row; a narrow terminal repeats them, and shows the other columns a few at a time.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: Sequence[str] = ()
    title: str = ""
    gaps: Sequence[int] = field(default=())
    keys: int = 0


Part = Table | str  # a part of a page: a table, or a paragraph, list or picture in Markdown


def number(value: float | None, form: str, *, scale: float = 1.0) -> str:
    """A number in a cell; ABSENT for None."""
    return ABSENT if value is None else format(value * scale, form)


def ranged(middle: float, values: Sequence[float], form: str, *, to: str = " … ") -> str:
    """A figure, and in brackets the least and the most of the values that it stands for."""
    return f"{middle:{form}} ({min(values):{form}}{to}{max(values):{form}})"
