"""What becomes of a run: its process's last words and exit code, made into the record of the results folder."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import checks, estimate, record_schema, records, runs
from benchmarks.harness.events import Event
from benchmarks.harness.jobs import Job
from benchmarks.harness.record_schema import Record
from common.errors import printable


class Outcome:
    """A run that begins now. Call `heard` with its process's events, and `record` with the end of `runs.in_process`."""

    def __init__(self, job: Job):
        self.job = job
        self.said: collections.deque[str] = collections.deque(maxlen=record_schema.TAIL_LINES)
        self.before = _written(job.record)

    def heard(self, event: Event) -> None:
        if event["kind"] == "said" and event["text"].strip():
            self.said.append(event["text"])

    def record(self, code: int, *, named: bool = True) -> tuple[int, Record]:
        """(0, 1 where the run failed, 2 or UNWRITABLE where it was refused; its record).

        A failed run's record is written into the folder. A refused run leaves none; one whose framework isn't here is refused
        where its backend is `named`.
        """
        job = self.job
        # A record is written last and whole: it holds, however its process ended afterwards.
        ends_well = _written(job.record) != self.before or (code == 0 and job.resume and checks.finished(job))
        record = records.read(job.record) if ends_well else without_result(job, code, self.said)
        if code == runs.UNWRITABLE:
            return code, record
        if code == runs.REFUSED or (code == runs.UNAVAILABLE and named):
            return 2, record
        if not ends_well:
            records.write(record, Path(job.results))
        return int(record["status"] == "failed"), record


def _written(path: Path) -> tuple[int, int] | None:
    """What tells a file from an earlier one of its name; None where there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


def without_result(job: Job, code: int, said: Sequence[str]) -> Record:
    """The record of a run whose process ended so and said these lines on stderr; the last one tells the reason."""
    last = printable(said[-1]).strip() if said else ""
    if code == runs.UNAVAILABLE:
        status, reason = "not-run", "its framework can't be imported; `python -m benchmarks list` says why."
    elif code in (runs.REFUSED, runs.UNWRITABLE):
        status, reason = "not-run", last or "it was refused."
    elif code == runs.SILENT:
        silence = f"its process told nothing for {estimate.words(job.patience or 0)} and was ended"
        status, reason = "failed", silence + (f"; the last line was: {last}" if last else ".")
    elif code == runs.LOST:
        status, reason = "failed", last or "it was lost."
    else:
        ended = f"its process ended with code {code}" + ("" if code else " and wrote no record")
        status, reason = "failed", ended + (f": {last}" if last else ".")
    return job.blank(dataset=job.dataset()) | {
        "status": status,
        "reason": f"{job.backend}: {reason}",
        "tail": record_schema.tail_of(said),
    }
