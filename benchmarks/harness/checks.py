"""What is checked of a job: its settings, the results that its folder already has, the checkpoint to go on from."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from benchmarks.harness import environment, presets, record_names, records
from benchmarks.harness.cli import known, writable
from benchmarks.harness.jobs import Job
from benchmarks.harness.record_schema import Record
from common import checkpoints
from common.checkpoints import Checkpoint
from common.config import Config, check
from common.data import Dataset
from common.errors import UserError

RunState = Literal["new", "done", "resumable"]


def checked(job: Job, *, dataset: Dataset | None = None) -> Job:
    """The job with its data set's image shape and SHA-256. Called before any training.

    Raises `UserError` where the run can't succeed.
    That is: settings that don't fit one another or the data set, an unknown backend, a results folder that can't be written,
    and results that `refuse_overwriting` protects. `dataset`: the job's, where the caller has read it.
    """
    dataset = dataset or job.dataset()
    shaped = dataclasses.replace(job, config=job.config.replace(image_shape=dataset.image_shape), sha256=dataset.sha256)
    check(shaped.config, train_images=len(dataset.train), test_images=len(dataset.test))
    enough_cards(shaped.config)
    known([job.backend])
    writable(Path(job.results))
    refuse_overwriting(shaped, dataset=dataset)
    return shaped


def enough_cards(config: Config) -> None:
    """Raises `UserError` where the machine has fewer cards than a run on several has devices; a CPU takes any number."""
    devices, found = config.training.devices, len(environment.cards()) if config.device == "cuda" else None
    if found is not None and 1 < devices > found:
        raise UserError(
            f"--devices is {devices}, but this machine has {found} NVIDIA cards; give at most as many as there are."
        )


def state(job: Job) -> RunState:
    """What the results folder has of a job that `checked` has accepted."""
    if job.record.exists() and records.read(job.record)["status"] == "ok":
        return "done"
    return "resumable" if job.checkpoint.exists() else "new"


def finished(job: Job) -> bool:
    """Whether the job's record has a result of the job's settings and data."""
    if not job.record.exists():
        return False
    record = records.read(job.record)
    return record["status"] == "ok" and _difference(job, _of_record(record), dataset=job.dataset()) is None


def check_start(job: Job) -> None:
    """Raises `UserError` where the job can't go on from the checkpoint `job.start`, or would overwrite another run's."""
    assert job.start is not None
    own = job.checkpoint
    if job.resume:
        raise UserError("--from names one checkpoint, --resume those of the results folder; leave out one of the two.")
    if own.exists() and job.goes_on and own.resolve() != Path(job.start).resolve():
        raise UserError(f"{own} is a later state of this run; move it away to begin again at {job.start}.")
    if own.exists() and own.resolve() != Path(job.start).resolve():
        raise UserError(f"{own} exists and is another run's; go on from {own}, or give another folder as --results.")
    resumed(job, Path(job.start), dataset=job.dataset())


def resumed(job: Job, path: Path, *, dataset: Dataset) -> Checkpoint:
    """The checkpoint of a file, for the job's backend to go on from; times of other backends and machines are left out.

    Raises `UserError` where its settings or data are others.

    The settings of `presets.MAY_CHANGE` may differ. With a constant learning rate `steps` may too, if the checkpoint lies on a
    validation step.
    """
    checkpoint = checkpoints.load(path)
    steps, done = job.config.training.steps, int(checkpoint.state["step"])
    may_change = presets.MAY_CHANGE
    if job.config.optimizer.schedule == "constant" and steps >= done and done % job.config.training.validation_interval == 0:
        may_change += ("steps",)
    if difference := _difference(job, _of_checkpoint(checkpoint), dataset=dataset, may_change=may_change):
        raise UserError(
            f"The checkpoint {path} has {difference}; "
            "go on with the checkpoint's settings, or leave out --resume or --from and begin anew."
        )
    if checkpoint.backend != job.backend:
        if done == steps:
            raise UserError(
                f"The checkpoint {path} is at its last step, {done}: {job.backend} has nothing to train; "
                f"`python -m benchmarks evaluate {path} --backend {job.backend}` tests the checkpoint."
            )
        if done:
            checkpoint.earlier.append((checkpoint.backend, done))
    if not _timed_here(job, checkpoint):
        curve = (*checkpoints.CURVE, *checkpoints.PENDING)
        checkpoint.history = {name: column for name, column in checkpoint.history.items() if name in curve}
        checkpoint.timed_on = job.timed_on
    return dataclasses.replace(checkpoint, config=job.config, backend=job.backend)


def _timed_here(job: Job, checkpoint: Checkpoint) -> bool:
    """Whether the checkpoint's times are of the job's backend, devices, machine and versions.

    An old file tells neither machine nor versions: its times are kept.
    """
    theirs = (checkpoint.backend, checkpoint.config.device, checkpoint.config.training.devices)
    alike = theirs == (job.backend, job.config.device, job.config.training.devices)
    return alike and checkpoint.timed_on in ("", job.timed_on)


def refuse_again(job: Job) -> None:
    """Raises `UserError` where the job would replace its own result, or begin anew over its own checkpoint."""
    found = state(job)
    if job.resume or found == "new" or (found == "resumable" and job.start):  # `check_start` has looked at the checkpoint
        return
    there = f"{job.record} is there already" if found == "done" else f"{job.checkpoint} has this model's training"
    resume = "keep it and run the rest" if found == "done" else "go on from it"
    first = "give" if job.start else f"add --resume to {resume} (with make: ARGS=--resume), or"
    raise UserError(f"{there}: {first} --results FOLDER to run it anew, in another folder.")


def refuse_overwriting(job: Job, *, dataset: Dataset) -> None:
    """Raises `UserError` where the job would overwrite a record or checkpoint of other settings or data, or an unreadable one.

    A file's name says the preset and the changed settings, but older names don't, and presets and data files change.
    """
    path, difference = job.record, None
    if path.exists() and (old := records.read(path))["status"] != "not-run":
        difference = _difference(job, _of_record(old), dataset=dataset)
    if difference is None and job.checkpoint.exists():
        path = job.checkpoint
        try:
            origin = _of_checkpoint(checkpoints.load(path))
        except UserError as error:
            raise UserError(
                f"The run would overwrite {path}, which can't be read ({str(error).rstrip('.')}); "
                "move the file away, or give another folder as --results."
            ) from error
        difference = _difference(job, origin, dataset=dataset, may_change=presets.MAY_CHANGE)
    if difference:
        raise UserError(f"{path} is another run's, with {difference}; give another folder as --results, or move {path} away.")


Origin = tuple[Config, str, str]  # a result's settings, its data set's title and SHA-256


def _of_record(record: Record) -> Origin:
    given = record["dataset"]
    return Config.from_dict(record["config"]), record_names.titled(given["name"], given["binarize"]), given["sha256"]


def _of_checkpoint(checkpoint: Checkpoint) -> Origin:
    return checkpoint.config, record_names.titled(checkpoint.dataset, checkpoint.binarize), checkpoint.sha256


def _difference(job: Job, origin: Origin, *, dataset: Dataset, may_change: tuple[str, ...] = ()) -> str | None:
    """The first difference of a result's origin from the job and its data set, in words: "steps 60, not 80"."""
    config, name, sha256 = origin
    theirs = presets.flat(config)
    for setting, value in presets.differing(job.config, config).items():
        if setting not in may_change:
            return f"{setting} {theirs[setting]}, not {value}"
    return None if sha256 == dataset.sha256 else f"data set {name}, not {record_names.titled(dataset.name, dataset.binarize)}"
