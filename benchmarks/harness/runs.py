"""One run, from a job to a record, in a process of its own; and the parent's side of that process."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import cores, environment, memory, presets, records, spread
from benchmarks.harness.cli import known, writable
from benchmarks.harness.floor import Floor
from benchmarks.harness.processes import UNAVAILABLE
from benchmarks.harness.progress import Progress
from common import checkpoints, data, estimators, parameters, protocol, training
from common.checkpoints import Checkpoint
from common.config import Config, Training, check
from common.data import Dataset
from common.errors import UserError
from common.noise import TEST, seed_for
from common.parameters import State


@dataclass(frozen=True)
class Job:
    """A run that a worker process is asked for."""

    backend: str
    preset: str
    data: str
    data_dir: str | None
    config: Config
    results: str
    resume: bool
    start: str | None = None  # the checkpoint to go on from, of any backend

    def as_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        values = json.loads(text)
        return cls(**values | {"config": Config.from_dict(values["config"])})

    def dataset(self) -> Dataset:
        return data.load(self.data, data_dir=Path(self.data_dir) if self.data_dir else None)

    def blank(self, *, dataset: Dataset | None) -> records.Record:
        """The record of a run that has no result yet; without the data set it lacks the latter's SHA-256."""
        name, sha256 = (dataset.name, dataset.sha256) if dataset else (str(Path(self.data)), None)
        return records.blank(self.config, backend=self.backend, dataset_name=name, dataset_sha256=sha256, preset=self.preset)

    @property
    def record(self) -> Path:
        """Where its record goes."""
        return Path(self.results) / records.name_of(self.blank(dataset=None))

    @property
    def checkpoint(self) -> Path:
        """Where its checkpoint goes: beside the record, and shared with runs that train the same."""
        return Path(self.results) / records.checkpoint_name_of(self.blank(dataset=None))


def in_process(job: Job, *, folder: Path | None = None) -> int:
    """Run the job in a process of its own, so that no framework's threads, memory or imports touch another's.

    `folder` is the checkout whose code runs, by default this one. Returns the exit code; after code 0 the record is at
    `job.record`.
    """
    arguments = [sys.executable, "-m", "benchmarks", "worker"]
    return subprocess.run(arguments, input=job.as_json(), text=True, check=False, cwd=folder).returncode


def evaluate(
    backend: protocol.Backend, selected: State, *, config: Config, dataset: Dataset, progress: Progress
) -> estimators.Estimates:
    """ELBO and log p(x) of the `selected` parameters on the config's test images."""
    scorer = backend.score(config, selected)
    images = data.subset(images=config.evaluation.images, of=len(dataset.test))
    with progress.phase("test", total=len(images), unit="images") as advance:
        return estimators.estimate(
            scorer,
            scorer.place(dataset.test),
            images=images,
            samples=config.evaluation.samples,
            seed=seed_for(config.training.seed, TEST),
            image_batch=config.evaluation.image_batch,
            sample_block=config.evaluation.sample_block,
            report=lambda done: advance(done, None),
        )


def begin(job: Job, *, backend: protocol.Backend, dataset: Dataset) -> tuple[Checkpoint, protocol.Session]:
    """(the run's checkpoint, at step 0 or where a process left it; a session that holds its state).

    Raises `UserError` as `resumed` does.
    """
    config = job.config
    start = job.checkpoint if job.resume and job.checkpoint.exists() else job.start
    if start:
        checkpoint = resumed(job, Path(start), dataset=dataset)
    else:
        initial = parameters.initial_parameters(
            config.model, training=config.training, pixel_log_odds=data.pixel_log_odds(dataset.train)
        )
        state = parameters.fresh_state(initial, optimizer=config.optimizer, training=config.training, dtype=config.dtype)
        checkpoint = Checkpoint(config, job.backend, job.preset, dataset.name, dataset.sha256, state)
    return checkpoint, backend.create(config, checkpoint.state)


