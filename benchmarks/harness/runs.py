"""One run, from a job to a record, in a process of its own; and the parent's side of that process."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import (
    checks,
    chunk_times,
    cores,
    environment,
    events,
    jobs,
    locks,
    memory,
    per_image,
    processes,
    ranks,
    records,
    scoring,
    stopping,
    telling,
    threads,
)
from benchmarks.harness.events import Heard
from benchmarks.harness.floor import Floor
from benchmarks.harness.jobs import Job
from benchmarks.harness.progress import Progress
from benchmarks.harness.record_schema import Record
from common import checkpoints, data, estimators, parameters, protocol, training
from common.checkpoints import Checkpoint
from common.data import Dataset
from common.errors import DiskError, UserError, printable
from common.world import World

# What `in_process` returns of a job without a record, where its process told why; a process's own exit codes are below 256.
# A `UserError`; a framework that can't be imported; no sign of life; a results folder or a disk that can't be written.
REFUSED, UNAVAILABLE, SILENT, UNWRITABLE = 1000, 1001, 1002, 1003
LOST = 1004  # an engine's end of a job whose machine was lost, and the retries too


def in_process(job: Job, *, folder: Path | None = None, heard: Heard | None = None) -> int:
    """Run the job in a process of its own, so that no framework's threads, memory or imports touch another's.

    `folder`: the checkout whose code runs; the current folder where None. `heard` is called with each event of the process,
    which then prints nothing itself. A process that tells nothing for `job.patience` seconds is ended. Returns 0 with a record
    at `job.record`; else REFUSED, UNAVAILABLE, SILENT, UNWRITABLE, or the exit code of a process that ended without a word.
    """
    target, where = f"{__name__}:worker", folder or Path.cwd()
    job = dataclasses.replace(job, runnable=environment.runnable())
    devices, count = job.config.training.devices, job.threads
    crowded = environment.crowded(job.runnable, environment.machine()) or devices > cores.count()
    if devices > 1 and job.config.device == "cpu":
        count = count or max(1, cores.count() // devices)  # a process each, on the same cores
    variables = threads.variables(count, disturbed=crowded)
    if job.python:  # its environment may not know this checkout
        variables["PYTHONPATH"] = os.pathsep.join(filter(None, (str(environment.ROOT), os.environ.get("PYTHONPATH"))))
    options: dict[str, Any] = {"title": job.record.name, "folder": where, "python": job.python, "variables": variables}
    try:
        return int(processes.ask(target, job.as_json(), **options, heard=heard, patience=job.patience))
    except processes.SilentError:
        return SILENT
    except processes.ProcessError as error:
        return error.code


def worker(text: str) -> int:
    """Run a job of `as_json`, in the process of `in_process`. Returns 0, or REFUSED, UNAVAILABLE or UNWRITABLE, with the
    reason on stderr.

    A job that another process runs is waited for, and not run again.
    """
    job = Job.from_json(text)
    try:
        if job.resume and checks.finished(job):
            return 0
        os.environ |= card(job, rank=0)
        began = time.perf_counter()
        try:
            protocol.load(job.backend)
        except UserError as error:
            print(error, file=sys.stderr)
            return UNAVAILABLE
        import_s = time.perf_counter() - began
        with locks.held(job.checkpoint.with_name(f".{job.checkpoint.stem}.lock")) as waited:
            if not ((waited or job.resume) and checks.finished(job)):  # since the first look at it, too
                run(job, import_s=import_s)
    except UserError as error:
        print(printable(str(error)), file=sys.stderr)
        return UNWRITABLE if isinstance(error, DiskError) else REFUSED
    return 0


def card(job: Job, *, rank: int) -> dict[str, str]:
    """The environment variable by which the process of a rank sees its card alone; {} on a CPU, and for a run on one device."""
    if job.config.device != "cuda" or job.config.training.devices == 1:
        return {}
    return {environment.CARDS: environment.cards()[rank]}


def follow(text: str, world: World, stop: Callable[[], bool]) -> None:
    """Train a job of `as_json` as a rank above 0: the steps are rank 0's. Nothing is written or told."""
    job = Job.from_json(text)
    dataset, backend = job.dataset(), protocol.load(job.backend)
    backend.join(world, device=job.config.device)
    checkpoint, session = begin(job, backend=backend, dataset=dataset)
    with contextlib.suppress(training.DivergedError):  # rank 0 says so
        training.train(session, checkpoint, dataset=dataset, stop=stop)
    backend.leave()


