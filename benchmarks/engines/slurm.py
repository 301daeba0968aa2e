"""--on slurm: the jobs are one array of SLURM's, through submitit; the command returns once SLURM has it.

submitit writes the batch script, and starts each task on its node as `python -m submitit.core._submit`, in the environment of
the command; a job's process may be of another (--python). SLURM sends SIGUSR2 before a task's time ends, and when it is
preempted: submitit then calls `Task.checkpoint`, and requeues the task.
"""

from __future__ import annotations

import functools
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.engines import Begin, Ends, elsewhere, seen, shared
from benchmarks.harness import environment, events, outcome, progress, runs, stopping
from benchmarks.harness.events import Event
from benchmarks.harness.flags import Values
from benchmarks.harness.jobs import Job
from common.errors import UserError

FLAGS: tuple[str, ...] = ("parallel", "partition", "account", "time")
WAITS = False
WARNING_SECONDS = 120  # between SIGUSR2 and the end of a task's time: a chunk's length, and a save
REQUEUES = 1000  # the most times that a task whose time ended is requeued; each goes on from the checkpoint
STOPPED_SECONDS = 600  # after which a task whose run was stopped, and that nobody has requeued or killed, ends by itself


def check(values: Values, jobs: Sequence[Job]) -> None:
    """Raises `UserError` where submitit or SLURM's commands aren't here, and for a flag that is missing or out of range."""
    package()
    for program in ("sbatch", "srun"):
        if shutil.which(program) is None:
            raise UserError(f"--on slurm needs SLURM's {program}, which isn't on the PATH; call run where sbatch works.")
    if values["time"] is None:
        raise UserError("--on slurm needs --time, the minutes of a task; a longer run is requeued and goes on.")
    least = 2 * WARNING_SECONDS // 60
    if values["time"] < least:
        raise UserError(f"--time is {values['time']}; it must be at least {least} minutes.")
    if values["parallel"] is not None and values["parallel"] < 1:
        raise UserError(f"--parallel is {values['parallel']}; it must be at least 1.")
    for name in ("json", "tensorboard"):
        if values[name]:
            raise UserError(f"--{name} needs the runs' end, for which --on slurm doesn't wait; leave out --{name}.")


def remark(values: Values, jobs: Sequence[Job]) -> str | None:
    return shared(jobs)


def package() -> ModuleType:
    """submitit. Raises `UserError` where it isn't installed."""
    try:
        import submitit
    except ImportError as error:
        raise UserError("--on slurm needs the package submitit; `python -m pip install -r environments/slurm.txt`.") from error
    return submitit


def run(jobs: Sequence[Job], *, values: Values, begin: Begin) -> Ends:
    """See `Engine.run`: hands the jobs over and says how to look at them. Raises `UserError` where sbatch refuses them."""
    submitit = package()
    tasks = [Task(elsewhere(job).as_json()) for job in jobs]
    folder = Path(jobs[0].results).absolute() / "slurm"
    executor = submitit.SlurmExecutor(folder=folder, max_num_timeout=REQUEUES)
    executor.update_parameters(**parameters(jobs, values))
    try:
        submitted = executor.submit_array(tasks)
    except submitit.core.utils.FailedJobError as error:
        raise UserError(f"sbatch refused the jobs: {' '.join(str(error).split())}") from error
    if not values["quiet"]:
        print(ending([job.job_id for job in submitted], jobs, folder=folder))
    yield from ()


def parameters(jobs: Sequence[Job], values: Values) -> dict[str, Any]:
    """What submitit writes into the batch script. It has no name for --requeue; its --wckey is left out."""
    cuda = any(job.config.device == "cuda" for job in jobs)
    given = {
        "job_name": "vaebench",
        "time": values["time"],
        "partition": values["partition"],
        "account": values["account"],
        "cpus_per_task": max(job.threads or 1 for job in jobs),
        "gpus_per_node": 1 if cuda else None,
        "array_parallelism": values["parallel"] or len(jobs),
        "signal_delay_s": WARNING_SECONDS,
        "additional_parameters": {"requeue": True},
    }
    return {name: value for name, value in given.items() if value is not None} | {"wckey": None}


def ending(ids: Sequence[str], jobs: Sequence[Job], *, folder: Path) -> str:
    """The tasks and their runs, and what to type to look at them."""
    array = ids[0].partition("_")[0]
    results = shlex.quote(jobs[0].results)
    return "\n".join(
        [
            *(f"{each}  {job.record.stem}" for each, job in zip(ids, jobs, strict=True)),
            f"squeue --job {array}    which tasks wait and run; scancel {array} ends them",
            f"tail {shlex.quote(str(folder))}/*.err    the tasks' logs",
            f"python -m benchmarks results {results}    the runs that are done",
        ]
    )


@dataclass(frozen=True)
class Task:
    """The task of a job of `as_json`: submitit calls it on a node, and `checkpoint` before the node is taken away."""

    text: str

    def __call__(self) -> None:
        """Run the job; its lines and progress go to the task's log. A failed or refused run ends the task with an error."""
        job = Job.from_json(self.text)
        try:
            seen(job)
        except UserError as error:
            print(error, file=sys.stderr, flush=True)
            raise SystemExit(2) from error
        ends, lines = outcome.Outcome(job), progress.Lines(job.record.stem)
        code = runs.in_process(job, folder=environment.ROOT, heard=events.each(ends.heard, functools.partial(log, lines)))
        if code == 128 + signal.SIGTERM:
            # SLURM's SIGTERM came to the run's process, too, which has saved its step. What comes next says why: SIGUSR2 or a
            # requeue of SLURM's own, that the task was preempted; SIGKILL, that it was cancelled, and isn't to be requeued.
            time.sleep(STOPPED_SECONDS)
            raise SystemExit(code)
        code, record = ends.record(code)
        print(record["status"], record["reason"] or "", file=sys.stderr, flush=True)
        if code:
            raise SystemExit(1)

    def checkpoint(self) -> Any:
        """In submitit's handler of SIGUSR2: end the run's process, which saves its step; the task to requeue."""
        import psutil

        running = []
        for process in list(stopping.workers):
            try:
                found = psutil.Process(process)
                found.terminate()
                running.append(found)
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(running)
        return package().helpers.DelayedSubmission(self)


def log(lines: progress.Lines, event: Event) -> None:
    """An event as a line of the task's log."""
    if event["kind"] == "said":
        print(event["text"], file=sys.stderr, flush=True)
    elif event["kind"] == "begin":
        print(f"{lines.title}: begins at step {event['step']:,} of {event['steps']:,}", file=sys.stderr, flush=True)
    elif event["kind"] == "progress":
        lines.heard(event)
