"""A sweep while it runs, on stderr: one live table on a terminal, plain lines in a pipe, or nothing but messages."""

from __future__ import annotations

import contextlib
import itertools
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rich.console import Console, ConsoleOptions
from rich.live import Live
from rich.text import Text

from benchmarks.harness import presets
from benchmarks.harness.events import Event
from benchmarks.harness.jobs import Job
from benchmarks.harness.progress import Lines
from benchmarks.harness.record_schema import Record

SECONDS_BETWEEN_FRAMES = 0.5

HEADER = ("run", "state", "step", "ELBO", "log p(x)", "examples/s", "left")
DROPPED = ("examples/s", "step", "left", "ELBO")  # where the terminal is narrow, in this order
NARROWEST = 16  # characters of a name's line, once these columns are dropped
SHORTEST_REASON = 30  # characters; where a failed run's line has fewer left, the reason has the next line
LEFT = ("run", "state")  # aligned to the left
STYLES = {"done": "green", "failed": "bold red", "skipped": "dim", "waiting": "dim"}
RUNS = "cyan"  # the style of the other states
RUNNING = ("starting", "compiling", "training", "testing")
FIRST_SHOWN = (*RUNNING, "failed", "done", "skipped", "waiting")  # where there are more runs than lines


class Display(Protocol):
    """What shows a sweep: call `begin` and `end` around each run, and `heard` with its events. Runs may overlap."""

    def begin(self, job: Job) -> None: ...

    def heard(self, job: Job, event: Event) -> None: ...

    def end(self, job: Job, record: Record, *, skipped: bool = False) -> None:
        """`skipped`: the record is that of an earlier command."""


@contextlib.contextmanager
def display(jobs: Sequence[Job], *, quiet: bool) -> Iterator[Display]:
    """The display of these jobs. `quiet`: only what the runs' processes write to stderr."""
    console = Console(stderr=True)
    if quiet or not sys.stderr.isatty() or console.is_dumb_terminal:
        yield Plain(jobs, quiet=quiet)
        return
    sweep = Sweep(jobs)
    with Live(sweep, console=console, auto_refresh=False, transient=True) as live:
        yield OnTerminal(sweep, live)


class Plain:
    """Plain lines: progress, unless `quiet`, and what the runs' processes write to stderr."""

    def __init__(self, jobs: Sequence[Job], *, quiet: bool):
        self.names, self.quiet = names(jobs), quiet
        self.lines: dict[Job, Lines] = {}

    def begin(self, job: Job) -> None:
        self.lines[job] = Lines(self.names[job])

    def heard(self, job: Job, event: Event) -> None:
        if event["kind"] == "said":
            print(event["text"], file=sys.stderr, flush=True)
        elif event["kind"] == "progress" and not self.quiet:
            self.lines[job].heard(event)

    def end(self, job: Job, record: Record, *, skipped: bool = False) -> None:
        pass


class OnTerminal:
    """The live table; what the runs' processes write to stderr stands above it."""

    def __init__(self, sweep: Sweep, live: Live):
        self.sweep, self.live = sweep, live
        self.drawn = 0.0

    def begin(self, job: Job) -> None:
        self.sweep.begin(job)
        self.live.refresh()

    def heard(self, job: Job, event: Event) -> None:
        if event["kind"] == "said":
            self.live.console.print(Text.from_ansi(event["text"]), soft_wrap=True)
        self.sweep.heard(job, event)
        if (now := time.monotonic()) - self.drawn >= SECONDS_BETWEEN_FRAMES:
            self.drawn = now
            self.live.refresh()

    def end(self, job: Job, record: Record, *, skipped: bool = False) -> None:
        self.sweep.end(job, record, skipped=skipped)
        self.live.refresh()


@dataclass
class Row:
    """A run's line of the table. `began` and `ended` are seconds of the same clock."""

    name: str
    state: str = "waiting"
    done: int = 0
    total: int = 0
    first_step: int = 0
    elbo: float | None = None
    log_px: float | None = None
    rate: float | None = None
    left: float | None = None
    reason: str = ""
    began: float = 0.0
    ended: float = 0.0

    def cells(self) -> dict[str, str]:
        numbers = {"ELBO": (self.elbo, ".2f"), "log p(x)": (self.log_px, ".2f"), "examples/s": (self.rate, ",.0f")}
        return {
            "run": self.name,
            "state": self.state,
            "step": f"{self.done:,}/{self.total:,}" if self.total else "",
            **{column: "" if number is None else format(number, form) for column, (number, form) in numbers.items()},
            "left": "" if self.left is None else duration(self.left),
        }


