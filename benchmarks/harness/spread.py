"""The sentences that accompany published times; docs/timing.md has the timing contract, common/clock.py the clock."""

from __future__ import annotations

BOUND = 0.10  # of the interquartile range over the median; a row above the bound gets a warning


def warning(*, median: float | None, iqr: float | None) -> str | None:
    """The warning of a row whose chunks' interquartile range is above BOUND of their median; else None."""
    if not median or iqr is None or iqr / median <= BOUND:
        return None
    return (
        f"the middle half of its chunks spreads over {iqr / median:.0%} of their median, more than {BOUND:.0%}: "
        "the machine was not quiet, its cores moved, or the chunks are too short"
    )


def statement(document: str, *, spread: str = "interquartile range over chunks") -> str:
    """The line under a table of times; `document` is the path of the timing contract, from the table's own file."""
    return (
        "Times: the device synchronised at both ends of each chunk of steps; import, set-up, data placement, compiling, "
        f"evaluation and logging outside; median and {spread}; TF32 off unless a row says otherwise: "
        f"[the timing contract]({document})."
    )
