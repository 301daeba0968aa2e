"""A progress bar on a terminal, plain lines in a pipe; both on stderr."""

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
        """Yield the function advance(units done since its last call, ELBO or None). A unit has `rows` examples."""
        label = f"{self.title} {name}"
        # The speed counts from the second call on: the first compiles, or says where a resumed run stands.
        start, done, counted = time.perf_counter(), 0, -1

        def speed() -> str:
            return f"{counted * rows / max(time.perf_counter() - start, 1e-9):,.0f} examples/s" if counted > 0 else ""

        def count(units: int) -> None:
            nonlocal start, done, counted
            done += units
            if counted < 0:
                start, counted = time.perf_counter(), 0
            else:
                counted += units

        if sys.stderr.isatty():
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn(unit),
                TextColumn("{task.fields[elbo]} {task.fields[speed]}"),
                TimeRemainingColumn(),
            )
            with Bar(*columns, console=Console(stderr=True)) as bar:
                task = bar.add_task(label, total=total, elbo="", speed="")

                def advance(units: int, elbo: float | None) -> None:
                    count(units)
                    bar.update(task, advance=units, speed=speed())
                    if elbo is not None:
                        bar.update(task, elbo=f"ELBO {elbo:.2f}")

                yield advance
        else:
            printed = time.perf_counter()

            def line(units: int, elbo: float | None) -> None:
                nonlocal printed
                count(units)
                now = time.perf_counter()
                if now - printed >= SECONDS_BETWEEN_LINES or done >= total:
                    printed = now
                    left = (total - done) / (counted / (now - start)) if counted > 0 else None
                    parts = [f"{label} {done}/{total} {unit}", "" if elbo is None else f"ELBO {elbo:.2f}", speed()]
                    parts.append("" if left is None else f"{left:.0f} s left")
                    print(", ".join(part for part in parts if part), file=sys.stderr, flush=True)

            yield line