class Sweep:
    """The rows of all runs, as a table that fits its terminal."""

    def __init__(self, jobs: Sequence[Job]):
        self.rows = {job: Row(name, total=job.config.training.steps) for job, name in names(jobs).items()}

    def begin(self, job: Job) -> None:
        row = self.rows[job]
        row.state, row.began = "starting", time.monotonic()

    def heard(self, job: Job, event: Event) -> None:
        row = self.rows[job]
        match event["kind"]:
            case "begin":
                row.state, row.done, row.first_step = "compiling", event["step"], event["step"]
            case "progress" if event["phase"] == "train":
                row.state = "training" if event["done"] > row.first_step else "compiling"
                row.done, row.elbo, row.rate, row.left = (event[key] for key in ("done", "elbo", "rate", "left"))
            case "progress":
                row.state, row.left = "testing", event["left"]
            case "result":
                row.elbo, row.log_px = event["elbo"], event["log_px"]

    def end(self, job: Job, record: Record, *, skipped: bool) -> None:
        row = self.rows[job]
        states = {"ok": "done", "not-run": "skipped"}
        row.state = "skipped" if skipped else states.get(record["status"], "failed")
        row.reason, row.left, row.ended = record["reason"] or "", None, time.monotonic()
        row.elbo, row.log_px, row.rate = (
            *(record["test"][key] for key in ("elbo", "log_px")),
            record["timing"]["examples_per_s"],
        )
        if record["status"] == "ok":
            row.done = row.total

    def left(self) -> float | None:
        """Seconds until the sweep's end, if each waiting run takes the mean time of the finished ones and those under way.

        As many runs as now go on side by side.
        """
        rows = list(self.rows.values())
        whole = [row.ended - row.began for row in rows if row.state == "done"]
        running = [row for row in rows if row.state in RUNNING]
        rest = 0.0
        for row in running:
            elapsed = time.monotonic() - row.began
            if row.left is not None:
                rest += row.left
                whole.append(elapsed + row.left)
            elif whole:
                rest += max(0.0, sum(whole) / len(whole) - elapsed)
        waiting = sum(row.state == "waiting" for row in rows)
        return (rest + waiting * sum(whole) / len(whole)) / max(len(running), 1) if whole else None

    def summary(self) -> str:
        """The sweep's own line: "2 of 6 done, 1 failed; 4:05 left"."""
        counts = Counter(row.state for row in self.rows.values())
        parts = [f"{counts['done']} of {len(self.rows)} done"]
        parts += [f"{counts[state]} {state}" for state in ("failed", "skipped") if counts[state]]
        left = self.left()
        return ", ".join(parts) + ("" if left is None else f"; {duration(left)} left")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[Text]:
        for line in self.lines(width=options.max_width, height=console.height):
            line.no_wrap, line.overflow = True, "crop"
            yield line

    def lines(self, *, width: int, height: int) -> list[Text]:
        """The table's lines, fewer than `height`, each at most `width` wide."""
        rows = list(self.rows.values())
        cells = [dict(zip(HEADER, HEADER, strict=True)), *(row.cells() for row in rows)]
        cells.append({"state": "compiling", "step": max((f"{row.total:,}/{row.total:,}" for row in rows), key=len)})
        widths = {column: max(len(cell.get(column, "")) for cell in cells) for column in HEADER}
        for column in DROPPED:
            if sum(widths.values()) + 2 * (len(widths) - 1) > width:
                del widths[column]
        others = sum(widths.values()) - widths["run"] + 2 * (len(widths) - 1)
        widths["run"] = min(widths["run"], max(width - others, NARROWEST))
        drawn = [_lines(row.cells(), widths, width=width, style=STYLES.get(row.state, RUNS), reason=row.reason) for row in rows]
        # Where there are more runs than lines: the run under way, failed runs, those that ended last, then the next.
        order = sorted(range(len(rows)), key=lambda i: (FIRST_SHOWN.index(rows[i].state), -rows[i].ended))
        taken = itertools.accumulate(len(drawn[i]) for i in order)
        shown = sorted(i for i, lines in zip(order, taken, strict=True) if lines <= height - 4)
        header = _lines(cells[0], widths, width=width, style="")
        for line in header:
            line.stylize("bold")
        result = header + [line for i in shown for line in drawn[i]]
        if hidden := Counter(row.state for row in rows) - Counter(rows[i].state for i in shown):
            result.append(Text("… and " + ", ".join(f"{count} {state}" for state, count in hidden.items()), "dim"))
        if len(rows) > 1:
            result.append(Text(self.summary(), "bold"))
        return result


def _lines(cells: dict[str, str], widths: dict[str, int], *, width: int, style: str, reason: str = "") -> list[Text]:
    """A row: its name, on several lines where it is long; its state in the style; its numbers, or the reason, cut to fit."""
    first, *rest = textwrap.wrap(cells["run"], widths["run"], break_on_hyphens=False)
    state = cells["state"].ljust(widths["state"])
    lines = [Text.assemble(first.ljust(widths["run"]), "  ", (state, style)), *(Text(f"  {part}") for part in rest)]
    if not reason:
        lines[0].append("".join(f"  {cells[column].rjust(size)}" for column, size in widths.items() if column not in LEFT))
    elif width - len(lines[0]) > SHORTEST_REASON:
        lines[0].append(f"  {reason}")
    else:
        lines.append(Text(f"  {reason}"))
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines


def names(jobs: Sequence[Job]) -> dict[Job, str]:
    """Each job's name: that in which the jobs differ; of a single job, or jobs that are alike, its backend and family."""
    changed = sorted({key for job in jobs for key in presets.changed(job.config, job.preset)})

    def parts(job: Job) -> dict[str, str]:
        config, values = job.config, presets.flat(job.config)
        return {
            "backend": job.backend,
            "family": config.model.variational,
            "preset": job.preset,
            "data": Path(job.data).name,
            "binarize": job.binarize or "",
            "device": config.device,
            "precision": config.factors,
            **{key: f"{key.replace('_', '-')} {values[key]}" for key in changed},
            "seed": f"seed {config.training.seed}",
        }

    rows = [parts(job) for job in jobs]
    differing = [key for key in rows[0] if len({row[key] for row in rows}) > 1] or ["backend", "family"]
    return {job: " ".join(row[key] for key in differing) for job, row in zip(jobs, rows, strict=True)}


def duration(seconds: float) -> str:
    """The time as 4:05 or 1:04:05."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