def run(job: Job, *, import_s: float) -> records.Record:
    """Train, test, write the record and return it; `import_s` is the seconds that importing the framework took.

    Raises `UserError` for a checkpoint of other settings, a result that would be overwritten, and where the data set, the
    backend or the disk is unusable.
    """
    began = time.perf_counter()
    config = job.config
    dataset = job.dataset()
    backend = protocol.load(job.backend)
    record = job.blank(dataset=dataset) | {"environment": environment.describe(config.device)}
    checkpoint, session = begin(job, backend=backend, dataset=dataset)
    setup_s = time.perf_counter() - began
    refuse_overwriting(job, dataset=dataset)
    floor = Floor(protocol.probes(job.backend), config, seconds=checkpoint.history.setdefault("floor_seconds", []))
    progress = Progress(f"{job.backend} {config.model.variational}")
    first_step = int(checkpoint.state["step"])
    record["environment"]["round_trip_ns"] = cores.gathered()
    with progress.phase("train", total=config.training.steps, unit="steps", rows=config.training.batch_size) as advance:
        done = first_step
        advance(done, None)

        def report(step: int, elbo: float) -> None:
            nonlocal done
            advance(step - done, elbo)
            done = step

        training.train(
            session,
            checkpoint,
            dataset=dataset,
            save=lambda checkpoint: checkpoints.save(checkpoint, job.checkpoint),
            report=report,
            between=floor.measure,
        )
    record["environment"]["round_trip_after_ns"] = cores.round_trip()
    began = time.perf_counter()
    test = evaluate(backend, checkpoint.selected(), config=config, dataset=dataset, progress=progress)
    record |= {
        "status": "ok",
        "reason": None,
        "trained": checkpoint.trained(int(checkpoint.state["step"])),
        "parameters": parameters.count(config.model),
        "curve": {
            column: [int(v) if column.endswith("step") else v for v in checkpoint.history[column]] for column in training.CURVE
        },
        "timing": timing(checkpoint.history, config.training)
        | {"programs_compiled": None if first_step else protocol.probes(job.backend).programs_compiled()}
        | {"import_s": import_s, "setup_s": setup_s, "evaluation_s": time.perf_counter() - began},
        "peak_memory_bytes": memory.peak(),
        "test": dataclasses.asdict(test),
    }
    record["environment"] = environment.ended(record["environment"])
    record["environment"]["threads"]["process"] = environment.own_threads()
    records.write(record, Path(job.results))
    return record


def finished(job: Job) -> bool:
    """Whether its record has a result, of its settings and data; a failed run is to be resumed."""
    if not job.record.exists():
        return False
    record = records.read(job.record)
    return record["status"] == "ok" and _difference(job, of_record(record), dataset=job.dataset()) is None


Origin = tuple[Config, str, str]  # a result's settings, its data set's name and SHA-256


def of_record(record: records.Record) -> Origin:
    """The origin of a record."""
    return Config.from_dict(record["config"]), record["dataset"]["name"], record["dataset"]["sha256"]


def _difference(job: Job, origin: Origin, *, dataset: Dataset, may_change: tuple[str, ...] = ()) -> str | None:
    """The first setting in which the job, on this data set, differs from a result's origin, in words."""
    config, name, sha256 = origin
    theirs = presets.flat(config)
    for setting, value in presets.differing(job.config, config).items():
        if setting not in may_change:
            return f"{setting} {theirs[setting]}, not {value}"
    return None if sha256 == dataset.sha256 else f"data set {name}, not {dataset.name}"


def resumed(job: Job, path: Path, *, dataset: Dataset) -> Checkpoint:
    """The checkpoint of a file, the job's backend to go on with. Raises `UserError` where its settings or data are others.

    Those of `presets.MAY_CHANGE` may differ. With a constant learning rate `steps` may too, if the checkpoint lies on a
    validation step.
    """
    checkpoint = checkpoints.load(path)
    theirs, ours, done = checkpoint.config, job.config.training, int(checkpoint.state["step"])
    if job.config.optimizer.schedule == "constant" and ours.steps >= done and done % ours.validation_interval == 0:
        theirs = theirs.replace(steps=ours.steps)
    origin = (theirs, checkpoint.dataset, checkpoint.sha256)
    if difference := _difference(job, origin, dataset=dataset, may_change=presets.MAY_CHANGE):
        raise UserError(
            f"The checkpoint {path} has {difference}; "
            "go on with its own settings, or leave out --resume or --from and begin anew."
        )
    if checkpoint.backend != job.backend:
        if done == ours.steps:
            raise UserError(
                f"The checkpoint {path} is at its last step, {done}: {job.backend} has nothing to train; "
                f"`python -m benchmarks evaluate {path} --backend {job.backend}` judges it there."
            )
        checkpoint.earlier.append((checkpoint.backend, done))
        # The clock is of one backend's chunks alone.
        checkpoint.history = {name: column for name, column in checkpoint.history.items() if name in training.CURVE}
    return dataclasses.replace(checkpoint, config=job.config, backend=job.backend)