def begin(job: Job, *, backend: protocol.Backend, dataset: Dataset) -> tuple[Checkpoint, protocol.Session]:
    """(the run's checkpoint: new at step 0, or read from a file; a session with the checkpoint's state).

    Raises `UserError` as `checks.resumed` does.
    """
    config = job.config
    if origin := job.origin:
        checkpoint = checks.resumed(job, origin, dataset=dataset)
    else:
        initial = parameters.initial_parameters(
            config.model, training=config.training, pixel_log_odds=data.pixel_log_odds(dataset.train)
        )
        state = parameters.fresh_state(initial, optimizer=config.optimizer, training=config.training, dtype=config.dtype)
        of_data: dict[str, Any] = {"dataset": dataset.name, "sha256": dataset.sha256, "binarize": dataset.binarize}
        checkpoint = Checkpoint(config, job.backend, job.preset, state=state, timed_on=job.timed_on, **of_data)
    return checkpoint, backend.create(config, checkpoint.state)


def train(
    job: Job,
    session: protocol.Session,
    checkpoint: Checkpoint,
    *,
    dataset: Dataset,
    title: str,
    keep: Callable[[Checkpoint], None],
    between: Callable[[], None],
    until: int | None = None,
    agreed: Callable[[bool], bool] = lambda wish: wish,
) -> None:
    """`training.train` with its progress and events; `keep` gets each checkpoint before `job.checkpoint` is written.

    `agreed` gets this process's wish to stop before each chunk, and tells it to the others of a run on several devices.

    On Ctrl-C, SIGTERM and SIGHUP: saves a checkpoint of the step reached, says so and raises KeyboardInterrupt.
    On SIGUSR1: saves it, says so and goes on.
    """
    settings, first_step = job.config.training, int(checkpoint.state["step"])
    steps = until or settings.steps
    told = telling.Curve(checkpoint)

    def saved(checkpoint: Checkpoint) -> None:
        keep(checkpoint)
        checkpoints.save(checkpoint, job.checkpoint)
        told.tell()
        if job.pictures and validated(checkpoint):
            telling.images(session, checkpoint, dataset=dataset)

    def after_chunk() -> None:
        between()
        if stopping.save_asked():
            save_step(job, session, checkpoint, title=title)
        told.tell()

    with (
        Progress(title).phase("train", total=steps, unit="steps", rows=settings.batch_size) as advance,
        stopping.deferred() as stop,
    ):
        advance(first_step, None)
        training.train(
            session,
            checkpoint,
            dataset=dataset,
            save=saved,
            report=advance,
            between=after_chunk,
            until=until,
            stop=lambda: agreed(stop()),
        )
    if stop():
        say_stopped(job, title=title, step=int(checkpoint.state["step"]), steps=steps)
        raise KeyboardInterrupt


def save_step(job: Job, session: protocol.Session, checkpoint: Checkpoint, *, title: str) -> None:
    """Save the state of the step reached. Raises `DivergedError` where it isn't finite; the last checkpoint then stays."""
    state = session.state()
    step = int(state["step"])
    training.refuse_divergence(state, steps=range(step, step + 1), saved=int(checkpoint.state["step"]))
    checkpoint.state = state
    checkpoints.save(checkpoint, job.checkpoint)
    print(f"{title}: saved step {step:,} in {job.checkpoint}, and goes on.", file=sys.stderr, flush=True)


def say_stopped(job: Job, *, title: str, step: int, steps: int) -> None:
    """Say on stderr where the state of a stopped run is; nothing where it has trained no step."""
    if step:
        print(f"{title}: stopped at step {step:,} of {steps:,}, saved in {job.checkpoint}.", file=sys.stderr, flush=True)


def keeper(job: Job, checkpoint: Checkpoint) -> Callable[[Checkpoint], None]:
    """The function that keeps a copy of each validation's checkpoint, in the files of `jobs.kept`, the one to begin with too.

    A run that begins anew removes the files of a former run. A run that goes on keeps copies where there are some already.
    """
    for path in [] if job.goes_on else jobs.kept(job.checkpoint):
        path.unlink()
    wanted = job.keep_checkpoints or bool(jobs.kept(job.checkpoint))

    def keep(checkpoint: Checkpoint) -> None:
        if wanted and (validated(checkpoint) or not jobs.kept(job.checkpoint)):
            step = int(checkpoint.state["step"])
            checkpoints.save(checkpoint, job.checkpoint.with_suffix(".steps") / f"{step:08d}.h5")

    keep(checkpoint)
    return keep


