"""Where the runs of a sweep are carried out. An engine is a file of this room; its module has what `Engine` says.

An engine hands jobs to a scheduler and says how they ended. It schedules nothing itself: no queue, no retry, no placement. Each
job is a process of its own, started by `runs.in_process` on the machine that the scheduler chose. What a scheduler may start a
second time goes on from the job's own checkpoint: an engine with retries hands out `elsewhere(job)`, whose `resume` is set. A
run's lock (`harness/locks.py`) keeps the second process waiting while the first lives, and a run's process ends soon after the
process that started it has died (`processes.end_with`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Protocol

from benchmarks.harness.environment import ROOT
from benchmarks.harness.events import Heard
from benchmarks.harness.flags import Values
from benchmarks.harness.jobs import Job
from common import data
from common.errors import UserError

Begin = Callable[[Job], Heard]
Ended = tuple[Job, int]  # a job, and what `runs.in_process` returned of it
Ends = Generator[Ended, None, None]


class Engine(Protocol):
    """The functions of an engine's module."""

    FLAGS: tuple[str, ...]  # of the heading "where": those that it reads, beside --on and --python
    WAITS: bool  # whether `run` yields each job's end; else it returns once the jobs are handed over

    def check(self, values: Values, jobs: Sequence[Job]) -> None:
        """Called before anything runs. Raises `UserError` where a flag, a package or a program is missing."""

    def remark(self, values: Values, jobs: Sequence[Job]) -> str | None:
        """What to say before anything runs, a sentence; None for nothing."""

    def run(self, jobs: Sequence[Job], *, values: Values, begin: Begin) -> Ends:
        """Carry the jobs out, in any order, and yield each at its end.

        `begin` is called when a job's process starts, a second time where it starts again, and returns the function to call
        with the process's events. Closing the iterator ends what still runs; so does a KeyboardInterrupt, which is raised again
        when every run has saved its step.
        """


def elsewhere(job: Job) -> Job:
    """The job for another machine, or another try: it goes on from its own checkpoint, its paths are absolute.

    One thread where --threads doesn't say more: a scheduler gives a run that many cores.
    """
    return dataclasses.replace(
        job,
        resume=True,
        threads=job.threads or 1,
        results=str(Path(job.results).absolute()),
        data=data.whole_name(job.data),
        data_dir=str(Path(job.data_dir).absolute()) if job.data_dir else None,
        start=str(Path(job.start).absolute()) if job.start else None,
    )


def shared(jobs: Sequence[Job]) -> str:
    """The sentence that says which folders the nodes must share."""
    return f"The nodes must share the folder of the results, {Path(jobs[0].results).absolute()}, and this checkout, {ROOT}."


def seen(job: Job) -> None:
    """Raises `UserError` where the job's results folder isn't there: on a node that doesn't share it."""
    if not Path(job.results).is_dir():
        raise UserError(f"This node has no folder {job.results}; give a folder that all nodes share as --results.")
