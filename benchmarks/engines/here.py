"""--on here: on this machine, one job after another."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.engines import Begin, Ends
from benchmarks.harness import runs
from benchmarks.harness.flags import Values
from benchmarks.harness.jobs import Job

FLAGS: tuple[str, ...] = ()
WAITS = True


def check(values: Values, jobs: Sequence[Job]) -> None:
    """Nothing is needed."""


def remark(values: Values, jobs: Sequence[Job]) -> str | None:
    return None


def run(jobs: Sequence[Job], *, values: Values, begin: Begin) -> Ends:
    """See `Engine.run`."""
    for job in jobs:
        yield job, runs.in_process(job, heard=begin(job))