def validated(checkpoint: Checkpoint) -> bool:
    """Whether the checkpoint is that of a validation, and not of a run that was stopped between two."""
    return checkpoint.history.get("valid_step", [])[-1:] == [int(checkpoint.state["step"])]


def run(job: Job, *, import_s: float) -> Record:
    """Train, test, write the record and return it; `import_s`: seconds that the framework's import took.

    Raises `UserError` for a checkpoint of other settings, as `checks.refuse_overwriting` does, and where the data set, the
    backend or the disk is unusable.
    """
    began = time.perf_counter()
    config = job.config
    dataset = job.dataset()
    backend = protocol.load(job.backend)
    record = job.blank(dataset=dataset) | {"environment": environment.describe(config.device)}
    record["environment"]["runnable"] = job.runnable
    title = f"{job.backend} {config.model.variational}"
    devices = config.training.devices
    others: dict[str, Any] = {"devices": devices, "title": title, "variables": lambda rank: card(job, rank=rank)}
    with ranks.led(f"{__name__}:follow", job.as_json(), **others) as lead:
        if devices > 1:
            backend.join(lead.world, device=config.device)
        checkpoint, session = begin(job, backend=backend, dataset=dataset)
        setup_s = time.perf_counter() - began
        checks.refuse_overwriting(job, dataset=dataset)
        probes = protocol.probes(job.backend)
        floor = Floor(probes, config, seconds=checkpoint.history.setdefault("floor_seconds", []))
        first_step = int(checkpoint.state["step"])
        events.tell("begin", step=first_step, steps=config.training.steps)
        keep = keeper(job, checkpoint)
        record["environment"]["round_trip_ns"] = cores.gathered()
        own: dict[str, Any] = {"title": title, "keep": keep, "between": floor.measure, "agreed": lead.stops}
        try:
            train(job, session, checkpoint, dataset=dataset, **own)
            if not job.checkpoint.exists():  # another folder's checkpoint, at its last step
                checkpoints.save(checkpoint, job.checkpoint)
        except training.DivergedError as error:
            record |= {"status": "failed", "reason": str(error)}
        if devices > 1:
            backend.leave()
    if record["status"] == "failed":
        records.write(record, Path(job.results))
        return record
    record["environment"]["round_trip_after_ns"] = cores.round_trip()
    began = time.perf_counter()
    try:
        of_images = scoring.scores(backend, checkpoint.selected(), config=config, dataset=dataset, progress=Progress(title))
    except KeyboardInterrupt:
        say_stopped(job, title=title, step=config.training.steps, steps=config.training.steps)
        raise
    test = estimators.summary(of_images)
    events.tell("result", step=checkpoint.selected_step(), elbo=test.elbo, log_px=test.log_px)
    record |= {
        "status": "ok",
        "reason": None,
        "trained": checkpoint.trained(int(checkpoint.state["step"])),
        "parameters": parameters.count(config.model),
        "curve": {
            column: [int(v) if column.endswith("step") else v for v in checkpoint.history[column]]
            for column in checkpoints.CURVE
        },
        "timing": chunk_times.timing(checkpoint.history, config.training)
        | {"programs_compiled": None if first_step else probes.programs_compiled(), "uncompiled": probes.uncompiled()}
        | {"product_library": probes.product_library()}
        | {"import_s": import_s, "setup_s": setup_s, "evaluation_s": time.perf_counter() - began},
        "peak_memory_bytes": memory.peak(),
        "test": dataclasses.asdict(test)
        | {"by_samples": estimators.by_samples(of_images)}
        | {"warning": estimators.warning(of_images, of=len(dataset.test), highest=dataset.highest_log_px)},
    }
    record["environment"] = environment.ended(record["environment"])
    record["environment"]["threads"]["process"] = environment.own_threads()
    arrays = {name: getattr(of_images, name) for name in per_image.ARRAYS}
    record["test"]["per_image"] = per_image.write(arrays, record, folder=Path(job.results))
    records.write(record, Path(job.results))
    return record
