"""python -m benchmarks run: train, test and time models; each ends in a record and a checkpoint."""

from __future__ import annotations

import contextlib
import functools
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.engines import Engine, here, ray, slurm
from benchmarks.harness import checks, cli, environment, estimate, events, flags, outcome, records, runs, settings_file
from benchmarks.harness.estimate import Planned
from benchmarks.harness.events import Heard
from benchmarks.harness.grid import Grid, grid_of, noun
from benchmarks.harness.jobs import Job
from benchmarks.harness.presets import flat
from benchmarks.harness.record_schema import Record
from benchmarks.outputs import cells, live, tensorboard, terminal
from benchmarks.outputs.table import Part, Table
from common.errors import UserError

ENGINES: dict[str, Engine] = {"here": here, "ray": ray, "slurm": slurm}


def main(arguments: list[str]) -> int:
    asked = flags.asked_of(arguments)
    values = asked.values
    grid = grid_of(asked)
    plan = estimate.planned(grid.jobs, test_images=grid.test_images)
    engine = engine_of(values, grid.jobs)
    if not values["dry_run"]:
        for job in grid.jobs:
            checks.refuse_again(job)
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
        announce(plan, grid, on=values["on"] or "here")
        if where := engine.remark(values, grid.jobs):
            print(where, file=sys.stderr)

    sweep = Sweep(plan, named=bool(values["backend"]))
    try:
        with live.display(grid.jobs, quiet=values["quiet"]) as display, contextlib.closing(sweep):
            sweep.carry_out(engine, values, display)
    finally:  # a stopped sweep shows its finished runs too
        done = [sweep.done[job] for job in grid.jobs if job in sweep.done]
        if values["json"]:
            print(json.dumps(done, indent=1))
        elif engine.WAITS and not values["quiet"] and not all(code == 2 for code in sweep.codes):
            terminal.page([*cells.page(done), ending(Path(grid.jobs[0].results))], Console())
    return max(sweep.codes, default=0)


def engine_of(values: flags.Values, jobs: Sequence[Job]) -> Engine:
    """The engine of --on. Raises `UserError` for a flag that it doesn't read, and as its `check` does."""
    name = values["on"] or "here"
    engine = ENGINES[name]
    for flag in flags.GROUPS["where"]:
        if values[flag] not in (None, ()) and flag not in ("on", "python", *engine.FLAGS):
            its = " or ".join(other for other, one in ENGINES.items() if flag in one.FLAGS)
            raise UserError(f"--{flag} is a flag of --on {its}, and the runs are on {name}; leave it out, or give --on {its}.")
    engine.check(values, jobs)
    return engine


def announce(plan: Sequence[Planned], grid: Grid, *, on: str) -> None:
    """Print on stderr how much several runs are, and whether other programs will slow them."""
    if len(plan) > 1:
        each = "" if on == "here" else ", if they ran one after another"
        print(f"{grid.size}; {estimate.total(plan)}{each}.", file=sys.stderr)
    busy = on == "here" and any(one.state != "done" for one in plan)
    if busy and environment.crowded(others := environment.runnable(), environment.machine()):
        print(
            f"Other programs keep {others:.0f} threads running, more than this machine has cores: training is slow and "
            "its times are uneven; the records say so.",
            file=sys.stderr,
        )


class Sweep:
    """The runs of one command, from the plan to the records. A run that is done isn't made again."""

    def __init__(self, plan: Sequence[Planned], *, named: bool):
        self.plan, self.named = plan, named
        self.done: dict[Job, Record] = {}
        self.codes: list[int] = []  # 0, 1 where a run failed, 2 where it was refused
        self.outcomes: dict[Job, outcome.Outcome] = {}
        self.boards: dict[Job, contextlib.ExitStack] = {}  # open TensorBoard files

    def carry_out(self, engine: Engine, values: flags.Values, display: live.Display) -> None:
        """Raises KeyboardInterrupt where the command is asked to end; what has ended by then is in `done`."""
        for one in self.plan:
            if one.state == "done":
                self.ended(one.job, 0, records.read(one.job.record))
                display.end(one.job, self.done[one.job], skipped=True)
        jobs = [one.job for one in self.plan if one.state != "done"]
        if not jobs:
            return

        def begin(job: Job) -> Heard:
            display.begin(job)
            followed = self.outcomes.setdefault(job, outcome.Outcome(job))
            board = self.board(job)
            return events.each(followed.heard, functools.partial(display.heard, job), board)

        with contextlib.closing(engine.run(jobs, values=values, begin=begin)) as ends:
            for job, ended in ends:
                self.boards.pop(job, contextlib.ExitStack()).close()
                code, record = self.outcomes[job].record(ended, named=self.named)
                display.end(job, record)
                self.ended(job, 2 if code == runs.UNWRITABLE else code, record)
                if code == runs.UNWRITABLE:  # the next run would train for nothing
                    break

    def board(self, job: Job) -> Heard | None:
        """The TensorBoard file of a job whose process starts; that of an earlier process is closed."""
        self.boards.pop(job, contextlib.ExitStack()).close()
        if not job.pictures:
            return None
        self.boards[job] = contextlib.ExitStack()
        return self.boards[job].enter_context(tensorboard.board(job))

    def ended(self, job: Job, code: int, record: Record) -> None:
        self.done[job] = record
        self.codes.append(code)

    def close(self) -> None:
        for board in self.boards.values():
            board.close()


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
