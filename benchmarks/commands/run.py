"""python -m benchmarks run: train, test and time models; each ends in a record and a checkpoint."""

from __future__ import annotations

import collections
import contextlib
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.harness import cli, environment, estimate, events, flags, records, runs, settings_file
from benchmarks.harness.estimate import Planned
from benchmarks.harness.events import Event
from benchmarks.harness.grid import Grid, grid_of, noun
from benchmarks.harness.presets import flat
from benchmarks.outputs import cells, live, tensorboard, terminal
from benchmarks.outputs.table import Part, Table
from common.errors import printable


def main(arguments: list[str]) -> int:
    asked = flags.asked_of(arguments)
    values = asked.values
    grid = grid_of(asked)
    plan = estimate.planned(grid.jobs, test_images=grid.test_images)
    if not values["dry_run"]:
        for job in grid.jobs:
            runs.refuse_again(job)
        if values["tensorboard"]:
            tensorboard.package()
    if values["save_config"]:
        settings_file.save(values["save_config"], asked.given)
    if not values["quiet"]:
        cli.warn_of(*(job.config for job in grid.jobs))
        cli.warn_of_training(*(job.config for job in grid.jobs))
        for remark in grid.remarks:
            print(remark, file=sys.stderr)
    if values["dry_run"]:
        show_plan(plan, grid, as_json=values["json"])
        return 0
    if not values["quiet"]:
        announce(plan, grid)

    done: list[records.Record] = []
    codes: list[int] = []
    try:
        with live.display(grid.jobs, quiet=values["quiet"]) as display:
            for one in plan:
                code, record = run(one, display, named=bool(values["backend"]))
                codes.append(2 if code == runs.UNWRITABLE else code)
                done.append(record)
                if code == runs.UNWRITABLE:  # the next run would train for nothing
                    break
    finally:  # a stopped sweep shows its finished runs too
        if values["json"]:
            print(json.dumps(done, indent=1))
        elif not values["quiet"] and not all(code == 2 for code in codes):
            terminal.page([*cells.page(done), ending(Path(grid.jobs[0].results))], Console())
    return max(codes)


def announce(plan: Sequence[Planned], grid: Grid) -> None:
    """Print on stderr how much several runs are, and whether other programs will slow them."""
    if len(plan) > 1:
        print(f"{grid.size}; {estimate.total(plan)}.", file=sys.stderr)
    busy = any(one.state != "done" for one in plan)
    if busy and environment.crowded(others := environment.runnable(), environment.machine()):
        print(
            f"Other programs keep {others:.0f} threads running, more than this machine has cores: training is slow and "
            "its times are uneven; the records say so.",
            file=sys.stderr,
        )


def run(planned: Planned, display: live.Display, *, named: bool) -> tuple[int, records.Record]:
    """(0, 1 where the run failed, 2 or UNWRITABLE where it was refused; its record). A run that is done isn't made again.

    A refused run leaves no record in the folder; one whose framework isn't here is refused where its backend is `named`.
    """
    job = planned.job
    if planned.state == "done":
        record = records.read(job.record)
        display.end(job, record, skipped=True)
        return 0, record
    said: collections.deque[str] = collections.deque(maxlen=records.TAIL_LINES)

    def heard(event: Event) -> None:
        if event["kind"] == "said" and event["text"].strip():
            said.append(event["text"])

    display.begin(job)
    before = written(job.record)
    with tensorboard.board(job) if job.pictures else contextlib.nullcontext() as board:
        code = runs.in_process(job, heard=events.each(heard, display.heard, board))
    # A record is written last and whole: it holds, however its process ended afterwards.
    ends_well = written(job.record) != before or (code == 0 and job.resume and runs.finished(job))
    record = records.read(job.record) if ends_well else without_result(job, code, said)
    display.end(job, record)
    if code == runs.UNWRITABLE:
        return code, record
    if code == runs.REFUSED or (code == runs.UNAVAILABLE and named):
        return 2, record
    if not ends_well:
        records.write(record, Path(job.results))
    return int(record["status"] == "failed"), record


def written(path: Path) -> tuple[int, int] | None:
    """What tells a file from an earlier one of its name; None where there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


def without_result(job: runs.Job, code: int, said: Sequence[str]) -> records.Record:
    """The record of a run whose process ended so and said these lines on stderr; the last one tells the reason."""
    last = printable(said[-1]).strip() if said else ""
    if code == runs.UNAVAILABLE:
        status, reason = "not-run", "its framework can't be imported; `python -m benchmarks list` says why."
    elif code in (runs.REFUSED, runs.UNWRITABLE):
        status, reason = "not-run", last or "it was refused."
    elif code == runs.SILENT:
        silence = f"its process told nothing for {estimate.words(job.patience or 0)} and was ended"
        status, reason = "failed", silence + (f"; the last line was: {last}" if last else ".")
    else:
        ended = f"its process ended with code {code}" + ("" if code else " and wrote no record")
        status, reason = "failed", ended + (f": {last}" if last else ".")
    return job.blank(dataset=job.dataset()) | {
        "status": status,
        "reason": f"{job.backend}: {reason}",
        "tail": records.tail_of(said),
    }


def show_plan(plan: Sequence[Planned], grid: Grid, *, as_json: bool) -> None:
    """Print the runs and what is left of them: their values of the grid's axes, their state, time and name."""
    if as_json:
        listed = [{"record": str(one.job.record), "state": one.state, "seconds": one.seconds} for one in plan]
        print(json.dumps(listed, indent=1))
        return
    columns = [*(noun(name, 1) for name in grid.axes), "state", "time left", "name"]
    rows = []
    for one in plan:
        values = flat(one.job.config) | {"preset": one.job.preset, "backend": one.job.backend}
        left = "unknown" if one.seconds is None else estimate.words(one.seconds)
        rows.append([*(flags.text(values[name]) for name in grid.axes), one.state, left, one.job.record.stem])
    parts: list[Part] = [f"{grid.size}; {estimate.total(plan)}.", Table(columns=columns, rows=rows, left=columns)]
    if any(one.state != "new" and not one.job.resume for one in plan):
        parts.append("Add --resume to skip what is done and to go on with what is resumable.")
    terminal.page(parts, Console())


def ending(results: Path) -> str:
    """Where the files are, and what to type next."""
    folder = shlex.quote(str(results))
    return (
        f"Records and checkpoints are in {results}.\n"
        f"python -m benchmarks report {folder}    one page with curves and tables\n"
        f"python -m benchmarks show {folder}      reconstructions and samples"
    )