def check_start(job: Job) -> None:
    """Raises `UserError` where the job can't go on from the checkpoint `job.start`, or would overwrite another run's."""
    assert job.start is not None
    own = job.checkpoint
    if job.resume:
        raise UserError("--from goes on from one checkpoint, --resume from those in the results folder; leave one out.")
    if own.exists() and own.resolve() != Path(job.start).resolve():
        raise UserError(f"{own} exists and is another run's; go on from that one, or give another folder as --results.")
    resumed(job, Path(job.start), dataset=job.dataset())


def timing(history: dict[str, list[float]], settings: Training) -> dict[str, Any]:
    """A record's `timing`, from the chunks that trained; null where too few were timed.

    The median is of the chunks of the run's own full length alone: a resumed run can have others before. A process's first
    chunk of its length compiles: it is kept out of the median, and what it took beyond a median chunk of its steps is
    compile_s.
    """
    steps, seconds, first = (np.array(history[column]) for column in training.CLOCK)
    full = min(settings.chunk, settings.log_interval, settings.validation_interval, settings.steps)
    steady = (first == 0) & (steps == full)
    result: dict[str, Any] = dict.fromkeys((*records.SECTIONS["timing"], *records.LATER["timing"]))
    result |= {"placement_s": float(sum(history["placement_seconds"])), "first_chunk_s": float(seconds[0])}
    if not steady.any():
        return result
    step_s = seconds[steady] / steps[steady]
    compile_s = float(np.maximum(seconds - np.median(step_s) * steps, 0)[first == 1].sum())
    rates = settings.batch_size / step_s
    low, high = np.percentile(rates, [25, 75])
    result |= {
        "compile_s": compile_s,
        "steady_s": float(seconds.sum()) - compile_s,
        "examples_per_s": settings.batch_size / float(np.median(step_s)),
        "examples_per_s_iqr": float(high - low),
        "chunks": int(steady.sum()),
    }
    result["warning"] = spread.warning(median=result["examples_per_s"], iqr=result["examples_per_s_iqr"])
    if history["floor_seconds"]:
        floor_s = float(np.median(history["floor_seconds"]))
        result |= {"floor_s": floor_s, "floor_ratio": float(np.median(step_s)) / floor_s}
    return result


def checked(job: Job) -> Dataset:
    """The job's data set, once nothing stands in the way of its run: asked before anything is trained.

    Raises `UserError` for settings that don't fit one another or the data set, an unknown backend, a results folder that can't
    be written, and where `refuse_overwriting` does.
    """
    dataset = job.dataset()
    check(job.config, train_images=len(dataset.train), test_images=len(dataset.test))
    known([job.backend])
    writable(Path(job.results))
    refuse_overwriting(dataclasses.replace(job, config=job.config.replace(image_shape=dataset.image_shape)), dataset=dataset)
    return dataset


def refuse_overwriting(job: Job, *, dataset: Dataset) -> None:
    """Raises `UserError` where the job would overwrite the record or the checkpoint of other settings or other data.

    Names say a preset and what differs from it, but an older record's doesn't, and presets and files of data change.
    """
    path, difference = job.record, None
    if path.exists() and (old := records.read(path))["status"] != "not-run":
        difference = _difference(job, of_record(old), dataset=dataset)
    if difference is None and job.checkpoint.exists():
        path = job.checkpoint
        with contextlib.suppress(UserError):  # a damaged checkpoint is no loss
            found = checkpoints.load(path)
            origin = (found.config, found.dataset, found.sha256)
            difference = _difference(job, origin, dataset=dataset, may_change=presets.MAY_CHANGE)
    if difference:
        raise UserError(f"{path} is another run's, with {difference}; give another folder as --results, or move it away.")


def with_pixels(job: Job) -> Job:
    """The job, checked, with the image shape of its data set."""
    return dataclasses.replace(job, config=job.config.replace(image_shape=checked(job).image_shape))


def worker(arguments: list[str]) -> int:
    """The process of `in_process`."""
    job = Job.from_json(sys.stdin.read())
    if job.resume and finished(job):
        return 0
    began = time.perf_counter()
    try:
        protocol.load(job.backend)
    except UserError as error:
        print(error, file=sys.stderr)
        return UNAVAILABLE
    run(job, import_s=time.perf_counter() - began)
    return 0
