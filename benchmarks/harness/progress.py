"""Progress on stderr: a bar on a terminal, plain lines in a pipe."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

SECONDS_BETWEEN_LINES = 10.0

Advance = Callable[[int, float | None], None]


class Progress:
    """The progress of one run; `title` begins each line."""

    def __init__(self, title: str):
        self.title = title

    @contextlib.contextmanager
    def phase(self, name: str, *, total: int, unit: str, rows: int = 1) -> Iterator[Advance]:
        """Yield the function advance(units done since its last call, ELBO or None). A unit has `rows` examples.

        The speed leaves out the first call: its units compile, or were done before the run was resumed.
        """
        label = f"{self.title} {name}"
        title, units, said = (TextColumn(text) for text in ("{task.description}", unit, "{task.fields[said]}"))
        columns = (title, BarColumn(), MofNCompleteColumn(), units, said, TimeRemainingColumn())
        bar = Bar(*columns, console=Console(stderr=True)) if sys.stderr.isatty() else None
        task = bar.add_task(label, total=total, said="") if bar else None
        started = printed = time.perf_counter()
        done = first = 0
        shown = ""

        def advance(units: int, elbo: float | None) -> None:
            nonlocal started, printed, done, first, shown
            now = time.perf_counter()
            if not done:
                started, first = now, units
            done += units
            rate = (done - first) / max(now - started, 1e-9)  # units a second
            shown = shown if elbo is None else f"ELBO {elbo:.2f}"
            speed = f"{rate * rows:,.0f} examples/s" if rate else ""
            if bar and task is not None:
                bar.update(task, advance=units, said=f"{shown} {speed}")
            elif now - printed >= SECONDS_BETWEEN_LINES or done >= total:
                printed = now
                left = f"{(total - done) / rate:.0f} s left" if rate else ""
                print(
                    ", ".join(filter(None, [f"{label} {done}/{total} {unit}", shown, speed, left])), file=sys.stderr, flush=True
                )

        with bar or contextlib.nullcontext():
            yield advance
