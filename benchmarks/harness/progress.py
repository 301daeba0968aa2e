"""Progress: events for a parent that listens; else, on stderr, a bar on a terminal and plain lines in a pipe."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from benchmarks.harness import events
from benchmarks.harness.events import Event, Heard

SECONDS_BETWEEN_LINES = 10.0
SECONDS_BETWEEN_EVENTS = 0.25

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
        started = time.perf_counter()
        done = first = 0
        latest: float | None = None

        def advance(units: int, elbo: float | None) -> None:
            nonlocal started, done, first, latest
            now = time.perf_counter()
            if not done:
                started, first = now, units
            done += units
            latest = latest if elbo is None else elbo
            rate = (done - first) / max(now - started, 1e-9)  # units a second
            speed = {"rate": rate * rows, "left": (total - done) / rate} if rate else {"rate": None, "left": None}
            show({"phase": name, "done": done, "total": total, "unit": unit, "elbo": latest, **speed})

        with contextlib.ExitStack() as stack:
            show: Heard
            if events.listened():
                show = Told().heard
            elif sys.stderr.isatty():
                show = stack.enter_context(bar(f"{self.title} {name}", total=total, unit=unit))
            else:
                show = Lines(self.title).heard
            yield advance


class Told:
    """Passes progress on to the parent, a few times a second at most, and whatever the time at the end."""

    def __init__(self) -> None:
        self.last = -SECONDS_BETWEEN_EVENTS

    def heard(self, event: Event) -> None:
        now = time.perf_counter()
        if now - self.last >= SECONDS_BETWEEN_EVENTS or event["done"] >= event["total"]:
            self.last = now
            events.tell("progress", **event)


class Lines:
    """Prints progress as a plain line now and then, and at the end of each phase."""

    def __init__(self, title: str):
        self.title = title
        self.printed = time.perf_counter()

    def heard(self, event: Event) -> None:
        now = time.perf_counter()
        if now - self.printed < SECONDS_BETWEEN_LINES and event["done"] < event["total"]:
            return
        self.printed = now
        left = "" if event["left"] is None else f"{event['left']:.0f} s left"
        parts = (f"{self.title} {event['phase']} {event['done']}/{event['total']} {event['unit']}", *said(event), left)
        print(", ".join(filter(None, parts)), file=sys.stderr, flush=True)


@contextlib.contextmanager
def bar(label: str, *, total: int, unit: str) -> Iterator[Heard]:
    title, units, text = (TextColumn(text) for text in ("{task.description}", unit, "{task.fields[said]}"))
    columns = (title, BarColumn(), MofNCompleteColumn(), units, text, TimeRemainingColumn())
    with RichProgress(*columns, console=Console(stderr=True)) as shown:
        task = shown.add_task(label, total=total, said="")
        yield lambda event: shown.update(task, completed=event["done"], said=" ".join(said(event)))


def said(event: Event) -> tuple[str, str]:
    """The ELBO and the speed in words, each "" where unknown."""
    elbo, rate = event["elbo"], event["rate"]
    return "" if elbo is None else f"ELBO {elbo:.2f}", "" if rate is None else f"{rate:,.0f} examples/s"
